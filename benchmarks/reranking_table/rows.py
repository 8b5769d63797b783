"""Rows that arms are trained on, all from hard pools of the training handwriting: one task a batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from torch.utils.data import Dataset

from umekit.encoding.encoder import Encoder
from umekit.evaluation.digit_world import DigitWorld
from umekit.evaluation.digit_world.pools import Pool
from umekit.examples.train_ume_tiny_reranker import MinedRows

from .records import DEPTH, EASY, POOL, TASKS

Row = dict[str, Any]
TRAIN_SEED = 1000  # what ume-tiny has seen has seed 0


def student_pool(seed: int, task: str, queries: int) -> Pool:
    """The first pool that the reranker reads, of which the student sees so many queries."""
    return DigitWorld("train", TRAIN_SEED + seed).pool(task, queries, POOL, "hard")


def stage2_rows(encoder: Encoder, steps: int, batch: int, seed: int) -> MinedRows:
    """What the embedder that it begins from ranks first, beside the negatives in the batch."""
    return MinedRows(encoder, steps, batch, seed=TRAIN_SEED + seed, tasks=TASKS, wrong=1, easy=0.0, size=POOL)


def reranker_rows(encoder: Encoder, steps: int, batch: int, seed: int) -> MinedRows:
    """Whole lists of what stage 2 ranks first: the right one among as many as will be scored again."""
    return MinedRows(
        encoder, steps, batch, seed=TRAIN_SEED + seed, tasks=TASKS, wrong=DEPTH - 1, easy=EASY, size=POOL
    )


def scores(row: Row) -> Row:
    """Candidates and what the teacher gave them; nothing says which one is right."""
    return {name: row[name] for name in ("query", "candidates", "teacher_scores", "task")}


def scores_and_positive(row: Row) -> Row:
    """The same, and the right one for InfoNCE over the batch."""
    return {**scores(row), "positive": row["positive"], "positive_id": row["positive_id"]}


def hard_negatives(row: Row) -> Row:
    """The right one, and the candidates that are not it as negatives: one less than the list has."""
    others = [
        item
        for item, name in zip(row["candidates"], row["candidate_ids"], strict=True)
        if name != row["positive_id"]
    ]
    kept = {name: row[name] for name in ("query", "positive", "task", "positive_id")}
    return {**kept, "negatives": others[:-1] if len(others) == len(row["candidates"]) else others}


class StudentRows(Dataset):  # type: ignore[type-arg]
    """Scored rows again and again, one task a batch, shuffled in every epoch.

    read: what is read of a row: :func:`scores`, :func:`scores_and_positive` or :func:`hard_negatives`.
    """

    def __init__(
        self, scored: Sequence[Any], steps: int, batch: int, seed: int, read: Callable[[Row], Row]
    ) -> None:
        self.scored, self.steps, self.batch, self.read = scored, steps, batch, read
        tasks = np.array([row["task"] for row in scored])
        draw = np.random.default_rng([seed, 3])
        self.order: list[int] = []
        turns = list(dict.fromkeys(tasks.tolist()))
        left: dict[str, list[int]] = {task: [] for task in turns}
        for number in range(steps):
            task = turns[number % len(turns)]
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
        return self.read(self.scored[self.order[index]])
