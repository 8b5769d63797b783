"""Rows that have been read once and go on token by token: prefill, one step, choice of the next token.

The loop belongs to :mod:`reasoning`; here is what it stands on. Positions are passed explicitly at every step
(the backbone's own ``rope_deltas`` are module state and may be another batch's), and of the states only the last
one of every row is ever kept.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers.cache_utils import DynamicLayer

from .backbone import back_home, base_of, cache_argument, cache_of, positions_of, vision_features
from .pooling import is_number, whole_number
from .settings import UmeSettings


@dataclass(frozen=True)
class Decoding:
    """How thoughts are written.

    Attributes:
        max_new_tokens: most tokens of a thought, ``<gen_emb>`` counted where the model writes it itself.
        temperature: None or 0 takes the likeliest token; otherwise tokens are drawn.
        top_p: draw from the fewest tokens that hold this much probability; 1 from all.
        top_k: draw from this many likeliest tokens; None from all.
    """

    max_new_tokens: int = 8192
    temperature: float | None = None
    top_p: float = 1.0
    top_k: int | None = None

    def __post_init__(self) -> None:
        whole_number("max_new_tokens", self.max_new_tokens)
        if self.temperature is not None and not (is_number(self.temperature) and self.temperature >= 0):
            raise ValueError(
                f"temperature is {self.temperature}; give a number from 0 on, or None for greedy"
            )
        if not (is_number(self.top_p) and 0 < self.top_p <= 1):
            raise ValueError(f"top_p is {self.top_p}; give a number over 0 and up to 1")
        if self.top_k is not None:
            whole_number("top_k", self.top_k)


class GrowingLayer(DynamicLayer):
    """A cache layer with room for tokens to come: the stock one copies all that it has for every token."""

    keys: Any  # [B, heads, tokens so far, D], views of the rooms
    values: Any

    def __init__(self, layer: DynamicLayer) -> None:
        super().__init__()
        self.__dict__.update(layer.__dict__)
        self._rooms: tuple[Tensor, Tensor] | None = None

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Write new tokens ``[B, heads, new, D]`` behind the others; all of them, as views."""
        old = self.keys.shape[2]
        new = old + key_states.shape[2]
        if self._rooms is None or new > self._rooms[0].shape[2]:
            self._rooms = (_with_room(self.keys, new), _with_room(self.values, new))
        keys, values = self._rooms
        keys[:, :, old:new], values[:, :, old:new] = key_states, value_states
        self.keys, self.values = keys[:, :, :new], values[:, :, :new]
        return self.keys, self.values

    def reorder_cache(self, beam_idx: Any) -> None:
        super().reorder_cache(beam_idx)
        self._rooms = None


def _with_room(stored: Tensor, tokens: int) -> Tensor:
    batch, heads, old, width = stored.shape
    room = stored.new_empty(batch, heads, tokens + tokens // 4 + 64, width)
    room[:, :, :old] = stored
    return room


class CachedRows:
    """Left-padded rows with their cache, ready for the next token.

    Attributes:
        state: ``[B, H]``, after the final norm, of the last token that each row has read.
    """

    def __init__(self, base: Any, cache: Any, mask: Tensor, position: Tensor, state: Tensor) -> None:
        self.state = state
        self._base = base
        self._cache = cache
        self._mask = mask  # [B, tokens so far]
        self._position = position  # [B], of the next token

    def __len__(self) -> int:
        return len(self.state)

    def step(self, tokens: Tensor) -> None:
        """Read one more token per row, int64 ``[B]``, or some at once, ``[B, K]``; ``state`` is the last one's own."""
        tokens = tokens.view(len(self), -1)
        count = tokens.shape[1]
        self._mask = torch.cat([self._mask, self._mask.new_ones(len(tokens), count)], dim=1)
        positions = self._position.view(1, -1, 1) + torch.arange(count, device=tokens.device)
        output = self._base(
            input_ids=tokens,
            attention_mask=self._mask,
            position_ids=positions.expand(3, -1, -1),
            use_cache=True,
            return_dict=True,
            **cache_argument(self._base, self._cache),
        )
        self.state = back_home(output.last_hidden_state[:, -1], self._mask)
        self._position = self._position + count

    def take(self, rows: Sequence[int]) -> None:
        """Keep these rows, in this order; a row that is named several times is branched."""
        if list(rows) != list(range(len(self))):
            self._select(rows)

    def branch(self, rows: Sequence[int]) -> CachedRows:
        """These rows, to go on apart from the others: what either reads, the other does not see."""
        cache = copy.copy(self._cache)
        cache.layers = [_detached(layer) for layer in cache.layers]
        apart = CachedRows(self._base, cache, self._mask, self._position, self.state)
        apart._select(rows)
        return apart

    def _select(self, rows: Sequence[int]) -> None:
        index = torch.tensor(rows, dtype=torch.long, device=self.state.device)
        self._cache.reorder_cache(index)  # the only selection that linear-attention layers have, too
        self._mask, self._position, self.state = self._mask[index], self._position[index], self.state[index]


def _detached(layer: Any) -> Any:
    """A layer whose tensors can be replaced without the other's; linear-attention layers hold theirs in dicts."""
    apart = copy.copy(layer)
    for name, value in vars(layer).items():
        if isinstance(value, (dict, list)):
            setattr(apart, name, copy.copy(value))
    return apart


def prefill(backbone: Any, inputs: dict[str, Tensor], settings: UmeSettings) -> tuple[CachedRows, Tensor]:
    """Read a batch of prompts once.

    Args:
        backbone: a native ``...ForConditionalGeneration``.
        inputs: as for ``backbone.states_of``; padding must be on the left.
        settings: positions and DeepStack of the checkpoint.

    Returns:
        The rows, and the states of their prompts ``[B, L, H]``.

    Raises:
        ValueError: a row ends in padding.
    """
    base = base_of(backbone)
    mask = inputs.get("attention_mask")
    if mask is None:
        mask = torch.ones_like(inputs["input_ids"])
    if not bool(mask[:, -1].all()):
        raise ValueError(
            "a batch that goes on must be padded on the left: collate(rows, padding_side='left')"
        )
    inputs = {**inputs, "attention_mask": mask}
    positions = positions_of(base, inputs, settings.positions)
    output = base(
        input_ids=inputs["input_ids"],
        attention_mask=mask,
        position_ids=positions,
        mm_encoder_outputs=vision_features(base, inputs, deepstack=settings.deepstack),
        use_cache=True,
        return_dict=True,
    )
    states = back_home(output.last_hidden_state, mask)
    cache = cache_of(output)
    cache.layers = [GrowingLayer(layer) if type(layer) is DynamicLayer else layer for layer in cache.layers]
    # After a picture the axes differ, and the largest may lie before the last token.
    following = positions.masked_fill(mask.unsqueeze(0) == 0, 0).amax(dim=(0, 2)) + 1
    return CachedRows(base, cache, mask, following, states[:, -1].clone()), states


def choose(logits: Tensor, decoding: Decoding, streams: Sequence[np.random.Generator]) -> list[int]:
    """The next token of every row.

    Args:
        logits: ``[B, V]``; ``-inf`` is never chosen.
        decoding: greedy, or temperature, top-k and top-p.
        streams: one source of chance per row, so that a row's tokens do not depend on its neighbours.
    """
    if not decoding.temperature:
        return logits.argmax(dim=-1).tolist()
    logits = logits.float()
    if decoding.top_k is not None and decoding.top_k < logits.shape[1]:
        least = logits.topk(decoding.top_k, dim=-1).values[:, -1:]
        logits = logits.masked_fill(logits < least, float("-inf"))
    probabilities = (logits / decoding.temperature).softmax(dim=-1)
    order = None
    if decoding.top_p < 1:
        probabilities, order = probabilities.sort(dim=-1, descending=True, stable=True)
        before = probabilities.cumsum(dim=-1) - probabilities
        probabilities = probabilities.masked_fill(before >= decoding.top_p, 0)
    edges = probabilities.double().cumsum(dim=-1)
    total = edges[:, -1:]
    drawn = torch.tensor([stream.random() for stream in streams], dtype=torch.float64, device=logits.device)
    places = torch.searchsorted(edges, drawn.unsqueeze(1) * total, right=True)
    places = torch.minimum(places, (edges < total).sum(dim=-1, keepdim=True))  # rounding up to the total
    return (places if order is None else order.gather(1, places)).squeeze(1).tolist()
