"""The calibration of a reranker's scores: against plain NumPy and scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from umekit.encoding.calibration import calibration


@given(seed=st.integers(0, 2**31), count=st.integers(2, 30))
@settings(max_examples=40, deadline=None)
def test_calibration_equals_its_twin(seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    scores, truth = rng.integers(0, 11, size=count) / 10, rng.random(count) < 0.5  # with ties, 0 and 1
    truth[:2] = True, False
    report = calibration(scores, truth, bins=4)
    pairs = [(a > b) + (a == b) / 2 for a in scores[truth] for b in scores[~truth]]
    assert report.auc == pytest.approx(np.mean(pairs))
    assert report.brier == pytest.approx(np.mean((scores - truth) ** 2))
    error, seen = 0.0, 0
    for low, (mean, share, number) in zip(
        sorted({min(int(s * 4), 3) for s in scores}), report.curve, strict=True
    ):
        own = [i for i, s in enumerate(scores) if min(int(s * 4), 3) == low]
        assert (mean, share) == pytest.approx((scores[own].mean(), truth[own].mean()))
        assert number == len(own)
        error, seen = error + abs(mean - share) * number / count, seen + number
    assert seen == count
    assert report.error == pytest.approx(error)


def test_calibration_refuses_what_are_no_probabilities() -> None:
    with pytest.raises(ValueError, match="probabilities"):
        calibration([0.2, 1.5], [True, False])
    with pytest.raises(ValueError, match=r"\[n\]"):
        calibration([], [])
    assert np.isnan(calibration([0.2], [True]).auc)


@given(seed=st.integers(0, 2**31), count=st.integers(20, 200))
@settings(max_examples=40, deadline=None)
def test_calibration_is_that_of_scikit_learn(seed: int, count: int) -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    from sklearn.calibration import calibration_curve

    rng = np.random.default_rng(seed)
    scores, truth = (
        np.round(rng.random(count), 2) * 0.998 + 0.0007,
        rng.random(count) < 0.5,
    )  # ties, off the bins' ends
    truth[:2] = True, False
    report = calibration(scores, truth)
    assert report.auc == pytest.approx(metrics.roc_auc_score(truth, scores))
    assert report.brier == pytest.approx(metrics.brier_score_loss(truth, scores))
    shares, means = calibration_curve(truth, scores, n_bins=10)
    assert [one[0] for one in report.curve] == pytest.approx(means)
    assert [one[1] for one in report.curve] == pytest.approx(shares)
