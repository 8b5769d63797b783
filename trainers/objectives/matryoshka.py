"""Matryoshka training (Kusupati et al. 2022, arXiv 2205.13147): the same loss on prefixes of the vectors.

    L = sum_d w_d L(first d numbers, scaled to length one) / sum_d w_d

The mean is over exactly the dims that are named: the whole vector takes part only where its dim is among them.
Which columns are false negatives is decided once, on the whole vectors, and holds for every prefix: whether two
items mean the same does not depend on how much of a vector is kept, and a short prefix, whose cosines are larger
and noisier, would strike out what it should learn to tell apart. Hardness weights are of each prefix's own cosines.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from .cross_entropies import CrossEntropy, cross_entropies


@dataclass(frozen=True)
class Prefix:
    """One prefix of the vectors: its share in the loss (all shares sum to one) and its cross-entropies."""

    share: float
    rows: list[CrossEntropy]


def check_matryoshka(dims: Sequence[int] | None, weights: Sequence[float] | None) -> None:
    """Raise ValueError for dims or weights that make no sense, whatever the length of the vectors."""
    if dims is None:
        if weights is not None:
            raise ValueError("matryoshka_weights without matryoshka_dims")
        return
    if not dims or len(set(dims)) != len(dims) or min(dims) < 1:
        raise ValueError(f"matryoshka_dims must be distinct positive numbers, got {list(dims)}")
    if weights is not None:
        if len(weights) != len(dims):
            raise ValueError(f"{len(weights)} matryoshka_weights for {len(dims)} matryoshka_dims")
        if not all(math.isfinite(weight) and weight > 0 for weight in weights):
            raise ValueError(f"matryoshka_weights must be positive, got {list(weights)}")


def contrastive_prefixes(
    query: Tensor,
    positive: Tensor,
    negatives: Tensor | None = None,
    *,
    matryoshka_dims: Sequence[int] | None = None,
    matryoshka_weights: Sequence[float] | None = None,
    **options: Any,
) -> tuple[list[CrossEntropy], list[Prefix]]:
    """The cross-entropies of the whole vectors (for metrics), and those of each prefix with its share of the loss.

    query [n, d], positive [m, d], negatives [n, k, d]; options: of :func:`cross_entropies`. Without dims there
    is one prefix, the whole vectors. Raises ValueError for a dim that is not in 1..d or weights that do not fit.
    """
    check_matryoshka(matryoshka_dims, matryoshka_weights)
    whole = cross_entropies(query, positive, negatives, **options)
    if matryoshka_dims is None:
        return whole, [Prefix(1.0, whole)]
    width = query.shape[1]
    if max(matryoshka_dims) > width:
        raise ValueError(f"matryoshka_dims {list(matryoshka_dims)} exceed the vectors' {width} numbers")
    weights = [1.0] * len(matryoshka_dims) if matryoshka_weights is None else list(matryoshka_weights)
    undecided = {**options, "false_negative_delta": None, "false_negative_margin": None}
    prefixes = []
    for dim, weight in zip(matryoshka_dims, weights, strict=True):
        rows = whole
        if dim < width:
            cut = None if negatives is None else negatives[..., :dim]
            own = cross_entropies(query[:, :dim], positive[:, :dim], cut, **undecided)
            rows = [replace(a, keep=b.keep, dropped=b.dropped) for a, b in zip(own, whole, strict=True)]
        prefixes.append(Prefix(weight / sum(weights), rows))
    return whole, prefixes


def prefixes_loss(
    prefixes: Sequence[Prefix], temperature: Tensor, alpha: float = 0.0, detach: bool = True
) -> Tensor:
    """The weighted mean over prefixes of the mean over directions, 0-d. temperature: 0-d or [n]."""
    losses = [
        prefix.share * torch.stack([row.loss(temperature, alpha, detach) for row in prefix.rows]).mean()
        for prefix in prefixes
    ]
    return torch.stack(losses).sum()
