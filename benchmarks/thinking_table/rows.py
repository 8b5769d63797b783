"""Training rows: a fixed mixture of DigitWorld's tasks in every batch, walks growing longer."""

from __future__ import annotations

from functools import cache
from hashlib import sha256
from typing import Any

from findings_table.store import digest
from torch.utils.data import Dataset

from umekit.evaluation.digit_world.dataset import THOUGHTS, TaskRows
from umekit.evaluation.digit_world.teachers import TEACHERS

MAX_HOPS = 8
GROWTH = 0.3  # of the training, over which walks grow to eight hops
ENDLESS = 10**7

# Walks above all. A caption is the same reading in a fixed order; the others are what a glance can answer.
MIXTURE = {"walk": 36, "retrieve_caption": 10, "qa_what": 8, "classify_digit": 5, "classify_colour": 5}


class Mixture(Dataset):  # type: ignore[type-arg]
    """``steps`` batches of 64 rows, read in order; a function of (seed, step).

    teacher: who writes the walks' thoughts, see :class:`TaskRows`. first: number of the first batch, so that a second
    training sees rows that the first did not. growing: whether walks begin at 0 hops. thoughts: whether rows have any.
    """

    def __init__(
        self,
        steps: int,
        seed: int,
        *,
        teacher: str = "careful",
        first: int = 0,
        growing: bool = True,
        thoughts: bool = True,
    ) -> None:
        self.steps, self.first, self.growing, self.thoughts = steps, first, growing, thoughts
        self.tasks = {name: TaskRows(name, ENDLESS, seed=seed, teacher=teacher) for name in MIXTURE}
        self.places = [(name, place) for name, count in MIXTURE.items() for place in range(count)]
        self.batch = len(self.places)

    def __len__(self) -> int:
        return self.steps * self.batch

    def __getitem__(self, index: int) -> dict[str, Any]:
        step, place = divmod(index, self.batch)
        name, number = self.places[place]
        if name == "walk" and self.growing:
            self.tasks[name].max_hops = min(MAX_HOPS, int((MAX_HOPS + 1) * step / (GROWTH * self.steps)))
        row = self.tasks[name][(self.first + step) * MIXTURE[name] + number]
        return row if self.thoughts else {key: row[key] for key in row if key not in THOUGHTS}


@cache
def print_of_rows() -> str:
    """Tells the first batch of training rows, their pictures and thoughts, from those of another DigitWorld."""
    parts = []
    for teacher in TEACHERS:
        rows = Mixture(1, 0, teacher=teacher, growing=False)
        for row in map(rows.__getitem__, range(rows.batch)):
            picture = row["query"]["image"]
            parts.append([row["query_thought"], row["answer"], sha256(picture.tobytes()).hexdigest()])
    return digest(parts)


def prompts(count: int, seed: int, first: int) -> TaskRows:
    """Walks for RL, ``count`` rows from those of batch ``first`` on; their thoughts are not read."""
    return TaskRows("walk", count, seed=seed, start=first * MIXTURE["walk"])
