"""Rewards and advantages of groups of rollouts (UME-R1 section on reinforcement learning)."""

from __future__ import annotations

import warnings

import torch
import torch.nn.functional as F
from torch import Tensor


@torch.no_grad()
def rank_gap_reward(
    queries: Tensor,
    targets: Tensor,
    *,
    query_valid: Tensor | None = None,
    target_valid: Tensor | None = None,
) -> Tensor:
    """How well each query rollout finds the rollouts of its own target, float32 [n, g] (float64 for float64).

    queries [n, g, d], targets [n, h, d], of any norm. The reward is the share of own targets among the h
    nearest of all targets, times (mean similarity to own - mean similarity to others). A tie with another's
    target counts against the own one. query_valid [n, g], target_valid [n, h]: bool; an invalid target
    takes no part (h counts the valid own ones), an invalid query has the reward 0, and so has a row without
    a valid own target.

    Without any other target the share is 1 and the gap is the mean own similarity, with a warning.
    Raises ValueError for shapes that do not fit.
    """
    if queries.ndim != 3 or targets.ndim != 3 or queries.shape[::2] != targets.shape[::2]:
        raise ValueError(f"[n, g, d] and [n, h, d] expected, got {[*queries.shape]} and {[*targets.shape]}")
    (n, g, d), h = queries.shape, targets.shape[1]
    device = queries.device
    valid = torch.ones(n, h, dtype=torch.bool, device=device) if target_valid is None else target_valid.bool()
    if valid.shape != (n, h) or (query_valid is not None and query_valid.shape != (n, g)):
        raise ValueError(f"query_valid [{n}, {g}] and target_valid [{n}, {h}] expected")
    dtype = torch.promote_types(queries.dtype, torch.float32)
    with torch.autocast(device.type, enabled=False):
        q, t = F.normalize(queries.to(dtype), dim=-1), F.normalize(targets.to(dtype), dim=-1)
        scores = (q.reshape(n * g, d) @ t.reshape(n * h, d).T).reshape(n, g, n, h)
    rows = torch.arange(n, device=device)
    own_valid = valid[:, None, :].expand(n, g, h)
    own = scores[rows, :, rows, :]  # [n, g, h]
    other_valid = valid[None, :, :].expand(n, n, h).clone()
    other_valid[rows, rows] = False
    other_valid = other_valid.reshape(n, 1, n * h)
    others = scores.reshape(n, g, n * h)
    own_count, other_count = own_valid.sum(-1), other_valid.sum(-1)
    gap = own.masked_fill(~own_valid, 0.0).sum(-1) / own_count.clamp(min=1)
    if not other_valid.any(dim=-1).all():
        warnings.warn("a query has no other targets: its reward is its mean own similarity", stacklevel=2)
    gap = gap - others.masked_fill(~other_valid, 0.0).sum(-1) / other_count.clamp(min=1)
    best_first = own.masked_fill(~own_valid, float("-inf")).sort(dim=-1, descending=True).values
    floor = (
        best_first - 8 * torch.finfo(dtype).eps
    )  # equal vectors may differ by rounding in a matrix product
    candidates = others.masked_fill(~other_valid, float("-inf")).unsqueeze(2)
    rivals = ((candidates >= floor.unsqueeze(3)) & other_valid.unsqueeze(2)).sum(-1)
    place = torch.arange(h, device=device)
    found = (place + rivals < own_count.unsqueeze(-1)) & (place < own_count.unsqueeze(-1))
    reward = found.sum(-1) / own_count.clamp(min=1) * gap
    alive = own_count > 0
    if query_valid is not None:
        alive = alive & query_valid.bool()
    return torch.where(alive, reward, torch.zeros_like(reward))


def group_advantages(rewards: Tensor, *, scale: bool = True, eps: float = 1e-4) -> Tensor:
    """Rewards [n, g] minus their group's mean, over its sample standard deviation (g - 1) plus eps if
    ``scale``.

    Detached, float32 (float64 for float64). Raises ValueError for other shapes and for groups of fewer than
    two.

    >>> group_advantages(torch.tensor([[1.0, 3.0]]), scale=False)
    tensor([[-1.,  1.]])
    """
    if rewards.ndim != 2 or rewards.shape[1] < 2:
        raise ValueError(f"rewards [n, g] with g of at least 2 expected, got {[*rewards.shape]}")
    values = rewards.detach().to(torch.promote_types(rewards.dtype, torch.float32))
    centred = values - values.mean(dim=1, keepdim=True)
    return centred / (values.std(dim=1, keepdim=True, correction=1) + eps) if scale else centred
