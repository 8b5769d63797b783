"""One prepared item, and many of them as a padded batch.

``tokenizer.pad`` drops keys that it does not know, and with them the slots: the collation is ours.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor
from transformers import BatchFeature

from .vision import Patches

Place = Callable[[Tensor], Tensor]


@dataclass
class Prepared:
    """An item ready for the model; NumPy only, so that it crosses process borders cheaply.

    Attributes:
        input_ids: int64 ``[L]``, media placeholders expanded.
        token_types: int64 ``[L]``: 0 text, 1 image, 2 video.
        slots: int8 ``[L]``: 0 nothing, 1 the direct embedding.
        images, videos: patches in the order of their placeholders.
        cut_tokens: tokens of text left out to stay within the limit.
        limit: most tokens that it may have; 0 where nothing says so.
        rendered: the prompt before media placeholders are expanded.
        completion: tokens at its end that were appended to the prompt.
        given: ids of the thoughts that are to follow it, each up to ``<gen_emb>``; none where the model thinks itself.
    """

    input_ids: np.ndarray
    token_types: np.ndarray
    slots: np.ndarray
    images: list[Patches] = field(default_factory=list)
    videos: list[Patches] = field(default_factory=list)
    cut_tokens: int = 0
    limit: int = 0
    rendered: str = ""
    completion: int = 0
    given: tuple[tuple[int, ...], ...] = ()

    def continued(self, ids: Sequence[int], slot: int = 0) -> Prepared:
        """The prompt with a completion appended; ``slot`` is that of its last token.

        Raises:
            ValueError: no tokens, or more than the limit has room for.
        """
        length = self.length + len(ids)
        if not len(ids) or (self.limit and length > self.limit):
            raise ValueError(f"a completion of {len(ids)} tokens makes {length}, the limit is {self.limit}")
        slots = np.zeros(len(ids), dtype=np.int8)
        slots[-1] = slot
        return replace(
            self,
            input_ids=np.concatenate([self.input_ids, np.asarray(ids, dtype=np.int64)]),
            token_types=np.concatenate([self.token_types, np.zeros(len(ids), dtype=np.int64)]),
            slots=np.concatenate([self.slots, slots]),
            completion=self.completion + len(ids),
        )

    def with_thoughts(self, gen_emb: int) -> list[Prepared]:
        """The prompt followed by each of its given thoughts and ``<gen_emb>``, whose slot is 2.

        The limit is that of prompts; how long a thought may be is said where it is given.
        """
        prompt = replace(self, limit=0)
        return [prompt.continued([*ids, gen_emb], 2) for ids in self.given]

    @property
    def length(self) -> int:
        """Tokens, visual ones included."""
        return len(self.input_ids)

    @property
    def patches(self) -> int:
        """Patches that the vision tower has to encode."""
        return sum(len(media.values) for media in (*self.images, *self.videos))


@dataclass(frozen=True)
class PixelScale:
    """Normalisation of uint8 pixels: ``(x / 255 - mean) / std`` per channel."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def apply(self, media: Sequence[Patches], temporal: int, place: Place | None = None) -> Tensor:
        """Patches of several media as the tower reads them: float32 ``[patches, C*T*P*P]``.

        They are bytes until ``place`` has taken them to where the tower is: a quarter of the way's width, and an
        eighth for pictures, whose copy in time is made there.
        """
        bytes_ = torch.cat([torch.from_numpy(one.values) for one in media])
        if place is not None:
            bytes_ = place(bytes_)
        mean, std = (
            torch.tensor(numbers, dtype=torch.float32, device=bytes_.device).view(1, -1, 1, 1, 1)
            for numbers in (self.mean, self.std)
        )
        scaled = bytes_.to(torch.float32).mul_(1 / 255).sub_(mean).div_(std)
        return scaled.expand(-1, -1, temporal, -1, -1).flatten(1)


def collate(
    rows: Sequence[Prepared],
    *,
    pad_id: int,
    scale: PixelScale,
    temporal: int,
    padding_side: str = "right",
    seconds_per_grid: float | None = None,
    pixels: bool = True,
    place: Place | None = None,
) -> BatchFeature:
    """A padded batch.

    Args:
        rows: at least one.
        pad_id: id under padding.
        scale, temporal: of the vision tower.
        padding_side: ``"left"`` or ``"right"``; the vectors do not depend on it.
        seconds_per_grid: default time between temporal steps, for families whose positions use it; None otherwise.
        pixels: False leaves them out, for callers that have the media's features already.
        place: takes a tensor to the model's device; on the CPU when None.

    Returns:
        ``input_ids``, ``attention_mask``, ``mm_token_type_ids`` (int64) and ``pooling_slots`` (int8) ``[B, L]``;
        ``pixel_values`` with ``image_grid_thw`` and ``pixel_values_videos`` with ``video_grid_thw`` where there are
        such media.
    """
    if not rows:
        raise ValueError("an empty batch cannot be collated")
    if padding_side not in ("left", "right"):
        raise ValueError(f"padding_side is {padding_side!r}; use 'left' or 'right'")
    longest = max(row.length for row in rows)
    shape = (len(rows), longest)
    ids = np.full(shape, pad_id, dtype=np.int64)
    mask = np.zeros(shape, dtype=np.int64)
    types = np.zeros(shape, dtype=np.int64)
    slots = np.zeros(shape, dtype=np.int8)
    for number, row in enumerate(rows):
        span = slice(longest - row.length, longest) if padding_side == "left" else slice(0, row.length)
        ids[number, span] = row.input_ids
        mask[number, span] = 1
        types[number, span] = row.token_types
        slots[number, span] = row.slots
    batch: dict[str, Tensor] = {
        "input_ids": torch.from_numpy(ids),
        "attention_mask": torch.from_numpy(mask),
        "mm_token_type_ids": torch.from_numpy(types),
        "pooling_slots": torch.from_numpy(slots),
    }
    images = [media for row in rows for media in row.images]
    videos = [media for row in rows for media in row.videos]
    if images:
        batch["image_grid_thw"] = torch.tensor([media.grid for media in images], dtype=torch.long)
    if videos:
        batch["video_grid_thw"] = torch.tensor([media.grid for media in videos], dtype=torch.long)
        if seconds_per_grid is not None:
            batch["second_per_grid_ts"] = torch.tensor(
                [_interval(media, seconds_per_grid) for media in videos]
            )
    if place is not None:
        batch = {name: place(tensor) for name, tensor in batch.items()}
    if pixels and images:
        batch["pixel_values"] = scale.apply(images, temporal, place)
    if pixels and videos:
        batch["pixel_values_videos"] = scale.apply(videos, temporal, place)
    return BatchFeature(batch)


def _interval(video: Patches, default: float) -> float:
    return default if video.interval is None else video.interval
