"""Rows of one task as a map-style dataset, which is how training reads DigitWorld."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ...encoding.rationales import with_rationale
from .rows import Row
from .teachers import TEACHERS
from .thought_pools import POOLS, with_pools
from .world import TASKS, DigitWorld

THOUGHTS = ("query_thought", "answer", "positive_thought", "positive_answer")
KEPT = (
    "query",
    "positive",
    "negatives",
    "task",
    "dataset",
    "positive_id",
    "steps",
    *THOUGHTS,
    *POOLS.values(),
)
RATIONALE = "\n{thought} {answer}"  # in the words that ume-tiny knows


class TaskRows:
    """``len(rows)`` rows of a task, each a function of (split, seed, task, index).

    Args:
        task: name of the task.
        rows: how many.
        split, seed: of the world.
        start: the first index.
        negatives: near-duplicates (or other labels) added to each row as hard negatives.
        near_duplicates: rows come in runs of eight whose positives differ in one digit, colour or swap.
        max_hops: of walks.
        teacher: who writes the thoughts of walks: ``"careful"``, or ``"faulty"``, see ``teachers``.
        pools: rows have candidate thoughts, right, wrong and empty ones, in place of their own; see ``thought_pools``.
        rationales: share of rows whose positive and negatives are followed by one thought of the query's pool, which is
            drawn: what an evaluator of thoughts learns from. None leaves rows as they are.
    """

    def __init__(
        self,
        task: str,
        rows: int,
        *,
        split: Any = "train",
        seed: int = 0,
        start: int = 0,
        negatives: int = 0,
        near_duplicates: bool = False,
        max_hops: int | None = None,
        teacher: str = "careful",
        pools: bool = False,
        rationales: float | None = None,
    ) -> None:
        if task not in TASKS:
            raise ValueError(f"DigitWorld has no task {task!r}; known are {', '.join(TASKS)}")
        if rows < 1:
            raise ValueError(f"rows must be positive, got {rows}")
        if near_duplicates and (TASKS[task].labels or negatives):
            raise ValueError("near_duplicates is for retrieval tasks, and instead of negatives")
        if teacher not in TEACHERS:
            raise ValueError(f"teacher must be one of {', '.join(TEACHERS)}, got {teacher!r}")
        if near_duplicates and (pools or rationales is not None):
            raise ValueError("near_duplicates have thoughts of their own: no pools and no rationales")
        if rationales is not None and (pools or not 0 <= rationales <= 1):
            raise ValueError(f"rationales is {rationales}, a share from 0 to 1, and instead of pools")
        self.teach = TEACHERS[teacher]
        self.pools, self.rationales = pools, rationales
        self.task, self.count, self.start = task, rows, start
        self.negatives, self.max_hops, self.near_duplicates = negatives, max_hops, near_duplicates
        self.world = DigitWorld(split, seed)
        self._pool: tuple[int, list[Row]] = (-1, [])

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Row:
        if not 0 <= index < self.count:
            raise IndexError(index)
        if self.near_duplicates:
            return self._near_duplicate(self.start + index)
        number = self.start + index
        row = self.world.row(self.task, number, self.max_hops, self.negatives)
        rng = self.world.teacher_rng(self.task, number)
        row = self.teach(row, rng)
        if self.pools or self.rationales is not None:
            row = with_pools(row, lambda other: self.world.row(self.task, other, self.max_hops), rng)
        return kept(row if self.rationales is None else rationalised(row, self.rationales, rng))

    def _near_duplicate(self, index: int) -> Row:
        """Hard pools of eight, one after the other: each row's positive has seven near-duplicates beside it."""
        number, place = divmod(index, 8)
        if number != self._pool[0]:
            pool = self.world.pool(self.task, queries=8, size=8, kind="hard", index=number)
            self._pool = number, pool.rows
        return {**kept(self._pool[1][place]), "negatives": []}


def rationalised(row: Row, share: float, rng: np.random.Generator) -> Row:
    """A row whose candidates are followed by a thought of the query's pool, which leaves the row, with this chance."""
    row, pool = {**row, **{name: [] for name in POOLS.values()}}, row[POOLS["query"]]
    if not pool or rng.random() >= share:
        return row
    one = pool[int(rng.integers(len(pool)))]
    said = (one["thought"], one["answer"], RATIONALE)
    negatives = [with_rationale(item, *said) for item in row["negatives"]]
    return {**row, "positive": with_rationale(row["positive"], *said), "negatives": negatives}


def kept(row: Row) -> Row:
    """What training reads of a row."""
    return {key: row[key] for key in KEPT if key in row}


def open_digit_world(path: str | None, options: Mapping[str, Any]) -> TaskRows:
    """The reader ``digit-world`` of recipes: ``options`` are the arguments of :class:`TaskRows`."""
    if path is not None:
        raise ValueError("digit-world is generated: it takes options, no path")
    return TaskRows(**options)
