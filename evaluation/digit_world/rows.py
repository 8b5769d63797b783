"""Rows, draws and the Task record: what a family of tasks must give so that rows and pools can be made of it.

Notable: a task is drawn in two steps. `subject` draws the meaning (a scene, a walk, a clip), `make` renders
it as a row; pools vary subjects with `near` to get near-duplicates without knowing what a subject is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from .glyphs import Glyphs
from .words import INSTRUCTIONS

Item = dict[str, Any]
Row = dict[str, Any]


@dataclass(frozen=True)
class Draw:
    """What a generator draws from. `slot` is the stratum (0..strata-1) that balances the answers."""

    rng: np.random.Generator
    glyphs: Glyphs
    slot: int = 0
    max_hops: int | None = None


def _alone(subject: Any) -> list[Any]:
    return [subject]


def _one(max_hops: int | None) -> int:
    return 1


@dataclass(frozen=True)
class Task:
    """One dataset of DigitWorld.

    `query`, `positive`: modalities joined by `+`. `baseline`: what a model that learned nothing scores, in
    words. `parallel`: the answer needs no serial steps, so thinking need not pay. `labels`: the whole
    candidate set where the positive is a short text; empty for retrieval. `near(subject, turn, draw)` gives
    a near-duplicate; `group` the subjects that always enter a pool together; `fill` all subjects of one
    pool; `clashes(a, b)` is true where b's positive would also answer a's query (equal meaning is always a
    clash).
    """

    name: str
    family: str
    query: str
    positive: str
    baseline: str
    subject: Callable[[Draw], Any]
    make: Callable[[Any, Draw], Row]
    parallel: bool = False
    labels: tuple[str, ...] = ()
    strata: Callable[[int | None], int] = _one
    near: Callable[[Any, int, Draw], Any] | None = None
    group: Callable[[Any], list[Any]] = _alone
    fill: Callable[[Draw], list[Any]] | None = None
    clashes: Callable[[Any, Any], bool] | None = None

    @property
    def instruction(self) -> str:
        return INSTRUCTIONS[self.name]


def make_row(
    task: str,
    family: str,
    query: Item,
    positive: Item,
    *,
    positive_id: str,
    thought: str,
    answer: str,
    positive_thought: str | None = None,
    negatives: list[Item] | None = None,
    steps: int = 0,
) -> Row:
    """A row with exactly the documented keys; the query gets the task's instruction."""
    return {
        "query": {**query, "instruction": INSTRUCTIONS[task]},
        "positive": positive,
        "negatives": negatives or [],
        "task": task,
        "family": family,
        "dataset": task,
        "steps": steps,
        "answer": answer,
        "query_thought": thought,
        "positive_thought": positive_id if positive_thought is None else positive_thought,
        "positive_id": positive_id,
    }


def constant_strata(count: int) -> Callable[[int | None], int]:
    """`count` strata, whatever the hops."""

    def strata(max_hops: int | None) -> int:
        return count

    return strata
