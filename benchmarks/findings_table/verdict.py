"""The rule by which a claim is judged, written down before any number was seen.

*reproduced*: the paired differences of all three seeds are positive, and the 95 % paired bootstrap interval over at
least 2,000 queries lies above 0; *reversed*: likewise below; else *not seen*. Three signs agree by luck one time in
four, so the signs alone decide nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from umekit.evaluation.metrics import paired_bootstrap

SEEDS = 3
QUERIES = 2000
Verdict = Literal["reproduced", "reversed", "not seen", "not judged"]


@dataclass(frozen=True)
class Judgement:
    """A claim's paired result.

    Attributes:
        difference, low, high: mean of better minus worse (plus the claim's margin), and its 95 % interval.
        by_seed: the difference of each seed.
        verdict: ``not judged`` with fewer seeds or queries than the rule asks for.
    """

    difference: float
    low: float
    high: float
    by_seed: tuple[float, ...]
    verdict: Verdict

    @property
    def signs(self) -> str:
        """``+++``: the sign of every seed's difference."""
        return "".join("+" if value > 0 else "-" if value < 0 else "0" for value in self.by_seed)


def judge(better: Sequence[ArrayLike], worse: Sequence[ArrayLike], margin: float = 0.0) -> Judgement:
    """Judge two arms.

    Args:
        better, worse: a seed each, the value of every query [n] from 0 to 1, the same queries everywhere.
        margin: added to every difference.

    The interval is over queries; a query's value is its mean over the seeds, so that one query seen by three models
    counts as one.

    Raises:
        ValueError: no seed, or arms that differ in seeds or queries.
    """
    ours, theirs = np.array(better, dtype=np.float64), np.array(worse, dtype=np.float64)
    if ours.shape != theirs.shape or ours.ndim != 2 or not ours.size:
        raise ValueError(f"need the same seeds and queries of both arms, got {ours.shape} and {theirs.shape}")
    by_seed = tuple(float(gap) for gap in (ours - theirs).mean(axis=1) + margin)
    found = paired_bootstrap(ours.mean(axis=0) + margin, theirs.mean(axis=0))
    verdict: Verdict = "not seen"
    if len(by_seed) < SEEDS or ours.shape[1] < QUERIES:
        verdict = "not judged"
    elif found.low > 0 and min(by_seed) > 0:
        verdict = "reproduced"
    elif found.high < 0 and max(by_seed) < 0:
        verdict = "reversed"
    return Judgement(found.difference, found.low, found.high, by_seed, verdict)


def claim_facts(
    better: Sequence[ArrayLike], worse: Sequence[ArrayLike], seeds: Sequence[int], at_least: float
) -> dict[str, Any]:
    """What a table tells of a claim: means, difference, interval, seeds, verdict, and whether it is as much as asked.

    Args:
        better, worse: as of :func:`judge`. seeds: whose they are.
        at_least: the difference that is asked for; a negative one (nothing is lost) is the margin of the verdict, and
            no part of what is told.
    """
    margin = max(0.0, -at_least)
    found = judge(better, worse, margin)
    ours, theirs = np.array(better, dtype=np.float64), np.array(worse, dtype=np.float64)
    return {
        "better": round(float(ours.mean()), 4),
        "worse": round(float(theirs.mean()), 4),
        "difference": round(found.difference - margin, 4),
        "interval": [round(found.low - margin, 4), round(found.high - margin, 4)],
        "by_seed": {seed: round(gap - margin, 4) for seed, gap in zip(seeds, found.by_seed, strict=True)},
        "at_least": at_least,
        "reached": found.difference - margin >= at_least,
        "queries": ours.shape[1],
        "verdict": found.verdict,
    }
