"""Dealing: no code twice in a batch, as many batches as there can be, every row equally likely."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from umekit.trainers.sampling.duplicate_free_batches import (
    duplicate_free_batches,
    is_repeated,
    swap_repeats,
)


def most_batches(codes: list[int], size: int) -> int:
    """The plain count: m batches are possible if min(count, m) rows of each code fill them."""
    counts = np.unique(codes, return_counts=True)[1] if codes else np.array([0])
    return max(m for m in range(len(codes) // size + 1) if np.minimum(counts, m).sum() >= m * size)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.integers(0, 12), min_size=1, max_size=80), st.integers(1, 9), st.integers(0, 99))
def test_as_many_batches_without_duplicates_as_possible(codes: list[int], size: int, seed: int) -> None:
    found = duplicate_free_batches(np.array(codes), size, np.random.default_rng(seed))
    assert found.shape == (most_batches(codes, size), size)
    assert len(np.unique(found)) == found.size, "a row is dealt once"
    for batch in found:
        assert len({codes[row] for row in batch}) == size


def test_the_same_state_gives_the_same_batches() -> None:
    codes = np.arange(200) % 60
    first, again = (duplicate_free_batches(codes, 8, np.random.default_rng(5)) for _ in range(2))
    other = duplicate_free_batches(codes, 8, np.random.default_rng(6))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_classes_meet_all_other_classes() -> None:
    """Dealing alone would put the same classes together in batch after batch."""
    codes = np.repeat(np.arange(50), 40)
    batches = np.sort(codes[duplicate_free_batches(codes, 10, np.random.default_rng(0))], axis=1)
    met = np.zeros((50, 50))
    for batch in batches:
        met[np.ix_(batch, batch)] += 1
    apart = met[np.triu_indices(50, 1)]  # 40 batches * 9 others / 49 classes is 7.3
    assert (apart == 0).mean() < 0.01
    assert 2.0 < apart.std() < 3.2, "as by chance: a Poisson number has a deviation of 2.7"


def test_all_rows_of_a_crowded_code_are_equally_likely() -> None:
    codes = np.array([0] * 20 + list(range(1, 31)))
    seen = np.zeros(50)
    for seed in range(300):
        seen[duplicate_free_batches(codes, 5, np.random.default_rng(seed)).ravel()] += 1
    crowded, rest = seen[:20], seen[20:]
    assert crowded.min() > 0.6 * crowded.mean()
    assert crowded.max() < 1.4 * crowded.mean()
    assert rest.min() > 0.8 * 300


def test_a_batch_needs_a_row() -> None:
    with pytest.raises(ValueError, match="at least one row"):
        duplicate_free_batches(np.arange(3), 0, np.random.default_rng(0))


def test_is_repeated_marks_all_but_the_first() -> None:
    codes = np.array([[1, 2, 1, 1], [3, 4, 5, 6]])
    assert is_repeated(codes).tolist() == [[False, False, True, True], [False] * 4]


def test_swap_repeats_swaps_within_an_owner_until_no_batch_repeats() -> None:
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 300, size=(40, 32))
    owner = np.broadcast_to((np.arange(32) // 8) % 2, codes.shape)
    before = is_repeated(codes).sum()
    places = swap_repeats(codes, owner, np.random.default_rng(1))
    assert before > 40
    assert is_repeated(codes.ravel()[places]).sum() == 0
    assert np.array_equal(np.sort(places.ravel()), np.arange(codes.size))
    assert np.array_equal(owner.ravel()[places], owner)


def test_swap_repeats_leaves_what_cannot_be_separated() -> None:
    codes = np.zeros((3, 4), dtype=np.int64)
    places = swap_repeats(codes, codes, np.random.default_rng(0))
    assert is_repeated(codes.ravel()[places]).sum() == 9
