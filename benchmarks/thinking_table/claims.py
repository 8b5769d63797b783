"""What the table tries, as data: two readings of two arms, and the margin or the bar that goes with them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Where = Literal["walks", "far", "start", "easy"]  # all walks; three hops or more; none; the easy tasks


@dataclass(frozen=True)
class Reading:
    """Hits of an arm: in a mode, or with given thoughts."""

    arm: str
    mode: str = "generative"


@dataclass(frozen=True)
class Claim:
    """``better`` less ``worse``, over some queries.

    at_least: the difference that the claim asks for; negative where it only says that nothing is lost.
    """

    name: str
    statement: str
    better: Reading
    worse: Reading
    where: Where = "walks"
    at_least: float = 0.0


_THINK, _GLANCE = Reading("thinking"), Reading("glance", "discriminative")
CLAIMS: tuple[Claim, ...] = (
    Claim(
        "thinking-far",
        "on walks of 3 hops or more a thought beats one pass by 30 points",
        _THINK,
        _GLANCE,
        "far",
        0.30,
    ),
    Claim(
        "thinking-longer",
        "and one pass that saw twice the rows",
        _THINK,
        Reading("glance-longer", "discriminative"),
        "far",
        0.30,
    ),
    Claim(
        "thinking-deeper",
        "and one pass through 8 layers",
        _THINK,
        Reading("glance-deeper", "discriminative"),
        "far",
        0.30,
    ),
    Claim("start", "without a hop thinking loses at most 2 points", _THINK, _GLANCE, "start", -0.02),
    Claim("easy", "nor on what a glance answers", _THINK, _GLANCE, "easy", -0.02),
    Claim(
        "direct-kept",
        "learning to think costs the direct vector at most 2 points there",
        Reading("thinking", "discriminative"),
        _GLANCE,
        "easy",
        -0.02,
    ),
    Claim(
        "thought-read",
        "the vector depends on the thought: its own against another walk's",
        Reading("thinking", "gold"),
        Reading("thinking", "another"),
    ),
    Claim("rl", "RLVR gains 10 points over its start", Reading("rl"), Reading("faulty"), at_least=0.10),
    Claim(
        "rl-noise",
        "not by noise: against rewards dealt out at random",
        Reading("rl"),
        Reading("rl-shuffled"),
        at_least=0.10,
    ),
    Claim(
        "rl-teaching",
        "nor by more steps: against as many of the teacher's",
        Reading("rl"),
        Reading("more-teaching"),
        at_least=0.10,
    ),
    Claim(
        "rl-stable",
        "twice the steps lose at most 3 points",
        Reading("rl-twice"),
        Reading("rl"),
        at_least=-0.03,
    ),
    Claim(
        "rl-skilled",
        "RLVR adds to an arm that thinks well, on walks of 3 hops or more",
        Reading("rl-skilled"),
        _THINK,
        "far",
    ),
)
