"""The door of DigitWorld: rows, captions and pools as pure functions of (split, seed, task, index).

Notable: every row has its own random stream, so rows can be drawn in any order and by any worker; rows,
captions and pools draw from different streams, so a pool never repeats a training row. Answers are balanced
by strata: any run of as many indices as a task has strata, from a multiple on, holds each stratum once.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Literal
from zlib import crc32

import numpy as np

from .clips import make_clip
from .glyphs import CELL, SPLIT_CODES, Split, load_glyphs
from .pages import random_page
from .pools import Pool, PoolKind, label_pool, retrieval_pool
from .rows import Draw, Item, Row, Task
from .scenes import random_scene
from .tasks_image import IMAGE_TASKS
from .tasks_other import OTHER_TASKS
from .tasks_same import SAME_TASKS
from .tasks_video import VIDEO_TASKS
from .words import INSTRUCTIONS

TASKS: dict[str, Task] = {task.name: task for task in (*IMAGE_TASKS, *VIDEO_TASKS, *OTHER_TASKS, *SAME_TASKS)}
CaptionKind = Literal["cell", "scene", "clip", "page"]
CAPTION_KINDS: tuple[CaptionKind, ...] = ("cell", "scene", "clip", "page")
_ROWS, _POOLS, _CAPTIONS, _NEGATIVES, _ORDER, _TEACHER = range(6)  # random streams
_POOL_DRAWS = 1_000_000  # draws set aside for one retrieval pool


class DigitWorld:
    """One split of DigitWorld under one seed.

    >>> world = DigitWorld("test")
    >>> row = world.row("walk", 3)
    >>> row["query"]["image"].size, row["task"], len(row["query_thought"].split()) - 3 * row["steps"]
    ((84, 84), 'walk', 3)
    """

    def __init__(self, split: Split = "train", seed: int = 0) -> None:
        self.split = split
        self.seed = seed
        self.glyphs = load_glyphs(split)

    def row(self, task: str, index: int, max_hops: int | None = None, negatives: int = 0) -> Row:
        """Row `index` of a task. `negatives` adds that many near-duplicates (or other labels) as hard
        negatives."""
        spec = _spec(task)
        draw = self._draw(_ROWS, spec, index, max_hops)
        subject = spec.subject(draw)
        row = spec.row(subject, draw)
        if negatives:
            fresh = self._draw(_NEGATIVES, spec, index, max_hops)
            row["negatives"] += _hard_negatives(spec, subject, row, fresh, negatives)
        return row

    def rows(self, task: str, n: int, start: int = 0, max_hops: int | None = None) -> list[Row]:
        """Rows `start` to `start + n - 1`."""
        return [self.row(task, index, max_hops) for index in range(start, start + n)]

    def teacher_rng(self, task: str, index: int) -> np.random.Generator:
        """The random stream of whoever writes the thought of a row, see ``teachers``."""
        return self._rng(_TEACHER, task, index)

    def caption(self, kind: CaptionKind, index: int) -> dict[str, Any]:
        """`{"item": {image or video, instruction}, "text": its dense reading}` for the language-model
        warm-up."""
        if kind not in CAPTION_KINDS:
            raise ValueError(f"kind must be one of {CAPTION_KINDS}, got {kind!r}")
        rng = self._rng(_CAPTIONS, f"caption_{kind}", index)
        item: Item
        if kind == "clip":
            clip = make_clip(self.glyphs, rng)
            item, text = {"video": clip.render(self.glyphs)}, clip.caption
        elif kind == "cell":
            scene = random_scene(self.glyphs, rng)
            item, text = {"image": scene.render(self.glyphs).crop((0, 0, CELL, CELL))}, scene.name(0)
        else:
            subject = random_scene(self.glyphs, rng) if kind == "scene" else random_page(self.glyphs, rng)
            item, text = {"image": subject.render(self.glyphs)}, subject.caption
        return {"item": {**item, "instruction": INSTRUCTIONS[f"caption_{kind}"]}, "text": text}

    def pool(
        self,
        task: str,
        queries: int = 2000,
        size: int = 400,
        kind: PoolKind = "random",
        index: int = 0,
        max_hops: int | None = None,
    ) -> Pool:
        """Pool `index`. Label tasks: all labels and `queries` queries, whatever the kind. Retrieval tasks:
        `size` candidates, each the positive of one query, at most `queries` of them asked; see `pools` for
        more queries."""
        spec = _spec(task)
        if kind not in ("random", "hard"):
            raise ValueError(f"kind must be 'random' or 'hard', got {kind!r}")
        if spec.labels:
            start = index * queries
            draws = [self._draw(_POOLS, spec, place, max_hops) for place in range(start, start + queries)]
            rows = [spec.row(spec.subject(draw), draw) for draw in draws]
            return label_pool(f"{task}/labels/{index}", spec, rows)
        offset = (2 * index + (kind == "hard")) * _POOL_DRAWS
        name = f"{task}/{kind}/{index}"
        return retrieval_pool(
            name, spec, kind, queries, size, lambda attempt: self._draw(_POOLS, spec, offset + attempt, None)
        )

    def pools(
        self,
        task: str,
        queries: int = 2000,
        size: int = 400,
        kind: PoolKind = "random",
        max_hops: int | None = None,
    ) -> list[Pool]:
        """Pools 0, 1, ... until at least `queries` queries stand in them; label tasks need one."""
        found: list[Pool] = []
        while (missing := queries - sum(len(pool) for pool in found)) > 0:
            wanted = missing if _spec(task).labels else size
            found.append(self.pool(task, wanted, size, kind, index=len(found), max_hops=max_hops))
        return found

    def _draw(self, stream: int, task: Task, index: int, max_hops: int | None) -> Draw:
        strata = task.strata(max_hops)
        slot = 0
        if strata > 1:
            block, place = divmod(index, strata)
            slot = int(_order(SPLIT_CODES[self.split], self.seed, stream, task.name, block, strata)[place])
        return Draw(self._rng(stream, task.name, index), self.glyphs, slot, max_hops)

    def _rng(self, stream: int, name: str, index: int) -> np.random.Generator:
        entropy = [SPLIT_CODES[self.split], self.seed, stream, crc32(name.encode()), index]
        return np.random.default_rng(entropy)


@lru_cache(maxsize=256)
def _order(split_code: int, seed: int, stream: int, task: str, block: int, strata: int) -> np.ndarray:
    """int [strata]: the order of the strata in one block of indices."""
    entropy = [split_code, seed, _ORDER, stream, crc32(task.encode()), block, strata]
    return np.random.default_rng(entropy).permutation(strata)


def _spec(task: str) -> Task:
    if task not in TASKS:
        raise ValueError(f"unknown task {task!r}; one of {', '.join(TASKS)}")
    return TASKS[task]


def _hard_negatives(task: Task, subject: Any, row: Row, draw: Draw, count: int) -> list[Item]:
    """Positives of near-duplicates; other labels where a task has labels; none for grounding beyond its
    own."""
    if task.labels:
        others = [label for label in task.labels if label != row["positive_id"]]
        return [{"text": others[place]} for place in draw.rng.permutation(len(others))[:count].tolist()]
    if task.near is None:
        return []
    found: list[Item] = []
    turn = int(draw.rng.integers(3))
    while len(found) < count:
        near = task.row(task.near(subject, turn, draw), draw)
        turn += 1
        if near["positive_id"] != row["positive_id"]:
            found.append(near["positive"])
    return found
