"""Rows of a mined list to pairs of a query and a candidate, for rerankers."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..encoding.presets.templates import END
from .batches import PreparedRow
from .collating import ItemCollator, column, items_of, naming
from .generation_prompt import header_ids
from .hashing import content_hash, text_hash
from .indexed_rows import row_name

SPANS = ("answer", "turn")


@dataclass
class PairBatch:
    """What was read of pairs, by row.

    Attributes:
        pairs: ``[n, most]``, with gradient; 0 where there is none.
        pair_mask: bool ``[n, most]``, True where there is one.
        relevant: bool ``[n, most]``.
    """

    pairs: Tensor
    pair_mask: Tensor
    relevant: Tensor

    def __len__(self) -> int:
        return len(self.pairs)


@dataclass
class PairCollator(ItemCollator):
    """Rows with ``query``, ``positive`` and ``negatives``, the hardest first, as mining writes them.

    A query with several right answers has the others under ``positives``. The role ``pairs`` holds the pairs of up to
    ``max_positives`` positives and then of up to ``max_negatives`` negatives; the bool column ``relevant`` tells which
    are to be answered with yes. What is there twice is left out, and so is a negative that is a positive of the row, by
    its id or by content; the next one takes its place.

    Attributes:
        answers: token ids of yes and no.
        loss_span: ``"turn"`` appends the answer and the end of its turn, and counts the header before it to the
            completion, as U-MARVEL's reranker is trained; ``"answer"`` appends nothing.
        max_positives: of a row, ``positive`` first; None for all.
        negative_depth: the negatives are drawn from so many of the first; None takes the first ones. A row has the
            same ones in every epoch.
        seed: of what is drawn.
    """

    answers: Sequence[int] = ()
    loss_span: str = "answer"
    max_positives: int | None = None
    max_negatives: int | None = None
    negative_depth: int | None = None
    seed: int = 0

    def prepare_row(self, row: Mapping[str, Any]) -> PreparedRow:
        """The role ``pairs`` and the column ``relevant``."""
        header, end = self._turn
        processor = self.processor
        if end:
            processor = processor.with_max_length(processor.settings.max_length - 1 - len(end))
        query = processor.pairs_with(column(row, "query"))
        right: dict[int, Any] = {}
        for place, item in enumerate([column(row, "positive"), *items_of(row, "positives")]):
            with naming(f"positives {place - 1}" if place else "the positive"):
                pair = query.prepare(item)
            right.setdefault(content_hash(pair), pair)
        pairs = list(right.values())[: self.max_positives]
        count = len(pairs)
        pairs += self._wrong(row, query, right)
        if end:
            pairs = [
                _answered(pair, [self.answers[number >= count], *end], header)
                for number, pair in enumerate(pairs)
            ]
        return PreparedRow({"pairs": pairs}, {"relevant": torch.arange(len(pairs)) < count})

    def _wrong(self, row: Mapping[str, Any], query: Any, right: Collection[int]) -> list[Any]:
        """Pairs with as many negatives as are asked for, in their order; those with the content of a positive, or of
        one another, are passed over."""
        items = self._negatives(row)
        order, wanted = self._order(row, len(items))
        found: dict[int, tuple[int, Any]] = {}
        for place in order:
            if len(found) == wanted:
                break
            number, item = items[place]
            with naming(f"negative {number}"):
                pair = query.prepare(item)
            if (name := content_hash(pair)) not in right:
                found.setdefault(name, (place, pair))
        return [pair for _, pair in sorted(found.values(), key=lambda one: one[0])]

    def _negatives(self, row: Mapping[str, Any]) -> list[tuple[int, Any]]:
        """Those that are no positive by their id, with their places among all."""
        items = list(enumerate(items_of(row, "negatives")))
        if (names := row.get("negative_ids")) is not None:
            if len(names) != len(items):
                raise ValueError(f"{len(names)} negative_ids for {len(items)} negatives")
            own = {
                str(name)
                for name in (row.get("positive_id"), *(row.get("positive_ids") or ()))
                if name is not None
            }
            items = [
                item for item, name in zip(items, names, strict=True) if name is None or str(name) not in own
            ]
        return items

    def _order(self, row: Mapping[str, Any], count: int) -> tuple[list[int], int]:
        """The order in which a row's ``count`` negatives are taken, and how many: those of the depth first."""
        depth = count if self.negative_depth is None else min(self.negative_depth, count)
        wanted = depth if self.max_negatives is None else min(self.max_negatives, depth)
        first = list(range(depth))
        if self.negative_depth is not None and wanted < depth:
            draw = np.random.default_rng(abs(text_hash(f"{self.seed} {row_name(row, 0)}")))
            first = draw.permutation(depth).tolist()
        return [*first, *range(depth, count)], wanted

    @property
    def _turn(self) -> tuple[list[int], list[int]]:
        """Token ids of the header before the answer, and of what follows it; none where only the answer counts."""
        if self.loss_span == "answer":
            return [], []
        tokenizer = self.processor.tokenizer
        return header_ids(tokenizer), tokenizer.encode(END.replace("\\n", "\n"), add_special_tokens=False)


def _answered(pair: Any, ids: Sequence[int], header: Sequence[int]) -> Any:
    if pair.input_ids[-len(header) :].tolist() != list(header):
        raise ValueError(
            "loss_span='turn' needs a prompt that ends with the header of the assistant's turn; use 'answer'"
        )
    return replace(pair.continued(ids), completion=len(header) + len(ids))
