"""From RGB pictures to patches: the grid, one resize, and the layout that Qwen's vision towers read.

Pillow, NumPy and torch only (no torchvision). Patches stay uint8 until they are collated: a quarter of the memory in
queues and caches, and one fused multiply-add on the device instead of a float copy per picture.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch.nn import functional

from .first_resize import FirstResize

MOST_LEAST_PIXELS = 2**26


@dataclass(frozen=True)
class Patches:
    """One picture or video as the vision tower reads it.

    Attributes:
        values: uint8 ``[t*h*w, C, T, P, P]``; T is 1 for a still picture (its copy in time is made when collated).
        grid: ``(t, h, w)`` in patches.
        original: size of the source ``(width, height)``.
        seconds: when each temporal step is shown (middle of its frames); empty for a picture.
        interval: seconds from the beginning of one step to that of the next; None where there are no two.
    """

    values: np.ndarray
    grid: tuple[int, int, int]
    original: tuple[int, int]
    seconds: tuple[float, ...] = ()
    interval: float | None = None


@dataclass(frozen=True)
class PixelBudget:
    """How large pictures and videos may become, in pixels (tokens times ``(patch * merge)^2``).

    Attributes:
        image: least and most pixels of a picture.
        frame: least and most pixels of one frame of a video (``rule="frame"``).
        video: least and most pixels of all frames together (``rule="volume"``); with ``rule="frame"`` only the
            upper one counts, shared evenly by the frames.
        rule: ``"frame"`` as Qwen2-VL and Qwen2.5-VL size videos, ``"volume"`` as Qwen3-VL and Qwen3.5.
        first_image: a resize of pictures before the one onto the token grid.
        first_frame: the same for the frames of a video that is given as a list of them.
        list_frame: replaces ``frame`` and the shared upper limit for such videos.
        listed: replaces ``image`` for pictures that come in a list, and for frames that are pictures (RzenEmbed).
        listed_scope: ``"item"``: each item by itself; ``"call"``: one list in a call counts for the whole call.
        frame_filter: what brings the frames of a video onto the token grid: ``"pillow"``, or ``"tensor"`` as
            torchvision resizes tensors (qwen_vl_utils), which is not Pillow's to the last level.
    """

    image: tuple[int, int]
    frame: tuple[int, int]
    video: tuple[int, int]
    rule: Literal["frame", "volume"] = "frame"
    first_image: FirstResize | None = None
    first_frame: FirstResize | None = None
    list_frame: tuple[int, int] | None = None
    listed: tuple[int, int] | None = None
    listed_scope: Literal["item", "call"] = "item"
    frame_filter: Literal["pillow", "tensor"] = "pillow"

    def __post_init__(self) -> None:
        if self.listed_scope not in ("item", "call"):
            raise ValueError(f"listed_scope is {self.listed_scope!r}; use 'item' or 'call'")
        if self.frame_filter not in ("pillow", "tensor"):
            raise ValueError(f"frame_filter is {self.frame_filter!r}; use 'pillow' or 'tensor'")
        for name in ("image", "frame", "video", "list_frame", "listed"):
            low, high = getattr(self, name) or self.image
            if not 0 < low <= high:
                raise ValueError(f"pixel budget {name}=({low}, {high}): give 0 < least <= most")
            if low > MOST_LEAST_PIXELS:  # every small picture would be enlarged to this
                raise ValueError(f"pixel budget {name}: at least {low} pixels are too many")


@dataclass(frozen=True)
class PatchLayout:
    """Geometry of a vision tower: patch side, patches merged per side into one token, frames per patch."""

    patch: int = 14
    merge: int = 2
    temporal: int = 2

    @property
    def factor(self) -> int:
        """Side in pixels of one visual token."""
        return self.patch * self.merge


def fit(height: int, width: int, factor: int, least: int, most: int) -> tuple[int, int]:
    """Height and width on the token grid, with ``least <= pixels <= most``, the aspect kept as well as possible.

    The published rule of Qwen2-VL (``smart_resize``), with which every system here was trained.

    Raises:
        ValueError: a side more than 200 times the other.
    """
    if max(height, width) / min(height, width) > 200:
        raise ValueError(f"a picture of {width} x {height}: one side is more than 200 times the other")
    rows, columns = round(height / factor) * factor, round(width / factor) * factor
    if rows * columns > most:
        shrink = math.sqrt(height * width / most)
        rows = max(factor, math.floor(height / shrink / factor) * factor)
        columns = max(factor, math.floor(width / shrink / factor) * factor)
    elif rows * columns < least:
        grow = math.sqrt(least / (height * width))
        rows = math.ceil(height * grow / factor) * factor
        columns = math.ceil(width * grow / factor) * factor
    return rows, columns


def fit_volume(
    frames: int, height: int, width: int, layout: PatchLayout, least: int, most: int
) -> tuple[int, int]:
    """Like :func:`fit` with the pixels of all frames counted together (Qwen3-VL's rule)."""
    factor = layout.factor
    if height < factor or width < factor:
        scale = max(factor / height, factor / width)
        height, width = int(height * scale), int(width * scale)
    if max(height, width) / min(height, width) > 200:
        raise ValueError(f"frames of {width} x {height}: one side is more than 200 times the other")
    rows, columns = round(height / factor) * factor, round(width / factor) * factor
    steps = round(frames / layout.temporal) * layout.temporal
    if steps * rows * columns > most:
        shrink = math.sqrt(frames * height * width / most)
        rows = max(factor, math.floor(height / shrink / factor) * factor)
        columns = max(factor, math.floor(width / shrink / factor) * factor)
    elif steps * rows * columns < least:
        grow = math.sqrt(least / (frames * height * width))
        rows = math.ceil(height * grow / factor) * factor
        columns = math.ceil(width * grow / factor) * factor
    return rows, columns


def frame_size(
    frames: int, height: int, width: int, layout: PatchLayout, budget: PixelBudget, from_list: bool = False
) -> tuple[int, int]:
    """Height and width of every frame of a video after the resize."""
    if from_list and budget.list_frame is not None:
        return fit(height, width, layout.factor, *budget.list_frame)
    if budget.rule == "volume":
        return fit_volume(max(frames, layout.temporal), height, width, layout, *budget.video)
    least, most = budget.frame
    share = budget.video[1] * layout.temporal // max(frames, 1)
    return fit(height, width, layout.factor, least, max(min(most, share), int(least * 1.05)))


def image_patches(image: Image.Image, layout: PatchLayout, budget: PixelBudget) -> Patches:
    """Resize a picture and cut it into patches: once, or twice where the budget has a first resize."""
    size = image.size
    if budget.first_image is not None:
        image = budget.first_image.apply(image)
    rows, columns = fit(image.height, image.width, layout.factor, *budget.image)
    pixels = _resize(image, rows, columns)[None]
    return Patches(_cut(pixels, layout, temporal=1), (1, rows // layout.patch, columns // layout.patch), size)


class FrameResize:
    """Brings the frames of one video to the size of its patches, one by one, so that no large frame is held.

    The number of frames and the first one set the size of all; frames of other sizes are brought to it, too, by the
    same single resize (after ``budget.first_frame``, where the frames were chosen by the user).

    Attributes:
        original: size of the first frame ``(width, height)`` as it was read; None before it.
    """

    def __init__(self, layout: PatchLayout, budget: PixelBudget) -> None:
        self.layout, self.budget = layout, budget
        self.begin(1, False)

    def begin(self, count: int, from_list: bool) -> None:
        """Before the first of ``count`` frames. ``from_list``: frames that the user chose have sizes of their own in
        some systems, see :class:`PixelBudget`."""
        self.original: tuple[int, int] | None = None
        self._count, self._from_list = count, from_list
        self._size: tuple[int, int] | None = None

    def keep(self, frame: Image.Image) -> np.ndarray:
        """The next frame as uint8 ``[H, W, 3]``.

        Raises:
            ValueError: a side more than 200 times the other.
        """
        self.original = self.original or frame.size
        if self._from_list and self.budget.first_frame is not None:
            frame = self.budget.first_frame.apply(frame)
        if self._size is None:
            self._size = frame_size(
                self._count, frame.height, frame.width, self.layout, self.budget, self._from_list
            )
        resize = _resize_as_tensor if self.budget.frame_filter == "tensor" else _resize
        return resize(frame, *self._size)


class FramesAsImages:
    """Makes every frame of a video a picture of its own, as soon as it is read."""

    def __init__(self, layout: PatchLayout, budget: PixelBudget) -> None:
        self.layout, self.budget = layout, budget

    def begin(self, count: int, from_list: bool) -> None:
        """Each frame is sized by itself."""

    def keep(self, frame: Image.Image) -> Patches:
        """:func:`image_patches` of the next frame."""
        return image_patches(frame, self.layout, self.budget)


def video_patches(
    frames: Sequence[np.ndarray], seconds: Sequence[float], layout: PatchLayout, original: tuple[int, int]
) -> Patches:
    """Cut frames into patches that span ``layout.temporal`` of them; the last is repeated where one is missing.

    Args:
        frames: uint8 ``[H, W, 3]`` each, of the size that :class:`FrameResize` gave them.
        seconds: when each is shown.
        layout: geometry of the vision tower.
        original: size of the source ``(width, height)``.
    """
    pixels, times = list(frames), list(seconds)
    while len(pixels) % layout.temporal:
        pixels.append(pixels[-1])
        times.append(times[-1])
    steps = len(pixels) // layout.temporal
    middles = tuple(
        (times[i * layout.temporal] + times[(i + 1) * layout.temporal - 1]) / 2 for i in range(steps)
    )
    values = _cut(np.stack(pixels), layout, temporal=layout.temporal)
    rows, columns = pixels[0].shape[:2]
    grid = (steps, rows // layout.patch, columns // layout.patch)
    interval = times[layout.temporal] - times[0] if steps > 1 else None
    return Patches(values, grid, original, middles, interval)


def _resize(image: Image.Image, rows: int, columns: int) -> np.ndarray:
    if image.size != (columns, rows):
        image = image.resize((columns, rows), Image.Resampling.BICUBIC)
    return np.asarray(image)


def _resize_as_tensor(image: Image.Image, rows: int, columns: int) -> np.ndarray:
    """torchvision's resize of uint8 tensors (bicubic, antialias): in float32, clamped, rounded."""
    if image.size == (columns, rows):
        return np.asarray(image)
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float().contiguous()
    resized = functional.interpolate(
        pixels, size=(rows, columns), mode="bicubic", align_corners=False, antialias=True
    )
    return resized.clamp(0, 255).round().to(torch.uint8)[0].permute(1, 2, 0).numpy()


def _cut(pixels: np.ndarray, layout: PatchLayout, temporal: int) -> np.ndarray:
    """uint8 ``[F, H, W, 3]`` to ``[t*h*w, 3, T, P, P]``, the patches of one token next to each other."""
    frames, height, width, channels = pixels.shape
    patch, merge = layout.patch, layout.merge
    rows, columns = height // patch // merge, width // patch // merge
    cells = pixels.reshape(frames // temporal, temporal, rows, merge, patch, columns, merge, patch, channels)
    # -> step, token row, token column, row in token, column in token, channel, frame, y, x
    cells = cells.transpose(0, 2, 5, 3, 6, 8, 1, 4, 7)
    return np.ascontiguousarray(cells).reshape(-1, channels, temporal, patch, patch)
