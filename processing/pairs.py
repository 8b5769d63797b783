"""Pairs of a query and a candidate, for rerankers.

The checkpoint's template renders both from messages of the roles ``query`` and ``document`` (what
sentence-transformers' CrossEncoder sends, too); the query stands first, so that its tokens and pixels are the same
in all of its pairs. A query is read once, whatever the number of its candidates.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from .collating import Prepared
from .items import ItemError, parse_item
from .limits import MediaError
from .preparing import PromptContext, prepare_turns, read_turn


class PairError(ValueError):
    """A processor whose prompts are not of pairs was asked for one."""


class QueryPairs:
    """One query, read, and ready to be paired with candidates.

    Args:
        context: of a processor with settings for pairs.
        query: an item.
        instruction: what to look for; the query's own wins over it, the checkpoint's default is used for None.

    Raises:
        PairError: the checkpoint's prompts are not of pairs; another system's scores would mean nothing.
        ItemError: what is wrong with the query.
    """

    def __init__(self, context: PromptContext, query: Any, instruction: str | None = None) -> None:
        settings = context.settings
        if not settings.pairs:
            raise PairError(
                "this checkpoint's template is not a reranker's: pairs of it would be scored with a foreign prompt"
            )
        self.context = context
        item = parse_item(query, empty=settings.empty_items)
        if item.instruction is not None:
            instruction = item.instruction
        elif instruction is None:
            instruction = settings.prompt.instructions.get("query", "")
        self.instruction = instruction
        try:
            self.query = read_turn(context, item, "query")
        except ItemError:
            raise
        except (MediaError, ValueError, TypeError) as error:
            raise ItemError(f"the query: {error}") from error

    def prepare(self, candidate: Any, index: int | None = None) -> Prepared:
        """The pair with a candidate as token ids, patches and slots.

        Raises:
            ItemError: what is wrong with which candidate.
        """
        item = parse_item(candidate, index, empty=self.context.settings.empty_items)
        if item.instruction is not None:
            raise ItemError("a candidate has no instruction of its own; it belongs to the query", index)
        query = replace(self.query, content=[dict(part) for part in self.query.content])  # shortened in place
        try:
            return prepare_turns(
                self.context, [query, read_turn(self.context, item, "document")], self.instruction
            )
        except ItemError:
            raise
        except (MediaError, ValueError, TypeError) as error:
            raise ItemError(str(error), index) from error
