"""Thoughts of a data set as completions: ``<think>...</think><answer>...<gen_emb>``, then the end of the turn."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from ..modeling.pooling import GENERATED_SLOT
from ..processing.thoughts import GEN_EMB, pair_ids, thought_and_answer
from ..processing.tokenizing import PromptTokenizer
from .batches import PreparedRow
from .collating import ContrastiveCollator

END = "<|im_end|>\n"
COLUMNS = {"query": ("query_thought", "answer"), "positive": ("positive_thought", "positive_answer")}


def completion(tokenizer: PromptTokenizer, thought: str, answer: str) -> tuple[list[int], list[int]]:
    """Ids up to ``<gen_emb>``, whose state is the vector, and of the turn's end. Tokens in the texts stay text."""
    written = [*pair_ids(tokenizer, thought, answer), tokenizer.id_of(GEN_EMB)]
    return written, tokenizer.encode(tokenizer.pieces(END))


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
        for role in COLUMNS:
            for ids, slot in self.completion_of(row, role):
                found.items[role] = found.items[role].continued(ids, slot)
        return found

    def completion_of(self, row: Mapping[str, Any], role: str) -> list[tuple[list[int], int]]:
        """What is written after a side's prompt, piece by piece: ids, and the slot of the last of them."""
        column, summary = COLUMNS[role]
        if row.get(column) is None:
            if self.thoughtless_rows:
                return []
            raise ValueError(f"no {column!r} (thoughtless_rows lets such a row pass)")
        texts = thought_and_answer(row[column], row.get(summary))
        written, end = completion(self.processor.prompt_tokenizer, *texts)
        return [(written, GENERATED_SLOT), (end, 0)]
