"""The arms of the table as data: where each starts, what trains it, on how much."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

TINY = "ume-tiny"
Kind = Literal["thinking", "glance", "rl"]
QUICK = 4  # what a quick table divides steps by
VERSION = 1  # raise it where what rows or scores mean is changed


@dataclass(frozen=True)
class Arm:
    """One training.

    Attributes:
        name, what: for files and readers.
        kind: ``thinking`` learns thoughts and both vectors, ``glance`` the direct vector alone (DUME), ``rl`` goes on
            with RLVR.
        start: ``ume-tiny``, or the arm whose checkpoint of the same seed it goes on from.
        steps, rate: of the optimiser.
        teacher: who writes the thoughts, see ``digit_world.teachers``.
        first: number of the first batch; arms that go on see rows which their start did not.
        growing: walks grow from 0 to 8 hops over the first part.
        added_layers: of the language model, on top of ume-tiny's five; they begin by changing nothing.
        shuffled: rewards are dealt out at random within a group.
        arguments: of the trainer.
    """

    name: str
    what: str
    kind: Kind
    start: str = TINY
    steps: int = 1300
    rate: float = 1e-3
    teacher: str = "careful"
    first: int = 0
    growing: bool = True
    added_layers: int = 0
    shuffled: bool = False
    arguments: dict[str, Any] = field(default_factory=dict)

    @property
    def needs(self) -> tuple[str, ...]:
        """The arm that must be there first."""
        return () if self.start == TINY else (self.start,)

    def quick(self) -> Arm:
        """A quarter of it."""
        return replace(self, steps=max(1, self.steps // QUICK))

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


THINKING = Arm("thinking", "thinks, then embeds", "thinking")
GLANCE = Arm("glance", "DUME: same rows and steps, the direct vector alone", "glance")
LONGER = Arm("glance-longer", "DUME on twice the rows", "glance", steps=2600)
DEEPER = Arm("glance-deeper", "DUME with 8 layers in place of 5", "glance", added_layers=3)

# RL needs a start that has the skill and a bad habit: a cold start of the same length on the faulty
# teacher alone learns neither, and RL then makes it hasty, so the habit is taught to the arm that can walk. Later arms
# see new rows.
_HABIT, _AFTER = 5_000, 10_000
_RL: dict[str, Any] = {"kind": "rl", "start": "faulty", "steps": 60, "rate": 1e-5, "first": _AFTER}
FAULTY = Arm(
    "faulty",
    "the faulty teacher's habits, taught to the arm that thinks",
    "thinking",
    "thinking",
    steps=200,
    rate=3e-4,
    teacher="faulty",
    first=_HABIT,
    growing=False,
)
RL = Arm("rl", "RLVR from it", **_RL)
SHUFFLED = Arm("rl-shuffled", "RLVR with rewards dealt out at random in each group", shuffled=True, **_RL)
TWICE = Arm("rl-twice", "RLVR for twice the steps", **{**_RL, "steps": 120})
SKILLED = Arm("rl-skilled", "RLVR from the arm that thinks", **{**_RL, "start": "thinking", "steps": 120})
FURTHER = Arm(
    "thinking-further",
    "goes on thinking carefully, on walks of all lengths, at a lower rate",
    "thinking",
    "thinking",
    steps=400,
    rate=3e-4,
    first=_AFTER,
    growing=False,
)
MORE = Arm(
    "more-teaching",
    "as many steps of the faulty teacher",
    "thinking",
    "faulty",
    steps=60,
    rate=3e-5,
    teacher="faulty",
    first=_AFTER,
    growing=False,
)

ARMS: dict[str, Arm] = {
    arm.name: arm
    for arm in (THINKING, GLANCE, LONGER, DEEPER, FAULTY, RL, SHUFFLED, TWICE, MORE, SKILLED, FURTHER)
}
