"""Batches by tokens: every item once, within the budget."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from umekit.modeling.batching import plan_batches

LENGTHS = st.lists(st.integers(1, 300), max_size=60)


@given(
    lengths=LENGTHS, budget=st.integers(1, 900), rows=st.none() | st.integers(1, 5), extra=st.integers(0, 200)
)
def test_plan_holds_every_item_once_and_keeps_the_budget(
    lengths: list[int], budget: int, rows: int | None, extra: int
) -> None:
    beside = [(7 * length) % (extra + 1) for length in lengths]
    batches = plan_batches(lengths, budget, rows=rows, extra=beside)
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    for batch in batches:
        padded = len(batch) * max(lengths[index] for index in batch)
        assert padded + sum(beside[index] for index in batch) <= budget or len(batch) == 1
        assert rows is None or len(batch) <= rows
    longest = [max(lengths[index] for index in batch) for batch in batches]
    assert longest == sorted(longest, reverse=True)


def test_a_budget_holds_something() -> None:
    assert plan_batches([50], budget=10) == [[0]]
    assert plan_batches([], budget=10) == []
    with pytest.raises(ValueError, match="budget"):
        plan_batches([1], budget=0)
