"""Pooling: the mean of the states that a slot names, and nothing else."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from umekit.modeling.pooling import DegenerateVectorError, check_vectors, finish, pool


def pool_numpy(states: np.ndarray, slots: np.ndarray, slot: int) -> np.ndarray:
    """The definition, row by row."""
    return np.stack([row[marks == slot].mean(axis=0) for row, marks in zip(states, slots, strict=True)])


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 4), st.integers(1, 9), st.integers(1, 5), st.integers(0, 2**16))
def test_pool_is_the_mean_of_its_slot(rows: int, length: int, dim: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    states = rng.normal(size=(rows, length, dim)).astype(np.float32)
    slots = rng.integers(0, 3, (rows, length)).astype(np.int8)
    slots[:, rng.integers(length)] = 1
    actual = pool(torch.tensor(states), torch.tensor(slots), 1)
    np.testing.assert_allclose(actual.numpy(), pool_numpy(states, slots, 1), atol=1e-6)


def test_padding_may_hold_anything() -> None:
    states = torch.tensor([[[1.0, 2.0], [float("nan"), float("inf")]]])
    assert pool(states, torch.tensor([[1, 0]])).tolist() == [[1.0, 2.0]]


def test_low_precision_states_are_averaged_in_float32() -> None:
    states = torch.full((1, 4096, 2), 1.001, dtype=torch.bfloat16)
    pooled = pool(states, torch.ones(1, 4096, dtype=torch.int8))
    assert pooled.dtype == torch.float32
    torch.testing.assert_close(pooled, states[:, 0].float())


def test_no_slot_is_an_error_and_never_a_fallback() -> None:
    states = torch.randn(3, 4, 2)
    slots = torch.tensor([[0, 0, 0, 1], [0, 0, 0, 0], [2, 0, 0, 0]])
    with pytest.raises(ValueError, match=r"rows \[1, 2\]"):
        pool(states, slots, 1)
    with pytest.raises(ValueError, match="do not fit"):
        pool(states, slots[:, :3], 1)


def test_finish_truncates_before_it_normalises() -> None:
    vectors = torch.randn(5, 8)
    cut = finish(vectors, dim=3)
    torch.testing.assert_close(cut, torch.nn.functional.normalize(vectors[:, :3], dim=-1))
    torch.testing.assert_close(finish(vectors).norm(dim=-1), torch.ones(5))
    assert torch.equal(finish(vectors, normalize=False), vectors)
    for dim in (0, 9):
        with pytest.raises(ValueError, match="dim"):
            finish(vectors, dim=dim)


@pytest.mark.parametrize("value", [0.0, float("nan"), float("inf"), 0.5])
def test_degenerate_vectors_raise(value: float) -> None:
    vectors = torch.randn(4, 8)
    check_vectors(vectors)
    vectors[2] = value
    with pytest.raises(DegenerateVectorError, match=r"rows \[2\]"):
        check_vectors(vectors)
