"""Rows, draws and the Task record: what a family of tasks must give so that rows and pools can be made of it.

Notable: a task is drawn in two steps. `subject` draws the meaning (a scene, a walk, a clip), `make` renders
it as an example; pools vary subjects with `near` to get near-duplicates without knowing what a subject is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
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


@dataclass(frozen=True)
class Example:
    """What a row says beside its task. `meaning` tells the positive from others; `thought` leads to `answer`.

    The thought of a query is a function of the query alone, that of a positive of the positive alone: neither knows
    its partner, or thinking would be cheating.
    """

    query: Item
    positive: Item
    meaning: str
    thought: str
    answer: str
    negatives: list[Item] = field(default_factory=list)
    steps: int = 0
    positive_answer: str = ""  # where it is not ``answer``


def answered(query: Item, answer: str, thought: str, steps: int = 0) -> Example:
    """An example whose positive is the answer in words."""
    return Example(query, {"text": answer}, answer, thought, answer, steps=steps)


def retrieved(query: Item, positive: Item, meaning: str, answer: str, *negatives: Item) -> Example:
    """An example whose positive is found by what it means; the meaning is the thought."""
    return Example(query, positive, meaning, meaning, answer, list(negatives))


def _alone(subject: Any) -> list[Any]:
    return [subject]


def _one(max_hops: int | None) -> int:
    return 1


@dataclass(frozen=True)
class Task:
    """One dataset of DigitWorld.

    `query`, `positive`: modalities joined by `+`. `parallel`: the answer needs no serial steps, so thinking need not
    pay. `labels`: the whole candidate set where the positive is a short text; empty for retrieval.
    `near(subject, turn, draw)` gives a near-duplicate; `group` the subjects that always enter a pool together; `fill`
    all subjects of one pool; `clashes(a, b)` is true where b's positive would also answer a's query (equal meaning is
    always a clash). `asks_like` names the task whose instruction it has, where it has none of its own.
    """

    name: str
    family: str
    query: str
    positive: str
    subject: Callable[[Draw], Any]
    make: Callable[[Any, Draw], Example]
    parallel: bool = False
    labels: tuple[str, ...] = ()
    strata: Callable[[int | None], int] = _one
    near: Callable[[Any, int, Draw], Any] | None = None
    group: Callable[[Any], list[Any]] = _alone
    fill: Callable[[Draw], list[Any]] | None = None
    clashes: Callable[[Any, Any], bool] | None = None
    asks_like: str = ""

    @property
    def instruction(self) -> str:
        return INSTRUCTIONS[self.asks_like or self.name]

    def row(self, subject: Any, draw: Draw) -> Row:
        """The row of a subject; its query has the task's instruction."""
        made = self.make(subject, draw)
        return {
            "query": {**made.query, "instruction": self.instruction},
            "positive": made.positive,
            "negatives": list(made.negatives),
            "task": self.name,
            "family": self.family,
            "dataset": self.name,
            "steps": made.steps,
            "answer": made.answer,
            "query_thought": made.thought,
            # a text says what it means: there is nothing to think about
            "positive_thought": "" if set(made.positive) == {"text"} else made.meaning,
            "positive_answer": made.positive_answer or made.answer,
            "positive_id": made.meaning,
        }


def constant_strata(count: int) -> Callable[[int | None], int]:
    """`count` strata, whatever the hops."""

    def strata(max_hops: int | None) -> int:
        return count

    return strata
