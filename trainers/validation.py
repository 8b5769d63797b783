"""Evaluation while training: the contrastive loss of the eval batches, and recall@1 over the whole eval
set."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .batches import ContrastiveBatch
from .finite import named
from .objectives.cross_entropies import number_targets

logger = logging.getLogger(__name__)

BLOCK = 1024


def recall_at_1(query: Tensor, positive: Tensor, best_negative: Tensor, positive_ids: Tensor | None) -> float:
    """Share of queries whose positive beats every other positive and the own hard negatives; a tie is a miss.

    query, positive [n, d] of any norm; best_negative [n]: largest cosine to an own hard negative (-inf
    without one); positive_ids int [n]: positives with the same id are not compared.
    """
    q, p = F.normalize(query.float(), dim=-1), F.normalize(positive.float(), dim=-1)
    ids = torch.arange(len(q), device=q.device) if positive_ids is None else positive_ids
    hits = 0
    for start in range(0, len(q), BLOCK):
        rows = slice(start, start + BLOCK)
        scores = q[rows] @ p.T
        own = scores.diagonal(start).clone()
        others = scores.masked_fill(ids[rows, None] == ids[None, :], float("-inf")).amax(dim=1)
        hits += int((own > torch.maximum(others, best_negative[rows].to(own.device))).sum())
    return hits / len(q)


@torch.no_grad()
def validate(
    batches: Iterable[tuple[Sequence[str], ContrastiveBatch]], objective: Any
) -> tuple[dict[str, float], int]:
    """Metrics ``loss`` (mean over rows of the batch losses) and ``recall@1``, and the number of rows.

    batches: names of rows, and the rows of all ranks; without any, a batch does not count. A loss that is not finite
    makes the mean so, and the first is logged with its rows. Raises ValueError for an empty set.
    """
    losses: list[float] = []
    sizes: list[int] = []
    queries, positives, best, keys = [], [], [], []
    for names, rows in batches:
        if len(rows) == 0:
            continue
        masks = rows.masks()
        loss, _ = objective(rows.query, rows.positive, rows.negatives, rows.tasks, **masks)
        losses.append(loss.item())
        if not math.isfinite(losses[-1]) and all(map(math.isfinite, losses[:-1])):
            logger.warning("the loss of eval batch %d is %s; %s", len(losses), losses[-1], named(names))
        sizes.append(len(rows))
        queries.append(rows.query.cpu())
        positives.append(rows.positive.cpu())
        best.append(_best_negative(rows, masks).cpu())
        keys.append(rows.positive_keys.cpu())
    if not sizes:
        raise ValueError("the eval dataset is empty")
    ids = number_targets(torch.cat(keys))
    recall = recall_at_1(torch.cat(queries), torch.cat(positives), torch.cat(best), ids)
    return {"loss": float(np.average(losses, weights=sizes)), "recall@1": recall}, sum(sizes)


def _best_negative(rows: ContrastiveBatch, masks: dict[str, Tensor]) -> Tensor:
    """Largest cosine of each query to a hard negative of its own that is not its target, [n]."""
    if rows.negatives.shape[1] == 0:
        return rows.query.new_full((len(rows),), float("-inf"))
    scores = F.cosine_similarity(rows.query[:, None].float(), rows.negatives.float(), dim=-1)
    counted = rows.negative_mask & (masks["negative_ids"] != masks["positive_ids"][:, None])
    return scores.masked_fill(~counted, float("-inf")).amax(dim=1)
