"""Utility less cost, worked by hand and in NumPy; what forced actions do to the policy; collapse, as it is told."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pytest
import torch

from umekit.trainers.action_collapse import ActionCollapse
from umekit.trainers.adaptive_rollouts import draw_actions
from umekit.trainers.objectives import (
    adaptive_reward,
    break_even,
    group_advantages,
    policy_loss,
    thought_advantages,
    utility_gap,
)

# One group of four worked by hand: two embed at once (0.2), two think (0.6 with 30 tokens, 0.4 with 10).
UTILITY = torch.tensor([[0.2, 0.6, 0.2, 0.4]])
REASONED = torch.tensor([[False, True, False, True]])
LENGTHS = torch.tensor([[0.0, 30.0, 0.0, 10.0]])


def test_worked_by_hand() -> None:
    direct, gap = utility_gap(UTILITY, REASONED)
    assert direct.item() == pytest.approx(0.2)
    assert gap.item() == pytest.approx(0.3)
    found = adaptive_reward(UTILITY, REASONED, LENGTHS, cost=0.5, max_length=100, regret=2.0)
    # (0.6 - 0.2) - 0.5 * 0.3, (0.4 - 0.2) - 0.5 * 0.1; those without: -2 * 0.3
    np.testing.assert_allclose(found, [[-0.6, 0.25, -0.6, 0.15]], rtol=1e-6)
    losing = adaptive_reward(1 - UTILITY, REASONED, LENGTHS, cost=0.5, max_length=100)
    np.testing.assert_allclose(losing, [[0.0, -0.55, 0.0, -0.25]], rtol=1e-6, atol=1e-7)


def test_thoughts_are_measured_by_thoughts() -> None:
    rewards = torch.tensor([[5.0, 1.0, 5.0, 3.0], [0.0, 2.0, 0.0, 9.0]])
    reasoned = torch.tensor([[False, True, False, True], [False, True, False, False]])
    found = thought_advantages(rewards, reasoned, scale=False)
    np.testing.assert_allclose(found, [[0, -1, 0, 1], [0, 0, 0, 0]])
    scaled = thought_advantages(rewards, reasoned)  # deviation of 1 and 3 is sqrt(2)
    np.testing.assert_allclose(scaled[0], [0, -(2**-0.5), 0, 2**-0.5], rtol=1e-3)


def numpy_reward(
    utility: np.ndarray, reasoned: np.ndarray, lengths: np.ndarray, cost: float, most: int, regret: float
) -> np.ndarray:
    found = np.zeros_like(utility)
    for row in range(len(utility)):
        thoughts = [utility[row, i] for i in range(utility.shape[1]) if reasoned[row, i]]
        direct = np.mean([utility[row, i] for i in range(utility.shape[1]) if not reasoned[row, i]])
        delta = np.mean(thoughts) - direct
        for i in range(utility.shape[1]):
            if reasoned[row, i]:
                found[row, i] = utility[row, i] - direct - cost * lengths[row, i] / most
            elif delta > 0:
                found[row, i] = -regret * delta
    return found


def test_numpy_twins() -> None:
    chance = np.random.default_rng(0)
    utility = chance.normal(size=(64, 8))
    reasoned = chance.random((64, 8)) < 0.5
    reasoned[:, 0], reasoned[:, 1] = True, False
    lengths = np.where(reasoned, chance.integers(1, 90, (64, 8)), 0)
    given = torch.from_numpy(utility), torch.from_numpy(reasoned), torch.from_numpy(lengths)
    found = adaptive_reward(*given, cost=0.3, max_length=90, regret=0.7)
    np.testing.assert_allclose(found, numpy_reward(utility, reasoned, lengths, 0.3, 90, 0.7), atol=1e-12)
    advantages = thought_advantages(given[0], given[1], min_deviation=0.05)
    for row in range(64):
        own = utility[row][reasoned[row]]
        expected = np.zeros(8)
        if len(own) > 1:
            expected[reasoned[row]] = (own - own.mean()) / (max(own.std(ddof=1), 0.05) + 1e-4)
        np.testing.assert_allclose(advantages[row], expected, atol=1e-10)


@pytest.mark.parametrize("delta", [0.05, 0.099, 0.101, 0.3])
def test_break_even_is_where_both_actions_are_rewarded_alike(delta: float) -> None:
    settings: dict[str, Any] = {"cost": 0.6, "max_length": 100, "regret": 0.5}
    lengths = torch.tensor([[0.0, 50.0]])
    needed = break_even(lengths[0, 1], **settings, embed_weight=2.0, adaptive_weight=1.5)
    assert needed.item() == pytest.approx(1.5 * 0.6 * 0.5 / (2 + 1.5 * 1.5))
    utility = torch.tensor([[0.4, 0.4 + delta]])
    reward = 2 * utility + 1.5 * adaptive_reward(utility, torch.tensor([[False, True]]), lengths, **settings)
    assert bool(reward[0, 1] > reward[0, 0]) == (delta > needed)


@pytest.mark.parametrize("logit", [-8.0, 0.3, 5.0])
@pytest.mark.parametrize("thoughts", [1, 4, 7])
def test_forced_actions_move_a_policy_that_has_made_up_its_mind(logit: float, thoughts: int) -> None:
    """The gradient in the logit is q (1 - q) (R_reason - R_direct), whatever p."""
    reasoned = torch.arange(8) < thoughts
    rewards = torch.randn(1, 8, generator=torch.Generator().manual_seed(thoughts)).double()
    z = torch.tensor(logit, dtype=torch.float64, requires_grad=True)
    likely = torch.nn.functional.logsigmoid(torch.where(reasoned, z, -z))[:, None]
    advantages = group_advantages(rewards, scale=False)[0]
    mask = torch.ones(8, 1, dtype=torch.bool)
    loss, _ = policy_loss(likely, likely.detach(), None, advantages, mask, beta=0.0, norm="token")
    loss.backward()
    share = thoughts / 8
    expected = share * (1 - share) * (rewards[0, :thoughts].mean() - rewards[0, thoughts:].mean())
    assert -z.grad.item() == pytest.approx(expected.item(), abs=1e-9)


@pytest.mark.parametrize("reason", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("least", [1, 3, 4])
def test_both_actions_are_in_every_group(reason: float, least: int) -> None:
    shares = []
    for seed in range(50):
        streams = [np.random.default_rng([seed, sample]) for sample in range(8)]
        drawn = [np.random.default_rng([seed, sample]).random() < reason for sample in range(8)]
        actions, forced = draw_actions(reason, least, streams)
        assert least <= sum(actions) <= 8 - least
        assert [one != was for one, was in zip(actions, drawn, strict=True)] == forced
        if least <= sum(drawn) <= 8 - least:
            assert actions == drawn
        # each stream has given one number, whatever was decided: the thought's chance goes on from there
        following = np.random.default_rng([seed, 0])
        following.random()
        assert streams[0].random() == following.random()
        shares.append(sum(actions) / 8)
    assert np.mean(shares) == pytest.approx(np.clip(reason, least / 8, 1 - least / 8), abs=0.08)


def test_groups_that_cannot_be_compared() -> None:
    with pytest.raises(ValueError, match="group 1: all rollouts took one action"):
        utility_gap(torch.zeros(2, 2), torch.tensor([[True, False], [True, True]]))
    with pytest.raises(ValueError, match="expected"):
        utility_gap(torch.zeros(2, 2), torch.ones(2, 3, dtype=torch.bool))


def test_collapse_is_told_once_and_says_what_to_change(caplog: pytest.LogCaptureFixture) -> None:
    watch = ActionCollapse(window=3, share=0.05)
    with caplog.at_level(logging.WARNING):
        assert [watch.add("query", 0.01, 0.2, 0.1) for _ in range(4)] == [0, 0, -1, -1]
        assert watch.add("positive", 0.5, 0.0, 0.1) == 0
        assert watch.add("query", 0.5, 0.2, 0.1) == 0  # the mean of three is over the share again
        assert [watch.add("query", 1.0, -0.1, 0.1) for _ in range(3)] == [0, 0, 1]
    told = [one.getMessage() for one in caplog.records]
    assert len(told) == 2
    assert "always direct" in told[0]
    assert "lower reasoning_cost" in told[0]
    assert "gained 0.2000" in told[0]
    assert "always reason" in told[1]
    assert "raise reasoning_cost" in told[1]
