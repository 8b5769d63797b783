"""InfoNCE with every option of the published recipes, as one pure function of vectors.

For a row i with target t_i, negatives N_i and similarities s (cosines), the loss of that row is

    L_i = -log( e^{s_i+ / tau_i} / ( e^{s_i+ / tau_i} + sum_{c in N_i, kept} e^{alpha * s_ic} e^{s_ic /
    tau_i} ) )

which is a cross-entropy whose negative logits carry ``alpha * s`` on top (hardness weighting, RzenEmbed
section 3.3.2; alpha = 9 there) and where a negative c is struck out if ``cos(c, t_i) > delta``
(false-negative removal, RzenEmbed section 3.3.1; delta = 0.95 there). RzenEmbed does not say whether the
weight is differentiated; LLaVE, which it follows, detaches it, and so do we by default. alpha = 0 and no rule
for false negatives give the plain cross-entropy. Which columns there are: ``rows``; prefixes of the vectors:
``matryoshka``.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .matryoshka import contrastive_prefixes, prefixes_loss


def info_nce(
    query: Tensor,
    positive: Tensor,
    negatives: Tensor | None = None,
    *,
    temperature: float | Tensor,
    directions: Sequence[str] = ("q2p",),
    hardness_alpha: float = 0.0,
    detach_hardness: bool = True,
    false_negative_delta: float | None = None,
    positive_ids: Tensor | None = None,
    negative_mask: Tensor | None = None,
    negatives_shared: bool = False,
    targets_offset: int = 0,
    false_negative_margin: float | None = None,
    matryoshka_dims: Sequence[int] | None = None,
    matryoshka_weights: Sequence[float] | None = None,
    negative_ids: Tensor | None = None,
) -> Tensor:
    """InfoNCE: the mean over rows of the cross-entropy of each query's own positive.

    query [n, d], positive [m, d] with m >= n, negatives [n, k, d] or None; they need not be normalised. The
    positive of row i is column ``i + targets_offset`` (m > n where positives were gathered over ranks). Every
    other positive is an in-batch negative; a row's hard negatives are its own unless ``negatives_shared``.

    temperature: float, 0-d tensor or one per row [n]; gradients flow into a tensor.
    directions: "q2p" and "p2q" are one cross-entropy each, averaged. "q2q" (other queries) and "p2p" (the own
        positive against other positives) add columns to the cross-entropy of the same anchor (q2q to q2p,
        p2p to p2q), or to the only one there is (q2p + q2q + p2p is the GTE and Qwen3-Embedding form).
    hardness_alpha: each negative is weighted by ``exp(alpha * cos)``; ``detach_hardness`` keeps the weight
        constant.
    false_negative_delta: a negative c of row i is dropped if ``cos(c, positive_i) > delta`` (in p2q: the
        query of row i instead of its positive). The positive is never dropped.
    positive_ids: int [m]; other columns that stand for the same target as the row's own are dropped.
    negative_mask: bool [n, k], True where a hard negative exists.
    false_negative_margin: a negative whose cosine is above ``margin`` times that of the row's positive is
        dropped, too; in rows whose positive has a cosine of zero or below, it drops nothing.
    matryoshka_dims: the loss is the mean, weighted by ``matryoshka_weights`` (None: equally), over these prefixes
        of the vectors, each scaled to length one; the whole vector takes part only if its dim is named. What
        is dropped is decided on the whole vectors.
    negative_ids: int [n, k], of the same kind as ``positive_ids``; a hard negative, the row's own or a shared one,
        that stands for the same target as the row's positive is dropped.

    Returns a 0-d tensor: float64 for float64 vectors, else float32, computed so under autocast too.
    Raises ValueError for shapes that do not fit, an unknown direction, or a temperature, margin, dim or
    weight out of range.

    >>> q, p = torch.eye(4), torch.eye(4)
    >>> round(info_nce(q, p, temperature=0.1).item(), 6)
    0.000136
    """
    with torch.autocast(query.device.type, enabled=False):
        whole, prefixes = contrastive_prefixes(
            query,
            positive,
            negatives,
            directions=directions,
            false_negative_delta=false_negative_delta,
            positive_ids=positive_ids,
            negative_mask=negative_mask,
            negatives_shared=negatives_shared,
            targets_offset=targets_offset,
            false_negative_margin=false_negative_margin,
            matryoshka_dims=matryoshka_dims,
            matryoshka_weights=matryoshka_weights,
            negative_ids=negative_ids,
        )
        tau = temperature_tensor(temperature, whole[0].similarity)
        return prefixes_loss(prefixes, tau, hardness_alpha, detach_hardness)


def temperature_tensor(temperature: float | Tensor, like: Tensor) -> Tensor:
    """A temperature as a 0-d or [n] tensor in the dtype and on the device of ``like`` [n, c]; checked."""
    if not isinstance(temperature, Tensor):
        if not temperature > 0:
            raise ValueError(f"temperature must be positive, got {temperature}")
        return torch.tensor(temperature, dtype=like.dtype, device=like.device)
    if temperature.ndim > 1 or (temperature.ndim == 1 and temperature.shape[0] != like.shape[0]):
        raise ValueError(f"temperature: 0-d or [{like.shape[0]}] expected, got {[*temperature.shape]}")
    return temperature.to(device=like.device, dtype=like.dtype)
