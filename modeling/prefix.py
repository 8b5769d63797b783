"""Read many rows that begin alike: their common beginning once, then the rest of each against its cache.

The cache of the beginning is shared and never written: a layer joins a batch's new keys to it for the one forward
that needs them. Positions are those of the full rows, so that nothing changes but the work.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer

from .backbone import back_home, base_of, cache_argument, cache_of, positions_of
from .batching import plan_batches
from .pooling import DIRECT_SLOT, pool
from .settings import LINEAR_ATTENTION_FAMILIES, UmeSettings
from .vision_features import VisionFeatureCache

MediaLists = tuple[list[Any], list[Any]]  # images, videos

SHORTEST_PREFIX = 16  # fewer tokens than this are not worth a forward of their own
PREFIX_SHARE = 8  # a token of the prefix costs a row this much less than one of its own: only keys are copied


class SharedLayer(DynamicLayer):
    """Keys and values ``[1, heads, n, d]`` of one layer that every row of a batch sees."""

    keys: Tensor
    values: Tensor

    def __init__(self, read: Any) -> None:
        super().__init__()
        self.lazy_initialization(read.keys, read.values)
        self.keys, self.values = read.keys, read.values

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        rows = len(key_states)
        keys = torch.cat([self.keys.expand(rows, -1, -1, -1), key_states], dim=-2)
        return keys, torch.cat([self.values.expand(rows, -1, -1, -1), value_states], dim=-2)


def shared_cache(cache: Cache, rows: int) -> Cache:
    """A cache for ``rows`` rows that all begin with the one row in ``cache``, which stays as it is."""
    layers: list[Any] = []
    read: list[Any] = cache.layers
    for layer in read:
        if type(layer) is DynamicLayer:
            layers.append(SharedLayer(layer))
        else:  # recurrent states and windows are written in place: every batch has its own
            own = copy.deepcopy(layer)
            own.reorder_cache(torch.zeros(rows, dtype=torch.long))
            layers.append(own)
    return Cache(layers=layers)


def can_share(model_type: str) -> bool:
    """Whether this transformers continues the family's cache by several tokens at once."""
    return model_type not in LINEAR_ATTENTION_FAMILIES or hasattr(Cache, "get_recurrent_state")


@dataclass(frozen=True)
class Span:
    """Where a medium of a row stands: tokens ``start`` to ``end``, the latter not included."""

    kind: int  # 1 image, 2 video, as in token_types
    number: int  # among the row's media of this kind
    start: int
    end: int


def spans_of(row: Any, patches_per_token: int) -> list[Span]:
    """Spans of a prepared row's media, in order; a video's frames and the text between them are one span."""
    spans = []
    for kind, media in ((1, row.images), (2, row.videos)):
        places = np.flatnonzero(row.token_types == kind)
        done = 0
        for number, medium in enumerate(media):
            count = len(medium.values) // patches_per_token
            spans.append(Span(kind, number, int(places[done]), int(places[done + count - 1]) + 1))
            done += count
    return sorted(spans, key=lambda span: span.start)


def shared_length(rows: Sequence[Any], patches_per_token: int, features: VisionFeatureCache) -> int:
    """How many tokens at the beginning of all rows are the same, media included; at least one token is left over."""
    first = rows[0]
    length = min(len(row.input_ids) for row in rows) - 1
    for row in rows[1:]:
        differing = np.flatnonzero(row.input_ids[:length] != first.input_ids[:length])
        length = int(differing[0]) if len(differing) else length
    for span in spans_of(first, patches_per_token):
        if span.start >= length:
            break
        key = features.key(_media(first, span.kind)[span.number])
        others = [_media(row, span.kind)[span.number : span.number + 1] for row in rows[1:]]
        if span.end > length or any([features.key(one) for one in other] != [key] for other in others):
            return span.start
    return length


@dataclass(frozen=True)
class PrefixPlan:
    """How rows are read.

    Attributes:
        rows: the different ones.
        places: of each row that was given, where it stands among these.
        shared: tokens at the beginning of all that are read once; 0 for none.
        batches: indices of the rows of each forward.
    """

    rows: list[Any]
    places: list[int]
    shared: int
    batches: list[list[int]]


class PrefixReader:
    """Reads prepared rows; see the module's docstring. With or without a gradient, as torch is set.

    Args:
        backbone: a native ``...ForConditionalGeneration``.
        settings: positions and DeepStack of the checkpoint; attention must be causal.
        processor: collates rows and makes pixels of patches.
        features: features of the media.
    """

    def __init__(
        self, backbone: Any, settings: UmeSettings, processor: Any, features: VisionFeatureCache
    ) -> None:
        self.base = base_of(backbone)
        self.settings = settings
        self.processor = processor
        self.features = features
        self.patches_per_token = processor.layout.merge**2
        self.model_type = backbone.config.model_type

    @property
    def can_share(self) -> bool:
        """Whether a beginning can be read once, by this family and in this mode.

        Checkpointed activations are computed again without a cache, and recurrent states have no copy with a gradient.
        """
        if not torch.is_grad_enabled():
            return can_share(self.model_type)
        if self.model_type in LINEAR_ATTENTION_FAMILIES:
            return False
        return not any(
            part.training and getattr(part, "gradient_checkpointing", False) for part in self.base.modules()
        )

    def plan(self, rows: Sequence[Any], batch_tokens: int, share: bool = True) -> PrefixPlan:
        """How rows are read within a budget of padded tokens; equal ones once."""
        known: dict[Any, int] = {}
        places = [known.setdefault(self._key(row), len(known)) for row in rows]
        unique = list(dict(zip(places, rows, strict=True)).values())
        length = 0
        if share and self.can_share and len(unique) > 1:
            length = shared_length(unique, self.patches_per_token, self.features)
            length = length if length >= SHORTEST_PREFIX else 0
        own = [len(row.input_ids) - length + length // PREFIX_SHARE for row in unique]
        return PrefixPlan(unique, places, length, plan_batches(own, batch_tokens))

    def forward(self, plan: PrefixPlan) -> Tensor:
        """The pooled state of every row that was planned, float32 ``[n, H]``."""
        found: list[Any] = [None] * len(plan.rows)
        try:
            self._reserve(plan.rows, plan.shared)
            cache = self._prefill(plan.rows[0], plan.shared) if plan.shared else None
            for batch in plan.batches:
                states = self._forward([plan.rows[number] for number in batch], plan.shared, cache)
                for number, state in zip(batch, states, strict=True):
                    found[number] = state
        finally:  # whoever tries again with smaller batches reserves them again
            self.features.evict()
        return torch.stack([found[number] for number in plan.places])

    def _prefill(self, row: Any, length: int) -> Cache:
        inputs = self._inputs([row])
        images, videos = self._split(row, length)[0]
        output = self.base(
            input_ids=inputs["input_ids"][:, :length],
            attention_mask=inputs["attention_mask"][:, :length],
            position_ids=positions_of(self.base, inputs, self.settings.positions)[..., :length],
            mm_encoder_outputs=self.features.outputs(images, videos),
            use_cache=True,
            return_dict=True,
        )
        return cache_of(output)

    def _forward(self, rows: Sequence[Any], length: int, cache: Cache | None) -> Tensor:
        inputs = self._inputs(rows)
        rest = [self._split(row, length)[1] for row in rows]
        images = [medium for mine, _ in rest for medium in mine]
        videos = [medium for _, mine in rest for medium in mine]
        states = self.base(
            input_ids=inputs["input_ids"][:, length:],
            attention_mask=inputs["attention_mask"],
            position_ids=positions_of(self.base, inputs, self.settings.positions)[..., length:],
            mm_encoder_outputs=self.features.outputs(images, videos),
            use_cache=cache is not None,
            return_dict=True,
            **({} if cache is None else cache_argument(self.base, shared_cache(cache, len(rows)))),
        ).last_hidden_state
        states = back_home(states, inputs["input_ids"])
        return pool(states, inputs["pooling_slots"][:, length:], DIRECT_SLOT)

    def _inputs(self, rows: Sequence[Any]) -> Any:
        # Padding stands on the right, after the tokens that are read, and no pixels are made: see the cache.
        return self.processor.collate(rows, "right", pixels=False).to(self.base.device)

    def _split(self, row: Any, length: int) -> tuple[MediaLists, MediaLists]:
        """Images and videos of a row before ``length``, and from there on."""
        before: MediaLists = ([], [])
        after: MediaLists = ([], [])
        for span in spans_of(row, self.patches_per_token):
            where = before if span.start < length else after
            where[span.kind - 1].append(_media(row, span.kind)[span.number])
        return before, after

    def _reserve(self, rows: Sequence[Any], length: int) -> None:
        for number, row in enumerate(rows):
            before, after = self._split(row, length)
            media = [*after[0], *after[1], *((*before[0], *before[1]) if number == 0 else ())]
            self.features.reserve(media)

    def _key(self, row: Any) -> Any:
        return row.input_ids.tobytes(), tuple(self.features.key(one) for one in (*row.images, *row.videos))


def _media(row: Any, kind: int) -> Sequence[Any]:
    return row.images if kind == 1 else row.videos
