"""What ume-tiny reads while it learns to think: a mixture in every batch.

With one task a batch, as in the stage before, it forgot the others: within a few hundred steps most of what it answered
at a glance was gone. With mixtures it stays, and walks are learned beside it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from torch.utils.data import Dataset

from umekit.evaluation.digit_world.dataset import TaskRows
from umekit.examples.ume_tiny_curriculum import HARD, WEIGHTS

ALWAYS = {"walk": 20, "until_gold": 4}  # rows of every batch: what needs more than a glance
GROUP = 8  # rows of one other task that stand together, near-duplicates where it has any
GROUPS = 5
BATCH = sum(ALWAYS.values()) + GROUP * GROUPS
MAX_HOPS = 8
GROWTH = 0.2  # of the steps, over which walks grow
BARE = 8  # one query in so many has no instruction, where its own words say what is asked
ENDLESS = 10**7
# What was weak comes more often than it did, and so do questions about a scene that was read out.
OTHERS = {name: weight for name, weight in WEIGHTS.items() if name not in ALWAYS} | {
    "qa_where": 3.0,
    "ask_page": 3.0,
    "retrieve_page": 3.0,
    "clip_end": 1.0,
    "edit_scene": 4.0,
    "qa_what": 2.0,
    "ground_cell": 2.0,
    "classify_digit": 1.0,
    "classify_colour": 1.0,
    "classify_count": 3.0,
}


class ThinkingMixture(Dataset):  # type: ignore[type-arg]
    """``steps`` batches of 64 rows with thoughts, read in order; a function of (seed, step).

    growth: share of the steps over which walks grow to eight hops; 0 for a model that walks.
    """

    def __init__(self, steps: int, seed: int = 0, growth: float = GROWTH) -> None:
        self.steps, self.growing = steps, growth * steps
        self.fixed = {name: TaskRows(name, ENDLESS, seed=seed) for name in ALWAYS}
        self.places = [(name, place) for name, count in ALWAYS.items() for place in range(count)]
        names = list(OTHERS)
        self.plain = {name: TaskRows(name, ENDLESS, seed=seed) for name in names}
        self.near = {name: TaskRows(name, ENDLESS, seed=seed, near_duplicates=True) for name in HARD}
        weights = np.array(list(OTHERS.values()))
        drawn = np.random.default_rng([seed, 8]).choice(
            len(names), size=(steps, GROUPS), p=weights / weights.sum()
        )
        self.tasks = [[names[number] for number in row] for row in drawn]

    def __len__(self) -> int:
        return self.steps * BATCH

    def __getitem__(self, index: int) -> dict[str, Any]:
        step, place = divmod(index, BATCH)
        row = self._row(step, place)
        return bare(row) if (step + place) % BARE == 0 and "text" in row["query"] else row

    def _row(self, step: int, place: int) -> dict[str, Any]:
        if place < len(self.places):
            name, number = self.places[place]
            rows = self.fixed[name]
            rows.max_hops = (
                min(MAX_HOPS, int((MAX_HOPS + 1) * step / self.growing)) if self.growing else MAX_HOPS
            )
            return rows[step * ALWAYS[name] + number]
        group, number = divmod(place - len(self.places), GROUP)
        name = self.tasks[step][group]
        rows = self.near[name] if name in HARD and (step + group) % 2 else self.plain[name]
        return rows[(step * GROUPS + group) * GROUP + number]


def bare(row: dict[str, Any]) -> dict[str, Any]:
    """A row whose query has no instruction."""
    return {**row, "query": {key: part for key, part in row["query"].items() if key != "instruction"}}
