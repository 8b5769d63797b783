"""Pairs of one query in training: what they begin with is read once, where that saves work."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
import torch

from ..modeling.batching import plan_batches
from ..modeling.prefix import PrefixReader
from ..modeling.reranker import UmeScores

WORTH = 0.2  # of a batch's tokens that are to be saved: reading rows by themselves pads less, but in smaller forwards


def by_row(indices: Sequence[int], counts: Sequence[int]) -> list[list[int]]:
    """Indices of items, of which each row has so many, parted where the next one is of another row."""
    row_of = np.repeat(np.arange(len(counts)), counts)
    found: list[list[int]] = []
    for index in indices:
        if found and row_of[found[-1][-1]] == row_of[index]:
            found[-1].append(index)
        else:
            found.append([index])
    return found


def shared_tokens(items: Sequence[Any]) -> int:
    """Tokens that prepared pairs begin alike with; their media are not looked at."""
    length = min(item.length for item in items) - 1
    for item in items[1:]:
        differing = np.flatnonzero(item.input_ids[:length] != items[0].input_ids[:length])
        length = int(differing[0]) if len(differing) else length
    return length


def is_worth_it(items: Sequence[Any], counts: Sequence[int]) -> bool:
    """Whether a batch's pairs share enough."""
    rows = [items[start:end] for start, end in pairwise(accumulate(counts, initial=0))]
    saved = sum(shared_tokens(row) * (len(row) - 1) for row in rows if len(row) > 1)
    return saved >= WORTH * sum(item.length for item in items)


def plan_rows(
    items: Sequence[Any], counts: Sequence[int], budget: int, costs: Sequence[int]
) -> list[list[int]]:
    """Indices of items by chunk, within a budget of tokens: rows, or where one is too long, parts of it.

    costs: of each item beside its tokens.
    """
    parts: list[list[int]] = []
    sizes: list[int] = []
    for start, end in pairwise(accumulate(counts, initial=0)):
        shared = shared_tokens(items[start:end])
        for index in range(start, end):
            own = items[index].length - shared + costs[index]
            if index > start and sizes[-1] + own <= budget:
                parts[-1].append(index)
                sizes[-1] += own
            else:
                parts.append([index])
                sizes.append(shared + own)
    return [[index for part in chunk for index in parts[part]] for chunk in plan_batches(sizes, budget)]


def read_rows(model: Any, processor: Any, rows: Sequence[Sequence[Any]]) -> UmeScores:
    """Logits of pairs by row, and their states at the answer position, ``[pairs, 1, H]``."""
    reader = PrefixReader(model.backbone, model.settings, processor, model.vision_cache(processor))
    plans = [reader.plan(pairs, len(pairs) * max(pair.length for pair in pairs)) for pairs in rows]
    states = torch.cat([reader.forward(plan) for plan in plans])
    return UmeScores(last_hidden_state=states[:, None].to(model.dtype), logits=model.answer_logits(states))
