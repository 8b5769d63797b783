"""The mix: questions that a glance answers, whose thoughts would read out the whole scene, and walks.

Half of the walks have at most one hop, so that a model that has learned to walk need not think about every one; a walk
of none asks what is in a cell. ``until_gold`` hides in its wording how far there is to go. No arm sees the handwriting
of queries in training.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from typing import Any

import numpy as np
from findings_table.store import digest
from numpy.typing import NDArray
from torch.utils.data import ConcatDataset, Dataset

from umekit.evaluation.digit_world import TASKS, DigitWorld
from umekit.evaluation.digit_world.dataset import TaskRows
from umekit.evaluation.digit_world.glyphs import Split
from umekit.evaluation.thought_sensitivity import Questions

from .records import QUERIES

Row = dict[str, Any]
TRAIN_SEED = 2000  # what ume-tiny has seen has seed 0
NEGATIVES = 1  # of a row, that thoughts are weighed against
# What an evaluator learns first: to see, without thoughts that could be read instead.
GLANCES, GLANCED_NEGATIVES = 250, 6
RATIONALES = 0.75  # share of its other rows that have a thought behind every candidate
WEIGHED_NEGATIVES = 2
# numbers of rows that nobody else sees
_FIRST = {"evaluator": 0, "selected": 1_000_000, "rl": 2_000_000, "glances": 3_000_000}


@dataclass(frozen=True)
class Part:
    """Of the mix.

    Attributes:
        name, task: of it, and of DigitWorld.
        trained: rows of a batch of 64. asked: of ``QUERIES`` queries.
        weighed: rows of the evaluator's batch of 16.
        glanced: of the batches that it begins with. Digits are what is hardest to see.
        max_hops: of walks.
    """

    name: str
    task: str
    trained: int
    asked: int
    weighed: int
    glanced: int = 0
    max_hops: int | None = None

    @property
    def is_easy(self) -> bool:
        """Whether a glance answers it."""
        return self.task not in ("walk", "until_gold")


PARTS = (
    Part("walk, 0-1 hops", "walk", 12, 720, 2, max_hops=1),
    Part("walk, 0-6 hops", "walk", 20, 720, 4, max_hops=6),
    Part("until gold", "until_gold", 8, 576, 3),
    Part("which digit", "classify_digit", 8, 1008, 3, glanced=8),
    Part("which colour", "classify_colour", 8, 1008, 2, glanced=4),
    Part("how many red", "classify_count", 8, 1008, 2, glanced=4),
)
TRAINED = [part.trained for part in PARTS]


class Batches(Dataset):  # type: ignore[type-arg]
    """``steps`` batches with so many rows of each list, read in order; a list is shuffled each time it begins anew."""

    def __init__(self, lists: Sequence[Sequence[Row]], counts: Sequence[int], steps: int, seed: int) -> None:
        self.lists, self.batch, self.steps = lists, sum(counts), steps
        self.places = [(part, place) for part, count in enumerate(counts) for place in range(count)]
        self.counts = counts
        draw = np.random.default_rng([seed, 11])
        self.order = [
            _order(len(rows), steps * count, draw) for rows, count in zip(lists, counts, strict=True)
        ]

    def __len__(self) -> int:
        return self.steps * self.batch

    def __getitem__(self, index: int) -> Row:
        step, place = divmod(index, self.batch)
        part, number = self.places[place]
        return self.lists[part][int(self.order[part][step * self.counts[part] + number])]


def _order(rows: int, wanted: int, draw: np.random.Generator) -> NDArray[np.int64]:
    times = -(-wanted // rows)
    return np.concatenate([draw.permutation(rows) for _ in range(times)])[:wanted]


def _task_rows(part: Part, count: int, seed: int, use: str, **options: Any) -> TaskRows:
    first = _FIRST[use] + 100_000 * PARTS.index(part)  # two parts may be of one task
    return TaskRows(part.task, count, seed=TRAIN_SEED + seed, start=first, max_hops=part.max_hops, **options)


def evaluator_rows(steps: int, seed: int) -> ConcatDataset[Row]:
    """Pairs in batches: first of what a glance answers, then of all, candidates followed by a thought of the pool,
    right, wrong or empty, or by none."""
    glanced, weighed = [part.glanced for part in PARTS], [part.weighed for part in PARTS]
    alone = _batches("glances", glanced, GLANCES, seed, negatives=GLANCED_NEGATIVES, rationales=0.0)
    rest = steps - GLANCES
    thought = _batches("evaluator", weighed, rest, seed, negatives=WEIGHED_NEGATIVES, rationales=RATIONALES)
    return ConcatDataset([alone, thought])


def _batches(use: str, counts: Sequence[int], steps: int, seed: int, **options: Any) -> Batches:
    parts = [(part, count) for part, count in zip(PARTS, counts, strict=True) if count]
    lists: list[Any] = [_task_rows(part, steps * count, seed, use, **options) for part, count in parts]
    return Batches(lists, [count for _, count in parts], steps, seed)


def pooled_rows(seed: int, batches: int, split: Split = "train") -> list[list[Row]]:
    """By part, rows with candidate thoughts, as many as ``batches`` have: a third of the thoughts is right, a third
    wrong, a third fluent and empty."""
    found = []
    for part in PARTS:
        count = part.trained * batches
        rows: Any = _task_rows(part, count, seed, "selected", split=split, negatives=NEGATIVES, pools=True)
        found.append([rows[number] for number in range(count)])
    return found


def rl_rows(steps: int, batch: int, seed: int) -> list[Row]:
    """One part a batch, as often as in the mix: the targets of a batch are its reward's negatives."""
    draw = np.random.default_rng([seed, 12])
    shares = np.array([part.trained for part in PARTS], dtype=float)
    drawn = draw.choice(len(PARTS), size=steps, p=shares / shares.sum())
    parts: list[Any] = [_task_rows(part, steps * batch, seed, "rl") for part in PARTS]
    return [parts[part][step * batch + place] for step, part in enumerate(drawn) for place in range(batch)]


@dataclass(frozen=True)
class Asked:
    """Queries of a part, and of each the hops of its walk; 0 where it is none."""

    part: Part
    questions: Questions
    hops: list[int]


def asked(split: Split, queries: int) -> list[Asked]:
    """The mix of ``queries`` queries, by part."""
    found = []
    for part in PARTS:
        count = part.asked * queries // QUERIES
        number = sum(one.task == part.task for one in PARTS[: PARTS.index(part)])
        pool = DigitWorld(split).pool(part.task, count, index=number, max_hops=part.max_hops)
        family = TASKS[part.task].family
        own = Questions(part.name, pool.queries, pool.candidates, pool.positives, family)
        found.append(Asked(part, own, [0] * count if part.is_easy else pool.steps))
    return found


@cache
def print_of_rows() -> str:
    """Tells these rows, their pictures and thoughts, from those of another DigitWorld."""
    told = []
    for part in PARTS:
        row = _task_rows(part, 1, 0, "selected", negatives=NEGATIVES, pools=True)[0]
        query = DigitWorld("test").row(part.task, 0, part.max_hops)["query"]
        pictures = [sha256(one["image"].tobytes()).hexdigest() for one in (row["query"], query)]
        told.append([row["query_thoughts"], [one["text"] for one in row["negatives"]], pictures])
    return digest(told)
