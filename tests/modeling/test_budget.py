"""Which scores are enough: a fixed kappa, and a budget that is kept in any order, alone and batched."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from umekit.modeling.budget import SLACK, Budget, Kappa, decider_of

ITEMS = 2000
RNG = np.random.default_rng(0)
SCORES = RNG.beta(0.4, 0.6, ITEMS)
LENGTHS = {
    "equal": np.full(ITEMS, 40),
    "random": RNG.integers(25, 120, ITEMS),
    "with the score": (30 + 100 * SCORES).astype(int),
    "heavy tail": np.minimum(RNG.lognormal(3, 1, ITEMS), 400).astype(int) + 21,
}


def _zigzag(scores: NDArray[np.float64]) -> NDArray[np.int64]:
    order = np.argsort(scores)
    return np.stack([order[: ITEMS // 2], order[::-1][: ITEMS // 2]], axis=1).ravel()


ORDERS: dict[str, Callable[[NDArray[np.float64]], NDArray[np.int64]]] = {
    "random": lambda scores: np.arange(ITEMS),
    "easy first": np.argsort,
    "hard first": lambda scores: np.argsort(-scores),
    "in turns": _zigzag,
}


def _run(
    budget: Kappa, scores: NDArray[np.float64], lengths: NDArray[np.int64], batch: int
) -> NDArray[np.bool_]:
    """Which items reason, decided as ``_decided`` of the model does."""
    reasoned = np.zeros(len(scores), dtype=bool)
    for start in range(0, len(scores), batch):
        left = list(range(start, min(start + batch, len(scores))))
        while left:
            chosen = budget.decide([float(scores[place]) for place in left])
            assert 1 <= len(chosen) <= len(left)
            thinking = [place for place, yes in zip(left, chosen, strict=False) if yes]
            left = left[len(chosen) :]
            reasoned[thinking] = True
            if thinking:
                budget.spent([int(lengths[place]) for place in thinking])
    return reasoned


def test_kappa_is_a_threshold() -> None:
    assert Kappa(0.5).decide([0.2, 0.5, 0.50001, 1.0]) == [False, False, True, True]
    assert Kappa(1).decide([1.0]) == [False]
    for wrong in (-0.1, 1.1, True, float("nan"), "0.5", None):
        with pytest.raises(ValueError, match="kappa is"):
            Kappa(wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("batch", [1, 32, ITEMS])
@pytest.mark.parametrize("announced", [True, False])
def test_a_budget_is_kept_in_any_order_alone_and_batched(
    lengths: str, order: str, batch: int, announced: bool
) -> None:
    place = ORDERS[order](SCORES)
    scores, tokens = SCORES[place], LENGTHS[lengths][place]
    for average in (5, 20):
        budget = Budget(average)
        if announced:
            budget.begin(ITEMS)
        reasoned = _run(budget, scores, tokens, batch)
        spent = tokens[reasoned].sum() / ITEMS
        assert abs(spent / average - 1) <= 0.05
        assert (budget.items, budget.tokens_spent) == (ITEMS, tokens[reasoned].sum())
        if (
            order == "random" and batch < ITEMS
        ):  # and it went where it pays most, as a kappa known before would
            best = np.sort(scores)[::-1][: reasoned.sum()].sum()
            assert scores[reasoned].sum() >= 0.8 * best


@pytest.mark.parametrize("scores", [np.full(ITEMS, 0.5), np.zeros(ITEMS), np.ones(ITEMS), SCORES > 0.5])
def test_scores_that_say_little_do_not_break_it(scores: NDArray[np.float64]) -> None:
    for batch in (1, 64):
        reasoned = _run(Budget(20), scores.astype(float), LENGTHS["random"], batch)
        assert abs(LENGTHS["random"][reasoned].sum() / (20 * ITEMS) - 1) <= 0.05


@pytest.mark.parametrize("batch", [1, 64, 256])
@pytest.mark.parametrize("longest", [None, 256])
def test_long_thoughts_after_many_short_ones_are_made_up_for(batch: int, longest: int | None) -> None:
    """A data set in the order of its tasks: a whole batch costs many times what was learnt of those before."""
    hard = np.repeat([0.0, 1.0], [1400, 600])
    lengths = (14 + 186 * hard).astype(int)
    for average in (10, 20, 35):
        for announced in (True, False):
            budget = Budget(average)
            budget.longest = longest
            if announced:
                budget.begin(ITEMS)
            reasoned = _run(budget, 0.02 + 0.95 * hard, lengths, batch)
            if average > 14:  # more than the short ones can spend: what they leave is spent on the long ones
                assert abs(lengths[reasoned].sum() / (average * ITEMS) - 1) <= 0.05
            assert lengths[reasoned].sum() <= 1.05 * average * ITEMS
    assert budget.surprise <= (longest or 16 * 200)


def test_it_is_near_its_budget_all_the_way_and_in_small_calls() -> None:
    """Never further than the slack and a thought, so that a call of a few hundred items is as good as one of many."""
    lengths = LENGTHS["random"]
    for items in (10, 50, 200):
        spent = lengths[:items][_run(Budget(20), SCORES[:items], lengths[:items], 16)].sum()
        assert abs(spent - 20 * items) <= SLACK * 20 * items + 2 * lengths.max()


def test_decisions_are_a_function_of_what_came_before() -> None:
    first, again = (_run(Budget(20), SCORES, LENGTHS["random"], 32) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    whole = Budget(20)
    halves = [
        _run(whole, SCORES[part], LENGTHS["random"][part], 32) for part in (slice(0, 992), slice(992, ITEMS))
    ]
    np.testing.assert_array_equal(np.concatenate(halves), first)  # one account over two calls


def test_more_than_all_would_write_is_not_met() -> None:
    assert _run(Budget(1000), SCORES, LENGTHS["equal"], 32).all()


def test_few_thoughts_are_under_way_while_nothing_is_known_of_their_lengths() -> None:
    budget = Budget(100)
    scores = np.linspace(0.99, 0.6, 64).tolist()
    assert budget.decide(scores) == [True]
    budget.spent([300])
    chosen = budget.decide(scores[1:])
    assert (chosen[-1], chosen.count(True)) == (True, 1)  # as many as have ended; the rest waits
    budget.spent([3000])  # far more than was thought: nothing more, for now
    later = scores[1 + len(chosen) :][:16]
    assert budget.decide(later) == [False] * len(later)


def test_what_memory_did_not_hold_is_forgotten() -> None:
    budget = Budget(20)
    budget.begin(ITEMS)
    _run(budget, SCORES[:64], LENGTHS["random"][:64], 32)
    before = {name: str(value) for name, value in vars(budget).items()}

    def fail() -> None:
        with budget.attempt():
            budget.decide([0.3, 0.8])
            budget.spent([7])
            raise MemoryError

    with pytest.raises(MemoryError):
        fail()
    assert {name: str(value) for name, value in vars(budget).items()} == before
    with budget.attempt():
        budget.decide([0.3, 0.8])
    assert budget.items == 66


def test_who_decides() -> None:
    assert decider_of(None, None, 0.25).kappa == 0.25
    assert decider_of(0.75, None, 0.25).kappa == 0.75
    kept = Budget(3)
    assert decider_of(None, kept, 0.25) is kept
    assert isinstance(decider_of(None, 3, 0.25), Budget)
    with pytest.raises(ValueError, match="give one of them"):
        decider_of(0.5, 3, 0.25)
    for wrong in (0, -1, float("inf"), True, "40"):
        with pytest.raises(ValueError, match="budget is"):
            decider_of(None, wrong, 0.25)
