"""DigitWorld and strips behind one door: rows and pools by the name of a task."""

from __future__ import annotations

from typing import Any, cast
from zlib import crc32

import numpy as np

from umekit.evaluation.digit_world import INSTRUCTIONS, DigitWorld, Pool, Row
from umekit.evaluation.digit_world.glyphs import SPLIT_CODES, Split
from umekit.evaluation.digit_world.pools import PoolKind, label_pool, retrieval_pool
from umekit.evaluation.digit_world.rows import Draw
from umekit.evaluation.digit_world.world import CaptionKind

from .strips import STRIPS

_ROWS, _POOLS = 0, 1
_POOL_DRAWS = 1_000_000  # draws set aside for one pool


class World:
    """One split under one seed. A task is one of ``STRIPS`` or of DigitWorld's.

    Rows and pools of strips are functions of (split, seed, task, index) and of different random streams.
    """

    def __init__(self, split: Split, seed: int = 0) -> None:
        self.split, self.seed = split, seed
        self.digit_world = DigitWorld(split, seed)
        self.glyphs = self.digit_world.glyphs

    def row(self, task: str, index: int) -> Row:
        """Row ``index`` of a task."""
        if task not in STRIPS:
            return self.digit_world.row(task, index)
        draw = self._draw(_ROWS, task, index)
        return STRIPS[task].row(STRIPS[task].subject(draw), draw)

    def rows(self, task: str, count: int, start: int = 0) -> list[Row]:
        """Rows ``start`` to ``start + count - 1``."""
        return [self.row(task, index) for index in range(start, start + count)]

    def caption(self, kind: str, index: int) -> dict[str, Any]:
        """A dense reading, ``{"item", "text"}``: of a ``strip``, or of what DigitWorld has captions of."""
        if kind != "strip":
            return self.digit_world.caption(cast(CaptionKind, kind), index)
        row = self.row("captions", index)
        item = {**row["query"], "instruction": INSTRUCTIONS["caption_scene"]}
        return {"item": item, "text": row["positive"]["text"]}

    def pool(self, task: str, queries: int, size: int, kind: PoolKind, index: int = 0) -> Pool:
        """Pool ``index``; of a label task all labels and ``queries`` queries, else ``size`` candidates."""
        if task not in STRIPS:
            return self.digit_world.pool(task, queries, size, kind, index)
        spec = STRIPS[task]
        if spec.labels:
            draws = [self._draw(_POOLS, task, index * queries + place) for place in range(queries)]
            return label_pool(task, spec, [spec.row(spec.subject(draw), draw) for draw in draws])
        first = (2 * index + (kind == "hard")) * _POOL_DRAWS
        return retrieval_pool(
            task, spec, kind, queries, size, lambda attempt: self._draw(_POOLS, task, first + attempt)
        )

    def has_labels(self, task: str) -> bool:
        """Whether a task's candidates are a fixed set of labels."""
        return bool(STRIPS[task].labels) if task in STRIPS else False

    def _draw(self, stream: int, task: str, index: int) -> Draw:
        entropy = [SPLIT_CODES[self.split], self.seed, stream, crc32(task.encode()), index]
        strata = STRIPS[task].strata(None)
        return Draw(np.random.default_rng(entropy), self.glyphs, index % strata)
