"""Reranking over a row's candidates: the relevant ones' scores against those of the others."""

from __future__ import annotations

import torch
from torch import Tensor


def listwise_cross_entropy(scores: Tensor, relevant: Tensor, *, mask: Tensor | None = None) -> Tensor:
    """Mean over rows of the cross-entropy ``-sum_c t_c log softmax(scores)_c``, 0-d.

    The target t is uniform over a row's relevant candidates, 1 / how many there are, and zero elsewhere (ListNet's
    top-one distribution of such labels, Cao et al. 2007). So every positive pulls alike, all of them compete in one
    softmax with the negatives, and with r positives the least that can be reached is log r, where they share all of it.

    scores: ``[n, c]``, of a reranker the logit of "yes" less that of "no". relevant: bool ``[n, c]``. mask: bool
    ``[n, c]``, True where a candidate exists. A row with a single candidate is zero. Computed in float32 (float64 for
    float64 scores).

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
