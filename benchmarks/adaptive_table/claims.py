"""What the table tries, as data: readings of two arms, bars that an arm keeps to, and strategies at equal budgets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from .records import DECIDING

Way = Literal["adaptive", "always", "never"]
Where = Literal["mix", "walks", "easy"]
Measure = Literal["token share", "ratio on the easy", "ratio on walks", "time share"]
LEAST = -0.01  # a point that may be lost where a claim says that nothing is


@dataclass(frozen=True)
class Reading:
    """Hits of an arm that thinks as it decides, always or never."""

    arm: str
    way: Way = "adaptive"


@dataclass(frozen=True)
class Claim:
    """``better`` less ``worse``, over some queries.

    at_least: the difference that is asked for; negative where it only says that nothing is lost.
    """

    name: str
    statement: str
    better: Reading
    worse: Reading
    where: Where = "mix"
    at_least: float = 0.0


@dataclass(frozen=True)
class Bar:
    """A number that an arm keeps to in every seed: ``at_most``, or ``at_least``."""

    name: str
    statement: str
    arm: str
    measure: Measure
    at_most: float = 1.0
    at_least: float = 0.0


@dataclass(frozen=True)
class Race:
    """The policy of an arm against another strategy on its own vectors, with equal tokens, at every budget.

    everywhere: it loses at most a point at each; otherwise it wins at one, which the validation handwriting chooses.
    """

    name: str
    statement: str
    arm: str
    rival: Literal["margin", "probe"]
    everywhere: bool


_PAIR, _RANDOM, _NONE = (Reading(name) for name in ("pair-aware", "random", "unselected"))
CLAIMS: tuple[Claim, ...] = (
    Claim("selected", "pair-aware thoughts beat random ones of as many tokens", _PAIR, _RANDOM),
    Claim("random", "random ones beat no selection", _RANDOM, _NONE),
    Claim("unselected", "pair-aware ones beat no selection", _PAIR, _NONE),
    *(
        Claim(
            f"walks-{rival.arm}",
            f"after a thought of every walk: pair-aware against {rival.arm}",
            Reading("pair-aware", "always"),
            Reading(rival.arm, "always"),
            "walks",
        )
        for rival in (_RANDOM, _NONE)
    ),
    *(
        claim
        for arm in DECIDING
        for claim in (
            Claim(
                f"{arm}-always",
                f"{arm}: deciding loses at most a point to thinking always",
                Reading(arm),
                Reading(arm, "always"),
                at_least=LEAST,
            ),
            Claim(f"{arm}-never", f"{arm}: and beats thinking never", Reading(arm), Reading(arm, "never")),
        )
    ),
    Claim("rl", "reward loses nothing of what was taught", Reading("rl"), _PAIR, at_least=LEAST),
    Claim("rl-anchored", "nor does it with an anchor", Reading("rl-anchored"), _PAIR, at_least=LEAST),
)
BARS: tuple[Bar, ...] = tuple(
    bar
    for arm in DECIDING
    for bar in (
        Bar(f"{arm}-tokens", f"{arm}: at most 60 % of its tokens", arm, "token share", at_most=0.6),
        Bar(
            f"{arm}-easy",
            f"{arm}: rarely thinks about what a glance answers",
            arm,
            "ratio on the easy",
            at_most=0.2,
        ),
        Bar(f"{arm}-walks", f"{arm}: mostly about walks", arm, "ratio on walks", at_least=0.5),
        Bar(f"{arm}-time", f"{arm}: at most 65 % of the time an item", arm, "time share", at_most=0.65),
    )
)
RACES: tuple[Race, ...] = tuple(
    race
    for arm in DECIDING
    for race in (
        Race(f"{arm}-margin", f"{arm}: the policy beats the margin gate somewhere", arm, "margin", False),
        Race(
            f"{arm}-probe",
            f"{arm}: the policy is within a point of the probe everywhere",
            arm,
            "probe",
            True,
        ),
    )
)
