"""Rewards and advantages of groups of rollouts (UME-R1 section on reinforcement learning)."""

from __future__ import annotations

import re
import warnings

import torch
import torch.nn.functional as F
from torch import Tensor

_FORMAT = re.compile(r"<think>.*?</think>.*?<answer>.*?<gen_emb>", re.DOTALL)


def format_reward(text: str) -> float:
    """1 if a completion has, somewhere and in this order, a think pair, ``<answer>`` and ``<gen_emb>``; otherwise 0.

    As UME-R1's code has it: anything may stand between, and no closing ``</answer>`` is asked for.

    >>> format_reward("<think>a</think><answer>b<gen_emb>"), format_reward("<think>a<answer>b<gen_emb>")
    (1.0, 0.0)
    """
    return float(_FORMAT.search(text) is not None)


def rank_gap_reward(
    queries: Tensor,
    targets: Tensor,
    *,
    query_valid: Tensor | None = None,
    target_valid: Tensor | None = None,
    target_ids: Tensor | None = None,
) -> Tensor:
    """How well each query rollout finds the rollouts of its own target, float32 [n, g] (float64 for float64).

    queries [n, g, d], targets [n, h, d], of any norm. The reward is the share of own targets among the h
    nearest of all targets, times (mean similarity to own - mean similarity to others). A tie with another's
    target counts against the own one. query_valid [n, g], target_valid [n, h]: bool; an invalid target
    takes no part (h counts the valid own ones), an invalid query has the reward 0, and so has a row without
    a valid own target. target_ids int [n]: rows with the same id have the same answer, and their targets are
    no negatives of each other.

    Without any other target the share is 1 and the gap is the mean own similarity, with a warning.
    Raises ValueError for shapes that do not fit.
    """
    share, gap = rank_and_gap(
        queries, targets, query_valid=query_valid, target_valid=target_valid, target_ids=target_ids
    )
    return share * gap


@torch.no_grad()
def rank_and_gap(
    queries: Tensor,
    targets: Tensor,
    *,
    query_valid: Tensor | None = None,
    target_valid: Tensor | None = None,
    target_ids: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The factors of :func:`rank_gap_reward`, share and gap, each [n, g]; both 0 where the reward is 0 by rule."""
    if queries.ndim != 3 or targets.ndim != 3 or queries.shape[::2] != targets.shape[::2]:
        raise ValueError(f"[n, g, d] and [n, h, d] expected, got {[*queries.shape]} and {[*targets.shape]}")
    (n, g, d), h = queries.shape, targets.shape[1]
    device = queries.device
    valid = torch.ones(n, h, dtype=torch.bool, device=device) if target_valid is None else target_valid.bool()
    if valid.shape != (n, h) or (query_valid is not None and query_valid.shape != (n, g)):
        raise ValueError(f"query_valid [{n}, {g}] and target_valid [{n}, {h}] expected")
    if target_ids is not None and target_ids.shape != (n,):
        raise ValueError(f"target_ids [{n}] expected, got {[*target_ids.shape]}")
    dtype = torch.promote_types(queries.dtype, torch.float32)
    with torch.autocast(device.type, enabled=False):
        q, t = F.normalize(queries.to(dtype), dim=-1), F.normalize(targets.to(dtype), dim=-1)
        scores = (q.reshape(n * g, d) @ t.reshape(n * h, d).T).reshape(n, g, n, h)
    rows = torch.arange(n, device=device)
    own_valid = valid[:, None, :].expand(n, g, h)
    own = scores[rows, :, rows, :]  # [n, g, h]
    ids = rows if target_ids is None else target_ids
    other_valid = (valid[None, :, :] & (ids[:, None] != ids[None, :])[:, :, None]).reshape(n, 1, n * h)
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
    share = (found.sum(-1) / own_count.clamp(min=1)).to(dtype)
    alive = own_count > 0
    if query_valid is not None:
        alive = alive & query_valid.bool()
    return share.masked_fill(~alive, 0.0), gap.masked_fill(~alive, 0.0)


def group_advantages(
    rewards: Tensor, *, scale: bool = True, eps: float = 1e-4, min_deviation: float = 0.0
) -> Tensor:
    """Rewards [n, g] minus their group's mean, over its sample standard deviation (g - 1) plus eps if
    ``scale``. The deviation counts as ``min_deviation`` where it is smaller, so that a group whose rewards
    differ by next to nothing is not blown up; equal rewards have the advantage 0.

    Detached, float32 (float64 for float64). Raises ValueError for other shapes and for groups of fewer than
    two.

    >>> group_advantages(torch.tensor([[1.0, 3.0]]), scale=False)
    tensor([[-1.,  1.]])
    """
    if rewards.ndim != 2 or rewards.shape[1] < 2:
        raise ValueError(f"rewards [n, g] with g of at least 2 expected, got {[*rewards.shape]}")
    values = rewards.detach().to(torch.promote_types(rewards.dtype, torch.float32))
    centred = values - values.mean(dim=1, keepdim=True)
    centred = centred.masked_fill((values == values[:, :1]).all(dim=1, keepdim=True), 0.0)
    if not scale:
        return centred
    return centred / (values.std(dim=1, keepdim=True, correction=1).clamp(min=min_deviation) + eps)
