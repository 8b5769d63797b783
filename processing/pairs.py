"""Pairs of a query and a candidate, for rerankers.

The checkpoint's template renders both from messages of the roles ``query`` and ``document`` (what
sentence-transformers' CrossEncoder sends, too); the query stands first, so that its tokens and pixels are the same
in all of its pairs. A query is read once, whatever the number of its candidates.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from .collating import Place, Prepared
from .cut_texts import Cuts
from .items import Item, ItemError, parse_item
from .limits import MediaError
from .patching import content_of
from .vision import Patches

PAIR_ROLES = {"query", "document"}


class PairError(ValueError):
    """A processor whose prompts are not of pairs was asked for one."""


class QueryPairs:
    """One query, read, and ready to be paired with candidates.

    Args:
        processor: with settings for pairs.
        query: an item.
        instruction: what to look for; the query's own wins over it, the checkpoint's default is used for None.
    """

    def __init__(self, processor: Any, query: Any, instruction: str | None = None) -> None:
        self.processor = processor
        item = parse_item(query, empty=processor.settings.empty_items)
        if item.instruction is not None:
            instruction = item.instruction
        elif instruction is None:
            instruction = processor.settings.prompt.instructions.get("query", "")
        self.instruction = instruction
        try:
            self.content, self.images, self.videos = self._read(item)
        except ItemError:
            raise
        except (MediaError, ValueError, TypeError) as error:
            raise ItemError(f"the query: {error}") from error

    def prepare(self, candidate: Any, index: int | None = None) -> Prepared:
        """The pair with a candidate as token ids, patches and slots.

        Raises:
            ItemError: what is wrong with which candidate.
        """
        item = parse_item(candidate, index, empty=self.processor.settings.empty_items)
        if item.instruction is not None:
            raise ItemError("a candidate has no instruction of its own; it belongs to the query", index)
        try:
            return self._prepare(item)
        except ItemError:
            raise
        except (MediaError, ValueError, TypeError) as error:
            raise ItemError(str(error), index) from error

    def _read(self, item: Item) -> tuple[list[dict[str, Any]], list[Patches], list[Patches]]:
        processor = self.processor
        return content_of(item, processor.settings, processor.layout, processor.limits)

    def _prepare(self, item: Item) -> Prepared:
        content, images, videos = self._read(item)
        query = [dict(part) for part in self.content]  # shortened in place
        limit = self.processor.settings.max_length
        shorten = self.processor.prompt_tokenizer.shorten
        cut = 0
        while True:
            row: Prepared = self.processor._tokenize(
                [("query", query), ("document", content)],
                self.instruction,
                [*self.images, *images],
                [*self.videos, *videos],
            )
            excess = row.length - limit
            if excess <= 0:
                row.cut_tokens, row.limit = cut, limit
                return row
            taken = shorten(content, excess) or shorten(query, excess)
            if taken == 0:
                raise ValueError(
                    f"{excess} tokens over max_length={limit}, and there is no text left to cut: "
                    "give fewer or smaller media, a shorter instruction, or a larger max_length"
                )
            cut += taken


class PairCalls:
    """Mixin of ``UmeProcessor``."""

    def pairs_with(self: Any, query: Any, instruction: str | None = None) -> QueryPairs:
        """A query that is read once, to be paired with candidates.

        Raises:
            PairError: this checkpoint's prompts are not of pairs; another system's scores would mean nothing.
        """
        if not self.settings.pairs:
            raise PairError(
                "this checkpoint's template is not a reranker's: pairs of it would be scored with a foreign prompt"
            )
        return QueryPairs(self, query, instruction)

    def prepare_pair(
        self: Any, query: Any, candidate: Any, *, instruction: str | None = None, index: int | None = None
    ) -> Prepared:
        """A query and a candidate, both items, as one row; its slot is the answer position.

        Args:
            query, candidate: see ``items.parse_item``.
            instruction: what to look for; the query's own wins over it, the checkpoint's default is used for None.
            index: the candidate's position, for messages.

        Raises:
            ItemError: what is wrong with which item.
            PairError: this checkpoint's prompts are not of pairs.
        """
        return self.pairs_with(query, instruction).prepare(candidate, index)

    def prepare_pairs(
        self: Any, query: Any, candidates: Sequence[Any], *, instruction: str | None = None
    ) -> list[Prepared]:
        """:meth:`prepare_pair` for every candidate; the query is read once. One warning tells of pairs that were cut.

        Raises:
            TypeError: one candidate where a list of them belongs; its letters would be scored one by one.
        """
        if isinstance(candidates, (str, Mapping)):
            raise TypeError(f"cannot score a {type(candidates).__name__}: give candidates in a list")
        pairs = self.pairs_with(query, instruction)
        rows = [pairs.prepare(candidate, index) for index, candidate in enumerate(candidates)]
        Cuts().see(rows).warn(len(rows))
        return rows

    def prepare_messages(self: Any, messages: Sequence[Mapping[str, Any]]) -> Prepared:
        """A chat as one row: a pair where it has the roles ``query`` and ``document``, an item otherwise."""
        if not {message["role"] for message in messages} >= PAIR_ROLES:
            return self.prepare(self.item_of_messages(messages), instruction="")
        rest = [message for message in messages if message["role"] != "document"]
        documents = [message for message in messages if message["role"] == "document"]
        query, document = self.item_of_messages(rest), self.item_of_messages(documents)
        # A chat without a system message has no instruction, whatever the default is: the caller wrote all of it.
        return self.prepare_pair(query, document, instruction="")

    def pixels(self: Any, media: Sequence[Patches], place: Place | None = None) -> Tensor:
        """Patches as the vision tower reads them, float32 ``[patches, C*T*P*P]``, where ``place`` takes their bytes."""
        return self.scale.apply(media, self.layout.temporal, place)

    def answer_tokens(self: Any, yes: str, no: str) -> dict[str, int]:
        """Entries of ``config.ume.tokens`` for two answers.

        Raises:
            ValueError: an answer is not exactly one token of this tokenizer.
        """
        found = {}
        for name, text in (("yes", yes), ("no", no)):
            ids = self.tokenizer.encode(text, add_special_tokens=False)
            if len(ids) != 1:
                raise ValueError(
                    f"the answer {text!r} is {len(ids)} tokens of this tokenizer, and must be one"
                )
            found[name] = int(ids[0])
        return found
