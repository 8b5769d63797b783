"""What sentence-transformers hands over for one input, as our items, chat messages and thoughts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from sentence_transformers.base.modality import infer_modality
from torch import Tensor

MODALITIES: tuple[Any, ...] = ("text", "image", "video", "message")


def messages_of(one: Any) -> list[Mapping[str, Any]]:
    """The chat messages that an input is; empty if it is none."""
    if isinstance(one, Mapping) and "role" in one and "content" in one:
        return [one]
    if isinstance(one, (list, tuple)) and one and all(messages_of(part) for part in one):
        return list(one)
    return []


def thought_of(one: Any) -> Any:
    """What an input, or a message of it, has beside its item as a thought; None without any."""
    parts = one if isinstance(one, (list, tuple)) else [one]
    found = [
        part["thought"] for part in parts if isinstance(part, Mapping) and part.get("thought") is not None
    ]
    if len(found) > 1:
        raise ValueError(f"an input has one thought, and {len(found)} of its messages have one")
    return found[0] if found else None


def item_of(one: Any) -> Any:
    """An input as an item: a ``str`` may name a medium, and ``image`` may say several pictures."""
    if isinstance(one, str):
        kind = infer_modality(one, supported_modalities=list(MODALITIES))
        return one if kind == "text" else {kind: one}
    if isinstance(one, Mapping) and "thought" in one:
        one = {key: value for key, value in one.items() if key != "thought"}
    if not isinstance(one, Mapping) or "images" in one or not isinstance(one.get("image"), (list, tuple)):
        return one
    return {("images" if key == "image" else key): value for key, value in one.items()}


def per_row(values: Tensor, counts: Tensor) -> Tensor:
    """One value per video ``[videos]`` as ``[B, most videos of a row]``, so that rows can be sliced."""
    rows = values.new_zeros(len(counts), max(int(counts.max()), 1))
    rows[torch.arange(rows.shape[1]) < counts.unsqueeze(1)] = values
    return rows
