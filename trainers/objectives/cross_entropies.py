"""The cross-entropies of a contrastive batch before temperature: which columns each row has and keeps.

A column is struck out as a false negative by any of these rules; the row's own positive never is. Being struck
out is a decision and has no gradient.

* ``positive_ids``, ``negative_ids``: it stands for the same target as the row's own positive.
* ``false_negative_delta``: its cosine to the row's positive is above delta (RzenEmbed section 3.3.1, 0.95).
* ``false_negative_margin``: its cosine in the loss is above ``margin`` times that of the row's positive (the
  positive-aware rule of NV-Retriever, arXiv 2407.15831, 0.95). Where the positive's cosine is zero or below, the
  rule drops nothing: such a row has not been learned yet, "better than its positive" would be almost every
  column, and it would lose its gradient just where it needs one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

DIRECTIONS = ("q2p", "p2q", "q2q", "p2p")
NO_KEY = 0


@dataclass(frozen=True)
class CrossEntropy:
    """One cross-entropy before the softmax.

    similarity: cosines, float32 or float64 [n, c]. keep: bool [n, c], the columns that take part.
    target: int64 [n], the column of the positive. dropped: bool [n, c], columns struck out as false negatives
    (see the rules above).
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
    """Columns of one kind: similarity [n, c], allowed and duplicate [n, c]."""

    similarity: Tensor
    allowed: Tensor
    duplicate: Tensor


def number_targets(keys: Tensor) -> Tensor:
    """Equal numbers for items that are the same target: that share a key, directly or through other items.

    keys: int64 [n, c] in any column, ``NO_KEY`` where there is none. Returns int64 [n], the smallest index of each
    target's items. The rule is that of :func:`umekit.trainers.sampling.target_codes`: a paraphrase with the same id
    and a copy of that paraphrase elsewhere are one target.
    """
    n = len(keys)
    codes = torch.unique(keys, return_inverse=True)[1]
    given = keys != NO_KEY
    labels = torch.arange(n, device=keys.device)
    while True:
        lowest = labels.new_full((int(given.numel()) + 1,), n)
        lowest.scatter_reduce_(0, codes[given], labels[:, None].expand_as(keys)[given], "amin")
        joined = torch.minimum(labels, lowest[codes].masked_fill(~given, n).amin(dim=1))
        if torch.equal(joined, labels):
            return labels
        labels = joined


def check_margin(margin: float | None) -> None:
    """Raise ValueError for a ``false_negative_margin`` that is not a positive number."""
    if margin is not None and not (math.isfinite(margin) and margin > 0):
        raise ValueError(f"false_negative_margin must be a positive number, for example 0.95, got {margin}")


def _check(
    query: Tensor,
    positive: Tensor,
    negatives: Tensor | None,
    directions: Sequence[str],
    positive_ids: Tensor | None,
    negative_mask: Tensor | None,
    offset: int,
    margin: float | None,
    negative_ids: Tensor | None,
) -> None:
    check_margin(margin)
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
    if negative_ids is not None:
        if negatives is None or positive_ids is None:
            raise ValueError(
                "negative_ids are compared with positive_ids: give negatives and positive_ids too"
            )
        if negative_ids.shape != negatives.shape[:2]:
            raise ValueError(f"negative_ids {[*negative_ids.shape]} do not fit {[*negatives.shape]}")


def cross_entropies(
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
    false_negative_margin: float | None = None,
    negative_ids: Tensor | None = None,
) -> list[CrossEntropy]:
    """The cross-entropies of ``info_nce`` before temperature and hardness: one for q2p, one for p2q, as
    asked.

    Arguments as in :func:`info_nce`. Raises ValueError for shapes or names that do not fit.
    """
    _check(
        query,
        positive,
        negatives,
        directions,
        positive_ids,
        negative_mask,
        targets_offset,
        false_negative_margin,
        negative_ids,
    )
    n, m = query.shape[0], positive.shape[0]
    dtype = torch.promote_types(torch.promote_types(query.dtype, positive.dtype), torch.float32)
    q, p = F.normalize(query.to(dtype), dim=-1), F.normalize(positive.to(dtype), dim=-1)
    own = p[targets_offset : targets_offset + n]
    device = q.device
    self_q = torch.eye(n, dtype=torch.bool, device=device)
    self_p = torch.zeros(n, m, dtype=torch.bool, device=device)
    self_p[:, targets_offset : targets_offset + n] = self_q
    ids_p = torch.arange(m, device=device) if positive_ids is None else positive_ids
    own_ids = ids_p[targets_offset : targets_offset + n]
    same_p = own_ids[:, None] == ids_p[None, :]
    same_q = own_ids[:, None] == own_ids[None, :]
    # candidates of the columns: vectors [c, d], which are the row's own, which are the same target
    queries, positives = (q, self_q, same_q), (p, self_p, same_p)

    def duplicates(same: Tensor, to_target: Callable[[], Tensor]) -> Tensor:
        """Of one target by their keys, or too similar to the row's own; similarities only where they are asked for."""
        if false_negative_delta is None:
            return same
        return same | (to_target().clamp(max=1.0) > false_negative_delta)  # rounding is not similarity

    def block(
        anchor: Tensor, goal: Tensor, candidates: tuple[Tensor, Tensor, Tensor], keep_own: bool
    ) -> _Block:
        vectors, own_column, same = candidates
        allowed = torch.ones_like(own_column) if keep_own else ~own_column
        duplicate = duplicates(same & ~own_column, lambda: goal.detach() @ vectors.detach().T)
        return _Block(anchor @ vectors.T, allowed, duplicate)

    def hard(anchor: Tensor, goal: Tensor) -> _Block:
        assert negatives is not None
        h = F.normalize(negatives.to(dtype), dim=-1)
        k = h.shape[1]
        mask = (
            torch.ones(n, k, dtype=torch.bool, device=device)
            if negative_mask is None
            else negative_mask.bool()
        )
        ids = negative_ids
        if negatives_shared:
            mask = mask.reshape(1, n * k).expand(n, n * k)
            ids = None if ids is None else ids.reshape(1, n * k)

        def to(vectors: Tensor, h: Tensor) -> Tensor:
            if negatives_shared:
                return vectors @ h.reshape(n * k, -1).T
            return (h @ vectors[:, :, None]).squeeze(-1)

        same = torch.zeros_like(mask) if ids is None else own_ids[:, None] == ids
        return _Block(to(anchor, h), mask, duplicates(same, lambda: to(goal.detach(), h.detach())))

    def rows(blocks: list[_Block], target: Tensor) -> CrossEntropy:
        similarity = torch.cat([b.similarity for b in blocks], dim=1)
        allowed = torch.cat([b.allowed for b in blocks], dim=1)
        dropped = torch.cat([b.duplicate for b in blocks], dim=1)
        if false_negative_margin is not None:
            own_similarity = similarity.detach().gather(1, target[:, None])
            above = similarity.detach() > false_negative_margin * own_similarity
            dropped = dropped | (above & (own_similarity > 0))
        columns = torch.arange(similarity.shape[1], device=device)
        dropped = dropped & allowed & (columns[None, :] != target[:, None])
        return CrossEntropy(similarity, allowed & ~dropped, target, dropped)

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
