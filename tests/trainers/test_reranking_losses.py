"""listwise_cross_entropy and the calibration report against plain twins."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from umekit.trainers.calibration import calibration
from umekit.trainers.objectives import listwise_cross_entropy


@given(seed=st.integers(0, 2**31), masked=st.booleans())
@settings(max_examples=40, deadline=None)
def test_listwise_cross_entropy_equals_its_twin(seed: int, masked: bool) -> None:
    rng = np.random.default_rng(seed)
    scores, relevant = rng.normal(scale=5, size=(3, 5)), rng.random((3, 5)) < 0.4
    mask = rng.random((3, 5)) < 0.6 if masked else np.ones((3, 5), dtype=bool)
    relevant[:, 0] = mask[:, 0] = True
    expected = 0.0
    for i in range(3):
        total = np.log(np.exp(scores[i][mask[i]]).sum())
        expected += np.mean([total - one for one in scores[i][relevant[i] & mask[i]]]) / 3
    given_ = torch.tensor(scores, requires_grad=True)
    loss = listwise_cross_entropy(given_, torch.tensor(relevant), mask=torch.tensor(mask))
    assert loss.item() == pytest.approx(expected, abs=1e-9)
    loss.backward()
    assert given_.grad is not None
    assert torch.isfinite(given_.grad).all()
    assert (given_.grad[~torch.tensor(mask)] == 0).all()


def test_listwise_cross_entropy_at_its_ends() -> None:
    alone, yes = torch.tensor([[3.0, 9.0]]), torch.tensor([[True, False]])
    assert listwise_cross_entropy(alone, yes, mask=yes).item() == 0
    with pytest.raises(ValueError, match="no relevant"):
        listwise_cross_entropy(alone, ~yes, mask=yes)
    with pytest.raises(ValueError, match=r"\[n, c\]"):
        listwise_cross_entropy(alone, yes[0])


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
