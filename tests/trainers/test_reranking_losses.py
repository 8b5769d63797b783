"""listwise_cross_entropy against its plain twin."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

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
