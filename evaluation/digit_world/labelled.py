"""Pairs for a reranker: a query's right candidate among its near-duplicates and others."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from .glyphs import Split
from .pools import FAMILY
from .rows import Row
from .world import TASKS, DigitWorld

QUERIES = 100  # of a task
NEAR, FAR = FAMILY - 1, 2  # wrong candidates of a query: all near-duplicates of the right one, and others
POOL = 400


def hard_tasks() -> list[str]:
    """The tasks that have hard pools."""
    return [task.name for task in TASKS.values() if task.near is not None and not task.labels]


def labelled_rows(queries: int = QUERIES, split: Split = "test", seed: int = 0) -> Iterator[Row]:
    """Rows with ``query``, ``positive``, ``negatives`` and ``task``, of every task with hard pools.

    Args:
        queries: of each task.
        split, seed: of the world.
    """
    world = DigitWorld(split, seed)
    for task in hard_tasks():
        for index, first in enumerate(range(0, queries, POOL)):
            pool = world.pool(task, min(POOL, queries - first), POOL, "hard", index)
            draw = np.random.default_rng([seed, index])
            for place in range(len(pool)):
                yield pool.with_negatives(place, NEAR, FAR, draw)
