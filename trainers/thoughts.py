"""Thoughts of a data set as completions: ``<think>...</think><answer>...<gen_emb>``, then the end of the turn."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from ..modeling.pooling import GENERATED_SLOT
from ..processing.tokenizing import PromptTokenizer
from .batches import PreparedRow
from .collating import ContrastiveCollator

GEN_EMB = "<gen_emb>"
END = "<|im_end|>\n"
COLUMNS = {"query": ("query_thought", "answer"), "positive": ("positive_thought", "positive_answer")}
_WHOLE = re.compile(
    r"\s*<think>(?P<thought>.*?)</think>\s*"
    r"(?:<answer>(?P<answer>.*?)(?:</answer>)?\s*)?(?:<gen_emb>\s*(?:</answer>)?\s*)?",
    re.DOTALL,
)


def thought_and_answer(thought: str, answer: str | None = None) -> tuple[str, str]:
    """A thought and its summary, of what a row has: both apart, or one text with the tags, whose answer then counts.

    Raises:
        ValueError: there is no answer, or a text with tags is in another form.
    """
    if not isinstance(thought, str) or not isinstance(answer, str | None):
        raise TypeError(
            f"a thought and its answer are texts, not {type(thought).__name__}, {type(answer).__name__}"
        )
    if "<think>" in thought:
        found = _WHOLE.fullmatch(thought)
        if found is None:
            raise ValueError(f"the thought is not <think>...</think><answer>...: {thought[:80]!r}")
        thought, answer = found["thought"], answer if found["answer"] is None else found["answer"]
    if answer is None:
        raise ValueError(
            f"a thought without its answer, the summary that stands before {GEN_EMB}: {thought[:80]!r}"
        )
    return thought, answer


def completion(tokenizer: PromptTokenizer, thought: str, answer: str) -> tuple[list[int], list[int]]:
    """Ids up to ``<gen_emb>``, whose state is the vector, and of the turn's end. Tokens in the texts stay text."""
    guard = tokenizer.guard_for([thought, answer])
    thought, answer = tokenizer.guarded(thought, guard), tokenizer.guarded(answer, guard)
    written = f"<think>{thought}</think><answer>{answer}{GEN_EMB}"
    return tokenizer.encode(tokenizer.pieces(written, guard)), tokenizer.encode(tokenizer.pieces(END))


@dataclass
class ThoughtCollator(ContrastiveCollator):
    """As its parent; a query is followed by ``query_thought`` and ``answer``, a positive by ``positive_thought`` and
    ``positive_answer``. Negatives have no thoughts.

    thoughtless_rows: a side without a thought is let pass; its row then has no part in the generated slot.
    """

    thoughtless_rows: bool = False
    NO_ROW: ClassVar[Mapping[str, Any]] = {
        **ContrastiveCollator.NO_ROW,
        **{column: "none" for columns in COLUMNS.values() for column in columns},
    }

    def __post_init__(self) -> None:
        if GEN_EMB not in self.processor.prompt_tokenizer.added:
            raise ValueError(
                f"the tokenizer has no token {GEN_EMB}: load the backbone with preset='ume-r1', which adds it"
            )

    def prepare_row(self, row: Mapping[str, Any]) -> PreparedRow:
        """As the parent's, with completions."""
        found = super().prepare_row(row)
        for role, (column, summary) in COLUMNS.items():
            if row.get(column) is None:
                if self.thoughtless_rows:
                    continue
                raise ValueError(f"no {column!r} (thoughtless_rows lets such a row pass)")
            texts = thought_and_answer(row[column], row.get(summary))
            written, end = completion(self.processor.prompt_tokenizer, *texts)
            found.items[role] = found.items[role].continued(written, GENERATED_SLOT).continued(end)
        return found
