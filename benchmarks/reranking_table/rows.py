"""Rows that arms are trained on, all from hard pools of the training handwriting: one task a batch."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from torch.utils.data import Dataset

from umekit.evaluation.digit_world import DigitWorld
from umekit.evaluation.digit_world.pools import Pool

from .records import POOL, POOLS, TASKS

Row = dict[str, Any]
TRAIN_SEED = 1000  # what ume-tiny has seen has seed 0
# Of the reranker: wrong candidates of a row, near-duplicates among them, and the share of the batches, the first ones,
# that have none. What differs everywhere is told apart first.
WRONG, NEAR, EASY = 3, 2, 0.25


@lru_cache(maxsize=len(TASKS))
def train_pool(seed: int, task: str, number: int) -> Pool:
    """One of the ``POOLS`` pools of a task; all its candidates are asked for."""
    return DigitWorld("train", TRAIN_SEED + seed).pool(task, POOL, POOL, "hard", index=number)


class PoolRows(Dataset):  # type: ignore[type-arg]
    """Row ``i`` belongs to batch ``i // batch``; tasks take turns, and each goes through its pools one after the other.

    easy: the share of the batches, the first ones, without near-duplicates. near, wrong: near-duplicates of the
    positive among a row's negatives, and negatives.
    """

    def __init__(
        self, steps: int, batch: int, seed: int, *, near: int, wrong: int, easy: float = 0.0
    ) -> None:
        if POOL % batch:
            raise ValueError(f"a batch of {batch} rows does not divide a pool of {POOL}")
        self.steps, self.batch, self.seed = steps, batch, seed
        self.near, self.wrong, self.easy = near, wrong, easy
        self._made: tuple[int, list[Row]] = (-1, [])

    def __len__(self) -> int:
        return self.steps * self.batch

    def __getitem__(self, index: int) -> Row:
        number, place = divmod(index, self.batch)
        if number != self._made[0]:
            self._made = number, self._rows(number)
        return self._made[1][place]

    def _rows(self, number: int) -> list[Row]:
        turn, kind = divmod(number, len(TASKS))
        which, first = divmod(turn * self.batch, POOL)
        which %= POOLS
        pool = train_pool(self.seed, TASKS[kind], which)
        order = np.random.default_rng([self.seed, kind, which]).permutation(POOL)
        draw = np.random.default_rng([self.seed, number])
        near = self.near if number >= self.easy * self.steps else 0
        return [
            pool.with_negatives(place, near, self.wrong - near, draw)
            for place in order[first : first + self.batch].tolist()
        ]


def stage2_rows(steps: int, batch: int, seed: int) -> PoolRows:
    """A near-duplicate beside the negatives in the batch."""
    return PoolRows(steps, batch, seed, near=1, wrong=1)


def reranker_rows(steps: int, batch: int, seed: int) -> PoolRows:
    """The curriculum of ume-tiny's reranker: what differs everywhere is told apart first."""
    return PoolRows(steps, batch, seed, near=NEAR, wrong=WRONG, easy=EASY)


class StudentRows(Dataset):  # type: ignore[type-arg]
    """Scored rows again and again, one task a batch, shuffled in every epoch.

    hard: candidates that are not the positive as negatives, in place of candidates and scores.
    """

    def __init__(self, scored: Sequence[Any], steps: int, batch: int, seed: int, *, hard: bool) -> None:
        self.scored, self.steps, self.batch, self.hard = scored, steps, batch, hard
        tasks = np.array([row["task"] for row in scored])
        draw = np.random.default_rng([seed, 3])
        self.order: list[int] = []
        left: dict[str, list[int]] = {task: [] for task in TASKS}
        for number in range(steps):
            task = TASKS[number % len(TASKS)]
            own = np.flatnonzero(tasks == task)
            if len(own) < batch:
                raise ValueError(f"{len(own)} scored rows of {task} make no batch of {batch}")
            if len(left[task]) < batch:
                left[task] = draw.permutation(own).tolist()
            self.order += left[task][:batch]
            del left[task][:batch]

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, index: int) -> Row:
        row = self.scored[self.order[index]]
        if not self.hard:
            return {name: row[name] for name in ("query", "candidates", "teacher_scores", "task")}
        others = [
            item
            for item, name in zip(row["candidates"], row["candidate_ids"], strict=True)
            if name != row["positive_id"]
        ]
        kept = {name: row[name] for name in ("query", "positive", "task", "positive_id")}
        return {**kept, "negatives": others[:-1] if len(others) == len(row["candidates"]) else others}
