"""What ume-tiny reads, step by step: one task per batch, half of the retrieval batches made of near-duplicates."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch.utils.data import Dataset

from umekit.evaluation.digit_world import TASKS, DigitWorld
from umekit.evaluation.digit_world.dataset import kept

# How often a task fills a batch: reading whole scenes is the base of the rest, and its bar is the highest. Questions
# whose answer has to be looked up (where, how much) are learned last and get more than they did at first.
WEIGHTS = {
    "retrieve_scene": 4.0,
    "retrieve_caption": 4.0,
    "classify_digit": 0.5,
    "classify_colour": 0.3,
    "classify_count": 0.6,
    "classify_parity": 0.6,
    "qa_what": 1.0,
    "qa_where": 1.3,
    "ground_cell": 0.8,
    "clip_motion": 0.6,
    "clip_mover": 0.3,
    "clip_end": 0.5,
    "retrieve_clip": 0.8,
    "retrieve_clip_caption": 0.8,
    "retrieve_moment": 1.0,
    "retrieve_page": 1.5,
    "ask_page": 1.6,
    "paraphrase": 0.7,
    "edit_scene": 1.2,
    "walk": 0.8,
    "until_gold": 0.8,
    "sum": 0.7,
    "same_scene": 0.5,
    "same_clip": 0.4,
    "same_page": 0.4,
}
HARD = frozenset(
    {"retrieve_scene", "retrieve_caption", "retrieve_clip", "retrieve_clip_caption", "retrieve_moment"}
    | {"retrieve_page", "paraphrase", "edit_scene", "same_scene", "same_clip", "same_page"}
)
MAX_HOPS = 6


class Curriculum(Dataset):  # type: ignore[type-arg]
    """Row ``i`` belongs to step ``i // batch``; read in order. Deterministic in ``(seed, step)``."""

    def __init__(self, steps: int, batch: int, seed: int = 0) -> None:
        self.steps, self.batch, self.seed = steps, batch, seed
        self.world = DigitWorld("train", seed)
        names = list(WEIGHTS)
        weights = np.array([WEIGHTS[name] for name in names])
        drawn = np.random.default_rng([seed, 7]).choice(len(names), size=steps, p=weights / weights.sum())
        self.tasks = [names[number] for number in drawn]
        self._step = -1
        self._rows: list[dict[str, Any]] = []

    def __len__(self) -> int:
        return self.steps * self.batch

    def __getitem__(self, index: int) -> dict[str, Any]:
        step, place = divmod(index, self.batch)
        if step != self._step:
            self._step, self._rows = step, self.rows_of(step)
        return self._rows[place]

    def rows_of(self, step: int) -> list[dict[str, Any]]:
        """The batch of one step."""
        task = self.tasks[step]
        if task in HARD and step % 2:
            pool = self.world.pool(task, queries=self.batch, size=self.batch, kind="hard", index=step)
            return [{**kept(row), "negatives": []} for row in pool.rows]
        hops = min(MAX_HOPS, int((MAX_HOPS + 1) * step / max(1, 0.4 * self.steps)))
        needs_hops = task in ("walk", "until_gold")
        rows = self.world.rows(
            task, self.batch, start=step * self.batch, max_hops=hops if needs_hops else None
        )
        return [kept(row) for row in rows]


if set(WEIGHTS) != set(TASKS):
    raise ValueError("every task of DigitWorld needs a weight")
