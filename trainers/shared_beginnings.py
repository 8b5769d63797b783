"""Pairs of one query in training: what they begin with is read once, where that saves work."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer

from ..modeling.backbone import back_home, cache_argument, cache_of, positions_of
from ..modeling.batching import plan_batches
from ..modeling.pooling import DIRECT_SLOT, pool
from ..modeling.prefix import MediaLists, PrefixPlan, PrefixReader, SharedLayer
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
    reader = RowsReader(model.backbone, model.settings, processor, model.vision_cache(processor))
    states = reader.read(rows)
    return UmeScores(last_hidden_state=states[:, None].to(model.dtype), logits=model.answer_logits(states))


class RowsReader(PrefixReader):
    """Reads pairs of many rows in few forwards: first what the pairs of each row begin with, then the rest of all.

    A forward for each row would read the same tokens, but a small one costs as much as a larger.
    """

    def read(self, rows: Sequence[Sequence[Any]]) -> Tensor:
        """The pooled state of every pair, row after row, float32 ``[pairs, H]``."""
        plans = [self.plan(pairs, tokens_of(pairs)) for pairs in rows]
        alone = [number for number, plan in enumerate(plans) if not plan.shared]
        found: dict[int, Tensor] = {}
        if alone:
            pairs = [pair for number in alone for pair in rows[number]]
            states = self.forward(self.plan(pairs, tokens_of(pairs), share=False))
            found.update(zip(alone, states.split([len(rows[number]) for number in alone]), strict=True))
        shared = [number for number, plan in enumerate(plans) if plan.shared]
        lengths = [plans[number].shared for number in shared]
        for group in plan_batches(lengths, max(1, len(shared) * max(lengths, default=1))):
            numbers = [shared[place] for place in group]
            found.update(zip(numbers, self._together([plans[n] for n in numbers]), strict=True))
        return torch.cat([found[number] for number in range(len(rows))])

    def _together(self, plans: Sequence[PrefixPlan]) -> list[Tensor]:
        """The states of each plan's rows; all plans share something."""
        try:
            for plan in plans:
                self._reserve(plan.rows, plan.shared)
            cache, seen = self._prefills(plans)
            layers: list[Any] = cache.layers
            if any(type(layer) is not DynamicLayer for layer in layers):  # windows keep no whole beginning
                return [self.forward(plan) for plan in plans]
            pairs = [(number, row) for number, plan in enumerate(plans) for row in plan.rows]
            own = [row.length - plans[number].shared for number, row in pairs]
            states: list[Any] = [None] * len(pairs)
            for batch in plan_batches(own, len(own) * max(own)):
                of = torch.tensor([pairs[place][0] for place in batch], device=seen.device)
                read = [SimpleNamespace(keys=layer.keys[of], values=layer.values[of]) for layer in layers]
                past = Cache(layers=[SharedLayer(layer) for layer in read])
                rests = [(pairs[place][1], plans[pairs[place][0]].shared) for place in batch]
                for place, state in zip(batch, self._rests(rests, seen[of], past), strict=True):
                    states[place] = state
        finally:
            self.features.evict()
        found = torch.stack(states).split([len(plan.rows) for plan in plans])
        return [part[plan.places] for part, plan in zip(found, plans, strict=True)]

    def _prefills(self, plans: Sequence[PrefixPlan]) -> tuple[Cache, Tensor]:
        """The cache of every plan's beginning, padded on the right, and which of its tokens are there, bool."""
        inputs = self._inputs([plan.rows[0] for plan in plans])
        lengths = torch.tensor([plan.shared for plan in plans], device=self.base.device)
        longest = int(lengths.max())
        seen = torch.arange(longest, device=lengths.device) < lengths[:, None]
        output = self.base(
            # What is behind a shorter beginning is no part of it, and a medium there has no features yet.
            input_ids=inputs["input_ids"][:, :longest].masked_fill(~seen, self._pad),
            attention_mask=seen.long(),
            position_ids=positions_of(self.base, inputs, self.settings.positions)[..., :longest],
            mm_encoder_outputs=self._features([self._split(plan.rows[0], plan.shared)[0] for plan in plans]),
            use_cache=True,
            return_dict=True,
        )
        return cache_of(output), seen

    def _rests(self, rests: Sequence[tuple[Any, int]], seen: Tensor, past: Cache) -> Tensor:
        """The pooled states of rows from so many tokens on, behind the beginnings in ``past``."""
        inputs = self._inputs([row for row, _ in rests])
        ids = inputs["input_ids"]
        starts = torch.tensor([start for _, start in rests], device=ids.device)[:, None]
        own = torch.tensor([row.length - start for row, start in rests], device=ids.device)[:, None]
        places = torch.arange(int(own.max()), device=ids.device)
        inside = places < own
        taken = (starts + places).clamp(max=ids.shape[1] - 1)
        positions = positions_of(self.base, inputs, self.settings.positions)
        states = self.base(
            input_ids=ids.gather(1, taken).masked_fill(~inside, self._pad),
            attention_mask=torch.cat([seen, inside], dim=1).long(),
            position_ids=positions.gather(-1, taken.expand(*positions.shape[:-2], -1, -1)),
            mm_encoder_outputs=self._features([self._split(row, start)[1] for row, start in rests]),
            use_cache=True,
            return_dict=True,
            **cache_argument(self.base, past),
        ).last_hidden_state
        slots = inputs["pooling_slots"].gather(1, taken).masked_fill(~inside, 0)
        return pool(back_home(states, ids), slots, DIRECT_SLOT)

    def _features(self, media: Sequence[MediaLists]) -> dict[str, Any]:
        images, videos = ([one for lists in media for one in lists[kind]] for kind in (0, 1))
        return self.features.outputs(images, videos)

    @property
    def _pad(self) -> int:
        return int(self.processor.tokenizer.pad_token_id)


def tokens_of(pairs: Sequence[Any]) -> int:
    """Padded tokens of one forward of all."""
    return len(pairs) * max(pair.length for pair in pairs)
