"""Evaluation while training: the contrastive loss of the eval batches, and recall@1 over the whole eval
set."""

from __future__ import annotations

import logging
import math
import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .data import ContrastiveBatch
from .finite import named
from .objectives.rows import number_targets

logger = logging.getLogger(__name__)

BLOCK = 1024


@contextmanager
def same_random_state() -> Iterator[None]:
    """Put all random generators back afterwards, so that evaluating does not change the training that
    follows."""
    python, numpy, cpu = random.getstate(), np.random.get_state(), torch.get_rng_state()
    cuda = torch.cuda.get_rng_state() if torch.cuda.is_initialized() else None
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        torch.set_rng_state(cpu)
        if cuda is not None:
            torch.cuda.set_rng_state(cuda)


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
    batches: Iterable[Any], encode: Callable[[Any], ContrastiveBatch], objective: Any
) -> tuple[dict[str, float], int]:
    """Metrics ``loss`` (mean over rows of the batch losses) and ``recall@1``, and the number of rows.

    encode: batch -> sides of all ranks. A loss that is not finite makes the mean so, and the first is logged with its
    rows. Raises ValueError for an empty set.
    """
    losses: list[float] = []
    sizes: list[int] = []
    queries, positives, best, keys = [], [], [], []
    for batch in batches:
        sides = encode(batch)
        masks = sides.masks()
        loss, _ = objective(sides.query, sides.positive, sides.negatives, sides.tasks, **masks)
        losses.append(loss.item())
        if not math.isfinite(losses[-1]) and all(map(math.isfinite, losses[:-1])):
            rows = batch.get("rows", []) if isinstance(batch, Mapping) else []
            logger.warning("the loss of eval batch %d is %s; %s", len(losses), losses[-1], named(rows))
        sizes.append(len(sides.query))
        queries.append(sides.query.cpu())
        positives.append(sides.positive.cpu())
        best.append(_best_negative(sides, masks).cpu())
        if sides.positive_keys is not None:
            keys.append(sides.positive_keys.cpu())
    if not sizes:
        raise ValueError("the eval dataset is empty")
    ids = number_targets(torch.cat(keys)) if keys else None
    recall = recall_at_1(torch.cat(queries), torch.cat(positives), torch.cat(best), ids)
    return {"loss": float(np.average(losses, weights=sizes)), "recall@1": recall}, sum(sizes)


def _best_negative(sides: ContrastiveBatch, masks: dict[str, Tensor | None]) -> Tensor:
    """Largest cosine of each query to a hard negative of its own that is not its target, [n]."""
    exists, positive_ids, negative_ids = sides.negative_mask, masks["positive_ids"], masks["negative_ids"]
    if sides.negatives is None or exists is None:
        return sides.query.new_full((len(sides.query),), float("-inf"))
    scores = F.cosine_similarity(sides.query[:, None].float(), sides.negatives.float(), dim=-1)
    if positive_ids is not None and negative_ids is not None:
        exists = exists & (negative_ids != positive_ids[:, None])
    return scores.masked_fill(~exists, float("-inf")).amax(dim=1)
