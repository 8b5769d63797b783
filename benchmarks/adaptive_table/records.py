"""The arms of the table as data: where each starts, whose thoughts it learns, on how much it is trained."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

Kind = Literal["evaluator", "joint", "rl", "anchored-rl"]
Choice = Literal["pair-aware", "random", "none"]
START = "start"  # ume-tiny, which thinks already, as the backbones of the published systems do
BATCHES = 30  # of rows whose thoughts are selected; trained on again and again
JUDGED = 8  # batches of validation rows that the evaluator is tried on
QUERIES, VALIDATION = 5040, 1680  # of the mix: 60 % that a glance answers, 40 % of several steps
QUICK = 4  # what a quick table divides steps and rows by
VERSION = 2  # raise it where what rows, thoughts or scores mean is changed


@dataclass(frozen=True)
class Arm:
    """One training.

    Attributes:
        name, what: for files and readers.
        kind: ``evaluator`` learns whether a candidate answers, with a thought or without; ``joint`` learns to think, to
            embed at once, and which of the two; ``rl`` goes on by reward, ``anchored-rl`` with some InfoNCE beside it.
        start: ``START``, or the arm whose checkpoint of the same seed it goes on from.
        evaluator: the arm that weighs the thoughts of its rows.
        choice: of ``umekit select``.
        steps, batch, rate: of the optimiser, and rows of a step.
    """

    name: str
    what: str
    kind: Kind
    start: str
    evaluator: str | None = None
    choice: Choice = "pair-aware"
    steps: int = 120
    batch: int = 64
    rate: float = 3e-4

    @property
    def needs(self) -> tuple[str, ...]:
        """Arms that must be there first."""
        return tuple(name for name in (self.evaluator, self.start) if name is not None and name != START)

    def quick(self) -> Arm:
        """A quarter of it; but an evaluator whole, as one that has not learned to judge keeps nothing."""
        return self if self.kind == "evaluator" else replace(self, steps=max(1, self.steps // QUICK))

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def _taught(name: str, what: str, choice: Choice) -> Arm:
    return Arm(name, what, "joint", START, "evaluator", choice)


EVALUATOR = Arm(
    "evaluator",
    "answers whether a candidate is right, with a thought behind it or without",
    "evaluator",
    START,
    steps=1800,
    batch=16,
    rate=5e-4,
)
PAIR_AWARE = _taught(
    "pair-aware", "learns the thoughts that add most to their pairs, and to go without", "pair-aware"
)
RANDOM = _taught("random", "learns thoughts drawn at random, as many tokens", "random")
UNSELECTED = _taught("unselected", "learns a thought of every row, drawn at random", "none")
RL = Arm(
    "rl",
    "goes on from pair-aware by reward: utility less cost",
    "rl",
    "pair-aware",
    steps=150,
    batch=12,
    rate=1e-5,
)
ANCHORED = replace(RL, name="rl-anchored", what="the same with InfoNCE beside it", kind="anchored-rl")
ARMS: dict[str, Arm] = {arm.name: arm for arm in (EVALUATOR, PAIR_AWARE, RANDOM, UNSELECTED, RL, ANCHORED)}
DECIDING = ("pair-aware", "rl", "rl-anchored")  # what is said of deciding is said of these
