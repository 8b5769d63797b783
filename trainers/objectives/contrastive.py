"""InfoNCE with every option of the published recipes, as one pure function of vectors.

For a row i with target t_i, negatives N_i and similarities s (cosines), the loss of that row is

    L_i = -log( e^{s_i+ / tau_i} / ( e^{s_i+ / tau_i} + sum_{c in N_i, kept} e^{alpha * s_ic} e^{s_ic /
    tau_i} ) )

which is a cross-entropy whose negative logits carry ``alpha * s`` on top (hardness weighting, RzenEmbed
section 3.3.2; alpha = 9 there) and where a negative c is struck out if ``cos(c, t_i) > delta``
(false-negative removal, RzenEmbed section 3.3.1; delta = 0.95 there). RzenEmbed does not say whether the
weight is differentiated; LLaVE, which it follows, detaches it, and so do we by default. alpha = 0 and delta
= None give the plain cross-entropy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

DIRECTIONS = ("q2p", "p2q", "q2q", "p2p")


@dataclass(frozen=True)
class ContrastiveRows:
    """One cross-entropy before the softmax.

    similarity: cosines, float32 or float64 [n, c]. keep: bool [n, c], the columns that take part.
    target: int64 [n], the column of the positive. dropped: bool [n, c], columns struck out as false negatives
    (above delta, or the same positive id).
    """

    similarity: Tensor
    keep: Tensor
    target: Tensor
    dropped: Tensor

    def positive_mask(self) -> Tensor:
        """bool [n, c]: True at each row's own positive."""
        columns = torch.arange(self.similarity.shape[1], device=self.target.device)
        return columns[None, :] == self.target[:, None]

    def loss(self, temperature: Tensor, alpha: float = 0.0, detach: bool = True) -> Tensor:
        """Mean cross-entropy over rows, 0-d. temperature: 0-d or [n]."""
        scale = temperature if temperature.ndim == 0 else temperature[:, None]
        logits = self.similarity / scale
        if alpha:
            hardness = self.similarity.detach() if detach else self.similarity
            logits = logits + alpha * hardness.masked_fill(self.positive_mask(), 0.0)
        logits = logits.masked_fill(~self.keep, float("-inf"))
        return F.cross_entropy(logits, self.target)


@dataclass(frozen=True)
class _Block:
    """Columns of one kind: similarity [n, c], similarity to the row's target [n, c], allowed and duplicate
    [n, c]."""

    similarity: Tensor
    to_target: Tensor
    allowed: Tensor
    duplicate: Tensor


def _check(
    query: Tensor,
    positive: Tensor,
    negatives: Tensor | None,
    directions: Sequence[str],
    positive_ids: Tensor | None,
    negative_mask: Tensor | None,
    offset: int,
) -> None:
    if isinstance(directions, str):
        raise TypeError(f"directions is a sequence of names, e.g. ('q2p',), not the string {directions!r}")
    unknown = [name for name in directions if name not in DIRECTIONS]
    if unknown:
        raise ValueError(f"unknown directions {unknown}; known are {DIRECTIONS}")
    if "q2p" not in directions and "p2q" not in directions:
        raise ValueError("directions needs 'q2p' or 'p2q': 'q2q' and 'p2p' only add columns to one of them")
    if query.ndim != 2 or positive.ndim != 2 or query.shape[1] != positive.shape[1]:
        raise ValueError(
            f"query [n, d] and positive [m, d] expected, got {[*query.shape]} and {[*positive.shape]}"
        )
    n, m = query.shape[0], positive.shape[0]
    if n == 0:
        raise ValueError("info_nce got no rows")
    if offset < 0 or offset + n > m:
        raise ValueError(f"positives of {n} queries from column {offset} do not fit into {m} columns")
    if negatives is not None and (negatives.ndim != 3 or negatives.shape[::2] != query.shape):
        raise ValueError(f"negatives [n, k, d] expected for query {[*query.shape]}, got {[*negatives.shape]}")
    if negative_mask is not None:
        if negatives is None:
            raise ValueError("negative_mask without negatives")
        if negative_mask.shape != negatives.shape[:2]:
            raise ValueError(f"negative_mask {[*negative_mask.shape]} does not fit {[*negatives.shape]}")
    if positive_ids is not None and positive_ids.shape != (m,):
        raise ValueError(f"positive_ids [{m}] expected (one per positive), got {[*positive_ids.shape]}")


def contrastive_rows(
    query: Tensor,
    positive: Tensor,
    negatives: Tensor | None = None,
    *,
    directions: Sequence[str] = ("q2p",),
    false_negative_delta: float | None = None,
    positive_ids: Tensor | None = None,
    negative_mask: Tensor | None = None,
    negatives_shared: bool = False,
    targets_offset: int = 0,
) -> list[ContrastiveRows]:
    """The cross-entropies of ``info_nce`` before temperature and hardness: one for q2p, one for p2q, as
    asked.

    Arguments as in :func:`info_nce`. Raises ValueError for shapes or names that do not fit.
    """
    _check(query, positive, negatives, directions, positive_ids, negative_mask, targets_offset)
    n, m = query.shape[0], positive.shape[0]
    dtype = torch.promote_types(torch.promote_types(query.dtype, positive.dtype), torch.float32)
    q, p = F.normalize(query.to(dtype), dim=-1), F.normalize(positive.to(dtype), dim=-1)
    own = p[targets_offset : targets_offset + n]
    device = q.device
    self_q = torch.eye(n, dtype=torch.bool, device=device)
    self_p = torch.zeros(n, m, dtype=torch.bool, device=device)
    self_p[:, targets_offset : targets_offset + n] = self_q
    if positive_ids is None:
        same_p, same_q = self_p, self_q
    else:
        own_ids = positive_ids[targets_offset : targets_offset + n]
        same_p = own_ids[:, None] == positive_ids[None, :]
        same_q = own_ids[:, None] == own_ids[None, :]
    # candidates of the columns: vectors [c, d], which are the row's own, which are the same target
    queries, positives = (q, self_q, same_q), (p, self_p, same_p)

    def block(
        anchor: Tensor, goal: Tensor, candidates: tuple[Tensor, Tensor, Tensor], keep_own: bool
    ) -> _Block:
        vectors, own_column, same = candidates
        allowed = torch.ones_like(own_column) if keep_own else ~own_column
        return _Block(anchor @ vectors.T, goal.detach() @ vectors.detach().T, allowed, same & ~own_column)

    def hard(anchor: Tensor, goal: Tensor) -> _Block:
        assert negatives is not None
        h = F.normalize(negatives.to(dtype), dim=-1)
        k = h.shape[1]
        mask = (
            torch.ones(n, k, dtype=torch.bool, device=device)
            if negative_mask is None
            else negative_mask.bool()
        )
        if negatives_shared:
            flat = h.reshape(n * k, -1)
            allowed = mask.reshape(1, n * k).expand(n, n * k)
            pair = anchor @ flat.T, goal.detach() @ flat.detach().T
        else:
            allowed = mask
            pair = (h @ anchor[:, :, None]).squeeze(-1), (h @ goal[:, :, None]).squeeze(-1).detach()
        return _Block(*pair, allowed, torch.zeros_like(allowed))

    def rows(blocks: list[_Block], target: Tensor) -> ContrastiveRows:
        similarity = torch.cat([b.similarity for b in blocks], dim=1)
        allowed = torch.cat([b.allowed for b in blocks], dim=1)
        dropped = torch.cat([b.duplicate for b in blocks], dim=1)
        if false_negative_delta is not None:
            to_target = torch.cat([b.to_target for b in blocks], dim=1).clamp(
                max=1.0
            )  # rounding is not similarity
            dropped = dropped | (to_target > false_negative_delta)
        columns = torch.arange(similarity.shape[1], device=device)
        dropped = dropped & allowed & (columns[None, :] != target[:, None])
        return ContrastiveRows(similarity, allowed & ~dropped, target, dropped)

    first = torch.arange(n, device=device)
    both = "q2p" in directions and "p2q" in directions
    result = []
    if "q2p" in directions:
        blocks = [block(q, own, positives, True)]
        if negatives is not None and negatives.shape[1] > 0:
            blocks.append(hard(q, own))
        if "q2q" in directions:
            blocks.append(block(q, own, queries, False))
        if "p2p" in directions and not both:
            blocks.append(block(own, own, positives, False))
        result.append(rows(blocks, first + targets_offset))
    if "p2q" in directions:
        blocks = [block(own, q, queries, True)]
        if "p2p" in directions:
            blocks.append(block(own, q, positives, False))
        if "q2q" in directions and not both:
            blocks.append(block(q, q, queries, False))
        result.append(rows(blocks, first))
    return result


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

    Returns a 0-d tensor: float64 for float64 vectors, else float32, computed so under autocast too.
    Raises ValueError for shapes that do not fit, an unknown direction or a temperature that is not positive.

    >>> q, p = torch.eye(4), torch.eye(4)
    >>> round(info_nce(q, p, temperature=0.1).item(), 6)
    0.000136
    """
    with torch.autocast(query.device.type, enabled=False):
        rows = contrastive_rows(
            query,
            positive,
            negatives,
            directions=directions,
            false_negative_delta=false_negative_delta,
            positive_ids=positive_ids,
            negative_mask=negative_mask,
            negatives_shared=negatives_shared,
            targets_offset=targets_offset,
        )
        tau = temperature_tensor(temperature, rows[0].similarity)
        losses = [row.loss(tau, hardness_alpha, detach_hardness) for row in rows]
        return torch.stack(losses).mean()


def temperature_tensor(temperature: float | Tensor, like: Tensor) -> Tensor:
    """A temperature as a 0-d or [n] tensor in the dtype and on the device of ``like`` [n, c]; checked."""
    if not isinstance(temperature, Tensor):
        if not temperature > 0:
            raise ValueError(f"temperature must be positive, got {temperature}")
        return torch.tensor(temperature, dtype=like.dtype, device=like.device)
    if temperature.ndim > 1 or (temperature.ndim == 1 and temperature.shape[0] != like.shape[0]):
        raise ValueError(f"temperature: 0-d or [{like.shape[0]}] expected, got {[*temperature.shape]}")
    return temperature.to(device=like.device, dtype=like.dtype)
