"""Rows of one task as a map-style dataset, which is how training reads DigitWorld."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .rows import Row
from .teachers import TEACHERS
from .world import TASKS, DigitWorld

THOUGHTS = ("query_thought", "answer", "positive_thought", "positive_answer")
KEPT = ("query", "positive", "negatives", "task", "dataset", "positive_id", "steps", *THOUGHTS)


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
    ) -> None:
        if task not in TASKS:
            raise ValueError(f"DigitWorld has no task {task!r}; known are {', '.join(TASKS)}")
        if rows < 1:
            raise ValueError(f"rows must be positive, got {rows}")
        if near_duplicates and (TASKS[task].labels or negatives):
            raise ValueError("near_duplicates is for retrieval tasks, and instead of negatives")
        if teacher not in TEACHERS:
            raise ValueError(f"teacher must be one of {', '.join(TEACHERS)}, got {teacher!r}")
        self.teach = TEACHERS[teacher]
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
        return kept(self.teach(row, self.world.teacher_rng(self.task, number)))

    def _near_duplicate(self, index: int) -> Row:
        """Hard pools of eight, one after the other: each row's positive has seven near-duplicates beside it."""
        number, place = divmod(index, 8)
        if number != self._pool[0]:
            pool = self.world.pool(self.task, queries=8, size=8, kind="hard", index=number)
            self._pool = number, pool.rows
        return {**kept(self._pool[1][place]), "negatives": []}


def kept(row: Row) -> Row:
    """What training reads of a row."""
    return {key: row[key] for key in KEPT if key in row}


def open_digit_world(path: str | None, options: Mapping[str, Any]) -> TaskRows:
    """The reader ``digit-world`` of recipes: ``options`` are the arguments of :class:`TaskRows`."""
    if path is not None:
        raise ValueError("digit-world is generated: it takes options, no path")
    return TaskRows(**options)
