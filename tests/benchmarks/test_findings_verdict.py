"""The verdict rule, and its interval against a plain NumPy bootstrap."""

from __future__ import annotations

import numpy as np
import pytest
from findings_table.verdict import judge
from numpy.typing import NDArray


def hits(rate: float, seed: int, n: int = 2000) -> NDArray[np.float64]:
    return (np.random.default_rng(seed).random(n) < rate).astype(float)


def test_interval_is_the_bootstrap_of_query_means() -> None:
    ours = [hits(0.6, seed) for seed in range(3)]
    theirs = [hits(0.5, 10 + seed) for seed in range(3)]
    found = judge(ours, theirs)
    gaps = np.mean(ours, axis=0) - np.mean(theirs, axis=0)
    rng = np.random.default_rng(99)
    means = [gaps[rng.integers(0, len(gaps), len(gaps))].mean() for _ in range(4000)]
    assert found.difference == pytest.approx(gaps.mean())
    assert [found.low, found.high] == pytest.approx(np.quantile(means, [0.025, 0.975]), abs=0.003)
    assert found.by_seed == pytest.approx([(a - b).mean() for a, b in zip(ours, theirs, strict=True)])


def test_three_signs_and_an_interval_are_both_needed() -> None:
    low, high = [hits(0.5, seed) for seed in range(3)], [hits(0.6, 10 + seed) for seed in range(3)]
    assert judge(high, low).verdict == "reproduced"
    assert judge(low, high).verdict == "reversed"
    assert judge(high, low).signs == "+++"
    # The interval excludes 0, but one seed disagrees.
    mixed = judge([high[0], high[1], low[2]], [low[0], low[1], high[2] * 0 + low[2] + 0.001])
    assert mixed.low > 0
    assert mixed.signs == "++-"
    assert mixed.verdict == "not seen"
    # All signs agree, but the interval holds 0.
    close = [np.concatenate([one[:-1], [1.0 - one[-1]]]) for one in low]
    signs = judge(close, low)
    assert signs.low <= 0 <= signs.high
    assert signs.verdict == "not seen"


def test_a_draw_is_no_sign() -> None:
    same = [hits(0.5, seed) for seed in range(3)]
    found = judge(same, same)
    assert found.signs == "000"
    assert found.verdict == "not seen"


def test_fewer_seeds_or_queries_are_not_judged() -> None:
    low, high = [hits(0.4, seed) for seed in range(3)], [hits(0.6, 10 + seed) for seed in range(3)]
    assert judge(high[:2], low[:2]).verdict == "not judged"
    assert judge([one[:1999] for one in high], [one[:1999] for one in low]).verdict == "not judged"


def test_margin_turns_a_small_loss_into_as_good() -> None:
    best = [np.ones(2000) for _ in range(3)]
    nearly = [np.where(np.arange(2000) < 4, 0.0, 1.0) for _ in range(3)]
    assert judge(nearly, best).verdict == "reversed"
    assert judge(nearly, best, margin=0.01).verdict == "reproduced"


def test_arms_of_other_queries_are_refused() -> None:
    with pytest.raises(ValueError, match="same seeds and queries"):
        judge([np.ones(5)], [np.ones(6)])
    with pytest.raises(ValueError, match="same seeds and queries"):
        judge([], [])
