"""Utility less cost: what a group of rollouts says of thinking, when some embed at once and some think first.

MMEmb-R1 names the gap between what is reached with and without reasoning, and a reward that makes long reasoning dear;
neither code nor formulas are public. All that is here is a re-derivation, and every constant an argument.
"""

from __future__ import annotations

import torch
from torch import Tensor


def utility_gap(utility: Tensor, reasoned: Tensor) -> tuple[Tensor, Tensor]:
    """Of each group, what embedding at once is worth, and what thinking adds to it: u_d and delta, each [n].

    u_d is the mean over the rollouts that embed at once (which have one vector, so one utility), delta the mean over
    those that thought, less u_d. utility [n, g], of any unit; reasoned bool [n, g]. Detached, float32 or float64.

    Raises:
        ValueError: other shapes, or a group whose rollouts all did the same.
    """
    if utility.ndim != 2 or reasoned.shape != utility.shape:
        raise ValueError(
            f"utility and reasoned [n, g] expected, got {[*utility.shape]} and {[*reasoned.shape]}"
        )
    thought = reasoned.bool()
    alone = (thought.all(dim=1) | ~thought.any(dim=1)).nonzero().flatten().tolist()
    if alone:
        raise ValueError(
            f"group {alone[0]}: all rollouts took one action, and there is nothing to compare it with; force both "
            "(least_actions of at least 1)"
        )
    values = utility.detach().to(torch.promote_types(utility.dtype, torch.float32))
    direct = (values * ~thought).sum(dim=1) / (~thought).sum(dim=1)
    return direct, (values * thought).sum(dim=1) / thought.sum(dim=1) - direct


def adaptive_reward(
    utility: Tensor, reasoned: Tensor, lengths: Tensor, *, cost: float, max_length: int, regret: float = 1.0
) -> Tensor:
    """R_ada [n, g]: what a thought gained less what it cost; of embedding at once, what it has missed.

    A rollout i that thought has ``(u_i - u_d) - cost * len_i / max_length``; one that embedded at once has
    ``-regret * max(delta, 0)``, so nothing where thinking does not gain. See :func:`utility_gap` for u_d and delta.

    utility [n, g]; reasoned bool [n, g]; lengths [n, g], tokens of each thought.

    >>> adaptive_reward(torch.tensor([[0.25, 1.0]]), torch.tensor([[False, True]]), torch.tensor([[0, 50]]),
    ...                 cost=0.5, max_length=100)
    tensor([[-0.7500,  0.5000]])
    """
    direct, gap = utility_gap(utility, reasoned)
    gained = utility.detach().to(gap.dtype) - direct[:, None] - cost * lengths.to(gap.dtype) / max_length
    return torch.where(reasoned.bool(), gained, -regret * gap.clamp(min=0)[:, None])


def break_even(
    length: Tensor,
    *,
    cost: float,
    max_length: int,
    regret: float = 1.0,
    embed_weight: float = 1.0,
    adaptive_weight: float = 1.0,
) -> Tensor:
    """The delta from which on thoughts of so many tokens are rewarded more than embedding at once, as ``length``.

    With R = embed_weight * u + adaptive_weight * R_ada, and the same reward for form, thinking is ahead by
    ``(embed_weight + adaptive_weight) * delta + adaptive_weight * (regret * delta - cost * length / max_length)``
    for a delta over 0. Infinite where no delta is enough: both weights are 0.
    """
    gain = embed_weight + adaptive_weight * (1 + regret)
    price = adaptive_weight * cost * length / max_length
    return price / gain if gain > 0 else torch.full_like(price, float("inf"))


def thought_advantages(
    rewards: Tensor, reasoned: Tensor, *, scale: bool = True, eps: float = 1e-4, min_deviation: float = 0.0
) -> Tensor:
    """As :func:`group_advantages`, among the rollouts of a group that thought, [n, g]; 0 for the others.

    What is expected of a thought may be taken to be the mean of the thoughts, since the action is done when its tokens
    are written: where thinking does not pay, it is not thoughts that are to become less likely but the action. A group
    with one thought has nothing to compare it with, and gives 0.
    """
    values = rewards.detach().to(torch.promote_types(rewards.dtype, torch.float32))
    thought = reasoned.bool()
    count = thought.sum(dim=1, keepdim=True)
    mean = (values * thought).sum(dim=1, keepdim=True) / count.clamp(min=1)
    highest = values.masked_fill(~thought, float("-inf")).amax(dim=1, keepdim=True)
    lowest = values.masked_fill(~thought, float("inf")).amin(dim=1, keepdim=True)
    centred = (values - mean).masked_fill(~thought | (highest <= lowest), 0.0)
    if not scale:
        return centred
    deviation = (centred.square().sum(dim=1, keepdim=True) / (count - 1).clamp(min=1)).sqrt()
    return centred / (deviation.clamp(min=min_deviation) + eps)
