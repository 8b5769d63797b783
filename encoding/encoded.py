"""What goes into ``encode`` and what comes out of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image

from ..processing.arrays import is_array
from ..processing.items import Item
from .passes import Pass


@dataclass
class Encoded:
    """Result of ``encode(..., return_details=True)``.

    Attributes:
        embeddings: float32 ``[n, d]``; a row of NaN where the item could not be encoded. ``[n, k, d]`` for
            ``reduce=None``; a dict of two arrays for ``mode="both"``.
        modes: mode of every row.
        thoughts: what every row wrote before ``<gen_emb>``, tags included; None without a thought, a list of them
            for ``num_samples > 1``.
        thought_tokens: tokens of every thought, 0 without one; likewise.
        forced: whether a thought did not get to ``<gen_emb>`` within its limit; likewise.
        errors: ``(index, exception)`` of every item that was skipped.
        batch_tokens: padded tokens of one forward; fewer than asked for where memory did not hold them. Other
            batches change the last digits of vectors.
        halved: whether memory did not hold what was asked for.
        truncated: tokens of text that every row lost to its limit, 0 where it was not cut.
    """

    embeddings: Any
    modes: list[str]
    thoughts: list[Any]
    thought_tokens: list[Any]
    forced: list[Any]
    errors: list[tuple[int, Exception]] = field(default_factory=list)
    batch_tokens: int = 0
    halved: bool = False
    truncated: list[int] = field(default_factory=list)

    def copy_row(self, source: int, target: int) -> None:
        """Give an item what an equal one has."""
        for vectors in self.embeddings.values():
            vectors[target] = vectors[source]
        self.thoughts[target] = self.thoughts[source]
        self.thought_tokens[target] = self.thought_tokens[source]
        self.forced[target] = self.forced[source]
        self.truncated[target] = self.truncated[source]

    @classmethod
    def empty(cls, plan: Pass, rows: int, dim: int) -> Encoded:
        """Nothing encoded yet: rows of NaN."""
        arrays = {part: np.full(plan.shape(part, rows, dim), np.nan, dtype=np.float32) for part in plan.parts}
        return cls(
            arrays, [plan.mode] * rows, [None] * rows, [0] * rows, [False] * rows, truncated=[0] * rows
        )


def as_items(items: Any) -> Sequence[Any]:
    """A sequence of items: one item alone becomes a sequence of one."""
    if isinstance(items, (str, Mapping, Image.Image, Item)) or is_array(items):
        return [items]
    if isinstance(items, Sequence):
        return items
    if isinstance(items, Iterable) and not isinstance(items, (bytes, bytearray)):
        return list(items)
    raise TypeError(f"cannot encode a {type(items).__name__}: give items in a list")
