"""Reranking over a row's candidates: the relevant one's score against those of the others."""

from __future__ import annotations

import torch
from torch import Tensor


def listwise_cross_entropy(scores: Tensor, relevant: Tensor, *, mask: Tensor | None = None) -> Tensor:
    """Mean over rows of ``-log softmax`` of the relevant candidates' scores, 0-d.

    scores: ``[n, c]``, of a reranker the logit of "yes" less that of "no". relevant: bool ``[n, c]``; a row's loss is
    the mean over its relevant candidates. mask: bool ``[n, c]``, True where a candidate exists. A row with nothing to
    tell its relevant candidates from is zero. Computed in float32 (float64 for float64 scores).

    Raises ValueError for shapes that do not fit, or a row without a relevant candidate.

    >>> scores = torch.tensor([[2.0, 2.0]])
    >>> round(listwise_cross_entropy(scores, torch.tensor([[True, False]])).item(), 4)
    0.6931
    """
    keep = torch.ones_like(scores, dtype=torch.bool) if mask is None else mask.bool()
    if scores.ndim != 2 or relevant.shape != scores.shape or keep.shape != scores.shape:
        raise ValueError(
            f"three [n, c] expected, got {[*scores.shape]}, {[*relevant.shape]}, {[*keep.shape]}"
        )
    chosen = relevant.bool() & keep
    if not chosen.any(dim=1).all():
        raise ValueError("a row has no relevant candidate")
    with torch.autocast(scores.device.type, enabled=False):
        wide = scores.to(torch.promote_types(scores.dtype, torch.float32))
        logs = wide.masked_fill(~keep, float("-inf")).log_softmax(dim=1)
        return -(logs.masked_fill(~chosen, 0.0).sum(dim=1) / chosen.sum(dim=1)).mean()
