# Made by umekit 0.1.0 when this checkpoint was saved. Do not edit: change the sources and save again.
# Sources, in this order: families prompts first_resize vision tokenizing kinds limits arrays odd_images
#   profiles pixels downloads sources media sampling animation clip_decoding video settings checkpoint
#   collating cut_texts items pdfium_process documents template_sizes templates preparing pairs thoughts
#   item_processor native processor

from __future__ import annotations

import atexit
import base64
import copy
import dataclasses
import functools
import http.client
import importlib
import io
import ipaddress
import json
import math
import numbers
import numpy as np
import os
import re
import shutil
import socket
import stat
import subprocess
import sys
import threading
import time
import torch
import types
import urllib.parse
import urllib.request
import warnings
from PIL import Image
from PIL import Image as PILImage
from PIL import ImageOps
from PIL import ImageSequence
from PIL import UnidentifiedImageError
from PIL.GifImagePlugin import GifImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import BITSPERSAMPLE
from PIL.TiffImagePlugin import TiffImageFile
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import asdict
from dataclasses import dataclass
from dataclasses import field
from dataclasses import replace
from datetime import datetime
from functools import cache
from functools import lru_cache
from functools import partial
from huggingface_hub import snapshot_download
from io import BytesIO
from itertools import islice
from itertools import pairwise
from numpy.typing import NDArray
from pathlib import Path
from pathlib import PurePosixPath
from torch import Tensor
from torch.nn import functional
from transformers import AutoConfig
from transformers import AutoTokenizer
from transformers import BatchFeature
from transformers.dynamic_module_utils import get_relative_import_files
from transformers.models.auto.image_processing_auto import AutoImageProcessor
from transformers.processing_utils import ProcessorMixin
from transformers.utils import cached_file
from typing import Any
from typing import Literal
from typing import Protocol
from typing import Self
from typing import Union
from typing import get_args
from typing import get_origin
from typing import get_type_hints
from urllib.parse import unquote
from urllib.parse import unquote_to_bytes
from urllib.parse import urlsplit
from urllib.request import url2pathname
from .pdfium_ume import (
    PROGRAM,
    pypdfium2,
)


# ---- families ----------------------------------------------------------------------------------------------
# Backbone families as records: what differs between them before the model is reached.


@dataclass(frozen=True)
class Family:
    """How a family wants its media.

    Attributes:
        processor: native processor class, for loading without our code.
        video_processor: native video processor class.
        video_rule: how frames are sized, see ``PixelBudget.rule``.
        timestamps: whether every temporal step is wrapped on its own and led by ``<1.5 seconds>``.
        seconds_per_grid: whether the model wants the time between temporal steps (``second_per_grid_ts``).
    """

    processor: str
    video_processor: str
    video_rule: Literal["frame", "volume"]
    timestamps: bool
    seconds_per_grid: bool


_QWEN2 = Family(
    "Qwen2VLProcessor", "Qwen2VLVideoProcessor", "frame", timestamps=False, seconds_per_grid=False
)
_QWEN2_5 = Family(
    "Qwen2_5_VLProcessor", "Qwen2VLVideoProcessor", "frame", timestamps=False, seconds_per_grid=True
)
_QWEN3 = Family(
    "Qwen3VLProcessor", "Qwen3VLVideoProcessor", "volume", timestamps=True, seconds_per_grid=False
)

FAMILIES: dict[str, Family] = {
    "qwen2_vl": _QWEN2,
    "qwen2_5_vl": _QWEN2_5,
    "qwen3_vl": _QWEN3,
    "qwen3_vl_moe": _QWEN3,
    "qwen3_5": _QWEN3,
    "qwen3_5_moe": _QWEN3,
}


def family_of(model_type: str) -> Family:
    """The record of a backbone's ``model_type``.

    Raises:
        ValueError: a family that is not known; names those that are.
    """
    if model_type not in FAMILIES:
        raise ValueError(f"no processor for model_type {model_type!r}; known are {', '.join(FAMILIES)}")
    return FAMILIES[model_type]


# ---- prompts -----------------------------------------------------------------------------------------------
# Prompt settings and the chat template that they compile to.
#
# Native sentence-transformers and vLLM read ``chat_template.jinja`` and nothing else, so the template holds all of a
# prompt's form: where the instruction stands, what is appended, how media are marked. It does not depend on
# ``add_generation_prompt``, because engines disagree on that flag's default.


ROLES = ("query", "document")  # of an item in a search
MODES = ("discriminative", "generative", "adaptive")  # how an item is embedded


@dataclass(frozen=True)
class PromptSettings:
    """Form of the prompt around an item.

    Attributes:
        system: text of the system turn when no instruction stands there; "" for no system turn.
        instruction_in: ``"system"``: the instruction is the system turn (Qwen3-VL-Embedding, and what
            sentence-transformers does with prompts); ``"user"``: it leads the user turn.
        before_instruction, after_instruction: written around an instruction in the user turn.
        after_content: appended to the user turn's content.
        assistant: what follows ``<|im_start|>assistant\\n``; the pooled token is usually here. None for no
            assistant turn at all.
        instructions: default instruction per role, ``query`` and ``document``, and of items of neither role
            (``default``); "" for none.
        thinking: appended to the user turn after ``after_content`` where a thought is asked for (the template's
            variable ``thinking`` is true); what stands before it does not change.
        template: a Jinja template that is used as it stands, in place of one compiled from the fields above.
    """

    system: str = ""
    instruction_in: Literal["system", "user"] = "user"
    before_instruction: str = ""
    after_instruction: str = "\n"
    after_content: str = ""
    assistant: str | None = "<|endoftext|>"
    instructions: dict[str, str] = field(default_factory=dict)
    thinking: str = ""
    template: str = ""

    def __post_init__(self) -> None:
        if self.instruction_in not in ("system", "user"):
            raise ValueError(f"instruction_in is {self.instruction_in!r}; use 'system' or 'user'")
        unknown = set(self.instructions) - {*ROLES, "default"}
        if unknown:
            raise ValueError(
                f"instructions for unknown roles {sorted(unknown)}; use 'query', 'document' and 'default'"
            )


_MACROS = """\
{%- macro text_of(content) -%}
{%- if content is string -%}{{- content -}}
{%- else -%}{%- for part in content -%}{%- if part['type'] == 'text' -%}{{- part['text'] -}}{%- endif -%}{%- endfor -%}
{%- endif -%}
{%- endmacro -%}
{%- macro render(content) -%}
{%- if content is string -%}{{- content -}}
{%- else -%}{%- for part in content -%}
{%- if part['type'] == 'text' -%}{{- part['text'] -}}
{%- elif part['type'] == 'image' -%}{{- '<|vision_start|><|image_pad|><|vision_end|>' -}}
{%- elif part['type'] == 'video' -%}{{- '<|vision_start|><|video_pad|><|vision_end|>' -}}
{%- else -%}{{- raise_exception('content of type ' ~ part['type'] ~ ' cannot be embedded') -}}
{%- endif -%}{%- endfor -%}
{%- endif -%}
{%- endmacro -%}
{%- set ns = namespace(instruction='') -%}
{%- for message in messages -%}{%- if message['role'] == 'system' -%}
{%- set ns.instruction = text_of(message['content']) -%}
{%- endif -%}{%- endfor -%}
"""


def compile_template(settings: PromptSettings) -> str:
    """The Jinja chat template of these settings.

    Messages: an optional ``system`` one, whose text is the instruction, and one of role ``user``, ``query`` or
    ``document`` with text, image and video parts in order.
    """
    if settings.template:
        return settings.template
    turns = [_MACROS]
    fixed = _quote(settings.system)
    if settings.instruction_in == "system":
        turns.append(f"{{%- set system = ns.instruction if ns.instruction else {fixed} -%}}\n")
        lead = ""
    else:
        turns.append(f"{{%- set system = {fixed} -%}}\n")
        before, after = _quote(settings.before_instruction), _quote(settings.after_instruction)
        lead = f"{{%- if ns.instruction -%}}{{{{- {before} ~ ns.instruction ~ {after} -}}}}{{%- endif -%}}\n"
    turns.append("{%- if system -%}{{- '<|im_start|>system\\n' ~ system ~ '<|im_end|>\\n' -}}{%- endif -%}\n")
    turns.append("{%- for message in messages -%}{%- if message['role'] != 'system' -%}\n")
    turns.append("{{- '<|im_start|>user\\n' -}}\n")
    turns.append(lead)
    turns.append("{{- render(message['content']) -}}\n")
    if settings.thinking:
        turns.append(f"{{{{- {_quote(settings.after_content)} -}}}}\n")
        turns.append(
            f"{{%- if thinking is defined and thinking -%}}{{{{- {_quote(settings.thinking)} -}}}}{{%- endif -%}}\n"
        )
        turns.append("{{- '<|im_end|>\\n' -}}\n")
    else:
        turns.append(f"{{{{- {_quote(settings.after_content + '<|im_end|>')} ~ '\\n' -}}}}\n")
    turns.append("{%- endif -%}{%- endfor -%}\n")
    if settings.assistant is not None:
        turns.append(f"{{{{- '<|im_start|>assistant\\n' ~ {_quote(settings.assistant)} -}}}}")
    return "".join(turns)


def _quote(text: str) -> str:
    """A Jinja string literal."""
    escaped = text.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n").replace("\r", "\\r")
    return f"'{escaped}'"


# ---- first_resize ------------------------------------------------------------------------------------------
# A resize before the one onto the token grid, where a system's published code has two.
#
# Resampling twice gives other pixels than once, so this is part of what a checkpoint was trained and measured with.


@dataclass(frozen=True)
class FirstResize:
    """How a picture is resized before it is brought onto the token grid.

    Attributes:
        factor: its sides become multiples of this; 0 for no such grid.
        least, most: pixels that it may have on that grid.
        under, square: a picture with a side under ``under`` becomes ``square`` x ``square``; 0 for no such rule.
    """

    factor: int = 0
    least: int = 0
    most: int = 0
    under: int = 0
    square: int = 0

    def __post_init__(self) -> None:
        if self.factor and not 0 < self.least <= self.most:
            raise ValueError(f"a first resize to {self.least}..{self.most} pixels: give 0 < least <= most")
        if (
            min(self.factor, self.under, self.square) < 0
            or max(self.factor, self.square) > 2**13
            or self.least > 2**26
        ):
            raise ValueError(f"a first resize cannot be had: {self}")
        if bool(self.under) != bool(self.square):
            raise ValueError("a rule for small pictures needs both 'under' and 'square'")
        if not self.factor and not self.under:
            raise ValueError("a first resize needs a factor or a rule for small pictures")

    def size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width after it.

        Raises:
            ValueError: a side more than 200 times the other.
        """
        if self.under and min(height, width) < self.under:
            height = width = self.square
        if not self.factor:
            return height, width
        return grid_size(height, width, self.factor, self.least, self.most)

    def apply(self, image: Image.Image) -> Image.Image:
        """The picture resized (bicubic)."""
        height, width = self.size(image.height, image.width)
        if image.size == (width, height):
            return image
        return image.resize((width, height), Image.Resampling.BICUBIC)


def grid_size(height: int, width: int, factor: int, least: int, most: int) -> tuple[int, int]:
    """qwen_vl_utils' ``smart_resize``: as the processors' one, but a side is never rounded to nothing.

    >>> grid_size(10, 400, 28, 4 * 784, 300 * 784)  # the processors' rule would enlarge it to 28 x 560
    (28, 392)
    """
    if max(height, width) / min(height, width) > 200:
        raise ValueError(f"a picture of {width} x {height}: one side is more than 200 times the other")
    rows = max(factor, round(height / factor) * factor)
    columns = max(factor, round(width / factor) * factor)
    if rows * columns > most:
        shrink = math.sqrt(height * width / most)
        rows = max(factor, math.floor(height / shrink / factor) * factor)
        columns = max(factor, math.floor(width / shrink / factor) * factor)
    elif rows * columns < least:
        grow = math.sqrt(least / (height * width))
        rows = math.ceil(height * grow / factor) * factor
        columns = math.ceil(width * grow / factor) * factor
    return rows, columns


# ---- vision ------------------------------------------------------------------------------------------------
# From RGB pictures to patches: the grid, one resize, and the layout that Qwen's vision towers read.
#
# Pillow, NumPy and torch only (no torchvision). Patches stay uint8 until they are collated: a quarter of the memory in
# queues and caches, and one fused multiply-add on the device instead of a float copy per picture.


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


# ---- tokenizing --------------------------------------------------------------------------------------------
# Rendered prompts to token ids and slots, with user text kept as data and placeholders as long as their media.
#
# The template's own special tokens become ids; the stretches between them are tokenised whole, so that merges run
# across instruction and text as in the systems' own code. A special token typed by a user cannot become a real one:
# user text is guarded before it is rendered (a private-use character breaks every such string), and stretches are
# tokenised by a bare copy of the tokenizer that has no added tokens at all.


IMAGE_TOKEN, VIDEO_TOKEN = "<|image_pad|>", "<|video_pad|>"
VISION_START, VISION_END = "<|vision_start|>", "<|vision_end|>"
_GUARDS = [chr(code) for code in range(0xE000, 0xF8FF)]


@dataclass(frozen=True)
class Piece:
    """A run of a rendered prompt: one special token (``token`` True), or ordinary text; ``repeat`` copies of it."""

    text: str
    token: bool
    repeat: int = 1


class PromptTokenizer:
    """Tokenises rendered prompts; built once per processor."""

    def __init__(self, tokenizer: Any) -> None:
        self.added: dict[str, int] = dict(tokenizer.get_added_vocab())
        for token in tokenizer.all_special_tokens:
            self.added.setdefault(token, tokenizer.convert_tokens_to_ids(token))
        state = json.loads(tokenizer.backend_tokenizer.to_str())
        state["added_tokens"] = []
        state["post_processor"] = None
        state["truncation"] = None
        state["padding"] = None
        self._bare = type(tokenizer.backend_tokenizer).from_str(json.dumps(state))
        longest_first = sorted(self.added, key=len, reverse=True)
        self._special = (
            re.compile("(" + "|".join(map(re.escape, longest_first)) + ")") if longest_first else None
        )
        starts = sorted({token[0] for token in self.added})
        self._start = re.compile("([" + "".join(map(re.escape, starts)) + "])") if starts else None

    def id_of(self, token: str) -> int:
        """Id of a special token.

        Raises:
            KeyError: the tokenizer has no such added token.
        """
        return self.added[token]

    def guard_for(self, texts: Iterable[str]) -> str:
        """A private-use character that none of the texts contains."""
        joined = "".join(texts)
        return next(char for char in _GUARDS if char not in joined)

    def guarded(self, text: str, guard: str) -> str:
        """The text with every possible beginning of a special token broken by ``guard``."""
        return self._start.sub(r"\1" + guard, text) if self._start is not None else text

    def pieces(self, rendered: str, guard: str = "") -> list[Piece]:
        """Split a rendered prompt at the template's special tokens and take the guards out again."""
        if self._special is None:
            return [Piece(rendered, False)]
        found = []
        for number, run in enumerate(self._special.split(rendered)):
            if number % 2:
                found.append(Piece(run, True))
            elif run:
                found.append(Piece(run.replace(guard, "") if guard else run, False))
        return found

    def encode(self, pieces: Sequence[Piece]) -> list[int]:
        """Token ids of pieces; neighbouring text is joined first, so that it is tokenised whole."""
        ids: list[int] = []
        pending = ""
        for piece in pieces:
            if not piece.token:
                pending += piece.text * piece.repeat
                continue
            if pending:
                ids.extend(self._bare.encode(pending, add_special_tokens=False).ids)
                pending = ""
            ids.extend([self.added[piece.text]] * piece.repeat)
        if pending:
            ids.extend(self._bare.encode(pending, add_special_tokens=False).ids)
        return ids

    def cut(self, text: str, tokens: int) -> str:
        """The longest beginning of a text that has at most ``tokens`` tokens by itself."""
        if tokens <= 0:
            return ""
        text = text[: 64 * tokens]  # bounds the work on megabytes; a token is rarely longer than a word
        offsets = self._bare.encode(text, add_special_tokens=False).offsets
        if len(offsets) <= tokens:
            return text
        # A character can be several tokens: one that is only begun is left out, or cutting would never come to an end.
        return text[: min(offsets[tokens - 1][1], offsets[tokens][0])]

    def count(self, text: str) -> int:
        """Tokens of a text by itself."""
        return len(self._bare.encode(text, add_special_tokens=False).ids)

    def shorten(self, content: list[dict[str, Any]], excess: int) -> int:
        """Take up to ``excess`` tokens off the last of the texts that has any, in place; the number taken."""
        for part in reversed(content):
            if part["type"] == "text" and part["text"]:
                have = self.count(part["text"])
                part["text"] = self.cut(part["text"], have - excess)
                return min(have, excess)
        return 0


# ---- placeholders ------------------------------------------------------------------------------------------


def expand(
    pieces: Sequence[Piece],
    images: Sequence[Patches],
    videos: Sequence[Patches],
    *,
    patches_per_token: int,
    timestamps: bool,
) -> list[Piece]:
    """Pieces with every placeholder repeated.

    Args:
        pieces: a rendered prompt, one placeholder per medium, each between ``VISION_START`` and ``VISION_END``.
        images, videos: in the order of their placeholders.
        patches_per_token: patches that the tower merges into one token.
        timestamps: whether every temporal step of a video is led by its time and wrapped on its own, in place of
            the template's one pair around the whole video (the form that Qwen3-VL was published with).
    """
    pictures, clips = iter(images), iter(videos)
    expanded: list[Piece] = []
    rest = iter(pieces)
    for piece in rest:
        if piece == Piece(IMAGE_TOKEN, True):
            expanded.append(replace(piece, repeat=len(next(pictures).values) // patches_per_token))
        elif piece == Piece(VIDEO_TOKEN, True) and not timestamps:
            expanded.append(replace(piece, repeat=len(next(clips).values) // patches_per_token))
        elif piece == Piece(VIDEO_TOKEN, True):
            if expanded and expanded[-1] == Piece(VISION_START, True):
                expanded.pop()
                next(rest)  # the pair's end
            expanded.extend(_steps(next(clips), patches_per_token))
        else:
            expanded.append(piece)
    return expanded


def without_marks(content: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Content without the placeholders that a text begins with, at most as many as there are media.

    Data sets of some systems have their media's places written into the texts.
    """
    media = sum(part["type"] != "text" for part in content)
    stripped = []
    for part in content:
        if part["type"] == "text":
            text = part["text"]
            while media and (mark := next((m for m in (IMAGE_TOKEN, VIDEO_TOKEN) if text.startswith(m)), "")):
                text, media = text[len(mark) :], media - 1
            part = {**part, "text": text}
        stripped.append(part)
    return stripped


def _steps(clip: Patches, patches_per_token: int) -> Iterator[Piece]:
    per_step = len(clip.values) // patches_per_token // clip.grid[0]
    for second in clip.seconds:
        yield Piece(f"<{second:.1f} seconds>", False)
        yield Piece(VISION_START, True)
        yield Piece(VIDEO_TOKEN, True, per_step)
        yield Piece(VISION_END, True)


# ---- slots -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PoolingRule:
    """Where slot 1 is.

    Attributes:
        kind: ``"last"``: the last token; ``"token"``: the last occurrence of ``token``; ``"mean"``: every token,
            but for the spans from ``span_start`` to ``span_end``, both included.
        token: special token of ``kind="token"``.
        offset: places from that token to the pooled one; -1 is the one before it, which predicts it (LamRA).
        span_start, span_end: special tokens around what the mean leaves out (U-MARVEL's instruction); "" for none.
    """

    kind: Literal["last", "token", "mean"] = "last"
    token: str = ""
    offset: int = 0
    span_start: str = ""
    span_end: str = ""

    def __post_init__(self) -> None:
        if self.kind not in ("last", "token", "mean"):
            raise ValueError(f"pooling kind is {self.kind!r}; use 'last', 'token' or 'mean'")
        if (self.kind == "token") != bool(self.token):
            raise ValueError("pooling kind 'token' needs a token, the other kinds take none")
        if bool(self.span_start) != bool(self.span_end):
            raise ValueError("a span needs both span_start and span_end")


def pooling_slots(ids: np.ndarray, rule: PoolingRule, tokenizer: PromptTokenizer) -> np.ndarray:
    """int8 ``[L]`` slots of one row of ids.

    Raises:
        ValueError: the pooled token is missing, a span is not closed, or nothing is left to pool.
    """
    slots = np.zeros(len(ids), dtype=np.int8)
    if rule.kind == "last":
        slots[-1] = 1
    elif rule.kind == "token":
        places = np.flatnonzero(ids == tokenizer.id_of(rule.token))
        if len(places) == 0:
            raise ValueError(f"the prompt has no {rule.token} to pool")
        place = int(places[-1]) + rule.offset
        if not 0 <= place < len(ids):
            raise ValueError(f"the prompt has no token at {rule.offset:+d} from {rule.token}")
        slots[place] = 1
    else:
        slots[:] = 1
        if rule.span_start:
            starts = np.flatnonzero(ids == tokenizer.id_of(rule.span_start))
            ends = np.flatnonzero(ids == tokenizer.id_of(rule.span_end))
            if len(starts) != len(ends) or (ends < starts).any():
                raise ValueError(f"{rule.span_start} and {rule.span_end} do not pair up in the prompt")
            for start, end in zip(starts, ends, strict=True):
                slots[start : end + 1] = 0
        if not slots.any():
            raise ValueError("no token is left to pool")
    return slots


# ---- kinds -------------------------------------------------------------------------------------------------
# What a file is: the one table of endings, and what its first bytes say where the ending lies or is missing.
#
# Everything that looks for media asks here: folders, archives, files of the command line, strings that may be paths.


Kind = Literal["image", "video", "document"]

ENDINGS: dict[str, Kind] = {}  # of the name, in lower case and with its dot
for _kind, _endings in (
    (
        "image",
        "png apng jpg jpeg jpe jfif jif mpo webp bmp dib gif tif tiff avif avifs heic heif hif heics heifs "
        "jp2 j2k j2c jpc jpf jpx jpg2 tga icb vda vst ppm pgm pbm pnm pfm pcx qoi psd ico sgi dds",
    ),
    (
        "video",
        "mp4 m4v mov qt webm mkv avi mpg mpeg mpe mpv m1v m2v vob mod mts m2ts m2t 3gp 3gpp 3g2 flv f4v wmv asf ogv "
        "ogm mxf rm rmvb dv mj2 divx y4m",
    ),
    ("document", "pdf"),
):
    ENDINGS.update({f".{ending}": _kind for ending in _endings.split()})  # type: ignore[misc]

# Endings of films and of other things (TypeScript, Amiga music, Fortran): in folders, the content has the say.
CHECKED = frozenset({".mts", ".mod"})
# What begins like a medium and is none of ours: raw photos are TIFF, drawings PDF, sound has the containers of films.
OTHERS = frozenset(
    f".{ending}"
    for endings in (
        "dng nef nrw arw srf sr2 cr2 cr3 crw orf rw2 rwl pef srw raf 3fr erf kdc mrw x3f iiq ai ait indd",
        "m4a m4b m4p m4r aac mp3 mka wma oga ogg opus spx weba wav flac aax",
        "part crdownload download partial tmp",  # not whole yet
    )
    for ending in endings.split()
)

HEAD_BYTES = 2048  # of a file's beginning that tell what it is
PDF_BYTES = 1024  # of them, in which the header of a PDF may begin
HEIC_BRANDS = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"})
PAGED = frozenset({"tiff"})  # formats of pictures that may have further pages
ANIMATED = frozenset({"gif", "webp", "png", "avif"})  # and further frames

_STARTS: tuple[tuple[bytes, str], ...] = (
    (b"\x89PNG\r\n\x1a\n", "png"),
    (b"\xff\xd8\xff", "jpeg"),
    (b"GIF87a", "gif"),
    (b"GIF89a", "gif"),
    (b"II*\0", "tiff"),
    (b"MM\0*", "tiff"),
    (b"II+\0", "tiff"),
    (b"MM\0+", "tiff"),
    (b"\0\0\0\x0cjP  \r\n\x87\n", "jpeg 2000"),
    (b"\xff\x4f\xff\x51\0", "jpeg 2000"),
    (b"qoif", "qoi"),
    (b"8BPS\0\x01", "psd"),
    (b"\x1a\x45\xdf\xa3", "matroska"),
    (b"FLV\x01", "flv"),
    (b"\x30\x26\xb2\x75\x8e\x66\xcf\x11\xa6\xd9\0\xaa\0\x62\xce\x6c", "asf"),
    (b"\0\0\x01\xba", "mpeg"),
    (b"\0\0\x01\xb3", "mpeg"),
    (b".RMF\0\0", "realmedia"),
    (b"\x06\x0e\x2b\x34\x02\x05\x01\x01\x0d\x01\x02", "mxf"),
    (b"YUV4MPEG2 ", "y4m"),
)
_IMAGES = frozenset(
    {"png", "jpeg", "gif", "tiff", "jpeg 2000", "qoi", "psd", "webp", "bmp", "avif", "heic", "netpbm"}
)
_NETPBM = re.compile(rb"P[1-6FfY]\s+(?:#[^\n]*\n\s*)*\d+\s+\d+\s")
_ATOMS = frozenset(
    {b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot"}
)  # of a QuickTime film without a brand
_TS_PACKET = 188


def media_kind(source: str | os.PathLike[str]) -> Kind | None:
    """``image``, ``video`` or ``document`` by the ending of a path or URL, or by the type of a data URI.

    Any text may end like a file: whether one that is no URL is a path at all is for the caller to find out. None for
    anything else, texts (.txt) included.
    """
    text = os.fsdecode(source)
    if text[:5].lower() == "data:":
        family = text[5:60].lower()
        if family.startswith("application/pdf"):
            return "document"
        return "image" if family.startswith("image/") else "video" if family.startswith("video/") else None
    if "://" in text[:32]:
        try:
            text = unquote(urlsplit(text).path)
        except ValueError:  # brackets that are no address
            return None
    return ENDINGS.get(ending_of(text))


def ending_of(path: str | os.PathLike[str]) -> str:
    """The ending of a name in lower case, with its dot; empty where it has none."""
    return PurePosixPath(os.fsdecode(path).replace("\\", "/")).suffix.lower()


def format_of(head: bytes) -> str | None:
    """The format of a file by its first ``HEAD_BYTES``; None where they do not tell (TGA has no mark at all)."""
    for start, name in _STARTS:
        if head.startswith(start):
            return name
    if head[:4] == b"RIFF":
        return {b"WEBP": "webp", b"AVI ": "avi"}.get(head[8:12])
    if head[4:8] == b"ftyp":
        return _brand(head)
    if head[:2] == b"BM" and head[6:10] == bytes(4) and head[15:18] == bytes(3):
        return "bmp"
    if head[4:8] in _ATOMS and head[:2] == bytes(2):
        return "mp4"
    if head[:4] == b"OggS":
        return "ogg" if any(mark in head for mark in (b"\x80theora", b"OVP80", b"BBCD\0")) else None
    if _NETPBM.match(head):
        return "netpbm"
    for offset, packet in (
        (0, _TS_PACKET),
        (4, _TS_PACKET + 4),
    ):  # of cameras, with a time before each packet
        marks = head[offset::packet]
        if len(marks) >= 4 and set(marks) == {0x47} and 0 in head:  # a text has no NUL
            return "mpeg-ts"
    return "pdf" if b"%PDF-" in head[: PDF_BYTES + 4] else None


def kind_of_format(name: str | None) -> Kind | None:
    """The kind of :func:`format_of`'s answer."""
    if name is None:
        return None
    return "document" if name == "pdf" else "image" if name in _IMAGES else "video"


def other_kind(data: bytes, wanted: Kind) -> str | None:
    """Words for a file that is of another kind than the one it was given as; None where its bytes do not tell."""
    found = format_of(data[:HEAD_BYTES])
    kind = kind_of_format(found)
    if kind is None or kind == wanted:
        return None
    name = {"image": "a picture", "video": "a film", "document": "a document"}[kind]
    return f"it is {name} ({found}); give it as {kind!r}"


def _brand(head: bytes) -> str | None:
    """A file of boxes by its brands: a picture, or a film; None for audio and raw photos."""
    size = int.from_bytes(head[:4], "big")
    major, others = head[8:12], head[16 : min(max(size, 16), 256)]
    brands = {major, *(others[i : i + 4] for i in range(0, len(others), 4))}
    if major in (b"crx ", b"M4A ", b"M4B ", b"M4P ", b"F4A ", b"F4B "):
        return None
    if major in (b"avif", b"avis") or (major in (b"mif1", b"msf1") and b"avif" in brands):
        return "avif"
    return "heic" if major in HEIC_BRANDS else "mp4"


# ---- limits ------------------------------------------------------------------------------------------------
# What one file may cost, and how a message names it.


NAME_CHARACTERS = 200  # of a source's name in a message
DAMAGED = "its data are damaged, cut off, or of a kind that the decoder does not know"
_DECODER_ERROR = re.compile(r"(?:decoder error )?(-\d+)(?: when reading image file)?$")
DECODED_PIXELS = 2**27  # of large pictures that are in memory at once, each with 3 to 7 bytes
LARGE_PIXELS = 2**22  # a picture of fewer is not counted


class MediaError(ValueError):
    """A file cannot be read or is over a limit; the message names it."""


@dataclass(frozen=True)
class MediaLimits:
    """What one file may cost.

    Attributes:
        file_bytes: largest file or download.
        image_pixels: largest picture, width times height.
        video_frames: most frames that are decoded of one video.
        document_pages: most pages of a document that is embedded whole.
        document_password: opens PDFs that are encrypted; others do not mind it. Never saved or shown.
        file_seconds: most time for decoding one file.
        url_seconds: most time for one download, redirects included.
        allow_urls: whether http(s) sources are fetched at all.
        allow_private_urls: whether hosts in private networks may be fetched from, and proxies of the environment
            used. Without it, only addresses that were checked are connected to.
        draft_pixels: JPEGs are decoded at a half, a quarter or an eighth of their size where both sides can be
            divided by it and at least this many pixels stay; 0 decodes them whole. Several times faster for photos of
            many megapixels. Vectors change a little, so use it for queries and documents alike. Grids and token ids
            stay for at least four times the checkpoint's most pixels of a picture; less would also blur it.
    """

    file_bytes: int = 2**30
    image_pixels: int = 178_956_970
    video_frames: int = 200_000
    document_pages: int = 64
    document_password: str | None = field(default=None, repr=False)
    file_seconds: float = 300.0
    url_seconds: float = 20.0
    allow_urls: bool = True
    allow_private_urls: bool = False
    draft_pixels: int = 0


class Deadline:
    """When the time for a file is over; it is asked between the steps of decoding.

    Args:
        name: of the file, for the message.
        limits: whose ``file_seconds`` count from now.
    """

    def __init__(self, name: str, limits: MediaLimits) -> None:
        self.name, self.seconds = name, limits.file_seconds
        self.restart()

    def restart(self) -> None:
        """After a wait that was not the file's fault."""
        self._end = time.monotonic() + self.seconds

    @property
    def passed(self) -> bool:
        return time.monotonic() > self._end

    def check(self) -> None:
        """Raise ``MediaError`` once the time is over."""
        if self.passed:
            raise self.error()

    def error(self) -> MediaError:
        return MediaError(
            f"{self.name}: decoding took longer than the limit of {self.seconds:g} s (file_seconds)"
        )


class Room:
    """Room for the pixels that threads decode side by side: several giants would not fit into memory.

    A thread that has room never waits for another, so that no two wait for each other; one that has none waits in
    line. It has room for the largest of its pictures, because it decodes one after the other. A picture that is
    larger than the whole room has it for itself.

    Args:
        pixels: how many there may be.
        least: pictures of fewer pixels are not counted.
    """

    def __init__(self, pixels: int = DECODED_PIXELS, least: int = LARGE_PIXELS) -> None:
        self.pixels, self.least = pixels, least
        self.empty()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self.empty)  # the threads that held it are not there

    def empty(self) -> None:
        self._free = self.pixels
        self._freed, self._line = threading.Condition(), threading.Lock()
        self._own = threading.local()

    @contextmanager
    def released(self) -> Iterator[None]:
        """What this thread claims within is free at the end; within another such block, at the end of that one."""
        if hasattr(self._own, "pixels"):
            yield
            return
        self._own.pixels = 0
        try:
            yield
        finally:
            with self._freed:
                self._free += self._own.__dict__.pop("pixels", 0)
                self._freed.notify()

    def claim(self, pixels: int) -> None:
        """Before a picture is decoded, in a :meth:`released` block; waits for room."""
        more = min(pixels, self.pixels) - self._own.pixels
        if pixels < self.least or more <= 0:
            return
        if self._own.pixels:
            with self._freed:
                self._free -= more
        else:
            with self._line, self._freed:
                self._freed.wait_for(lambda: self._free >= more)
                self._free -= more
        self._own.pixels += more


ROOM = Room()


def check_step(number: int, deadline: Deadline, limits: MediaLimits) -> None:
    """Before frame ``number``, from 0, is read."""
    deadline.check()
    if number >= limits.video_frames:
        raise MediaError(f"{deadline.name} has more than {limits.video_frames} frames")


def check_frame(width: int, height: int, deadline: Deadline, limits: MediaLimits) -> None:
    """Of a size as it is stored, or as it is shown."""
    if width * height > limits.image_pixels:
        raise MediaError(
            f"{deadline.name} has frames of {width} x {height} pixels, more than the limit of {limits.image_pixels}"
        )


def describe(source: Any) -> str:
    """A short, printable name of a source for messages."""
    if isinstance(source, (bytes, bytearray)):
        return f"<{len(source)} bytes>"
    if isinstance(source, Mapping) and isinstance(source.get("path"), (str, os.PathLike)):
        source = source["path"]
    if not isinstance(source, (str, os.PathLike)):
        return f"<{type(source).__name__}>"
    if isinstance(source, str) and source[:5].lower() == "data:":
        head = source[:60].partition(",")[0]
        return f"<{head.encode('utf-8', 'backslashreplace').decode()} of {len(source)} characters>"
    name = os.fsdecode(source).encode("utf-8", "backslashreplace").decode().replace("\0", "\\0")
    return name if len(name) <= NAME_CHARACTERS else f"{name[:NAME_CHARACTERS]}... ({len(name)} characters)"


@contextmanager
def reading(name: str, what: str = "") -> Iterator[None]:
    """What a foreign decoder raises becomes a ``MediaError`` that names the file: hostile bytes cause anything."""
    try:
        yield
    except MediaError:
        raise
    except Exception as error:
        said = f"{what} ({reason(error)})" if what else reason(error)
        raise MediaError(f"{name}: {said}") from None


def reason(error: BaseException) -> str:
    """What an exception of a foreign decoder says, in one line of bounded length."""
    if isinstance(error, UnidentifiedImageError):
        return "not a picture that Pillow can read"  # its own words are an address in memory
    of_bytes = getattr(error, "filename", None) == "<none>"  # PyAV's, whose errors are not all OSErrors
    words = getattr(error, "strerror", error) if of_bytes else error
    said = " ".join(str(words).split()).encode("utf-8", "backslashreplace").decode()[:NAME_CHARACTERS]
    code = _DECODER_ERROR.match(said)
    if code is not None:  # all that Pillow passes on of what libtiff and OpenJPEG say
        return f"{DAMAGED} (error {code[1]})"
    if isinstance(error, (OSError, SyntaxError, ValueError)) and said:
        return said
    said = f"{type(error).__name__}: {said}" if said else type(error).__name__
    if isinstance(error, (Image.DecompressionBombError, MemoryError, ImportError)):
        return said
    return f"{DAMAGED} ({said})"


# ---- arrays ------------------------------------------------------------------------------------------------
# Arrays and tensors as pictures and clips: whichever axis the channels are on, whatever library they are from.
#
# One rule of axes. Channels are 1, 3 or 4 long, and last (``[H, W, C]``, clips ``[T, H, W, C]``) or first (``[C, H, W]``,
# clips ``[T, C, H, W]``). Where both could be meant, they are last in a NumPy array and first in a tensor, as is usual
# there.


CHANNELS = (1, 3, 4)


def is_array(value: Any) -> bool:
    """Whether a value is an array of numbers or a tensor; not an array of texts or objects."""
    return isinstance(value, torch.Tensor) or (isinstance(value, np.ndarray) and value.dtype.kind in "buif")


def picture_of(array: Any) -> np.ndarray:
    """A picture as ``[H, W]`` or ``[H, W, 1|3|4]``.

    Raises:
        MediaError: a shape that no picture has, or a tensor without values.
    """
    values = values_of(array)
    if values.ndim == 3:
        values = _channels_last(values, isinstance(array, torch.Tensor))
    elif values.ndim != 2:
        raise MediaError(
            f"an array of shape {tuple(values.shape)} is no picture; give [H, W], [H, W, 1|3|4] or [1|3|4, H, W]"
        )
    return values


def clip_of(array: Any) -> np.ndarray:
    """A clip as ``[T, H, W]`` or ``[T, H, W, 1|3|4]``.

    Raises:
        MediaError: a shape that no clip has, or one that may be a picture's; or a tensor without values.
    """
    values = values_of(array)
    shape = tuple(values.shape)
    if values.ndim == 3 and not {shape[0], shape[2]} & set(CHANNELS):
        return values
    if values.ndim == 3:
        raise MediaError(
            f"an array of shape {shape} may be one picture; give a clip as [T, H, W, 1|3|4] or [T, 1|3|4, H, W]"
        )
    if values.ndim != 4:
        raise MediaError(f"an array of shape {shape} is no video; give [T, H, W, 1|3|4] or [T, 1|3|4, H, W]")
    return _channels_last(values, isinstance(array, torch.Tensor))


def values_of(array: Any) -> np.ndarray:
    """An array as it is; a tensor of any device, type and layout as one.

    Raises:
        MediaError: a tensor without values, or values that NumPy cannot hold; an array of which some are masked.
    """
    if isinstance(array, np.ndarray):
        if isinstance(array, np.ma.MaskedArray) and np.ma.is_masked(array):
            raise MediaError("an array with masked values; say what is there instead: array.filled(value)")
        return array
    tensor = array.detach()
    if tensor.is_meta:
        raise MediaError("a tensor on the meta device has no values")
    try:
        if tensor.layout != torch.strided:
            tensor = tensor.to_dense()
        if tensor.is_floating_point():
            tensor = tensor.float()  # NumPy has no bfloat16
        return tensor.cpu().numpy()
    except (RuntimeError, TypeError) as error:  # quantised and nested ones
        raise MediaError(
            f"a tensor of {tensor.dtype} is no array: {' '.join(str(error).split())[:200]}"
        ) from None


def _channels_last(values: np.ndarray, first: bool) -> np.ndarray:
    """``first``: whether channels are first where that is unclear."""
    shape = values.shape
    may_be_first, may_be_last = shape[-3] in CHANNELS, shape[-1] in CHANNELS
    if may_be_first and (first or not may_be_last):
        return np.moveaxis(values, -3, -1)
    if may_be_last:
        return values
    kind = "picture; give [H, W, 1|3|4] or [1|3|4, H, W]"
    if values.ndim == 4:
        kind = "video; give [T, H, W, 1|3|4] or [T, 1|3|4, H, W]"
    raise MediaError(f"an array of shape {tuple(shape)} is no {kind}")


# ---- odd_images --------------------------------------------------------------------------------------------
# Files that Pillow opens and decodes into something else than they show: put right, or refused with a reason.


PLANAR, SAMPLE_FORMAT = 284, 339  # tags of TIFF
SIGNED = 2  # a sample format
GREY_SCALES = {"L;2": 85, "L;4": 17}  # what Pillow multiplies grey levels by, but not the transparent one
ROWS = 64  # compared at once


def loaded(image: Image.Image) -> Image.Image:
    """The picture, decoded.

    Raises:
        ValueError: a TIFF whose channels of more than 8 bits lie one after the other, of which Pillow makes noise.
        Exception: whatever Pillow raises.
    """
    low = None
    if getattr(image, "tile", None):
        if isinstance(image, TiffImageFile):
            _check_planar(image)
        if isinstance(image, PngImageFile):
            _scale_key(image)
            low = _low_bytes(image)
    image.load()
    if isinstance(image, TiffImageFile):
        return _with_sign(image)
    return image if low is None else _keyed(image, low)


def _check_planar(image: TiffImageFile) -> None:
    bits = image.tag_v2.get(BITSPERSAMPLE, (1,))
    if image.tag_v2.get(PLANAR) == 2 and len(bits) > 1 and max(bits) > 8:
        raise ValueError(
            f"a TIFF with {max(bits)} bits a sample and its channels one after the other (planar) cannot be read; "
            "save it with interleaved channels, or with 8 bits"
        )


def _with_sign(image: TiffImageFile) -> Image.Image:
    """Pillow takes samples of 8 bits as unsigned and those of 32 as signed, whatever the file says."""
    bits, kind = image.tag_v2.get(BITSPERSAMPLE, (1,)), image.tag_v2.get(SAMPLE_FORMAT, (1,))
    if image.mode == "L" and bits == (8,) and kind == (SIGNED,):
        return image.point([level ^ 128 for level in range(256)])
    if image.mode != "I" or bits != (32,) or kind == (SIGNED,) or image.getextrema()[0] >= 0:  # type: ignore[operator]
        return image
    for row in range(
        0, image.height, ROWS
    ):  # halved, since the mode holds no more; the brightest is white anyway
        box = (0, row, image.width, min(row + ROWS, image.height))
        halves = np.asarray(image.crop(box)).view(np.uint32) >> 1
        image.paste(Image.fromarray(halves.astype(np.int32)), box)
    return image


def _scale_key(image: PngImageFile) -> None:
    key, scale = image.info.get("transparency"), GREY_SCALES.get(_raw_mode(image))
    if scale and isinstance(key, int) and key <= 255 // scale:
        image.info["transparency"] = key * scale


def _raw_mode(image: Image.Image) -> str:
    args = image.tile[0][3]  # type: ignore[attr-defined]
    return str(args[0] if isinstance(args, tuple) else args)


def _low_bytes(image: PngImageFile) -> Image.Image | None:
    """The lower halves of 16-bit samples, of which Pillow keeps the upper ones; where a colour is transparent."""
    key = image.info.get("transparency")
    if _raw_mode(image) != "RGB;16B" or not isinstance(key, tuple) or image.fp is None:
        return None
    place = image.fp.tell()
    image.fp.seek(0)
    again = Image.open(io.BytesIO(image.fp.read()), formats=["PNG"])
    image.fp.seek(place)
    again.tile = [tile._replace(args="RGB;16L") for tile in again.tile]  # type: ignore[attr-defined]
    again.load()
    return again


def _keyed(image: Image.Image, low: Image.Image) -> Image.Image:
    """RGBA with alpha 0 where all bits of all samples are those of the key."""
    key = np.array(image.info["transparency"])
    alpha = Image.new("L", image.size, 255)
    for row in range(0, image.height, ROWS):
        box = (0, row, image.width, min(row + ROWS, image.height))
        hidden = (np.asarray(image.crop(box)) == key >> 8) & (np.asarray(low.crop(box)) == key & 255)
        alpha.paste(Image.fromarray(np.where(hidden.all(axis=2), np.uint8(0), np.uint8(255))), box)
    keyed = image.copy()
    keyed.putalpha(alpha)
    del keyed.info["transparency"]
    return keyed


# ---- profiles ----------------------------------------------------------------------------------------------
# Colours as a viewer shows them: a picture's ICC profile is applied once, and the result is sRGB.
#
# Perceptual intent, as Pillow's ImageCms does by itself. A profile that says sRGB in other words (all of its colours
# within ``SAME`` of sRGB) changes nothing, bit for bit. One that is broken, or of another kind of picture, is left out
# of account, as viewers do. Without a profile RGB and grey count as sRGB, and CMYK is converted by Pillow's plain rule.


try:
    from PIL import ImageCms
except ImportError:  # a Pillow that was built without LittleCMS
    ImageCms = None  # type: ignore[assignment]

SAME = 2  # levels of 255 by which sRGB differs from itself in the rounding of two programs
LARGEST = 2**24  # bytes of a profile
SPACES = {"RGB": "RGB", "L": "GRAY", "CMYK": "CMYK", "LAB": "Lab"}


def transform_of(image: Image.Image, mode: str) -> Any:
    """What brings pixels of ``mode`` (RGB, L, CMYK, LAB) to sRGB by the profile of a picture.

    None where nothing is to be done. :func:`apply` takes it.
    """
    profile = image.info.get("icc_profile")
    if ImageCms is None or mode not in SPACES:
        return None
    if mode == "LAB":
        return _lab()
    if not isinstance(profile, bytes) or not 128 <= len(profile) <= LARGEST:
        return None
    return _transform(profile, mode)


def apply(pixels: Image.Image, transform: Any) -> Image.Image:
    """Pixels of the transform's mode as RGB."""
    found = ImageCms.applyTransform(pixels, transform)
    assert found is not None  # it is only where it works in place
    return found


@lru_cache(maxsize=1)
def _lab() -> Any:
    return ImageCms.buildTransform(
        ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB"), "LAB", "RGB"
    )


@lru_cache(maxsize=32)  # files of one camera or program share their profile
def _transform(profile: bytes, mode: str) -> Any:
    try:
        opened = ImageCms.ImageCmsProfile(BytesIO(profile))
        if opened.profile.xcolor_space.strip() != SPACES[mode]:
            return None
        transform = ImageCms.buildTransform(opened, ImageCms.createProfile("sRGB"), mode, "RGB")
        return None if mode != "CMYK" and _is_identity(transform, mode) else transform
    except Exception:  # of a foreign decoder: a broken profile is none
        return None


def _is_identity(transform: Any, mode: str) -> bool:
    levels = np.linspace(0, 255, 18).round().astype(np.uint8)
    if mode == "L":
        colours = Image.fromarray(np.arange(256, dtype=np.uint8)[None])
    else:
        grid = np.stack(np.meshgrid(levels, levels, levels), axis=-1)
        colours = Image.fromarray(grid.reshape(18, -1, 3))
    found = np.asarray(apply(colours, transform)).astype(int)
    return int(np.abs(found - np.asarray(colours.convert("RGB"))).max()) <= SAME


# ---- pixels ------------------------------------------------------------------------------------------------
# Pixels of any Pillow mode to RGB: deep pictures are scaled, profiles applied, transparency is laid on white.
#
# Strip by strip, so that beside the picture and its RGB copy nothing of its size is held.


STRIP_PIXELS = 2**18  # that are converted at once: some steps take many bytes for each
OVERSHOOT = 1.1
PHOTOMETRIC, COLOUR_MAP = 262, 320  # tags of TIFF
SEE_THROUGH = {"RGBA": "RGB", "LA": "L", "PA": "RGB", "RGBa": "RGB", "La": "L"}
Convert = Callable[[Image.Image], Image.Image]  # a strip to RGB


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert any Pillow mode to RGB as a viewer would.

    16-bit pictures are scaled by 65535 (or their own number of bits), integers by 255 or 65535 and floats by 1, 255
    or 65535, whichever is the first that holds all values (a tenth beyond is clipped: resizing overshoots); others
    stretch the range to the darkest and brightest of them. An ICC profile is applied (see ``profiles``);
    transparency of every kind is laid on white.

    Raises:
        ValueError: values that are not finite.
    """
    image.load()
    convert: Convert | None
    if image.mode.startswith("I") or image.mode == "F":
        convert = _deep(image)
    else:
        image = _with_colours(image)
        convert = _shallow(image)
    if convert is None:
        return image
    found = Image.new("RGB", image.size)
    for row, strip in _strips(image):
        found.paste(convert(strip), (0, row))
    return found


def _shallow(image: Image.Image) -> Convert | None:
    """Of a picture with 8 bits a channel; None if it is RGB as it stands."""
    key = image.info.get("transparency")
    see_through = image.mode in SEE_THROUGH or key is not None
    mode = SEE_THROUGH.get(image.mode, image.mode)
    mode = {"P": "RGB", "1": "L", "RGBX": "RGB", "HSV": "RGB", "YCbCr": "RGB"}.get(mode, mode)
    transform = transform_of(image, mode)
    if image.mode == "RGB" and transform is None and not isinstance(key, tuple):
        return None
    scale = _grey_scale(image, key)

    def convert(strip: Image.Image) -> Image.Image:
        alpha = None
        if see_through:
            strip, alpha = _alpha(strip, key, scale)
        strip = strip if strip.mode == mode else strip.convert(mode)
        rgb = strip.convert("RGB") if transform is None else apply(strip, transform)
        return rgb if alpha is None else _on_white(rgb, alpha)

    return convert


def _alpha(strip: Image.Image, key: Any, scale: int) -> tuple[Image.Image, Image.Image | None]:
    """Colours and alpha of a strip whose picture may be seen through."""
    if strip.mode in ("L", "1") and isinstance(key, int):
        grey = strip.convert("L")
        return grey, Image.fromarray(np.where(np.asarray(grey) == key * scale, np.uint8(0), np.uint8(255)))
    if strip.mode == "RGB" and isinstance(key, tuple):
        deep = max(key) > 255  # the key of a picture whose samples had 16 bits
        colour = np.array([level >> 8 if deep else level for level in key], dtype=np.int64)
        hidden = (np.asarray(strip) == colour).all(axis=2)
        return strip, Image.fromarray(np.where(hidden, np.uint8(0), np.uint8(255)))
    if strip.mode in ("RGBA", "LA", "RGBa"):
        strip = strip.convert("RGBA")
    elif strip.mode == "La":
        strip = strip.convert("LA").convert("RGBA")
    elif strip.mode in ("P", "PA"):
        strip = strip.convert("RGBA")
    else:  # a key that this mode cannot have
        return strip, None
    return strip.convert("RGB"), strip.getchannel("A")


def _on_white(rgb: Image.Image, alpha: Image.Image) -> Image.Image:
    rgba = rgb.copy()
    rgba.putalpha(alpha)
    return Image.alpha_composite(Image.new("RGBA", rgb.size, (255, 255, 255, 255)), rgba).convert("RGB")


def _grey_scale(image: Image.Image, key: Any) -> int:
    """By what the grey levels of a PNG with 1, 2 or 4 bits were multiplied; its transparent one was not."""
    if not isinstance(key, int):
        return 1
    if image.mode == "1":
        return 255 if key <= 1 else 1
    if image.mode != "L" or not 0 < key < 16:
        return 1
    histogram = image.histogram()
    used = {level for level, count in enumerate(histogram) if count}
    for scale in (85, 17):
        if key <= 255 // scale and key * scale in used and all(level % scale == 0 for level in used):
            return scale
    return 1


def _with_colours(image: Image.Image) -> Image.Image:
    """With the palette of a TIFF whose levels have 8 bits, which scanners write, instead of 16."""
    levels = _tag(image, COLOUR_MAP)
    if image.mode != "P" or not levels or max(levels) > 255 or len(levels) % 3:
        return image
    image = image.copy()
    image.putpalette(bytes(np.array(levels, dtype=np.uint8).reshape(3, -1).T.tobytes()))
    return image


def _tag(image: Image.Image, number: int) -> Any:
    """An entry of the picture's header, where it is a TIFF."""
    return getattr(image, "tag_v2", {}).get(number)


def _deep(image: Image.Image) -> Convert:
    low, high = _range(image)
    dark_is_high = _tag(image, PHOTOMETRIC) == 0
    key = image.info.get("transparency")
    transform = transform_of(image, "L")

    def convert(strip: Image.Image) -> Image.Image:
        values = np.asarray(strip, dtype=np.float64)
        levels = ((values.clip(low, high) - low) * (255.0 / (high - low))).astype(np.uint8)
        grey = Image.fromarray(255 - levels if dark_is_high else levels)
        rgb = grey.convert("RGB") if transform is None else apply(grey, transform)
        if not isinstance(key, int):
            return rgb
        return _on_white(rgb, Image.fromarray(np.where(values == key, np.uint8(0), np.uint8(255))))

    return convert


def _range(image: Image.Image) -> tuple[float, float]:
    """The values that become black and white."""
    if image.mode.startswith("I;16"):
        bits = _tag(image, BITSPERSAMPLE)
        return 0.0, float(2 ** bits[0] - 1 if bits else 65535)
    lowest, highest = np.inf, -np.inf
    for _, strip in _strips(image):
        values = np.asarray(strip)
        if not np.isfinite(values).all():
            raise ValueError("the picture has values that are not finite")
        lowest, highest = min(lowest, float(values.min())), max(highest, float(values.max()))
    if image.mode == "F" and OVERSHOOT < highest < 2:  # lights of more than white
        return min(lowest, 0.0), highest
    tops: tuple[float, ...] = (1.0, 255.0, 65535.0) if image.mode == "F" else (255.0, 65535.0)
    if image.mode == "I" and image.format in ("PPM", "PNG"):  # these say that they have 16 bits
        tops = (65535.0,)
    elif _tag(image, BITSPERSAMPLE) == (16,):  # with a sign
        tops = (255.0, 32767.0)
    for top in tops:
        if highest <= top * (1.0 if top == 255.0 else OVERSHOOT):
            return (0.0, top) if lowest >= (1 - OVERSHOOT) * highest else (lowest, max(highest, tops[0]))
    return min(lowest, 0.0), highest


def _strips(image: Image.Image) -> Iterator[tuple[int, Image.Image]]:
    """Strips of rows from the top, and the number of the first row of each."""
    step = max(1, STRIP_PIXELS // image.width)
    for row in range(0, image.height, step):
        yield row, image.crop((0, row, image.width, min(row + step, image.height)))


# ---- downloads ---------------------------------------------------------------------------------------------
# Files from http(s) addresses: of bounded size and time, and from the open internet alone unless it is allowed.


NAT64 = ipaddress.IPv6Network("64:ff9b::/96")  # the last 32 bits are an address of IPv4
# NAT64 of a local network's own (RFC 8215): only that network knows which bits are the address of IPv4.
LOCAL_NAT64 = ipaddress.IPv6Network("64:ff9b:1::/48")


def download(url: str, limits: MediaLimits) -> bytes:
    """The bytes behind an address.

    Raises:
        MediaError: refused, too slow, broken off, or no answer; one byte more than the limit comes back for a file
            that is too large.
    """
    name = describe(url)
    if not limits.allow_urls:
        raise MediaError(f"{name}: addresses are not read here (allow_urls=False)")
    _check_scheme(url, name)
    with _Fetch(url, limits) as fetch:
        try:
            with fetch.opener().open(url, timeout=limits.url_seconds) as response:
                data: bytes = response.read(limits.file_bytes + 1)
                if response.length and len(data) <= limits.file_bytes and not fetch.over:
                    raise MediaError(f"{name}: the download broke off, {response.length} bytes are missing")
        except MediaError:
            raise
        except (OSError, ValueError, http.client.HTTPException) as error:
            if not fetch.over:
                raise MediaError(f"{name}: {reason(error)}") from None
            data = b""
    if fetch.over:  # what was read by then may look like a whole answer
        raise MediaError(f"{name}: the download took longer than the limit of {limits.url_seconds:g} s")
    return data


def _is_public(address: str) -> bool:
    """Whether an address is one of the open internet; one of IPv4 inside IPv6 is judged by itself."""
    found = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(found, ipaddress.IPv6Address):
        if found in LOCAL_NAT64:
            return False
        inner = found.ipv4_mapped or found.sixtofour or (found.teredo or (None, None))[1]
        if found in NAT64:
            inner = ipaddress.IPv4Address(int(found) & 0xFFFFFFFF)
        found = inner or found
    return found.is_global and not found.is_multicast


class _Fetch:
    """One download: its time, and the connection that is open for it.

    A server that sends a byte now and then keeps every read within its timeout. So a timer shuts the connection
    down when the time is over.
    """

    def __init__(self, url: str, limits: MediaLimits) -> None:
        self.name, self.limits = describe(url), limits
        self.over = False
        self._end = time.monotonic() + limits.url_seconds
        self._socket: socket.socket | None = None
        self._timer = threading.Timer(limits.url_seconds, self._stop)
        self._timer.daemon = True

    def __enter__(self) -> _Fetch:
        self._timer.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()
        self._hold(None)

    def connect(self, address: tuple[str, int], *_: Any, **__: Any) -> socket.socket:
        """Connect to a host by an address that was checked: what DNS says a second time does not count."""
        last: OSError = OSError("the host has no address")
        for family, kind, protocol, _name, place in socket.getaddrinfo(*address, type=socket.SOCK_STREAM):
            if not self.limits.allow_private_urls and not _is_public(str(place[0])):
                raise MediaError(
                    f"{self.name}: the host is in a private network; allow_private_urls=True permits it"
                )
            opened = socket.socket(family, kind, protocol)
            try:
                opened.settimeout(max(self._end - time.monotonic(), 0.01))
                opened.connect(place)
            except OSError as error:
                opened.close()
                last = error
                continue
            self._hold(opened.dup())  # TLS will take the other one over
            return opened
        raise last

    def _hold(self, opened: socket.socket | None) -> None:
        if self._socket is not None:
            self._socket.close()
        self._socket = opened

    def _stop(self) -> None:
        self.over = True
        if self._socket is not None:
            try:
                self._socket.shutdown(socket.SHUT_RDWR)
            except OSError:
                self._socket.close()  # it was closed by the server already

    def opener(self) -> urllib.request.OpenerDirector:
        """An opener whose every connection, also those after redirects, goes through :meth:`connect`."""
        fetch = self

        class Http(urllib.request.HTTPHandler):
            def http_open(self, req: Any) -> Any:
                return self.do_open(fetch._made(http.client.HTTPConnection), req)

        class Https(urllib.request.HTTPSHandler):
            def https_open(self, req: Any) -> Any:
                return self.do_open(fetch._made(http.client.HTTPSConnection), req)

        own: list[Any] = [Http(), Https(), _CheckedRedirects(self.name)]
        if not self.limits.allow_private_urls:
            own.append(urllib.request.ProxyHandler({}))
        return urllib.request.build_opener(*own)

    def _made(self, kind: Any) -> Any:
        def connection(host: str, **options: Any) -> Any:
            made = kind(host, **options)
            made._create_connection = self.connect
            return made

        return connection


class _CheckedRedirects(urllib.request.HTTPRedirectHandler):
    """Redirects stay with http and https."""

    def __init__(self, name: str) -> None:
        self.name = name

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        _check_scheme(newurl, f"{self.name} leads to {describe(newurl)}")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _check_scheme(url: str, name: str) -> None:
    try:
        parsed = urllib.parse.urlsplit(url)
        good = parsed.scheme in ("http", "https") and bool(parsed.hostname) and (parsed.port or 1) > 0
    except ValueError:
        good = False
    if not good:
        raise MediaError(f"{name}: only http and https addresses are read")
    if "@" in parsed.netloc:
        raise MediaError(
            "an address with a user name or password is not read; fetch it yourself and give bytes"
        )


# ---- sources -----------------------------------------------------------------------------------------------
# Bytes of a file, wherever it lies: at a path, at an address, or in a record.


SETTLED_SECONDS = (
    2.0  # after its last change; a second change within one tick of its clock may not show in a file's times
)


def read_bytes(source: Any, limits: MediaLimits) -> bytes:
    """Bytes of a path, an http(s), file or data URL, ``bytes``, or a data set's ``{"bytes": ..., "path": ...}``.

    Raises:
        MediaError: missing, empty, too large, not a regular file, an address that is refused, a record without content.
        TypeError: a source of another type.
    """
    name = describe(source)
    source = local_path(_inner(source))
    if isinstance(source, (bytes, bytearray)):
        data = bytes(source)
    elif isinstance(source, str) and source[:5].lower() == "data:":
        data = _of_data_uri(source, limits)
    elif isinstance(source, str) and "://" in source[:32]:
        data = download(source, limits)
    elif isinstance(source, (str, os.PathLike)):
        data = _read_file(source, limits)
    else:
        raise TypeError(
            "give a path, a URL, bytes, a PIL image, an array or tensor, or for a video a list of frames, "
            f"not a {type(source).__name__}{elements(source)}"
        )
    if not data:
        raise MediaError(f"{name} is empty")
    if len(data) > limits.file_bytes:
        raise MediaError(f"{name} has {len(data)} bytes, more than the limit of {limits.file_bytes}")
    return data


def elements(source: Any) -> str:
    """What an array holds that is no array of numbers."""
    return f" of {source.dtype}" if hasattr(source, "dtype") else ""


def file_key(source: Any, limits: MediaLimits) -> str | None:
    """What names the content of a local file without reading it: another file, or a change, gives another key.

    None where only the bytes can tell, or where :func:`read_bytes` has something to refuse: no path, no regular file,
    empty (as files of /proc are said to be), too large, or changed a moment ago.
    """
    try:
        source = local_path(_inner(source))
    except MediaError:
        return None
    if not isinstance(source, (str, os.PathLike)) or (isinstance(source, str) and "://" in source[:32]):
        return None
    try:
        found = os.stat(source)
    except (OSError, ValueError):  # ValueError: a path with a NUL
        return None
    settled = time.time() - max(found.st_mtime, found.st_ctime) >= SETTLED_SECONDS
    if not stat.S_ISREG(found.st_mode) or not 0 < found.st_size <= limits.file_bytes or not settled:
        return None
    return f"{found.st_dev} {found.st_ino} {found.st_size} {found.st_mtime_ns} {found.st_ctime_ns}"


def _inner(source: Any) -> Any:
    """What a ``{"bytes": ..., "path": ...}`` record holds; anything else as it is."""
    if isinstance(source, Mapping):
        content = source["bytes"] if source.get("bytes") is not None else source.get("path")
        if content is None:
            keys = ", ".join(str(key)[:50] for key in list(source)[:8]) or "nothing"
            raise MediaError(f"a dict of a medium holds its 'bytes' or 'path'; this one holds {keys}")
        return content
    return source


def local_path(source: Any) -> Any:
    """The path that a ``file:`` URL says; anything else as it is. What ``#`` and ``?`` begin belongs to the name."""
    if not isinstance(source, str) or source[:5].lower() != "file:":
        return source
    rest = source[5:]
    if rest.startswith("//"):
        host, slash, rest = rest[2:].partition("/")
        rest = slash + rest
        if host.lower() not in ("", "localhost"):
            raise MediaError(
                f"{describe(source)}: only files of this machine are read, not those of {host[:50]}"
            )
    if not rest.startswith("/") or "\0" in unquote(rest):
        raise MediaError(f"{describe(source)}: no path; a file URL is file:///folder/name")
    return url2pathname(rest)


def _of_data_uri(uri: str, limits: MediaLimits) -> bytes:
    """The bytes that a ``data:`` URL holds.

    Raises:
        MediaError: it is not in the form of one, or too large.
    """
    head, comma, body = uri.partition(",")
    name = describe(uri)
    if not comma:
        raise MediaError(f"{name}: a data URL is data:<type>;base64,<content>")
    encoded = "base64" in head.lower().replace(" ", "").split(";")[1:]
    if (
        len(body) > limits.file_bytes * 4
    ):  # more than percent signs or base64 with line ends could make smaller
        raise MediaError(f"{name} has more bytes than the limit of {limits.file_bytes}")
    data = unquote_to_bytes(body)
    if not encoded:
        return data
    packed = b"".join(data.split()).translate(bytes.maketrans(b"-_", b"+/")).rstrip(b"=")
    try:
        return base64.b64decode(packed + b"=" * (-len(packed) % 4), validate=True)
    except ValueError as error:
        raise MediaError(f"{name}: no valid base64 ({error})") from None


def _read_file(path: str | os.PathLike[str], limits: MediaLimits) -> bytes:
    name = describe(path)
    try:
        with open(path, "rb", opener=_open_at_once) as file:
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode):
                raise MediaError(f"not a regular file: {name}")
            if found.st_size > limits.file_bytes:
                raise MediaError(
                    f"{name} has {found.st_size} bytes, more than the limit of {limits.file_bytes}"
                )
            return file.read(limits.file_bytes + 1)  # one that grows, or lies about its size as in /proc
    except MediaError:
        raise
    except FileNotFoundError:
        raise MediaError(f"no such file: {name}") from None
    except IsADirectoryError:
        raise MediaError(f"not a regular file: {name}") from None
    except (OSError, ValueError) as error:  # ValueError: a path with a NUL
        raise MediaError(
            f"{name}: cannot read the file ({getattr(error, 'strerror', None) or error})"
        ) from None


def _open_at_once(path: str, flags: int) -> int:
    """Without waiting: a pipe that nobody writes to would block here."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


# ---- media -------------------------------------------------------------------------------------------------
# Read images: from a path, a URL, bytes, a PIL image or an array to RGB PIL images.
#
# Files are hostile: bytes, pixels, pages and frames are limited by ``MediaLimits`` before they are decoded, and decoding
# has a time limit. Documents are in ``documents.py``, video in ``video.py``.


try:
    import pillow_heif
except ImportError:  # optional: the hint is given where a HEIC is asked for
    pillow_heif = None

NEW_SUBFILE_TYPE, NO_PAGE = 254, 0b101  # a tag of TIFF; its bits for a reduced copy and for a mask
SUBFILE_TYPE, REDUCED = 255, 2  # the tag that was there before
ORIENTATION = 0x0112  # a tag of Exif; what it says is done as ImageOps.exif_transpose does it, without a copy
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
JPEG_BLOCK = 4096  # bytes between two looks at the time; a dozen are one more scan over the whole picture

# Pillow's decoders are safe to run side by side, but not two of them on one picture that is not loaded yet.
_LOADING = [threading.Lock() for _ in range(64)]


class _TimedBytes(io.BytesIO):
    """Bytes for a decoder that reads them piece by piece: also a small file can make it work for hours."""

    def __init__(self, data: bytes, deadline: Deadline) -> None:
        super().__init__(data)
        self._deadline = deadline

    def read(self, size: int | None = -1, /) -> bytes:
        self._deadline.check()
        return super().read(size)


def load_image(source: Any, limits: MediaLimits, frame: int | None = None) -> Image.Image:
    """One still picture as RGB, upright, transparency on white.

    Args:
        source: path, URL, bytes, ``{"bytes", "path"}``, PIL image, or array or tensor ``[H, W]``,
            ``[H, W, 1|3|4]``, ``[1|3|4, H, W]`` of uint8, or of floats in 0..1; see ``arrays``.
        limits: what it may cost.
        frame: of a TIFF, see :func:`page_frames`; None for its only page. Of an animation or of any other file with
            several pictures, the first or the one that it names as its still is taken.

    Raises:
        MediaError: unreadable, too large, not a picture, or a TIFF of several pages without ``frame``.
        TypeError: a source of another type.
    """
    with ROOM.released():
        return _load_image(source, limits, frame)


def _load_image(source: Any, limits: MediaLimits, frame: int | None) -> Image.Image:
    if is_array(source):
        array = picture_of(source)
        _check_size(array.shape[1::-1], describe(source), limits)
        ROOM.claim(array.shape[0] * array.shape[1])
        return to_rgb(_from_array(array))
    if isinstance(source, Image.Image):
        ROOM.claim(source.width * source.height)
        with _LOADING[id(source) // 64 % len(_LOADING)]:
            return _decoded(source, describe(source), limits)
    name = describe(source)
    content = read_bytes(source, limits)
    if pillow_heif is None and format_of(content[:HEAD_BYTES]) == "heic":
        raise MediaError(f"{name}: HEIC pictures need pillow-heif: pip install pillow-heif")
    deadline = Deadline(name, limits)
    with reading(name):
        try:
            image = Image.open(_TimedBytes(content, deadline), formats=_formats())
        except UnidentifiedImageError as error:
            raise MediaError(f"{name}: {other_kind(content, 'image') or reason(error)}") from None
        if isinstance(image, TiffImageFile):
            image.seek(_only_page(image, name) if frame is None else frame)
    if isinstance(image, JpegImageFile):
        image.decodermaxblock = JPEG_BLOCK
        _check_size(image.size, name, limits)  # of the whole picture, whatever is decoded of it
        _draft(image, limits.draft_pixels)
    _check_size(image.size, name, limits)
    ROOM.claim(image.width * image.height)
    deadline.restart()
    return _decoded(image, name, limits)


def page_frames(source: Any, limits: MediaLimits) -> list[int]:
    """Which pictures of a TIFF are pages: not the smaller copies of one, and not masks.

    Raises:
        MediaError: the file, or a page's header, can't be read.
    """
    name = describe(source)
    data = _TimedBytes(read_bytes(source, limits), Deadline(name, limits))
    with reading(name), Image.open(data, formats=_formats()) as image:
        return list(_pages(image)) or [0]


def _pages(image: Image.Image) -> Iterator[int]:
    """Numbers of the pictures that are pages. The picture stands at the one that was asked for last."""
    for frame in range(getattr(image, "n_frames", 1)):
        image.seek(frame)
        tags = getattr(image, "tag_v2", {})
        kind = tags.get(NEW_SUBFILE_TYPE, 0)
        is_copy = isinstance(kind, int) and kind & NO_PAGE
        if not is_copy and tags.get(SUBFILE_TYPE) != REDUCED:
            yield frame


def _only_page(image: TiffImageFile, name: str) -> int:
    pages = list(islice(_pages(image), 2)) or [0]
    if len(pages) > 1:
        raise MediaError(
            f"{name} is a TIFF of several pages: give it as a document, all of it or with its 'page': "
            '{"document": ..., "page": 1}'
        )
    return pages[0]


def _draft(image: JpegImageFile, least: int) -> None:
    """Have a JPEG decoded at a part of its size, an exact one so that its shape and with it the grid stay."""
    width, height = image.size
    for scale in (8, 4, 2):
        if least and width % scale == 0 == height % scale and width * height >= least * scale**2:
            image.draft(None, (width // scale, height // scale))
            return


def _formats() -> list[str]:
    """All that Pillow reads but for PostScript, which it would have Ghostscript run."""
    Image.init()
    if pillow_heif is not None and "HEIF" not in Image.ID:
        pillow_heif.register_heif_opener()
    return [name for name in Image.ID if name != "EPS"]


def _check_size(size: tuple[int, ...], name: str, limits: MediaLimits) -> None:
    pixels = int(np.prod(size, dtype=object))
    if pixels > limits.image_pixels:
        shown = " x ".join(map(str, size))
        raise MediaError(f"{name} has {shown} pixels, more than the limit of {limits.image_pixels}")
    if pixels == 0:
        raise MediaError(f"{name} has no pixels ({' x '.join(map(str, size))})")


def _decoded(image: Image.Image, name: str, limits: MediaLimits) -> Image.Image:
    _check_size(image.size, name, limits)
    with reading(name):
        image = loaded(image)
        orientation = image.getexif().get(ORIENTATION)
        return _upright(to_rgb(image), orientation)


def _upright(rgb: Image.Image, orientation: Any) -> Image.Image:
    if orientation not in TURNS:
        return rgb
    upright = rgb.transpose(TURNS[orientation])
    upright.info.clear()  # what said that it is turned
    return upright


def _from_array(array: np.ndarray) -> Image.Image:
    if np.issubdtype(array.dtype, np.floating):
        if not np.isfinite(array).all():
            raise MediaError("the array has values that are not finite")
        if array.min() < 0 or array.max() > 1:
            raise MediaError("a float array must lie in 0..1; give uint8 for 0..255")
        array = (array * 255).round().astype(np.uint8)
    elif array.dtype != np.uint8:
        raise MediaError(f"an array of {array.dtype} is no picture; give uint8, or floats in 0..1")
    one = array[..., 0] if array.ndim == 3 and array.shape[2] == 1 else array
    return Image.fromarray(np.ascontiguousarray(one))


# ---- sampling ----------------------------------------------------------------------------------------------
# Which frames of a film are read: evenly spread in time, also where the frames themselves are not.


ROUNDING = 0.001  # seconds: containers of browsers and recorders count in milliseconds


MOST_FRAMES = 100_000


@dataclass(frozen=True)
class Sampling:
    """How many frames of a video are read.

    Attributes:
        fps: frames per second of film that are kept.
        min_frames: fewest frames of a file that has as many.
        max_frames: most frames.
        multiple: the number of frames is a multiple of this (the vision tower's temporal patch).
        list_fps: frames per second that a list of frames is taken to have; 0 for ``fps``.
        list_frames: most frames of a list; 0 for ``max_frames``.
        list_pad: whether a list is filled up to the ``multiple`` by its last frame, shown again at the next times
            (qwen_vl_utils), instead of at the same time.
    """

    fps: float = 2.0
    min_frames: int = 4
    max_frames: int = 64
    multiple: int = 2
    list_fps: float = 0.0
    list_frames: int = 0
    list_pad: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.fps <= 1000 or not 0 <= self.list_fps <= 1000:
            raise ValueError(f"fps is {self.fps}, list_fps {self.list_fps}: use up to 1000 frames a second")
        if not 1 <= self.min_frames <= self.max_frames <= MOST_FRAMES:
            raise ValueError(
                f"min_frames is {self.min_frames}, max_frames {self.max_frames}: use 1 to {MOST_FRAMES}"
            )
        if not 1 <= self.multiple <= 64 or not 0 <= self.list_frames <= MOST_FRAMES:
            raise ValueError(
                f"multiple is {self.multiple}, list_frames {self.list_frames}: use 1..64 and 0..{MOST_FRAMES}"
            )


@dataclass(frozen=True)
class Timeline:
    """When the frames of a film are shown, from 0, in the order in which they are shown.

    Attributes:
        seconds: float64 ``[frames]``, never falling.
        duration: seconds until the last frame is gone; None where nothing is known of the film's times.
        even: whether the frames are equally far apart.
    """

    seconds: NDArray[np.float64]
    duration: float | None
    even: bool

    @classmethod
    def at_rate(cls, total: int, rate: float | None, otherwise: float) -> Timeline:
        """Of a film that does not say when its frames are shown; ``otherwise`` is its rate where that is not known."""
        return cls(np.arange(total) / (rate or otherwise), total / rate if rate else None, True)

    @classmethod
    def of(
        cls, seconds: Sequence[float], last: float | None, rate: float | None, tick: float, otherwise: float
    ) -> Timeline:
        """Of frames that say when they are shown.

        Args:
            seconds: never falling, at least one.
            last: how long the last frame is shown; None where that is not known.
            rate: frames per second that the film is said to have. Believed where the times bear it out.
            tick: what the container rounds times to.
            otherwise: the rate of frames that all say the same time, where ``rate`` is not known.
        """
        times = np.asarray(seconds, dtype=np.float64) - seconds[0]
        total, length = len(times), float(times[-1])
        if total > 1 and length == 0:
            return cls.at_rate(total, rate, otherwise)
        slack = max(tick, ROUNDING) * 1.001
        if rate and np.abs(times - np.arange(total) / rate).max() <= slack:
            return cls.at_rate(total, rate, otherwise)
        usual = float(np.median(np.diff(times))) if total > 1 else 0.0
        even = bool(np.abs(times - np.linspace(0, length, total)).max() <= slack)
        return cls(times, length + (last or usual), even)

    def __len__(self) -> int:
        return len(self.seconds)

    def chosen(self, sampling: Sampling) -> list[int]:
        """Numbers of the frames to keep, first and last included.

        Of frames that are not equally far apart, those nearest to equally spaced times: one that is shown long is
        taken once, and a burst does not take the place of the rest.
        """
        if self.even:
            return sample_indices(len(self), self.duration, sampling)
        places = np.linspace(0, self.seconds[-1], _count(sampling.max_frames, self.duration, sampling))
        nearest = np.interp(places, self.seconds, np.arange(len(self))).round().astype(int)
        picked = np.unique(nearest)
        while len(picked) < len(self) and (
            len(picked) < min(sampling.min_frames, sampling.max_frames) or len(picked) % sampling.multiple
        ):
            # one more, the one that is farthest from all others
            after = np.searchsorted(picked, np.arange(len(self))).clip(1, len(picked) - 1)
            left, right = self.seconds[picked[after - 1]], self.seconds[picked[after]]
            alone = np.minimum(np.abs(self.seconds - left), np.abs(right - self.seconds))
            alone[picked] = -1.0
            picked = np.sort(np.append(picked, int(alone.argmax())))
        return picked.tolist()


def sample_indices(total: int, seconds: float | None, sampling: Sampling) -> list[int]:
    """Indices of the frames to keep, evenly spread over the whole film, first and last included.

    Args:
        total: frames of the film, at least 1.
        seconds: its duration; None if unknown (then as many as ``max_frames`` allows).
        sampling: rate and limits.
    """
    return np.linspace(0, total - 1, _count(total, seconds, sampling)).round().astype(int).tolist()


def _count(total: int, seconds: float | None, sampling: Sampling) -> int:
    """How many frames are kept of ``total`` that take ``seconds``."""
    wanted = sampling.max_frames if seconds is None else int(min(seconds * sampling.fps, sampling.max_frames))
    wanted = min(max(wanted, sampling.min_frames), sampling.max_frames, total)
    return max(wanted - wanted % sampling.multiple, min(sampling.multiple, total))


def repaired(seconds: Sequence[float]) -> list[float]:
    """Times of frames in the order in which they are shown, never falling.

    Some films number their frames in the order in which they were written; where every time is there once, they are
    only out of order. A single frame that is early is a slip. Where times go back for good, another recording begins
    (recordings are joined, or a clock overflows): it follows upon the one before.
    """
    if all(one <= next_one for one, next_one in pairwise(seconds)):
        return list(seconds)
    if len(set(seconds)) == len(seconds):
        return sorted(seconds)
    gaps = [b - a for a, b in pairwise(seconds) if b > a]
    usual = float(np.median(gaps)) if gaps else 0.0
    found, offset = [seconds[0]], 0.0
    for number, second in enumerate(seconds[1:], start=1):
        time, before = second + offset, found[-1]
        if time < before:
            following = seconds[number + 1] + offset if number + 1 < len(seconds) else before
            if following < before:
                offset += before + usual - time
                time = before + usual
            else:
                time = before
        found.append(time)
    return found


# ---- animation ---------------------------------------------------------------------------------------------
# Animated pictures through Pillow: GIF, WebP, APNG and AVIF, with the time that each frame is shown.


# What browsers do: a frame that asks for less is shown for a tenth of a second.
SHORTEST, DEFAULT = 11, 100  # milliseconds
WEBP_FLAGS, WEBP_ALPHA = 20, 0x10  # the byte of an extended WebP's flags, and the bit for transparency


def is_animation(data: bytes) -> bool:
    """Whether a file is read here; a still GIF or WebP is an animation of one frame."""
    if data[:6] in (b"GIF87a", b"GIF89a") or (data[:4] == b"RIFF" and data[8:12] == b"WEBP"):
        return True
    if data[4:12] == b"ftypavis":
        return "AVIF" in Image.registered_extensions().values()
    return data[:8] == b"\x89PNG\r\n\x1a\n" and b"acTL" in data[: data.find(b"IDAT")]


def has_frames(source: Path | bytes) -> bool:
    """Whether a file is an animated picture of more than one frame. Raises what Pillow raises for a damaged one."""
    if format_of(_head(source)) not in ANIMATED:
        return False
    with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
        return bool(getattr(image, "is_animated", False))


def shows_one_of_several(image: Image.Image) -> bool:
    """Whether an open image is at one picture of a file that has more."""
    try:
        return bool(getattr(image, "is_animated", False))
    except Exception:  # of a closed or damaged file; told where it is read
        return False


def is_film(source: Any) -> bool:
    """Whether bytes, a data URL or a local file are a film or an animated picture. Nothing is fetched."""
    try:
        if isinstance(source, str) and source[:5].lower() == "data:":
            source = read_bytes(source, MediaLimits())
        elif not isinstance(source, bytes):
            source = Path(os.fsdecode(local_path(source)))
            if not source.is_file():  # a pipe would not end
                return False
        return kind_of_format(format_of(_head(source))) == "video" or has_frames(source)
    except Exception:  # what is wrong with it is told where it is read
        return False


def _head(source: Path | bytes) -> bytes:
    if isinstance(source, bytes):
        return source[:HEAD_BYTES]
    with source.open("rb") as handle:
        return handle.read(HEAD_BYTES)


class Animation:
    """An animated picture; the same two questions are asked as of a film.

    Args:
        data: the file.
        deadline: time for all that is done with it.
        limits: what it may cost.
    """

    def __init__(self, data: bytes, deadline: Deadline, limits: MediaLimits) -> None:
        self.deadline, self.limits = deadline, limits
        if data[8:16] == b"WEBPVP8X" and len(data) > WEBP_FLAGS:
            # Opaque frames may leave a part of the picture out, which is transparent then and Pillow makes black.
            data = data[:WEBP_FLAGS] + bytes([data[WEBP_FLAGS] | WEBP_ALPHA]) + data[WEBP_FLAGS + 1 :]
        self.image = Image.open(io.BytesIO(data), formats=["GIF", "WEBP", "PNG", "AVIF"])
        check_frame(self.image.width, self.image.height, deadline, limits)

    def timeline(self) -> Timeline:
        """When the frames are shown."""
        starts, clock, shown = [], 0.0, 0.0
        for number, frame in enumerate(self._frames()):
            check_step(number, self.deadline, self.limits)
            frame.load()  # WebP tells a frame's duration only then
            shown = frame.info.get("duration") or 0
            shown = (shown if shown >= SHORTEST else DEFAULT) / 1000
            starts.append(clock)
            clock += shown
        return Timeline.of(starts, shown, None, 0.0, 1000 / DEFAULT)

    def decoded_timeline(self) -> Timeline:
        """The same: there are no packets that could promise something else."""
        return self.timeline()

    def pictures(self, keep: Sequence[int]) -> Iterator[Image.Image]:
        """The frames of those numbers, which rise, as RGB: upright, transparency on white."""
        wanted = set(keep)
        for number, frame in enumerate(self._frames()):
            self.deadline.check()
            if number in wanted:
                yield to_rgb(ImageOps.exif_transpose(frame.copy()))
            if number >= keep[-1]:
                return

    def _frames(self) -> Iterator[Image.Image]:
        """All but the picture of an APNG for those who cannot show animations."""
        still = self.image.info.get("default_image", False)
        for number, frame in enumerate(ImageSequence.Iterator(self.image)):
            if number or not still:
                yield frame
            self._clear_to_white()

    def _clear_to_white(self) -> None:
        """Where a GIF clears a frame that has no transparency of its own, Pillow leaves the colour of a background
        that no viewer shows."""
        image = self.image
        if (
            isinstance(image, GifImageFile)
            and image.disposal_method == 2
            and image.dispose is not None
            and image.mode in ("RGB", "RGBA")
        ):
            image.dispose = Image.new(image.mode, image.dispose.size, "white").im


# ---- clip_decoding -----------------------------------------------------------------------------------------
# Video files through PyAV: when each frame is shown, and the frames as a player shows them.
#
# Nothing is believed of a header that packets and frames can tell: not the number of frames, not the duration, not the
# rate.


try:
    import av
except ImportError:  # an optional extra: the error is raised where a video file is asked for
    av = None  # type: ignore[assignment]

# Containers that hold their own frames. FFmpeg also reads playlists, which name files and addresses to open.
CONTAINERS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpeg,mpegts,mpegvideo,m4v,h264,hevc,obu,ivf,flv,ogg,asf,mxf,nut,rm,dv,"
    "gif,apng,yuv4mpegpipe"
)
_OPEN_OPTIONS = {"format_whitelist": CONTAINERS, "protocol_whitelist": ""}
ALPHA_DECODERS = {"vp8": "libvpx", "vp9": "libvpx-vp9"}  # FFmpeg's own leave transparency out

# How a stored picture is turned: whether the display matrix swaps the axes, then the signs of the new x and y.
_TURNS = {
    (False, -1, 1): Image.Transpose.FLIP_LEFT_RIGHT,
    (False, 1, -1): Image.Transpose.FLIP_TOP_BOTTOM,
    (False, -1, -1): Image.Transpose.ROTATE_180,
    (True, -1, 1): Image.Transpose.ROTATE_270,
    (True, 1, -1): Image.Transpose.ROTATE_90,
    (True, 1, 1): Image.Transpose.TRANSPOSE,
    (True, -1, -1): Image.Transpose.TRANSVERSE,
}


class Film:
    """A video file.

    Args:
        data: the file.
        deadline: time for all that is done with it.
        limits: what it may cost.
        rate: frames per second of a film that tells nothing about its times.
    """

    def __init__(self, data: bytes, deadline: Deadline, limits: MediaLimits, rate: float) -> None:
        self.data, self.deadline, self.limits, self.rate = data, deadline, limits, rate
        self._times: list[int] | None = None  # of the frames, in the order in which they are shown

    def timeline(self) -> Timeline:
        """When the frames are shown, by the packets: nothing is decoded."""
        times: list[int | None] = []
        total, last = 0, (-1, 0)
        with self._opened() as film:
            stream = self._stream(film)
            self._check_frame(stream.codec_context.width, stream.codec_context.height)
            for packet in film.demux(stream):
                self.deadline.check()
                if packet.size == 0 or packet.is_discard:  # the end, or what an edit list cuts off
                    continue
                check_step(total, self.deadline, self.limits)
                total += 1
                times.append(packet.pts)
                if packet.pts is not None:
                    last = max(last, (packet.pts, packet.duration or 0))
            if total == 0:
                raise MediaError(f"{self.deadline.name} has no frames")
            known = [time for time in times if time is not None]
            if len(known) < total or len(set(known)) < total:
                # Without times frames are told by their number. Where a time is there twice, decoding has to show
                # in which order the frames come.
                self._times = None
                return self._decoded_timeline() if known else self._without_times(stream, total)
            self._times = sorted(known)
            tick = float(stream.time_base)
            return Timeline.of(
                [time * tick for time in self._times], last[1] * tick, _rate(stream), tick, self.rate
            )

    def decoded_timeline(self) -> Timeline:
        """The same by the frames themselves, where they are not what the packets promised."""
        self._times = None
        return self._decoded_timeline()

    def pictures(self, keep: Sequence[int], seek: bool = False) -> Iterator[Image.Image]:
        """The frames of those numbers, which rise, as RGB: upright, with square pixels, transparency on white.

        Fewer where the frames are not those that the packets promised. ``seek`` begins at the key frame before the
        first of them; where the container cannot go there, there are fewer, too.
        """
        wanted = set(keep)
        before = None
        numbers = None if self._times is None else {time: number for number, time in enumerate(self._times)}
        with self._opened() as film:
            stream = self._stream(film)
            seek = seek and self._times is not None and keep[0] > 0
            if seek and self._times is not None:
                film.seek(self._times[keep[0]], stream=stream, backward=True)
            for count, frame in enumerate(self._frames(film, stream)):
                number = count
                if numbers is not None:
                    if frame.pts not in numbers or (before is not None and numbers[frame.pts] <= before):
                        return
                    number = before = numbers[frame.pts]
                if seek and count == 0 and not (frame.key_frame and number <= keep[0]):
                    return
                if number in wanted:
                    yield _as_shown(frame, stream, self.deadline, self.limits)
                if number >= keep[-1]:
                    return

    # ---- steps ----------------------------------------------------------------------------------------------------

    def _decoded_timeline(self) -> Timeline:
        times: list[int | None] = []
        with self._opened() as film:
            stream = self._stream(film)
            for frame in self._frames(film, stream):
                check_step(len(times), self.deadline, self.limits)
                times.append(frame.pts)
            if not times:
                raise MediaError(f"{self.deadline.name} has no frame that can be decoded")
            known = [time for time in times if time is not None]
            if len(known) < len(times):
                return self._without_times(stream, len(times))
            tick = float(stream.time_base)
            seconds = repaired([time * tick for time in known])
            return Timeline.of(seconds, None, _rate(stream), tick, self.rate)

    def _without_times(self, stream: Any, total: int) -> Timeline:
        return Timeline.at_rate(total, _rate(stream), self.rate)

    def _frames(self, film: Any, stream: Any) -> Iterator[Any]:
        """Frames one by one; packets that give none are counted against the time, too.

        Packets that cannot be decoded are passed over, as players do, with a warning: a film that is cut off often
        ends in one.
        """
        decoder = _decoder_of(stream, self.deadline)
        bad = 0
        for packet in film.demux(stream):
            self.deadline.check()
            try:
                frames = decoder.decode(packet)
            except av.error.InvalidDataError:
                bad += 1
                continue
            for frame in frames:
                self.deadline.check()
                self._check_frame(frame.width, frame.height)  # it may differ from the header's
                yield frame
        if bad:
            warnings.warn(
                f"{self.deadline.name} is damaged or cut off: {bad} packets could not be decoded",
                stacklevel=2,
            )

    def _opened(self) -> Any:
        return av.open(io.BytesIO(self.data), "r", options=_OPEN_OPTIONS, metadata_errors="replace")

    def _stream(self, film: Any) -> Any:
        if not film.streams.video:
            raise MediaError(f"{self.deadline.name} has no video stream")
        return film.streams.video[0]

    def _check_frame(self, width: int, height: int) -> None:
        check_frame(width, height, self.deadline, self.limits)


def _as_shown(frame: Any, stream: Any, deadline: Deadline, limits: MediaLimits) -> Image.Image:
    """A decoded frame as a player shows it, as RGB: upright, with square pixels, transparency on white."""
    picture = to_rgb(_picture(frame))
    ratio = stream.sample_aspect_ratio
    if ratio and ratio > 0 and ratio != 1:  # one side is enlarged, so that nothing is lost
        width, height = round(frame.width * max(ratio, 1)), round(frame.height / min(ratio, 1))
        check_frame(width, height, deadline, limits)
        picture = picture.resize((width, height), Image.Resampling.BICUBIC)
    turn = _turn(frame)
    return picture if turn is None else picture.transpose(turn)


def _decoder_of(stream: Any, deadline: Deadline) -> Any:
    """What decodes a stream's packets, transparency included, in one thread.

    FFmpeg's threads race where a film is damaged: which frames a decoder repairs, and even how many it gives, then
    depends on the machine and the moment. Several films are read at a time instead.

    Raises:
        MediaError: this build of PyAV has none for that transparency.
    """
    context = stream.codec_context
    if stream.metadata.get("alpha_mode") == "1" and context.name in ALPHA_DECODERS:
        try:
            context = av.CodecContext.create(ALPHA_DECODERS[context.name], "r")
        except av.codec.codec.UnknownCodecError:
            raise MediaError(
                f"{deadline.name} is transparent in places, and this build of PyAV cannot decode that"
            ) from None
    context.thread_type, context.thread_count = "NONE", 1
    return context


def _rate(stream: Any) -> float | None:
    return float(stream.average_rate) if stream.average_rate else None


def _picture(frame: Any) -> Image.Image:
    """A decoded frame with its transparency, if its format has any."""
    if frame.format.has_palette or any(part.is_alpha for part in frame.format.components):
        return Image.fromarray(frame.to_ndarray(format="rgba"))
    return frame.to_image()


def _turn(frame: Any) -> Image.Transpose | None:
    """How a stored picture becomes the one that is shown, by its display matrix; to the nearest right angle."""
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return None
    a, b, _, c, d, *_ = np.frombuffer(bytes(matrix), dtype=np.int32).tolist()
    swapped = abs(b) + abs(c) > abs(a) + abs(d)
    x, y = (c, b) if swapped else (a, d)
    return _TURNS.get((swapped, -1 if x < 0 else 1, -1 if y < 0 else 1))


# ---- video -------------------------------------------------------------------------------------------------
# Read videos: a file through PyAV, an animated picture through Pillow, or a list of frames; sampled evenly in time.


@dataclass(frozen=True)
class Frames:
    """Frames in order (RGB, or what a :class:`FrameKeeper` kept of each), the second at which each was shown, and
    whether the user gave a list of them."""

    images: list[Any]
    seconds: list[float]
    from_list: bool = False


class FrameKeeper(Protocol):
    """Says what is kept of each frame while the next ones are read.

    64 frames of 4K take 1.6 GB, so whoever needs small ones has each made small as soon as it is there.
    """

    def begin(self, count: int, from_list: bool) -> None:
        """Before the first frame of ``count``; and once more, from the first on, where there were fewer."""

    def keep(self, frame: Image.Image) -> Any:
        """What is kept of the next frame.

        Raises:
            ValueError: a frame that is not taken; the reader passes its words on as a MediaError.
        """


class Decoder(Protocol):
    """A film that its owner decodes, as data sets hand over: ``torchcodec.decoders.VideoDecoder``."""

    metadata: Any

    def __len__(self) -> int:
        """Frames of the film."""

    def get_frame_at(self, index: int) -> Any:
        """A frame with ``data`` (uint8 ``[C, H, W]`` or ``[H, W, C]``) and ``pts_seconds``."""


def is_decoder(value: Any) -> bool:
    """Whether a value is a film that decodes itself, told by what torchcodec documents."""
    return hasattr(value, "get_frame_at") and hasattr(value, "metadata") and hasattr(value, "__len__")


class WholeFrames:
    """Keeps every frame as it is."""

    def begin(self, count: int, from_list: bool) -> None:
        """Nothing is known to be needed."""

    def keep(self, frame: Image.Image) -> Image.Image:
        return frame


def load_video(
    source: Any, sampling: Sampling, limits: MediaLimits, keeper: FrameKeeper | None = None
) -> Frames:
    """Frames of a video.

    Args:
        source: path, URL or bytes of mp4, webm, gif, webp, ...; a sequence of frames (each what ``load_image``
            takes; evenly spaced, see :class:`Sampling`); an array or tensor ``[T, H, W, C]`` or ``[T, C, H, W]``; or
            ``{"array": frames, "video_metadata": {"fps", "frames_indices", "duration", "total_num_frames"}}``, as
            sentence-transformers writes frames with times of their own: frame ``i`` is shown at
            ``frames_indices[i] / fps``, without indices at ``i / fps``; or a :class:`Decoder`.
        sampling: rate and limits.
        limits: what the video may cost; the keeper's work counts as decoding.
        keeper: what is kept of each frame; None keeps all of them whole.

    Raises:
        MediaError: unreadable, without frames, over a limit, or with a frame that the keeper does not take.
        ImportError: a video file without PyAV installed.
    """
    keeper = keeper or WholeFrames()
    if is_decoder(source):
        return _from_decoder(source, sampling, limits, keeper)
    told: Mapping[str, Any] = {}
    if isinstance(source, Mapping) and "array" in source:
        source, told = _told(source)
    if is_array(source) or (isinstance(source, Sequence) and not isinstance(source, (str, bytes, bytearray))):
        return _from_frames(source, told, sampling, limits, keeper)
    if told or (isinstance(source, Mapping) and {"fps", "video_metadata"} & set(source)):
        raise MediaError(
            f"times are given with frames, and a {type(source).__name__} is none; give a list or array"
        )
    if isinstance(source, Image.Image):
        raise MediaError(
            "a PIL image is one picture: give it as 'image', and a clip as a path, bytes or list of frames"
        )
    data = read_bytes(source, limits)
    deadline = Deadline(describe(source), limits)
    animation = is_animation(data)
    if av is None and not animation:
        raise ImportError("video files need PyAV: pip install umekit[media]")
    other = None if animation else other_kind(data, "video")
    with reading(deadline.name, other or "cannot read the video"):
        film = Animation(data, deadline, limits) if animation else Film(data, deadline, limits, sampling.fps)
        return _from_film(film, sampling, keeper)


def _kept(keeper: FrameKeeper, frame: Image.Image) -> Any:
    """What the keeper keeps; that it does not take a frame is no fault of the decoder and is told as it is."""
    try:
        return keeper.keep(frame)
    except ValueError as error:
        raise MediaError(str(error)) from None


def _told(source: Mapping[str, Any]) -> tuple[Any, Mapping[str, Any]]:
    """Frames, and what is told of their times."""
    unknown = sorted(map(str, set(source) - {"array", "video_metadata", "fps"}))
    if unknown:
        raise MediaError(f"unknown key {unknown[0][:50]!r} of a video; known are array, video_metadata, fps")
    told = source.get("video_metadata")
    if told is None:
        told = {}
    if not isinstance(told, Mapping):
        raise MediaError(f"'video_metadata' takes a dict, not a {type(told).__name__}")
    return source["array"], {**told, **({} if source.get("fps") is None else {"fps": source["fps"]})}


def _times(told: Mapping[str, Any], total: int, otherwise: float) -> list[float]:
    """When each of ``total`` frames is shown; ``otherwise`` is their rate where none is told.

    Raises:
        MediaError: a rate or indices that make no sense.
    """
    rate, indices = told.get("fps"), told.get("frames_indices")
    if rate is None and told.get("duration") is not None:
        length = _positive("duration", told["duration"])
        rate = _positive("total_num_frames", told.get("total_num_frames") or total) / length
    rate = otherwise if rate is None else _positive("fps", rate)
    if indices is None:
        return [number / rate for number in range(total)]
    try:
        places = [float(place) for place in indices]
    except (TypeError, ValueError):
        places = []
    if len(places) != total or any(not 0 <= a <= b < np.inf for a, b in pairwise([0.0, *places])):
        raise MediaError(f"'frames_indices' must be {total} numbers that rise, one for each frame")
    return [place / rate for place in places]


def _positive(name: str, value: Any) -> float:
    try:  # Fractions, as PyAV's rates, and tensors of one number are numbers, too
        number = -1.0 if isinstance(value, (str, bool)) else float(value)
    except (TypeError, ValueError, OverflowError, RuntimeError):
        number = -1.0
    if not 0 < number < np.inf:
        raise MediaError(f"{name!r} of a video must be a positive number, not {str(value)[:50]}")
    return number


def _from_frames(
    source: Any, told: Mapping[str, Any], sampling: Sampling, limits: MediaLimits, keeper: FrameKeeper
) -> Frames:
    if is_array(source):
        source = clip_of(source)
    total = len(source)
    if total == 0:
        raise MediaError("a video needs at least one frame")
    if total > limits.video_frames:
        raise MediaError(f"a list of {total} frames is over the limit of {limits.video_frames}")
    # A list was chosen by the user: all of it is kept, up to the limit.
    most = replace(sampling, max_frames=sampling.list_frames or sampling.max_frames)
    keep = list(range(total)) if total <= most.max_frames else sample_indices(total, None, most)
    rate = sampling.list_fps or sampling.fps
    times = _times(told, total, rate)
    seconds = [times[i] for i in keep]
    step = times[1] - times[0] if told and total > 1 else 1 / rate
    while sampling.list_pad and len(seconds) % sampling.multiple:
        seconds.append(seconds[-1] + step)
    keeper.begin(len(seconds), True)
    images = [_kept(keeper, _frame(source[i], i, limits)) for i in keep]
    images += images[-1:] * (len(seconds) - len(keep))
    return Frames(images, seconds, from_list=True)


def _frame(source: Any, number: int, limits: MediaLimits) -> Image.Image:
    try:
        if isinstance(source, Image.Image):
            animated = shows_one_of_several(source)
        elif not is_array(source):
            name, source = describe(source), read_bytes(source, limits)
            with reading(name):
                animated = has_frames(source)
            source = {"bytes": source, "path": name}
        else:
            animated = False
        if animated:
            raise MediaError(
                f"{describe(source)} is an animation and no frame; give its frames as copies "
                "([frame.copy() for frame in ImageSequence.Iterator(image)]), or a list of clips alone"
            )
        return load_image(source, limits)
    except MediaError as error:
        raise MediaError(f"frame {number}: {error}") from None
    except TypeError as error:
        raise TypeError(f"frame {number}: {error}") from None


def _from_decoder(film: Decoder, sampling: Sampling, limits: MediaLimits, keeper: FrameKeeper) -> Frames:
    deadline = Deadline(describe(film), limits)
    seconds, images = [], []
    with reading(deadline.name, "cannot read the video"):
        total, rate = len(film), getattr(film.metadata, "average_fps", None)
        rate = None if rate is None or not 0 < float(rate) < np.inf else float(rate)  # as unknown
        if total == 0:
            raise MediaError(f"{deadline.name} has no frames")
        keep = Timeline.at_rate(total, rate, sampling.fps).chosen(sampling)
        keeper.begin(len(keep), False)
        for number in keep:
            deadline.check()
            frame = film.get_frame_at(number)
            seconds.append(float(frame.pts_seconds))
            images.append(_kept(keeper, _frame(frame.data, number, limits)))
    if not np.isfinite(seconds).all():
        raise MediaError(f"{deadline.name} has frames without a time")
    seconds = repaired(seconds)
    return Frames(images, [second - seconds[0] for second in seconds])


def _from_film(film: Film | Animation, sampling: Sampling, keeper: FrameKeeper) -> Frames:
    timeline = film.timeline()
    keep = timeline.chosen(sampling)
    images = _read_frames(film, keep, keeper)
    if len(images) < len(keep):  # some packets gave no frame, so that frames were sized for too many
        timeline = film.decoded_timeline()
        keep = timeline.chosen(sampling)
        images = _read_frames(film, keep, keeper)
    return Frames(images, timeline.seconds[keep[: len(images)]].tolist())


def _read_frames(film: Film | Animation, keep: list[int], keeper: FrameKeeper) -> list[Any]:
    keeper.begin(len(keep), False)
    return [_kept(keeper, picture) for picture in film.pictures(keep)]


# ---- settings ----------------------------------------------------------------------------------------------
# The processor's half of a checkpoint's settings: the ``ume`` block of ``processor_config.json``.


SCHEMA = 1
MOST_TOKENS = 2**31 - 1
MOST_BLANK = 4096
MOST = 2**53  # beyond it JSON's numbers are not whole
NAME = "processor_config.json: ume"
# Arguments of stock processors' ``from_pretrained`` that change settings of ours.
ARGUMENTS = ("min_pixels", "max_pixels", "size", "fps", "min_frames", "max_frames", "model_max_length")


class ProcessorSettingsError(ValueError):
    """The ``ume`` block of ``processor_config.json`` cannot be used; the message names the entry."""


@dataclass(frozen=True)
class ProcessorSettings:
    """What the processor does to an item.

    Attributes:
        family: the backbone's ``model_type``.
        prompt: form of the prompt.
        pooling: which tokens carry the embedding.
        budget: pixels of pictures and videos.
        sampling: frames of videos.
        max_length: most tokens of an item, media included.
        limits: lower limits of some items: of the ``query`` or ``document`` role, that are ``text`` alone, or that
            are ``plain``: no query, and without an instruction (what some systems encode candidates as).
        truncation: what is cut of an item over its limit: ``"text"``, so that media and the prompt's end stay; or
            ``"right"``, the end of the whole prompt, as some systems' vectors were made.
        video_as_images: whether frames of a video are pictures of their own (RzenEmbed).
        empty_items: whether an item without any content is rendered (the template says as what).
        pairs: whether prompts are of pairs, a query and a document (rerankers).
        strip_marks: whether placeholders at the beginning of a text are taken for its media's (VLM2Vec's data).
        blank_image: side in pixels of a white picture that an item without media begins with; 0 for none (UME-R1).
    """

    family: str = "qwen2_vl"
    prompt: PromptSettings = field(default_factory=PromptSettings)
    pooling: PoolingRule = field(default_factory=PoolingRule)
    budget: PixelBudget = field(
        default_factory=lambda: PixelBudget(
            image=(4 * 28**2, 1280 * 28**2), frame=(4 * 28**2, 256 * 28**2), video=(4 * 28**2, 16384 * 28**2)
        )
    )
    sampling: Sampling = field(default_factory=Sampling)
    max_length: int = 32768
    limits: dict[str, int] = field(default_factory=dict)
    truncation: Literal["text", "right"] = "text"
    video_as_images: bool = False
    empty_items: bool = False
    strip_marks: bool = False
    pairs: bool = False
    blank_image: int = 0

    def __post_init__(self) -> None:
        if self.truncation not in ("text", "right"):
            raise ValueError(f"truncation is {self.truncation!r}; use 'text' or 'right'")
        for name, limit in {
            "max_length": self.max_length,
            **{f"limits.{k}": v for k, v in self.limits.items()},
        }.items():
            if not 1 <= limit <= MOST_TOKENS:
                raise ValueError(f"{name} is {limit}; use 1 to {MOST_TOKENS:,} tokens")
        if not 0 <= self.blank_image <= MOST_BLANK:
            raise ValueError(f"blank_image is {self.blank_image}; use 0 to {MOST_BLANK} pixels")
        unknown = set(self.limits) - {"query", "document", "text", "plain"}
        if unknown:
            raise ValueError(
                f"limits for unknown items {sorted(unknown)}; use 'query', 'document', 'text' and 'plain'"
            )

    def limit_of(self, role: str | None, has_media: bool, has_instruction: bool) -> int:
        """Most tokens of an item."""
        kinds = [
            role or "",
            "" if has_media else "text",
            "" if has_instruction or role == "query" else "plain",
        ]
        return min(self.max_length, *(self.limits.get(kind, self.max_length) for kind in kinds))

    def to_dict(self) -> dict[str, Any]:
        """The block as it is written."""
        block = {"schema": SCHEMA, **asdict(self)}
        if self.budget.frame_filter == "pillow":
            del block["budget"]["frame_filter"]  # earlier versions and fingerprints do not know it
        if not self.blank_image:
            del block["blank_image"]  # likewise
        return block

    @classmethod
    def from_dict(cls, block: dict[str, Any]) -> ProcessorSettings:
        """Read a block.

        Raises:
            ProcessorSettingsError: a newer schema, an unknown entry, or a value of another type or range.
        """
        if not isinstance(block, dict):
            raise ProcessorSettingsError(f"{NAME} is {type(block).__name__}; an object is needed")
        block = dict(block)
        schema = block.pop("schema", SCHEMA)
        if type(schema) is not int or not 1 <= schema <= SCHEMA:
            raise ProcessorSettingsError(
                f"{NAME}.schema is {str(schema)[:60]}, this code reads up to {SCHEMA}: update umekit"
            )
        settings: ProcessorSettings = read_record(cls, block, NAME)
        return settings


def with_arguments(settings: ProcessorSettings, arguments: Mapping[str, Any]) -> ProcessorSettings:
    """Settings under the arguments that a stock processor takes; see ``ARGUMENTS``.

    As there, ``min_pixels`` and ``max_pixels`` (or ``size``) are the limits of pictures and of videos alike.
    ``model_max_length`` only lowers ``max_length``. What is None counts as not given.

    Raises:
        ValueError: a size without such edges, or a least number of pixels over the most.
    """
    given = {name: arguments[name] for name in ARGUMENTS if arguments.get(name) is not None}
    if not given:
        return settings
    size = dict(given.get("size") or {})
    if "size" in given and not {"shortest_edge", "longest_edge"} >= set(size) > set():
        raise ValueError(
            f"size is {given['size']!r}; give 'shortest_edge' and 'longest_edge', both in pixels"
        )
    least = given.get("min_pixels", size.get("shortest_edge"))
    most = given.get("max_pixels", size.get("longest_edge"))

    budget = settings.budget
    low, high = budget.image
    image = (low if least is None else int(least), high if most is None else int(most))
    name = "video" if budget.rule == "volume" else "frame"
    low, high = getattr(budget, name)
    high = high if most is None else int(most)
    video = (min(low if least is None else int(least), high), high)
    pixels: dict[str, Any] = {"image": image, name: video}
    frames = {one: given[one] for one in ("fps", "min_frames", "max_frames") if one in given}
    return replace(
        settings,
        budget=replace(budget, **pixels),
        sampling=replace(settings.sampling, **frames),
        max_length=min(settings.max_length, int(given.get("model_max_length", settings.max_length))),
    )


# ---- from JSON that somebody else may have written ---------------------------------------------------------


def read_record(kind: type, value: Any, name: str) -> Any:
    """A dataclass from its JSON form.

    Args:
        kind: the dataclass; its fields are numbers, texts, literals, pairs, dicts, or dataclasses again.
        value: what was read.
        name: of the value, for messages.

    Raises:
        ProcessorSettingsError: an entry that is not known, is missing, or is not of its field's type or range.
    """
    if not isinstance(value, dict):
        raise ProcessorSettingsError(f"{name} is {_short(value)}; an object is needed")
    hints = get_type_hints(kind)
    unknown = sorted(set(value) - set(hints))
    if unknown:
        raise ProcessorSettingsError(f"{name} has entries that this version does not know: {unknown}")
    entries = {key: _read(hints[key], one, f"{name}.{key}") for key, one in value.items()}
    try:
        return kind(**entries)
    except (TypeError, ValueError) as error:
        raise ProcessorSettingsError(f"{name}: {error}") from None


def _read(hint: Any, value: Any, name: str) -> Any:
    if dataclasses.is_dataclass(hint):
        return read_record(hint, value, name)  # type: ignore[arg-type]
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        rest = [one for one in arguments if one is not type(None)]
        return None if value is None else _read(rest[0], value, name)
    if origin is Literal:
        if not isinstance(value, str) or value not in arguments:
            raise ProcessorSettingsError(f"{name} is {_short(value)}; use one of {arguments}")
        return value
    if origin is tuple:
        if not isinstance(value, (list, tuple)) or len(value) != len(arguments):
            raise ProcessorSettingsError(f"{name} is {_short(value)}; a list of {len(arguments)} is needed")
        return tuple(_read(one, entry, name) for one, entry in zip(arguments, value, strict=True))
    if origin is dict:
        if not isinstance(value, dict):
            raise ProcessorSettingsError(f"{name} is {_short(value)}; an object is needed")
        return {str(key): _read(arguments[1], one, f"{name}.{key}") for key, one in value.items()}
    if not _is(hint, value):
        raise ProcessorSettingsError(f"{name} is {_short(value)}; {_WORDS[hint]} is needed")
    return float(value) if hint is float else value


_WORDS = {int: "a whole number", float: "a finite number", str: "a text", bool: "true or false"}


def _is(kind: type, value: Any) -> bool:
    if kind is float:
        return type(value) in (int, float) and math.isfinite(value) and abs(value) <= MOST
    if kind is int:
        return type(value) is int and abs(value) <= MOST
    return type(value) is kind


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


# ---- checkpoint --------------------------------------------------------------------------------------------
# The processor's files in a checkpoint folder: ours, the native ones beside them, and our code.


_ST_CONFIG = "config_sentence_transformers.json"

CODE_FILES = ("processing_ume.py", "pdfium_ume.py")  # of the processor, in a checkpoint
_MODULES = (
    "modules.json",
    "sentence_bert_config.json",
    "1_Pooling/config.json",
    "2_Normalize/config.json",
    "1_LogitScore/config.json",
)


def read_processor_settings(
    source: str, image_processor: Any, hub: dict[str, Any]
) -> tuple[ProcessorSettings, str | None]:
    """A checkpoint's settings and its chat template.

    Returns:
        The stored settings and template; or, for a published checkpoint without ours, defaults for its family (with
        its own pixel limits, at most 1280 tokens a picture) and None, since its template is a chat's.
    """
    path = cached_file(source, "processor_config.json", _raise_exceptions_for_missing_entries=False, **hub)
    stored = json.loads(Path(path).read_text(encoding="utf-8")).get("ume") if path else None
    if stored is None:
        config = AutoConfig.from_pretrained(source, trust_remote_code=False, **hub)
        if getattr(config, "ume", None) is not None and path:
            raise ValueError(
                f"{source}: config.json has umekit's settings, processor_config.json has lost them (saved by a native "
                "processor?); copy processor_config.json and chat_template.jinja from the checkpoint it came from"
            )
        return default_settings(config.model_type, image_processor), None
    template = cached_file(source, "chat_template.jinja", **hub)
    text = Path(str(template)).read_text(encoding="utf-8")
    prompt = stored.get("prompt") if isinstance(stored, dict) else None
    if isinstance(prompt, dict) and prompt.get("template"):
        stored["prompt"]["template"] = text  # the file is the truth, its name stands for it in the settings
    return ProcessorSettings.from_dict(stored), text


def as_sentence_transformers_saved(
    settings: ProcessorSettings, source: str, tokenizer: Any, hub: dict[str, Any]
) -> ProcessorSettings:
    """Settings with the prompts and the length that sentence-transformers has saved for a checkpoint of ours.

    Its files are written by us with the same prompts, so they differ only where that library has changed them. Roles
    are found as it finds them: ``query``; ``document``, ``passage`` or ``corpus``; else the default prompt.

    Raises:
        ValueError: the file's prompts are no texts, or its default is none of them.
    """
    path = cached_file(source, _ST_CONFIG, _raise_exceptions_for_missing_entries=False, **hub)
    if path is None:
        return settings
    stored = json.loads(Path(path).read_text(encoding="utf-8"))
    prompts: Any = stored.get("prompts") or {}
    name = stored.get("default_prompt_name")
    if not isinstance(prompts, dict) or not all(isinstance(text, str) for text in prompts.values()):
        raise ValueError(f"{source}/{_ST_CONFIG}: prompts must be names with texts")
    if name is not None and not (isinstance(name, str) and name in prompts):
        raise ValueError(
            f"{source}/{_ST_CONFIG}: default_prompt_name is {name!r}, which is none of the prompts"
        )
    default: str = prompts[name] if name is not None else ""
    said: dict[str, str] = {"default": default, "query": prompts.get("query", default)}
    said["document"] = next(
        (prompts[one] for one in ("document", "passage", "corpus") if one in prompts), default
    )
    if settings.pairs:
        said = {"query": default}
    known = settings.prompt.instructions
    changed = {role: text for role, text in said.items() if text != known.get(role, "")}
    settings = replace(settings, prompt=replace(settings.prompt, instructions={**known, **changed}))
    limit = _stock_length(source, tokenizer, hub)
    return settings if limit is None else replace(settings, max_length=min(settings.max_length, limit))


def _stock_length(source: str, tokenizer: Any, hub: dict[str, Any]) -> int | None:
    """``max_seq_length`` where stock modules run the checkpoint: they keep it in the tokenizer's files or their own."""
    found = {}
    for name in ("modules.json", "sentence_bert_config.json"):
        path = cached_file(source, name, _raise_exceptions_for_missing_entries=False, **hub)
        found[name] = json.loads(Path(path).read_text(encoding="utf-8")) if path is not None else None
    modules, own = found.values()
    if not modules or not str(modules[0].get("type")).endswith(".Transformer"):
        return None
    limits = [tokenizer.model_max_length, (own or {}).get("max_seq_length")]
    given = [limit for limit in limits if limit is not None]
    if any(isinstance(limit, bool) or not isinstance(limit, int) or limit < 1 for limit in given):
        raise ValueError(f"{source}: max_seq_length is {given}; use positive whole numbers")
    return min(given, default=None)


def default_settings(model_type: str, image_processor: Any) -> ProcessorSettings:
    """Settings for a backbone that nobody has trained with umekit yet."""
    family = family_of(model_type)
    token = (image_processor.patch_size * image_processor.merge_size) ** 2
    least = image_processor.size["shortest_edge"]
    most = max(min(image_processor.size["longest_edge"], 1280 * token), least)
    budget = PixelBudget(
        image=(least, most),
        frame=(4 * token, 256 * token),
        video=(4 * token, 16384 * token),
        rule=family.video_rule,
    )
    return ProcessorSettings(family=model_type, budget=budget)


def write_processor_files(processor: Any, folder_name: str) -> list[str]:
    """Write every file of the processor; the names of the files written by name here."""
    folder = Path(folder_name)
    folder.mkdir(parents=True, exist_ok=True)
    processor.tokenizer.save_pretrained(folder)
    native = processor.family.processor
    _update_json(folder / "tokenizer_config.json", {"processor_class": native})
    image = _image_block(processor)
    config = {
        "processor_class": native,
        "auto_map": {"AutoProcessor": "processing_ume.UmeProcessor"},
        "image_processor": image,
        "video_processor": _video_block(processor),
        "ume": processor.settings.to_dict(),
    }
    if processor.settings.prompt.template:
        config["ume"]["prompt"]["template"] = "chat_template.jinja"
    written = {
        "processor_config.json": config,
        "preprocessor_config.json": {**image, "processor_class": native},
        _ST_CONFIG: _sentence_transformers_block(processor, folder),
    }
    for name, content in written.items():
        (folder / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    (folder / "chat_template.jinja").write_text(processor.chat_template, encoding="utf-8")
    _write_code(folder)
    return [*written, "chat_template.jinja", *CODE_FILES, *_copy_model_files(processor.origin, folder)]


def _write_code(folder: Path) -> None:
    """The installed package joins its sources; a class loaded as remote code copies the files that it came in."""
    if __name__.startswith("umekit."):
        # By name, as the finders of imports in remote code look at text.
        for name, text in importlib.import_module("umekit.bundling").processor_files().items():
            (folder / name).write_text(text, encoding="utf-8")
        return
    for name in CODE_FILES:
        source, target = Path(__file__).with_name(name), folder / name
        if not (target.exists() and source.samefile(target)):
            shutil.copyfile(source, target)


def _copy_model_files(origin: tuple[str, dict[str, Any]] | None, folder: Path) -> list[str]:
    """Copy what the processor's own checkpoint has beside: model code and sentence-transformers' files.

    A model that stock classes save has our settings in its ``config.json`` and none of our files, so the processor
    brings them, before or after it. What our own classes have written stays as it is.
    """
    if origin is None:
        return []
    source, hub = origin
    home = Path(source) / hub.get("subfolder", "")
    if not home.is_dir():
        known = ("revision", "token", "cache_dir", "local_files_only")
        arguments = {name: hub[name] for name in known if name in hub}
        patterns = ["config.json", "*_ume.py", *_MODULES]
        home = Path(snapshot_download(source, allow_patterns=patterns, **arguments))
    if not (home / "modeling_ume.py").is_file():
        return []  # a published checkpoint: its modules do not fit our settings
    names = (
        [] if (folder / "modules.json").is_file() else [name for name in _MODULES if (home / name).is_file()]
    )
    missing = [name for name in names if not (folder / name).exists()]
    for name in missing:
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copyfile(home / name, folder / name)
    code = [name for name in _model_code(folder, home) if not (folder / name).exists()]
    for name in code:
        shutil.copyfile(home / name, folder / name)
    return [*missing, *code]


def _model_code(folder: Path, home: Path) -> list[str]:
    """Files of ``home`` that the ``folder`` lacks of the class in ``config.json`` and the module in ``modules.json``.

    With all that they import: several where an older version has saved ``home``.
    """
    entries = []
    for name in ("config.json", "modules.json"):
        path = folder / name if (folder / name).is_file() else home / name
        text = path.read_text(encoding="utf-8") if path.is_file() else ""
        entries += re.findall(r'(?:"|--)(\w+_ume)\.\w+"', text)
    missing = [entry for entry in entries if not (folder / f"{entry}.py").exists()]
    found = {home / f"{entry}.py" for entry in missing if (home / f"{entry}.py").is_file()}
    for path in list(found):
        found |= {Path(one) for one in get_relative_import_files(str(path))}
    return sorted(path.name for path in found)


def _image_block(processor: Any) -> dict[str, Any]:
    block = dict(processor.image_processor.to_dict())
    kind = str(block.get("image_processor_type", "Qwen2VLImageProcessor"))
    block["image_processor_type"] = kind.removesuffix("Pil").removesuffix("Fast")
    least, most = processor.settings.budget.image
    block["size"] = {"shortest_edge": least, "longest_edge": most}
    for name in ("processor_class", "min_pixels", "max_pixels"):
        block.pop(name, None)
    return block


def _video_block(processor: Any) -> dict[str, Any]:
    budget, sampling = processor.settings.budget, processor.settings.sampling
    least, most = budget.video if budget.rule == "volume" else budget.frame
    return {
        "video_processor_type": processor.family.video_processor,
        "size": {"shortest_edge": least, "longest_edge": most},
        "patch_size": processor.layout.patch,
        "merge_size": processor.layout.merge,
        "temporal_patch_size": processor.layout.temporal,
        "image_mean": list(processor.scale.mean),
        "image_std": list(processor.scale.std),
        "fps": sampling.fps,
        "min_frames": sampling.min_frames,
        "max_frames": sampling.max_frames,
        "cap_pixels_per_frame": False,
    }


def _sentence_transformers_block(processor: Any, folder: Path) -> dict[str, Any]:
    """Prompts from the instructions; or sentence-transformers' own file, if it is the one that is just saving.

    That library writes its file first and then has the processor saved into the same folder: ``__version__`` tells
    it, and goes away here, so that a later save by us does not keep prompts of long ago.
    """
    instructions = processor.settings.prompt.instructions
    block: dict[str, Any]
    if processor.settings.pairs:
        block = {
            "model_type": "CrossEncoder",
            "prompts": {"query": instructions["query"]} if instructions.get("query") else {},
            "default_prompt_name": "query" if instructions.get("query") else None,
            "activation_fn": "torch.nn.modules.activation.Sigmoid",
        }
    else:
        block = {
            "model_type": "SentenceTransformer",
            "prompts": {role: instructions.get(role, "") for role in ("query", "document")},
            "default_prompt_name": "default" if instructions.get("default") else None,
            "similarity_fn_name": "cosine",
        }
        if instructions.get("default"):
            block["prompts"]["default"] = instructions["default"]
    path = folder / _ST_CONFIG
    if path.is_file():
        existing = json.loads(path.read_text(encoding="utf-8"))
        if existing.pop("__version__", None) is not None:
            block.update(existing)
    block["requirements"] = {"sentence-transformers": ">=6.2", "transformers": ">=5.23"}
    return block


def _update_json(path: Path, changes: dict[str, Any]) -> None:
    content = json.loads(path.read_text(encoding="utf-8"))
    content.update(changes)
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


# ---- collating ---------------------------------------------------------------------------------------------
# One prepared item, and many of them as a padded batch.
#
# ``tokenizer.pad`` drops keys that it does not know, and with them the slots: the collation is ours.


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


# ---- cut_texts ---------------------------------------------------------------------------------------------
# Texts that were cut at their limit of tokens, counted over a call and told of once. Imports nothing heavy.


class TextCutWarning(UserWarning):
    """Items had more tokens than their limit, and the vectors know nothing of what stands behind it."""


@dataclass
class Cuts:
    """Items of a call that were cut.

    Attributes:
        count: how many.
        longest: tokens that the longest of them had.
        limit: tokens that it was cut to.
    """

    count: int = 0
    longest: int = 0
    limit: int = 0

    def see(self, rows: Iterable[Any]) -> Cuts:
        """Count prepared items; itself."""
        for row in rows:
            if row.cut_tokens:
                self.count += 1
                whole = row.length + row.cut_tokens
                if whole > self.longest:
                    self.longest, self.limit = whole, row.limit
        return self

    def warn(self, total: int, stacklevel: int = 2) -> None:
        """One warning of all of them, if there are any. total: items of the call."""
        if self.count:
            warnings.warn(
                f"{self.count} of {total} items were cut: the longest has {self.longest} tokens, its limit is "
                f"{self.limit}, and what stands behind is not seen. Encode long texts in parts, or raise the limit "
                "(processor.with_max_length, SentenceTransformer.max_seq_length); truncated of return_details=True, "
                "or cut_tokens of a prepared item, is how many tokens each has lost",
                TextCutWarning,
                stacklevel=stacklevel + 1,
            )


def tell_cuts(count: int, where: str, stacklevel: int = 2) -> None:
    """One warning of a run whose calls were :func:`cuts_untold`, if texts were cut in it."""
    if count:
        warnings.warn(
            f"{where}: {count} texts were cut at the model's limit of tokens, and what stands behind is not seen. "
            "Encode long texts in parts, or raise the limit (processor.with_max_length)",
            TextCutWarning,
            stacklevel=stacklevel + 1,
        )


@contextmanager
def cuts_untold() -> Iterator[None]:
    """No warnings of cut texts, for a caller that counts them over several calls and tells them itself."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TextCutWarning)
        yield


# ---- items -------------------------------------------------------------------------------------------------
# What a user may hand in: an *item* becomes a tuple of typed parts, in the order in which it was written.
#
# A ``str`` is always text and never guessed to be a path; a list is a sequence of items, never one item. A list *in* an
# item gives several parts of one kind, in order.


KEYS = ("text", "image", "images", "video", "document", "page", "instruction")
TAKEN = (
    "a str (text), a PIL image, an array or tensor (picture [H, W, C] or [C, H, W], clip [T, H, W, C] or [T, C, H, W])"
    f", a clip {{'array': frames, 'video_metadata': {{'fps': 2}}}} or a dict with any of {', '.join(KEYS)}"
)
LAST_PAGE = 10_000_000  # no document has more pages; Python cannot even print every int
_PRIVATE = frozenset(map(chr, range(0xE000, 0xF8FF)))  # one of these has to be free to guard texts with


class ItemError(ValueError):
    """An item cannot be embedded; the message says which one, what is wrong and what to do."""

    def __init__(self, message: str, index: int | None = None) -> None:
        super().__init__(message if index is None else f"item {index}: {message}")
        self.index = index


class ItemTypeError(ItemError, TypeError):
    """An item, or a value in it, is of a type that cannot be embedded."""


@dataclass(frozen=True)
class TextPart:
    text: str


@dataclass(frozen=True)
class ImagePart:
    source: Any


@dataclass(frozen=True)
class VideoPart:
    source: Any


@dataclass(frozen=True)
class DocumentPart:
    """A PDF (or an image of a page); ``page`` counts from 1, None means every page."""

    source: Any
    page: int | None = None


Part = TextPart | ImagePart | VideoPart | DocumentPart


@dataclass(frozen=True)
class Item:
    """One thing to embed: its parts in order, its own instruction if it brings one, whether pictures were a list."""

    parts: tuple[Part, ...]
    instruction: str | None = None
    listed: bool = False


def parse_item(raw: Any, index: int | None = None, *, empty: bool = False) -> Item:
    """Turn what a user wrote into an :class:`Item`.

    Args:
        raw: ``str``; PIL image; array or tensor of a picture (2 or 3 axes) or a clip (4 axes, see ``arrays``);
            frames with their times (``{"array", "video_metadata"}``) or a film that decodes itself, see
            ``video.load_video``; or dict with any of ``text, image, images, video, document, page, instruction``.
            ``text``, ``image`` and ``video`` take a list of parts, too: ``{"text": ["a", "b"]}``,
            ``{"video": [clip, clip]}``. A list under ``video`` whose entries are pictures is one clip of those frames
            (an animated picture is a clip). Values that are None are left out (rows of a data set have such).
        index: position among the items, for messages.
        empty: whether a dict without content is an item, too.

    Raises:
        ItemTypeError: anything else, an unknown key, or a value of the wrong type.
        ItemError: nothing to embed, or a text that is no valid Unicode.
    """
    if isinstance(raw, Item):
        return raw
    if isinstance(raw, str):
        text = _text(raw, "text", index)
        _check_private([text], index)
        return Item((TextPart(text),))
    if isinstance(raw, Image.Image):
        return Item((ImagePart(raw),))
    if is_array(raw):
        if raw.ndim == 4:
            return Item((VideoPart(raw),))
        if raw.ndim in (2, 3):
            return Item((ImagePart(raw),))
        raise ItemTypeError(
            f"cannot embed an array of shape {tuple(raw.shape)}; a picture has 2 or 3 axes, a clip 4", index
        )
    if is_decoder(raw) or (isinstance(raw, Mapping) and "array" in raw and not set(KEYS) & set(raw)):
        return Item((VideoPart(raw),))
    if not isinstance(raw, Mapping):
        kind = f"{type(raw).__name__}{elements(raw)}"
        raise ItemTypeError(f"cannot embed a {kind}; give {TAKEN}", index)
    unknown = [key for key in raw if key not in KEYS]
    if unknown:
        raise ItemTypeError(f"unknown key {_shown(unknown[0])}; known are {', '.join(KEYS)}", index)
    parts: list[Part] = []
    for key, value in raw.items():
        if value is None or key in ("page", "instruction"):
            continue
        if key == "text":
            parts.extend(TextPart(_text(one, key, index)) for one in _several(value))
        elif key == "image":
            parts.extend(ImagePart(one) for one in _several(value))
        elif key == "images":
            if not isinstance(value, (list, tuple)):
                raise ItemTypeError(
                    f"'images' takes a list, not a {type(value).__name__}; use 'image' for one", index
                )
            parts.extend(ImagePart(one) for one in value)
        elif key == "video":
            parts.extend(VideoPart(one) for one in _clips(value, index))
        else:
            parts.append(DocumentPart(value, _page(raw.get("page"), index)))
    if raw.get("page") is not None and raw.get("document") is None:
        raise ItemError("'page' needs a 'document'", index)
    if not parts and not empty:
        raise ItemError("nothing to embed: no text, image, video or document", index)
    instruction = raw.get("instruction")
    own = None if instruction is None else _text(instruction, "instruction", index)
    _check_private([part.text for part in parts if isinstance(part, TextPart)] + [own or ""], index)
    listed = raw.get("images") is not None or isinstance(raw.get("image"), (list, tuple))
    return Item(tuple(parts), own, listed=listed)


def _several(value: Any) -> Sequence[Any]:
    """The parts that a list says, in order; one where it is none."""
    return value if isinstance(value, (list, tuple)) else (value,)


def _clips(value: Any, index: int | None) -> Sequence[Any]:
    """Clips that a value says: one, unless it is a list of clips and not of frames.

    Raises:
        ItemTypeError: a list with clips and frames.
    """
    if not isinstance(value, (list, tuple)) or not value:
        return (value,)
    # All files are looked into only where the first is no frame; a late animation is told when it is read.
    sniffed = _is_clip(value[0], True)
    clips = sum(_is_clip(one, sniffed) for one in value)
    if 0 < clips < len(value):
        raise ItemTypeError(
            "'video' takes a clip, a list of frames or a list of clips, not both in a list", index
        )
    return value if clips else (value,)


def _is_clip(value: Any, sniffed: bool) -> bool:
    """Whether an entry of a list is a whole clip and no frame. ``sniffed``: a file of an animated picture, too."""
    if isinstance(value, (list, tuple)):
        return True
    if is_array(value):
        return value.ndim > 3
    if is_decoder(value):
        return True
    if isinstance(value, Mapping):
        if "array" in value:
            return True
        value = value["bytes"] if value.get("bytes") is not None else value.get("path")
    if isinstance(value, (bytes, bytearray)):
        return is_film(bytes(value))
    if not isinstance(value, (str, os.PathLike)):
        return False
    if media_kind(value) == "video":
        return True
    return sniffed and is_film(value)


def _text(value: Any, key: str, index: int | None) -> str:
    if not isinstance(value, str):
        raise ItemTypeError(f"{key!r} takes a str, not a {type(value).__name__}", index)
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ItemError(f"{key!r} is no valid Unicode (a lone surrogate at {error.start})", index) from None
    return value


def _page(value: Any, index: int | None) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):  # NumPy's integers, too
        raise ItemTypeError(f"'page' takes an int (from 1), not a {type(value).__name__}", index)
    page = int(value)
    if not 1 <= page <= LAST_PAGE:
        shown = page if abs(page) <= LAST_PAGE else "a number of that size"
        raise ItemError(f"'page' counts from 1, not {shown}", index)
    return page


def _shown(key: Any) -> str:
    """A key for a message: only texts are printed, and not at any length."""
    if not isinstance(key, str):
        return f"of type {type(key).__name__}"
    return repr(key if len(key) <= 50 else key[:50] + "...")


def _check_private(texts: list[str], index: int | None) -> None:
    if sum(map(len, texts)) >= len(_PRIVATE) and set().union(*texts) >= _PRIVATE:
        raise ItemError("the text has every private-use character of Unicode, and one has to be free", index)


# ---- pdfium_process ----------------------------------------------------------------------------------------
# Processes that render PDFs for this one, so that no document can hang it, crash it or take its memory.
#
# No call of PDFium can be interrupted, a file of a kilobyte can keep it busy for days (forms within forms), and it is not
# thread-safe. So it runs in processes (``pdfium_worker``), one per thread that asks, which are kept for the next document
# and killed when a document's time is over. Each keeps the bytes of its last document, so that they are read and sent
# once for all of its pages.


START_SECONDS = 60.0  # for a process to come up, on a busy machine
CRASHED = "PDFium crashed on it, or wanted more memory than it may take"


class PdfiumProcess:
    """One of them, with the pipes to it.

    Attributes:
        held: key of the document whose bytes it has; None where they have no key.
    """

    def __init__(self) -> None:
        self.held: str | None = None
        self._expired = False
        found = os.pathsep.join(path for path in sys.path if path)
        self._process = subprocess.Popen(
            [sys.executable, PROGRAM],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": found},
        )
        with self._killed_after(START_SECONDS):
            ready = self._line()
        if not ready.get("ready"):
            self.close()
            raise OSError("the process that runs PDFium does not start")

    @property
    def alive(self) -> bool:
        """Whether it can be asked."""
        return not self._expired and self._process.poll() is None

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.communicate()

    def let_go(self) -> None:
        """Close the pipes to it, in a forked process: it goes on for the one that started it."""
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()

    def ask(
        self, request: dict[str, Any], data: bytes | None, deadline: Deadline, key: str | None = None
    ) -> tuple[int, list[Image.Image]]:
        """The number of a document's pages, and those that were asked for.

        Args:
            request: see ``pdfium_worker``.
            data: the document; None for the one that is held.
            deadline: when the process is killed.
            key: of the document, under which it is held from now on.

        Raises:
            MediaError: it cannot be read, its time was over, or the process died of it. It is closed then, unless the
                document was merely refused.
        """
        with self._killed_after(deadline.seconds):
            try:
                self._send({**request, "size": None if data is None else len(data)}, data or b"")
                self.held = key
                head = self._answer(deadline)
                if "warning" in head:
                    warnings.warn(head["warning"], stacklevel=2)
                return head["pages"], [self._page(deadline) for _ in range(head["rendered"])]
            except OSError:  # it is gone, and its pipe with it
                raise self._lost(deadline) from None

    def _send(self, request: dict[str, Any], data: bytes) -> None:
        pipe: Any = self._process.stdin
        pipe.write(json.dumps(request).encode() + b"\n")
        pipe.write(data)
        pipe.flush()

    def _answer(self, deadline: Deadline) -> dict[str, Any]:
        entries = self._line()
        if not entries:
            raise self._lost(deadline)
        if "error" in entries:
            raise MediaError(entries["error"])
        return entries

    def _line(self) -> dict[str, Any]:
        pipe: Any = self._process.stdout
        line = pipe.readline()
        return json.loads(line) if line.endswith(b"\n") else {}

    def _page(self, deadline: Deadline) -> Image.Image:
        head = self._answer(deadline)
        size, stride = (head["width"], head["height"]), head["stride"]
        pipe: Any = self._process.stdout
        pixels = pipe.read(stride * size[1])
        if len(pixels) < stride * size[1]:
            raise self._lost(deadline)
        return Image.frombytes("RGB", size, pixels, "raw", "RGB", stride, 1)

    def _lost(self, deadline: Deadline) -> MediaError:
        self.close()
        return deadline.error() if deadline.passed else MediaError(f"{deadline.name}: {CRASHED}")

    @contextmanager
    def _killed_after(self, seconds: float) -> Iterator[None]:
        watch = threading.Timer(seconds, self._expire)
        watch.daemon = True
        watch.start()
        try:
            yield
        finally:
            watch.cancel()
            watch.join()  # one that fired in the last moment has said so before anybody asks again

    def _expire(self) -> None:
        self._expired = True
        self._process.kill()


class PdfiumPool:
    """Processes that nobody asks at the moment. Threads may use it, and so may a process that was forked."""

    def __init__(self) -> None:
        self._idle: list[PdfiumProcess] = []
        self._lock = threading.Lock()

    def holds(self, key: str | None) -> bool:
        """Whether an idle process has the document of a key; it may be gone when it is asked for."""
        with self._lock:
            return key is not None and any(process.held == key for process in self._idle)

    def ask(
        self,
        request: dict[str, Any],
        read: Callable[[], bytes],
        limits: MediaLimits,
        key: str | None = None,
    ) -> tuple[int, list[Image.Image]]:
        """:meth:`PdfiumProcess.ask` of a process that is free, or of a new one; its time begins then.

        Args:
            request: see ``pdfium_worker``.
            read: gives the document, where no free process has it.
            limits: whose ``file_seconds`` count, without the time for ``read``.
            key: what tells the document from every other and from itself after a change; None: it is always read.

        Raises:
            MediaError: also where no process can be started.
            ImportError: pypdfium2 is not installed.
        """
        if pypdfium2 is None:
            raise ImportError("PDF pages need pypdfium2: pip install umekit[media]")
        try:
            process = self._take(key)
        except OSError as error:
            raise MediaError(f"{request['name']}: no process for PDFium ({error})") from error
        try:
            data = None if key is not None and process.held == key else read()
            return process.ask(request, data, Deadline(request["name"], limits), key)
        except BaseException as error:
            if not isinstance(error, MediaError):  # an interrupt: half an answer may be in the pipe
                process.close()
            raise
        finally:
            self._give_back(process)

    def _take(self, key: str | None) -> PdfiumProcess:
        """One that has the document of the key, else any that is free, else a new one."""
        with self._lock:
            for process in [process for process in self._idle if not process.alive]:
                process.close()
                self._idle.remove(process)
            for process in reversed(self._idle):
                if key is not None and process.held == key:
                    self._idle.remove(process)
                    return process
            if self._idle:
                return self._idle.pop()
        return PdfiumProcess()

    def _give_back(self, process: PdfiumProcess) -> None:
        with self._lock:
            if process.alive and len(self._idle) < (os.cpu_count() or 1):
                self._idle.append(process)
                return
        process.close()

    def close(self) -> None:
        """End those that are idle."""
        with self._lock:
            idle, self._idle = self._idle, []
        for process in idle:
            process.close()

    def forget(self) -> None:
        """In a forked process: these answer to the one that started them."""
        idle, self._idle = self._idle, []
        self._lock = threading.Lock()
        for process in idle:
            process.let_go()


POOL = PdfiumPool()
atexit.register(POOL.close)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=POOL.forget)


# ---- documents ---------------------------------------------------------------------------------------------
# Read documents: pages of a PDF (through PDFium in processes of its own) or of a TIFF to RGB pictures.


def load_document(
    source: Any,
    page: int | None,
    max_pixels: int,
    limits: MediaLimits,
    keep: Callable[[Image.Image], Any] | None = None,
) -> list[Any]:
    """Pages of a PDF as RGB pictures, rendered at about ``max_pixels`` so that one small resize is left.

    A local file is read once for many pages that are asked for one after the other: PDFium keeps its last document.

    Args:
        source: path, URL or bytes of a PDF or TIFF; or anything that ``load_image`` takes, as its only page.
        page: from 1; None gives every page.
        max_pixels: pixels that a page may have after the resize.
        limits: what the file may cost.
        keep: what is left of a page before the next is read; all of it without.

    Returns:
        The pages, or what ``keep`` made of each.

    Raises:
        MediaError: not readable, encrypted, without pages, page out of range, more pages than allowed, too slow.
        ImportError: a PDF, and pypdfium2 is not installed.
    """
    if isinstance(source, Image.Image) and shows_one_of_several(source):
        raise MediaError(
            f"{describe(source)} shows one of several pages: give the file as the document, or that page as an image"
        )
    if isinstance(source, Image.Image) or is_array(source):
        return _picture_pages(source, page, source, limits, keep)
    key, read = file_key(source, limits), cache(partial(read_bytes, source, limits))
    if not POOL.holds(key) and not _is_pdf(read()):
        return _picture_pages({"bytes": read(), "path": describe(source)}, page, source, limits, keep)
    request = {
        "name": describe(source),
        "page": page,
        "most_pages": max(1, limits.document_pages),
        "max_pixels": min(max_pixels, limits.image_pixels),
        "password": limits.document_password,
    }
    pages = POOL.ask(request, read, limits, key)[1]
    return pages if keep is None else list(map(keep, pages))


def count_pages(source: Any, limits: MediaLimits) -> int:
    """How many pages a PDF or TIFF has; at least 1.

    Raises:
        MediaError: neither a PDF nor a TIFF that can be opened, or one without pages.
        ImportError: pypdfium2 is not installed.
    """
    request: dict[str, Any] = {"name": describe(source), "page": None, "most_pages": 0, "max_pixels": 0}
    request["password"] = limits.document_password
    key, read = file_key(source, limits), cache(partial(read_bytes, source, limits))
    if not POOL.holds(key) and _is_paged(read()):
        return len(page_frames({"bytes": read(), "path": describe(source)}, limits))
    if not POOL.holds(key) and not _is_pdf(read()):
        key = None  # PDFium refuses it; what it holds under a key is a PDF
    return POOL.ask(request, read, limits, key)[0]


def _is_pdf(data: bytes) -> bool:
    return format_of(data[:HEAD_BYTES]) == "pdf"


def _is_paged(data: bytes) -> bool:
    return format_of(data[:HEAD_BYTES]) in PAGED


def _picture_pages(
    picture: Any,
    page: int | None,
    source: Any,
    limits: MediaLimits,
    keep: Callable[[Image.Image], Any] | None,
) -> list[Any]:
    """Pages of a TIFF; any other picture has one."""
    name = describe(source)
    paged = isinstance(picture, dict) and _is_paged(picture["bytes"])
    frames = page_frames(picture, limits) if paged else [0]
    if page is None and len(frames) > max(1, limits.document_pages):
        raise MediaError(
            f"{name} has {len(frames)} pages, more than the limit of {limits.document_pages}; name a page"
        )
    if page is not None and page > len(frames):
        if len(frames) == 1:
            raise MediaError(f"{name} is a picture: it has one page, not a page {page}")
        raise MediaError(f"{name} has {len(frames)} pages, not a page {page}")
    wanted = frames if page is None else [frames[page - 1]]
    pages = (load_image(picture, limits, frame) for frame in wanted)
    return list(pages if keep is None else map(keep, pages))


# ---- template_sizes ----------------------------------------------------------------------------------------
# How much a step of a chat template makes, known before it is made: characters or entries, at most.
#
# Each function takes the ``most`` that may be made, and gives a number over it where that is all there is to know.


INTEGER_BITS = 2**14
# Filters that write out whatever they are given.
_TEXT_FILTERS = {
    *("capitalize", "e", "escape", "forceescape", "lower", "safe", "striptags", "title", "trim", "upper"),
    *("urlencode", "wordcount"),
}


def made_by_operator(operator: str, left: Any, right: Any, most: int) -> int:
    """Characters or entries that an operator makes."""
    if operator == "+":
        return sum(len(side) for side in (left, right) if isinstance(side, (str, list, tuple, bytes)))
    if operator == "%" and isinstance(left, (str, bytes)):
        return _formatted(str(left), right, most)
    if operator in ("*", "**"):
        for one, times in ((left, right), (right, left)):
            if isinstance(one, (str, list, tuple, bytes)) and isinstance(times, int):
                return len(one) * max(times, 0)
        if isinstance(left, int) and isinstance(right, int):
            bits = left.bit_length() + right.bit_length()
            if operator == "**":
                bits = left.bit_length() * abs(right)
            return 0 if bits <= INTEGER_BITS else most + 1
    return 0


def _formatted(form: str, values: Any, most: int) -> int:
    """Characters of ``form % values``, at most."""
    if re.search(r"%[^a-zA-Z%]*?(\d{4,}|\*)", form):
        return most + 1
    return len(form) + form.count("%") * (1024 + written_size(values, most))


def made_by_method(name: str, owner: Any, args: Sequence[Any], kwargs: Mapping[str, Any], most: int) -> int:
    """Characters that a method of a string (or number) makes, at most."""
    if isinstance(owner, int):
        return most + 1 if name == "to_bytes" else 0
    given = [*args, *kwargs.values()]
    numbers = [max(one, 0) for one in given if isinstance(one, int)]
    if name in ("ljust", "rjust", "center", "zfill"):
        return len(owner) + sum(numbers)
    if name == "expandtabs":
        return len(owner) * (1 + sum(numbers or [8]))
    if name == "replace" and len(given) > 1 and isinstance(given[0], (str, bytes)):
        old, new = given[0], given[1]
        times = owner.count(old) if old else len(owner) + 1
        return len(owner) + times * written_size(new, most)
    if name == "join" and given:
        return _joined(owner, given[0], most)
    if name in ("format", "format_map"):
        if re.search(r"\d{4,}|\{[^{}]*\{", str(owner)):
            return most + 1
        return len(owner) + str(owner).count("{") * (1024 + written_size(given, most))
    return most + 1 if name == "translate" else len(owner)


def made_by_filter(name: str, value: Any, given: Sequence[Any], most: int) -> int:
    """Characters or entries that a filter makes, at most, where that can be far more than it is given."""
    numbers = [max(one, 0) for one in given if isinstance(one, int)]
    if name in ("center", "wordwrap", "batch", "slice", "truncate"):
        return sum(numbers) + written_size(value, most) * (2 if name == "wordwrap" else 1)
    if name == "indent":
        lines = str(value).count("\n") + 1
        return written_size(value, most) + lines * (
            sum(numbers) + sum(len(x) for x in given if isinstance(x, str))
        )
    if name == "replace" and len(given) > 1:
        return made_by_method("replace", str(value), [str(given[0]), str(given[1])], {}, most)
    if name == "join":
        return _joined(given[0] if given else "", value, most)
    if name == "format":
        return _formatted(str(value), list(given), most)
    if name in ("tojson", "pprint", "xmlattr", "string", "urlize"):
        indents = sum(numbers) if name == "tojson" else 0
        return written_size(value, most) * (1 + indents)
    return written_size(value, most) if name in _TEXT_FILTERS else 0


def _joined(separator: Any, values: Any, most: int) -> int:
    count = len(values) if isinstance(values, (str, list, tuple, dict)) else 0
    return written_size(values, most) + count * written_size(separator, most)


def written_size(value: Any, most: int) -> int:
    """Characters of a value written out, or a number over ``most``."""
    total, todo = 0, [value]
    while todo and total <= most:
        one = todo.pop()
        if isinstance(one, (str, bytes)):
            total += len(one)
        elif isinstance(one, Mapping):
            total += 4
            todo += [*one.keys(), *one.values()]
        elif isinstance(one, (list, tuple)):
            total += 2 + len(one)
            todo += one
        elif isinstance(one, int):
            total += 1 + one.bit_length() // 3
        else:
            total += 32
    return total


# ---- templates ---------------------------------------------------------------------------------------------
# Chat templates of checkpoints, rendered within bounds: a template is a program, and may be a hostile one.
#
# Everything that a template makes is counted, and so is its time, at every step that it takes: each turn of a loop, call,
# filter and operator. Templates that are published take a thousandth of what is allowed. The variables and filters are
# those that transformers gives to templates.


try:
    from jinja2 import TemplateError
    from jinja2.compiler import CodeGenerator
    from jinja2.exceptions import SecurityError, TemplateSyntaxError, UndefinedError
    from jinja2.ext import Extension, loopcontrols
    from jinja2.nodes import CallBlock
    from jinja2.sandbox import ImmutableSandboxedEnvironment
    from jinja2.utils import Namespace
except ImportError as missing:
    raise ImportError("chat templates need jinja2>=3.1.6: pip install -U jinja2") from missing


TEMPLATE_CHARS = 2**18  # of a template; published ones have up to 30,000
MADE_CHARS = 2**20  # that one prompt may have, beside four times its texts
MADE_IN_ALL = 16  # as many times may be made on the way
SECONDS = 1.0  # of the thread's own work for a prompt, and for each 10 MB of its texts


class TemplateLimitError(ValueError):
    """A chat template takes longer, or makes more, than any prompt needs."""


class _Run(threading.local):
    """What the rendering of this thread has made, and what it may make."""

    most = MADE_CHARS
    made = 0
    end = float("inf")

    def begin(self, given: int) -> None:
        self.most = MADE_CHARS + 4 * given
        self.made = 0
        self.end = time.thread_time() + SECONDS * (1 + given / 1e7)


class _Ticking(CodeGenerator):
    """Compiles a step's look at the clock into every block, and a count into every ``~``."""

    def blockvisit(self, nodes: Any, frame: Any) -> None:
        if frame.toplevel is False:
            self.writeline("environment.tick()")
        super().blockvisit(nodes, frame)

    def visit_Concat(self, node: Any, frame: Any) -> None:
        self.write("environment.joined((")
        for part in node.nodes:
            self.visit(part, frame)
            self.write(", ")
        self.write("))")


class _Bounded(ImmutableSandboxedEnvironment):
    """transformers' environment of chat templates, with everything counted."""

    code_generator_class = _Ticking
    intercepted_binops = frozenset(["*", "**", "%", "+"])

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=[_Generation, loopcontrols],
            finalize=self.written,
        )
        self.run = _Run()
        self.globals.pop("lipsum")
        self.globals.update(
            raise_exception=_raise_exception, strftime_now=_strftime_now, dict=dict, namespace=_Namespace
        )
        self.filters["tojson"] = _to_json
        self.filters = {name: self._counted(name, one) for name, one in self.filters.items()}

    def tick(self, made: int = 0) -> None:
        """One step, which makes something of so many characters or entries.

        Raises:
            TemplateLimitError: too much of them, or of time.
        """
        run = self.run
        run.made += made
        if made > run.most or run.made > MADE_IN_ALL * run.most:
            raise TemplateLimitError(
                f"the checkpoint's chat template makes more than {run.most:,} characters: it is broken or hostile"
            )
        if time.thread_time() > run.end:
            raise TemplateLimitError(
                "the checkpoint's chat template does not come to an end: it is broken or hostile"
            )

    def written(self, value: Any) -> Any:
        """A value that is about to be written out; a list that holds one large list many times is small until then."""
        if isinstance(value, (Mapping, list, tuple)):
            self.tick(written_size(value, self.run.most))
        return value

    def joined(self, parts: Sequence[Any]) -> str:
        """``~``."""
        texts = [str(self.written(part)) for part in parts]
        self.tick(sum(map(len, texts)))
        return "".join(texts)

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        self.tick(made_by_operator(operator, left, right, self.run.most))
        return super().call_binop(context, operator, left, right)

    def call(self, context: Any, obj: Any, *args: Any, **kwargs: Any) -> Any:  # type: ignore[override]
        method = getattr(obj, "__wrapped__", obj)  # the sandbox wraps str.format
        owner = getattr(method, "__self__", None)
        if isinstance(owner, (str, bytes, int)) and not isinstance(obj, type):
            name = getattr(method, "__name__", "")
            if name == "join" and args and not isinstance(args[0], (str, list, tuple, dict)):
                args = (list(args[0]), *args[1:])
            self.tick(made_by_method(name, owner, args, kwargs, self.run.most))
        else:
            self.tick()
        return super().call(context, obj, *args, **kwargs)

    def _counted(self, name: str, one: Callable[..., Any]) -> Callable[..., Any]:
        # The first argument is jinja's own where a filter asks for its context.
        first = 1 if hasattr(one, "jinja_pass_arg") else 0

        @functools.wraps(one)
        def counted(*args: Any, **kwargs: Any) -> Any:
            value, given = args[first] if len(args) > first else "", [*args[first + 1 :], *kwargs.values()]
            if name == "join" and not isinstance(value, (str, list, tuple, dict)):
                value = list(value)
                args = (*args[:first], value, *args[first + 1 :])
            self.tick(made_by_filter(name, value, given, self.run.most))
            result = one(*args, **kwargs)
            self.tick(len(result) if isinstance(result, (str, list, tuple)) else 0)
            return result

        return counted


class _Generation(Extension):
    """The tag ``generation``, by which transformers finds the assistant's tokens: here it only shows its content."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Any) -> Any:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return CallBlock(self.call_method("shown"), [], [], body).set_lineno(line)

    def shown(self, caller: Any) -> Any:
        return caller()


class _Namespace(Namespace):
    """A namespace whose entries cannot be Python's own."""

    def __init__(*args: Any, **kwargs: Any) -> None:
        entries = dict(*args[1:], **kwargs)
        for name in entries:
            _check_name(name)
        Namespace.__init__(args[0], entries)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_name(name)
        Namespace.__setitem__(self, name, value)


def prompt_of(template: str, messages: Sequence[Any], variables: Mapping[str, Any]) -> str:
    """:func:`render_template` for a prompt that is embedded: a wrong template is told of as such, and an empty one.

    Raises:
        TemplateLimitError: as there.
        ValueError: the template is wrong, or renders to nothing.
        jinja2.TemplateError: it refuses the messages.
    """
    try:
        rendered = render_template(template, messages, variables)
    except TemplateSyntaxError as error:
        raise ValueError(f"the checkpoint's chat template, line {error.lineno}: {error}") from error
    except (UndefinedError, ArithmeticError, LookupError, TypeError, AttributeError) as error:
        told = f"{type(error).__name__}: {error}"
        raise ValueError(f"the checkpoint's chat template cannot be rendered: {told}") from error
    if not rendered:
        raise ValueError("the checkpoint's chat template renders to nothing, so there is nothing to embed")
    return rendered


def render_template(template: str, messages: Sequence[Any], variables: Mapping[str, Any]) -> str:
    """A chat as the text of a prompt.

    Args:
        template: Jinja.
        messages: dicts of role and content; values that are no plain data stand as the name of their type.
        variables: what the template is told beside the messages.

    Raises:
        TemplateLimitError: it takes too long, makes too much, or is too large or too deep to be compiled.
        jinja2.TemplateError: the template is wrong, or refuses the messages.
    """
    plain = _plain(messages)
    given = written_size(plain, 2**62)
    compiled = _compiled(template)
    run = _ENVIRONMENT.run
    run.begin(given)
    parts: list[str] = []
    length = 0
    try:
        for part in compiled.generate(
            messages=plain, tools=None, documents=None, **{"add_generation_prompt": False, **variables}
        ):
            length += len(part)
            if length > run.most:
                _ENVIRONMENT.tick(length)
            parts.append(part)
    except (RecursionError, OverflowError, MemoryError) as error:
        raise TemplateLimitError(f"the checkpoint's chat template cannot be rendered: {error}") from None
    return "".join(parts)


@functools.lru_cache(maxsize=64)
def _compiled(template: str) -> Any:
    if len(template) > TEMPLATE_CHARS:
        raise TemplateLimitError(
            f"the checkpoint's chat template has {len(template):,} characters, more than {TEMPLATE_CHARS:,}"
        )
    _ENVIRONMENT.run.begin(len(template))
    _ENVIRONMENT.run.end += 10 * SECONDS
    try:
        return _ENVIRONMENT.from_string(template)
    except (RecursionError, MemoryError, OverflowError, SyntaxError) as error:
        raise TemplateLimitError(f"the checkpoint's chat template cannot be compiled: {error}") from None


def _plain(value: Any) -> Any:
    """Only data: a template sees no object whose methods it could call."""
    if value is None or type(value) in (str, int, float, bool):
        return value
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, Mapping):
        return {_plain(key): _plain(one) for key, one in value.items()}
    if isinstance(value, Iterable) and isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    return f"<{type(value).__name__}>"


def _check_name(name: Any) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise SecurityError(f"a chat template cannot store {name!r} in a namespace")


def _raise_exception(message: Any) -> Any:
    raise TemplateError(str(message)[:1000])


def _strftime_now(form: str) -> str:
    if len(form) > 100 or re.search(r"\d{3,}", form):
        raise TemplateLimitError("the checkpoint's chat template asks for a date in no usual form")
    return datetime.now().strftime(form)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: Any = None,
    separators: Any = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


_ENVIRONMENT = _Bounded()


# ---- preparing ---------------------------------------------------------------------------------------------
# One item, or a pair, on its way through the processor: media to patches, prompt to text, text to ids and slots.


Medium = ImagePart | VideoPart | DocumentPart


@dataclass(frozen=True)
class PromptContext:
    """What is needed of a processor to make model inputs of an item.

    Attributes:
        settings: prompt, pooling, pixel budget, frame sampling, lengths.
        limits: what one file may cost.
        layout: geometry of the vision tower.
        family: of the backbone.
        tokenizer: of prompts.
        template: the checkpoint's chat template.
        named_tokens: the tokenizer's special tokens by name, as templates are told them.
        thinking: whether the prompt asks for a thought.
    """

    settings: ProcessorSettings
    limits: MediaLimits
    layout: PatchLayout
    family: Family
    tokenizer: PromptTokenizer
    template: str
    named_tokens: Mapping[str, Any]
    thinking: bool = False

    def template_options(self) -> dict[str, Any]:
        """Variables that the chat template is told beside the messages."""
        if self.settings.pairs:  # a reranker's template refuses to render half a pair without it
            return {"add_generation_prompt": True}
        return {"thinking": True} if self.thinking and "thinking" in self.template else {}


@dataclass
class Turn:
    """A turn of the chat that is rendered: parts in order, ``{"type", "text"}``, and their patches."""

    role: str
    content: list[dict[str, Any]]
    images: list[Patches]
    videos: list[Patches]


# ---- media -----------------------------------------------------------------------------------------------------


def is_listed(item: Item) -> bool:
    """Whether an item's pictures are a list: several, given under ``images``, or a video."""
    pictures = sum(isinstance(part, (ImagePart, DocumentPart)) for part in item.parts)
    return item.listed or pictures > 1 or any(isinstance(part, VideoPart) for part in item.parts)


def gives_list(raw: Any) -> bool:
    """:func:`is_listed` of what a user wrote; False of what is no item."""
    try:
        return is_listed(parse_item(raw, empty=True))
    except ItemError:
        return False  # reported where it is prepared


def read_turn(context: PromptContext, item: Item, role: str = "user") -> Turn:
    """An item as a turn of a chat, its media read."""
    turn = Turn(role, [], [], [])
    listed = is_listed(item)
    for part in item.parts:
        if isinstance(part, TextPart):
            turn.content.append({"type": "text", "text": part.text})
            continue
        for kind, patches in patches_of(part, context.settings, context.layout, context.limits, listed):
            turn.content.append({"type": kind})
            (turn.images if kind == "image" else turn.videos).append(patches)
    return turn


def patches_of(
    part: Medium, settings: ProcessorSettings, layout: PatchLayout, limits: MediaLimits, listed: bool = False
) -> list[tuple[str, Patches]]:
    """What a part puts into the prompt: ``("image", patches)`` or ``("video", patches)``, in order.

    Args:
        part: what to read.
        settings: pixel budget, frame sampling, and whether a video is frames or pictures.
        layout: geometry of the vision tower.
        limits: what one file may cost.
        listed: whether the item's pictures are a list, see :func:`is_listed`.
    """
    budget = settings.budget
    if budget.listed is not None and listed and not isinstance(part, DocumentPart):
        budget = replace(budget, image=budget.listed)
    with ROOM.released():
        if isinstance(part, ImagePart):
            return [("image", image_patches(load_image(part.source, limits), layout, budget))]
        if isinstance(part, DocumentPart):
            cut = partial(image_patches, layout=layout, budget=budget)
            pages = load_document(part.source, part.page, budget.image[1], limits, cut)
            return [("image", patches) for patches in pages]
        if settings.video_as_images:
            frames = FramesAsImages(layout, budget)
            pictures = load_video(part.source, settings.sampling, limits, frames).images
            return [("image", patches) for patches in pictures]
        resize = FrameResize(layout, budget)
        clip = load_video(part.source, settings.sampling, limits, resize)
        assert resize.original is not None  # a video without frames was refused
        return [("video", video_patches(clip.images, clip.seconds, layout, resize.original))]


# ---- prompts -----------------------------------------------------------------------------------------------------


def prepare_item(context: PromptContext, item: Item, instruction: str, role: str | None) -> Prepared:
    """An item as token ids, patches and slots; see ``UmeProcessor.prepare``."""
    if context.settings.blank_image and all(isinstance(part, TextPart) for part in item.parts):
        side = context.settings.blank_image
        blank = ImagePart(PILImage.new("RGB", (side, side), "white"))
        item = replace(item, parts=(blank, *item.parts))
    turn = read_turn(context, item)
    if context.settings.strip_marks:
        turn.content = _without_marks(turn.content)
    limit = context.settings.limit_of(role, bool(turn.images or turn.videos), bool(instruction))
    if context.settings.truncation == "right":
        return _cut_right(context, tokenize_turns(context, [turn], instruction), limit)
    return prepare_turns(context, [turn], instruction, limit)


def prepare_turns(
    context: PromptContext, turns: Sequence[Turn], instruction: str, limit: int | None = None
) -> Prepared:
    """Turns as one row, their texts shortened in place, the last one's first, until it has at most ``limit`` tokens.

    Raises:
        ValueError: too many tokens, and no text is left to be cut.
    """
    limit = context.settings.max_length if limit is None else limit
    cut = 0
    while True:
        row = tokenize_turns(context, turns, instruction)
        excess = row.length - limit
        if excess <= 0:
            row.cut_tokens, row.limit = cut, limit
            return row
        for turn in reversed(turns):
            taken = context.tokenizer.shorten(turn.content, excess)
            if taken:
                break
        else:
            raise ValueError(
                f"{excess} tokens over max_length={limit}, and there is no text left to cut: "
                "give fewer or smaller media, a shorter instruction, or a larger max_length"
            )
        cut += taken


def tokenize_turns(context: PromptContext, turns: Sequence[Turn], instruction: str) -> Prepared:
    """Turns rendered by the template and tokenised, however long; user text stays text."""
    tokenizer = context.tokenizer
    texts = [part["text"] for turn in turns for part in turn.content if part["type"] == "text"]
    guard = tokenizer.guard_for([*texts, instruction])
    messages: list[dict[str, Any]] = []
    if instruction:
        text = tokenizer.guarded(instruction, guard)
        messages.append({"role": "system", "content": [{"type": "text", "text": text}]})
    for turn in turns:
        content = [
            {**part, "text": tokenizer.guarded(part["text"], guard)} if part["type"] == "text" else part
            for part in turn.content
        ]
        messages.append({"role": turn.role, "content": content})
    rendered = prompt_of(context.template, messages, {**context.named_tokens, **context.template_options()})
    images = [patches for turn in turns for patches in turn.images]
    videos = [patches for turn in turns for patches in turn.videos]
    return tokenize_rendered(context, rendered, images, videos, guard=guard)


def tokenize_rendered(
    context: PromptContext,
    rendered: str,
    images: Sequence[Patches],
    videos: Sequence[Patches],
    guard: str = "",
) -> Prepared:
    """Token ids, types and slots of a rendered prompt; its special tokens are taken for real ones.

    Raises:
        ValueError: the prompt's placeholders and the media do not match.
    """
    tokenizer = context.tokenizer
    pieces = tokenizer.pieces(rendered, guard)
    found = [piece.text for piece in pieces if piece.token]
    for token, media in ((IMAGE_TOKEN, images), (VIDEO_TOKEN, videos)):
        if found.count(token) != len(media):
            raise ValueError(f"the prompt has {found.count(token)} {token} for {len(media)} media")
    expanded = expand(
        pieces,
        images,
        videos,
        patches_per_token=context.layout.merge**2,
        timestamps=context.family.timestamps,
    )
    ids = np.array(tokenizer.encode(expanded), dtype=np.int64)
    image, video = tokenizer.id_of(IMAGE_TOKEN), tokenizer.id_of(VIDEO_TOKEN)
    return Prepared(
        input_ids=ids,
        token_types=np.where(ids == image, 1, np.where(ids == video, 2, 0)),
        slots=pooling_slots(ids, context.settings.pooling, tokenizer),
        images=list(images),
        videos=list(videos),
        rendered=rendered.replace(guard, "") if guard else rendered,
    )


def _cut_right(context: PromptContext, row: Prepared, limit: int) -> Prepared:
    """The first ``limit`` tokens of a row, whatever the rest was; what the rule pools is looked for anew.

    For systems whose vectors of long texts were made so; the prompt's end is lost with the text's.

    Raises:
        ValueError: tokens of a picture or video would be cut, or nothing is left to pool.
    """
    if row.length <= limit:
        return replace(row, limit=limit)
    if row.token_types[limit:].any():
        raise ValueError(
            f"{row.length} tokens are over the limit of {limit}, and the cut would go through a picture: "
            "give fewer or smaller media"
        )
    ids = row.input_ids[:limit]
    return replace(
        row,
        input_ids=ids,
        token_types=row.token_types[:limit],
        slots=pooling_slots(ids, context.settings.pooling, context.tokenizer),
        cut_tokens=row.length - limit,
        limit=limit,
    )


def _without_marks(content: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Content without the placeholders that a text begins with, at most as many as there are media.

    Data sets of some systems have their media's places written into the texts.
    """
    media = sum(part["type"] != "text" for part in content)
    stripped = []
    for part in content:
        if part["type"] == "text":
            text = part["text"]
            while media and (mark := next((m for m in (IMAGE_TOKEN, VIDEO_TOKEN) if text.startswith(m)), "")):
                text, media = text[len(mark) :], media - 1
            part = {**part, "text": text}
        stripped.append(part)
    return stripped


# ---- for people --------------------------------------------------------------------------------------------------


def explain(row: Prepared, layout: PatchLayout, tokenizer: Any) -> dict[str, Any]:
    """Rendered text, tokens, slots, grids and pixels of a prepared item; plain values, ready for JSON."""
    media = [
        {
            "kind": kind,
            "original_size": list(one.original),
            "resized_size": [one.grid[2] * layout.patch, one.grid[1] * layout.patch],
            "grid_thw": list(one.grid),
            "tokens": int(np.prod(one.grid)) // layout.merge**2,
            "seconds": list(one.seconds),
        }
        for kind, group in (("image", row.images), ("video", row.videos))
        for one in group
    ]
    return {
        "text": row.rendered,
        "tokens": tokenizer.convert_ids_to_tokens(row.input_ids.tolist()),
        "input_ids": row.input_ids.tolist(),
        "pooling_slots": row.slots.tolist(),
        "media": media,
        "length": row.length,
        "cut_tokens": row.cut_tokens,
    }


# ---- pairs -------------------------------------------------------------------------------------------------
# Pairs of a query and a candidate, for rerankers.
#
# The checkpoint's template renders both from messages of the roles ``query`` and ``document`` (what
# sentence-transformers' CrossEncoder sends, too); the query stands first, so that its tokens and pixels are the same
# in all of its pairs. A query is read once, whatever the number of its candidates.


class PairError(ValueError):
    """A processor whose prompts are not of pairs was asked for one."""


class QueryPairs:
    """One query, read, and ready to be paired with candidates.

    Args:
        context: of a processor with settings for pairs.
        query: an item.
        instruction: what to look for; the query's own wins over it, the checkpoint's default is used for None.

    Raises:
        PairError: the checkpoint's prompts are not of pairs; another system's scores would mean nothing.
        ItemError: what is wrong with the query.
    """

    def __init__(self, context: PromptContext, query: Any, instruction: str | None = None) -> None:
        settings = context.settings
        if not settings.pairs:
            raise PairError(
                "this checkpoint's template is not a reranker's: pairs of it would be scored with a foreign prompt"
            )
        self.context = context
        item = parse_item(query, empty=settings.empty_items)
        if item.instruction is not None:
            instruction = item.instruction
        elif instruction is None:
            instruction = settings.prompt.instructions.get("query", "")
        self.instruction = instruction
        try:
            self.query = read_turn(context, item, "query")
        except ItemError:
            raise
        except (MediaError, ValueError, TypeError) as error:
            raise ItemError(f"the query: {error}") from error

    def prepare(self, candidate: Any, index: int | None = None) -> Prepared:
        """The pair with a candidate as token ids, patches and slots.

        Raises:
            ItemError: what is wrong with which candidate.
        """
        item = parse_item(candidate, index, empty=self.context.settings.empty_items)
        if item.instruction is not None:
            raise ItemError("a candidate has no instruction of its own; it belongs to the query", index)
        query = replace(self.query, content=[dict(part) for part in self.query.content])  # shortened in place
        try:
            return prepare_turns(
                self.context, [query, read_turn(self.context, item, "document")], self.instruction
            )
        except ItemError:
            raise
        except (MediaError, ValueError, TypeError) as error:
            raise ItemError(str(error), index) from error


# ---- thoughts ----------------------------------------------------------------------------------------------
# Given thoughts, not written by the model: ``<think>...</think><answer>...``, what stands before <gen_emb>.
#
# Training and encoding read them here, so that a thought has the same tokens in both. What a thought's text holds stays
# text: only the tags that make its form become tokens of the tokenizer, where it has them.


GEN_EMB = "<gen_emb>"
_WHOLE = re.compile(
    r"\s*<think>(?P<thought>.*?)</think>\s*"
    r"(?:<answer>(?P<answer>.*?)(?:</answer>)?\s*)?(?:<gen_emb>\s*(?:</answer>)?\s*)?",
    re.DOTALL,
)
_END = re.compile(r"\s*(?:</answer>\s*<gen_emb>|<gen_emb>\s*</answer>|<gen_emb>|</answer>)\s*\Z")
_FORMS = "a text <think>...</think><answer>..., a pair (thought, answer), or the ids of its tokens"


def thought_and_answer(thought: str, answer: str | None = None) -> tuple[str, str]:
    """A thought and its summary, of what a row has: both apart, or one text with the tags, whose answer then counts.

    Raises:
        ValueError: there is no answer, or a text with tags is in another form.
    """
    if not isinstance(thought, str) or not isinstance(answer, str | None):
        raise TypeError(
            f"a thought and its answer are texts, not {type(thought).__name__}, {type(answer).__name__}"
        )
    if "<think>" in thought:
        found = _WHOLE.fullmatch(thought)
        if found is None:
            raise ValueError(f"the thought is not <think>...</think><answer>...: {thought[:80]!r}")
        thought, answer = found["thought"], answer if found["answer"] is None else found["answer"]
    if answer is None:
        raise ValueError(
            f"a thought without its answer, the summary that stands before {GEN_EMB}: {thought[:80]!r}"
        )
    return thought, answer


def pair_ids(tokenizer: PromptTokenizer, thought: str, answer: str) -> list[int]:
    """Ids of a thought and its answer, up to ``<gen_emb>`` and without it."""
    return _ids(tokenizer, ("<think>", thought, "</think><answer>", answer))


def thought_ids(tokenizer: PromptTokenizer, thought: Any, vocabulary: int) -> tuple[int, ...]:
    """Ids of a thought that is given to be embedded, up to ``<gen_emb>`` and without it.

    Args:
        thought: a text with the tags, as a model has written it: it may be cut anywhere behind ``<think>``; a pair of
            texts ``(thought, answer)``; or ids, which are taken as they are.
        vocabulary: ids from here on are no tokens.

    Raises:
        ValueError: a text of another form; no ids, or such as are no token or stand for media.
        TypeError: none of these.
    """
    if isinstance(thought, str):
        return tuple(_ids(tokenizer, _parts(thought)))
    if isinstance(thought, (list, tuple)) and len(thought) == 2 and all(isinstance(t, str) for t in thought):
        return tuple(pair_ids(tokenizer, *thought_and_answer(*thought)))
    ids = np.asarray(thought) if _numbers(thought) else None
    if ids is None or ids.ndim != 1 or not (np.issubdtype(ids.dtype, np.integer) or not len(ids)):
        raise TypeError(f"a thought is {_FORMS}; this one is a {type(thought).__name__}")
    media = [tokenizer.added.get(token) for token in (IMAGE_TOKEN, VIDEO_TOKEN, VISION_START, VISION_END)]
    for token in ids.tolist():
        if not 0 <= token < vocabulary or token in media:
            kind = "stands for media" if token in media else f"is no token: there are {vocabulary}"
            raise ValueError(f"id {token} of a thought {kind}")
    return tuple(ids.tolist())


def thoughts_of_item(
    tokenizer: PromptTokenizer, given: Any, samples: int, most: int | None, vocabulary: int
) -> tuple[tuple[int, ...], ...]:
    """Ids of an item's thoughts; none where None is given, for an item that is to think itself.

    Args:
        given: a thought, see :func:`thought_ids`; a list of them for more than one sample.
        samples: thoughts of an item.
        most: tokens of a thought; None for any number.
        vocabulary: see :func:`thought_ids`.

    Raises:
        ValueError, TypeError: see :func:`thought_ids`; or it is another number of thoughts, or one is too long.
    """
    if given is None:
        return ()
    several = given if samples > 1 else [given]
    if isinstance(several, str) or not isinstance(several, Sequence) or len(several) != samples:
        have = f"{len(several)} of them" if isinstance(several, (list, tuple)) else type(several).__name__
        raise ValueError(
            f"num_samples is {samples}, so an item's thoughts are a list of {samples}, not {have}"
        )
    found = tuple(thought_ids(tokenizer, one, vocabulary) for one in several)
    longest = max(map(len, found))
    if most is not None and longest > most:
        raise ValueError(
            f"its thought has {longest} tokens, and at most {most} are let pass: give a shorter one, or a larger "
            "max_new_tokens"
        )
    return found


def listed_thoughts(thoughts: Any, items: int) -> Sequence[Any]:
    """Thoughts of a call, one for each of its items.

    Raises:
        TypeError: no list.
        ValueError: another number than there are items.
    """
    if isinstance(thoughts, (str, bytes, dict, set)) or not hasattr(thoughts, "__iter__"):
        raise TypeError(
            f"thoughts are a list with one for every item (None for an item that is to think itself), not a "
            f"{type(thoughts).__name__}"
        )
    listed = thoughts if isinstance(thoughts, Sequence) else list(thoughts)
    if len(listed) != items:
        raise ValueError(
            f"{len(listed)} thoughts for {items} items: give one for each, None where there is none"
        )
    return listed


def _parts(text: str) -> tuple[str, ...]:
    """Tags and texts of a thought in turns, the first a tag; white space around tags stays as it is written."""
    end = _END.search(text)
    before, think, rest = (text[: end.start()] if end else text).partition("<think>")
    thought, closed, rest = rest.partition("</think>")
    between, begun, answer = rest.partition("<answer>")
    if not think or before.strip() or between.strip():
        raise ValueError(f"this thought is in another form than {_FORMS}: {text[:80]!r}")
    return before + think, thought, closed + between + begun, answer


def _ids(tokenizer: PromptTokenizer, parts: Sequence[str]) -> list[int]:
    """Ids of tags and texts in turns, the first a tag."""
    guard = tokenizer.guard_for(parts)
    guarded = [tokenizer.guarded(part, guard) if place % 2 else part for place, part in enumerate(parts)]
    return tokenizer.encode(tokenizer.pieces("".join(guarded), guard))


def _numbers(value: Any) -> bool:
    return isinstance(value, (list, tuple, np.ndarray)) or hasattr(value, "__array__")


# ---- item_processor ----------------------------------------------------------------------------------------
# Items and pairs in, model inputs out.
#
# An item is rendered by the checkpoint's chat template and nothing else; the processor then says, with
# ``pooling_slots``, which tokens carry the embedding.


class ItemProcessor(ProcessorMixin):  # type: ignore[misc]
    """Turns items into model inputs.

    Args:
        image_processor: the backbone's own; its patch geometry and normalisation are used, its pixels are not.
        tokenizer: a fast tokenizer with the backbone's vision tokens.
        chat_template: Jinja template; compiled from ``settings.prompt`` when None.
        settings: family, prompt, pooling, pixel budget, frame sampling, length; Qwen2-VL's defaults when None.
        limits: what one file may cost.
    """

    def __init__(
        self,
        image_processor: Any = None,
        tokenizer: Any = None,
        chat_template: str | None = None,
        settings: ProcessorSettings | None = None,
        limits: MediaLimits | None = None,
    ) -> None:
        self.settings = settings if settings is not None else ProcessorSettings()
        self.limits = limits if limits is not None else MediaLimits()
        self.image_token, self.video_token = IMAGE_TOKEN, VIDEO_TOKEN
        super().__init__(
            image_processor, tokenizer, chat_template=chat_template or compile_template(self.settings.prompt)
        )
        self.prompt_tokenizer = PromptTokenizer(tokenizer)
        for token in (IMAGE_TOKEN, VIDEO_TOKEN, VISION_START, VISION_END):
            if token not in self.prompt_tokenizer.added:
                raise ValueError(
                    f"the tokenizer has no special token {token}: it belongs to another backbone"
                )
        self.image_token_id = self.prompt_tokenizer.id_of(IMAGE_TOKEN)
        self.video_token_id = self.prompt_tokenizer.id_of(VIDEO_TOKEN)
        self.layout = PatchLayout(
            image_processor.patch_size, image_processor.merge_size, image_processor.temporal_patch_size
        )
        self.scale = PixelScale(tuple(image_processor.image_mean), tuple(image_processor.image_std))
        self.family = family_of(self.settings.family)
        self.thinking = False  # whether prompts ask for a thought; see for_mode
        self.origin: tuple[str, dict[str, Any]] | None = (
            None  # the checkpoint this came from, and Hub arguments
        )

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.settings!r})"

    @property
    def context(self) -> PromptContext:
        """What the functions that make model inputs are told."""
        return PromptContext(
            self.settings,
            self.limits,
            self.layout,
            self.family,
            self.prompt_tokenizer,
            str(self.chat_template),
            self.tokenizer.special_tokens_map,
            self.thinking,
        )

    def with_settings(self, **changes: Any) -> Self:
        """A processor with some settings replaced and its template compiled anew."""
        settings = replace(self.settings, **changes)
        other = type(self)(self.image_processor, self.tokenizer, None, settings, self.limits)
        other.origin = self.origin
        return other

    def with_max_length(self, max_length: int) -> Self:
        """A processor with another ``max_length`` that shares everything else with this one."""
        return self._with(replace(self.settings, max_length=max_length))

    def _with(self, settings: ProcessorSettings) -> Self:
        """This processor, or one with other settings that have no say in the template."""
        if settings == self.settings:
            return self
        other = copy.copy(self)
        other.settings = settings
        return other

    def for_call(self, items: Sequence[Any]) -> Self:
        """This processor, or where one list of pictures sets the budget of a whole call, one with that budget."""
        budget = self.settings.budget
        if budget.listed is None or budget.listed_scope != "call" or not any(map(gives_list, items)):
            return self
        return self._with(replace(self.settings, budget=replace(budget, image=budget.listed)))

    def for_mode(self, mode: str | None) -> Self:
        """This processor, or for a mode that thinks, one that writes that mode's prompts.

        The tokens up to the direct embedding are the same in every mode.
        """
        if mode not in (None, *MODES, "both"):
            raise ValueError(f"mode is {mode!r}; use one of {(*MODES, 'both')}")
        thinking = mode not in (None, "discriminative")
        if thinking == self.thinking:
            return self
        other = copy.copy(self)
        other.thinking = thinking
        return other

    # ---- items to model inputs ----------------------------------------------------------------------------------

    def prepare(
        self,
        item: Any,
        *,
        role: str | None = None,
        instruction: str | None = None,
        index: int | None = None,
        mode: str | None = None,
        thought: Any = None,
        num_samples: int = 1,
        max_new_tokens: int | None = None,
    ) -> Prepared:
        """One item as token ids, patches and slots.

        Args:
            item: see ``items.parse_item``.
            role: None, ``"query"`` or ``"document"``: which default instruction.
            instruction: replaces the default; the item's own ``instruction`` wins over both. "" for none.
            index: the item's position, for messages.
            mode: whose prompt; this processor's own when None.
            thought: given in place of one that the model writes; see ``thoughts.thought_ids``.
            num_samples: thoughts of the item; for more than one, ``thought`` is a list.
            max_new_tokens: most that a given thought may have; any number when None.

        Raises:
            ItemError: what is wrong with which item.
        """
        if role is not None and role not in ROLES:
            raise ValueError(f"role is {role!r}; use None, 'query' or 'document'")
        parsed = parse_item(item, index, empty=self.settings.empty_items)
        if parsed.instruction is not None:
            instruction = parsed.instruction
        elif instruction is None:
            instruction = self.settings.prompt.instructions.get(role or "default", "")
        processor = self if mode is None else self.for_mode(mode)
        try:
            given = thoughts_of_item(
                self.prompt_tokenizer, thought, num_samples, max_new_tokens, len(self.tokenizer)
            )
            row = prepare_item(processor.context, parsed, instruction, role)
            row.given = given
            return row
        except ItemError:
            raise
        except (MediaError, ValueError, TypeError) as error:
            raise ItemError(str(error), index) from error

    def prepare_all(
        self,
        items: Sequence[Any],
        *,
        role: str | None = None,
        instruction: str | None = None,
        mode: str | None = None,
        thoughts: Any = None,
        tell_cuts: bool = True,
        **options: Any,
    ) -> list[Prepared]:
        """:meth:`prepare` for every item of a sequence, each with its own of the ``thoughts``, where there are any.

        One warning tells of those that were cut (``tell_cuts``). ``options``: ``num_samples``, ``max_new_tokens``.
        """
        processor = self.for_call(items)
        processor = processor if mode is None else processor.for_mode(mode)
        given = [None] * len(items) if thoughts is None else listed_thoughts(thoughts, len(items))
        options |= {"role": role, "instruction": instruction}
        rows = [
            processor.prepare(item, index=index, thought=thought, **options)
            for index, (item, thought) in enumerate(zip(items, given, strict=True))
        ]
        if tell_cuts:
            Cuts().see(rows).warn(len(rows))
        return rows

    def collate(
        self,
        rows: Sequence[Prepared],
        padding_side: str | None = None,
        *,
        pixels: bool = True,
        place: Place | None = None,
    ) -> BatchFeature:
        """A padded batch of prepared items; see ``collating.collate``. Padding is on the right when None."""
        pad = self.tokenizer.pad_token_id
        return collate(
            rows,
            pad_id=0 if pad is None else pad,
            scale=self.scale,
            temporal=self.layout.temporal,
            padding_side=padding_side or "right",
            pixels=pixels,
            place=place,
            seconds_per_grid=(
                self.layout.temporal / self.settings.sampling.fps if self.family.seconds_per_grid else None
            ),
        )

    def encode_items(
        self,
        items: Sequence[Any],
        *,
        padding_side: str | None = None,
        **options: Any,
    ) -> BatchFeature:
        """Items to a padded batch for the model, slots included; ``options`` as for :meth:`prepare_all`."""
        return self.collate(self.prepare_all(items, **options), padding_side)

    def explain(self, item: Any, **options: Any) -> dict[str, Any]:
        """What the model will see of an item: rendered text, tokens, slots, grids and pixels; see :meth:`prepare`."""
        return explain(self.prepare(item, **options), self.layout, self.tokenizer)

    # ---- pairs ---------------------------------------------------------------------------------------------------

    def pairs_with(self, query: Any, instruction: str | None = None) -> QueryPairs:
        """A query that is read once, to be paired with candidates; see :class:`QueryPairs`."""
        return QueryPairs(self.context, query, instruction)

    def prepare_pair(
        self, query: Any, candidate: Any, *, instruction: str | None = None, index: int | None = None
    ) -> Prepared:
        """A query and a candidate, both items, as one row; its slot is the answer position.

        Args:
            query, candidate: see ``items.parse_item``.
            instruction: what to look for; the query's own wins over it, the checkpoint's default is used for None.
            index: the candidate's position, for messages.

        Raises:
            ItemError: what is wrong with which item.
            PairError: this checkpoint's prompts are not of pairs.
        """
        return self.pairs_with(query, instruction).prepare(candidate, index)

    def prepare_pairs(
        self, query: Any, candidates: Sequence[Any], *, instruction: str | None = None
    ) -> list[Prepared]:
        """:meth:`prepare_pair` for every candidate; the query is read once. One warning tells of pairs that were cut.

        Raises:
            TypeError: one candidate where a list of them belongs; its letters would be scored one by one.
        """
        if isinstance(candidates, (str, Mapping)):
            raise TypeError(f"cannot score a {type(candidates).__name__}: give candidates in a list")
        pairs = self.pairs_with(query, instruction)
        rows = [pairs.prepare(candidate, index) for index, candidate in enumerate(candidates)]
        Cuts().see(rows).warn(len(rows))
        return rows

    def pixels(self, media: Sequence[Patches], place: Place | None = None) -> Tensor:
        """Patches as the vision tower reads them, float32 ``[patches, C*T*P*P]``, where ``place`` takes their bytes."""
        return self.scale.apply(media, self.layout.temporal, place)

    def answer_tokens(self, yes: str, no: str) -> dict[str, int]:
        """Entries of ``config.ume.tokens`` for two answers.

        Raises:
            ValueError: an answer is not exactly one token of this tokenizer.
        """
        found = {}
        for name, text in (("yes", yes), ("no", no)):
            ids = self.tokenizer.encode(text, add_special_tokens=False)
            if len(ids) != 1:
                raise ValueError(
                    f"the answer {text!r} is {len(ids)} tokens of this tokenizer, and must be one"
                )
            found[name] = int(ids[0])
        return found


# ---- native ------------------------------------------------------------------------------------------------
# What the calls of a native processor mean to ours.
#
# sentence-transformers, pipelines and plain transformers code call ``apply_chat_template`` on chat messages or the
# processor on rendered text. Both go through the same tokenisation as items, so there is one preprocessing only.


INPUT_NAMES = (
    "input_ids",
    "attention_mask",
    "mm_token_type_ids",
    "pixel_values",
    "image_grid_thw",
    "pixel_values_videos",
    "video_grid_thw",
)
_MEDIA: dict[str, Any] = {
    "image": ImagePart,
    "image_url": ImagePart,
    "video": VideoPart,
    "document": DocumentPart,
}


def item_of_messages(messages: Sequence[Mapping[str, Any]]) -> Item:
    """The item that a chat says: its ``system`` message is the instruction, its one other turn the content.

    Raises:
        ValueError: not exactly one turn beside ``system``, or content that cannot be embedded.
    """
    parts: list[Part] = []
    instruction: str | None = None
    turns = 0
    for message in messages:
        content = message["content"]
        content = [{"type": "text", "text": content}] if isinstance(content, str) else content
        if message["role"] == "system":
            instruction = "".join(part["text"] for part in content if part["type"] == "text")
            continue
        turns += 1
        for part in content:
            if part["type"] != "message":
                parts.append(_part(part))
                continue
            # sentence-transformers wraps a whole chat like this where a batch also holds other inputs.
            inner = item_of_messages(part["message"])
            parts.extend(inner.parts)
            instruction = inner.instruction if inner.instruction is not None else instruction
    if turns != 1:
        raise ValueError(f"an item is one turn beside 'system', this chat has {turns}")
    return Item(tuple(parts), instruction)


def rows_of_prompts(context: PromptContext, texts: Sequence[str], images: Any, videos: Any) -> list[Prepared]:
    """Rendered prompts and their media, in the order of the placeholders.

    Raises:
        ValueError: placeholders and media do not match.
    """
    settings, layout, limits = context.settings, context.layout, context.limits
    pictures, clips = iter(_flat(images)), iter([] if videos is None else videos)

    def patches(part: ImagePart | VideoPart) -> list[Patches]:
        return [one for _, one in patches_of(part, settings, layout, limits)]

    rows = []
    for text in texts:
        own_pictures = [next(pictures, None) for _ in range(text.count(IMAGE_TOKEN))]
        own_clips = [next(clips, None) for _ in range(text.count(VIDEO_TOKEN))]
        if any(medium is None for medium in (*own_pictures, *own_clips)):
            raise ValueError("the text has more placeholders than there are media")
        rows.append(
            tokenize_rendered(
                context,
                text,
                [one for medium in own_pictures for one in patches(ImagePart(medium))],
                [one for medium in own_clips for one in patches(VideoPart(medium))],
            )
        )
    if next(pictures, None) is not None or next(clips, None) is not None:
        raise ValueError("there are more media than placeholders in the text")
    return rows


def sized(settings: ProcessorSettings, kwargs: Mapping[str, Any]) -> ProcessorSettings:
    """Settings with the pixels and frames that a call asks for."""
    given = {**kwargs.get("images_kwargs", {}), **kwargs.get("videos_kwargs", {}), **kwargs}
    given.pop("model_max_length", None)
    return with_arguments(settings, given)


def bounded(settings: ProcessorSettings, kwargs: Mapping[str, Any], most: int | None) -> ProcessorSettings:
    """Settings with a smaller ``max_length`` where the caller has set one, or asks for the tokenizer's (``most``)."""
    if kwargs.get("videos_kwargs", {}).get("video_metadata"):
        raise ValueError("video metadata are not read: give the file, or frames that are evenly spaced")
    text = {**kwargs.get("text_kwargs", {})}
    text |= {name: kwargs[name] for name in ("max_length", "truncation") if name in kwargs}
    limits = [settings.max_length, text.get("max_length")]
    if text.get("truncation"):
        limits.append(most)
    limit = min(one for one in limits if one is not None)
    return settings if limit == settings.max_length else replace(settings, max_length=limit)


def _part(part: Mapping[str, Any]) -> Part:
    kind = part["type"]
    if kind == "text":
        return TextPart(part["text"])
    if kind not in _MEDIA:
        raise ValueError(f"content of type {kind!r} cannot be embedded; known are text, image and video")
    for key in (kind, "url", "path", "image", "video"):
        if part.get(key) is not None:
            source = part[key]
            return _MEDIA[kind](source["url"] if isinstance(source, Mapping) and "url" in source else source)  # type: ignore[no-any-return]
    raise ValueError(f"a content part of type {kind!r} without a source")


def _flat(images: Any) -> list[Any]:
    if images is None:
        return []
    if not isinstance(images, (list, tuple)):
        return [images]
    return [one for group in images for one in (group if isinstance(group, (list, tuple)) else [group])]


# ---- processor ---------------------------------------------------------------------------------------------
# The processor that ships with every checkpoint: loaded and saved, and called as native ones are.
#
# Works without torchvision on Qwen2-VL, Qwen2.5-VL, Qwen3-VL and Qwen3.5;
# ``AutoProcessor.from_pretrained(repo, trust_remote_code=True)`` loads it without umekit.


# By its module: as a name of the package, some versions give it only where torchvision is.



class UmeProcessor(ItemProcessor):
    """Turns items, pairs, chat messages and rendered prompts into model inputs; see :class:`ItemProcessor`."""

    # ---- loading and saving -----------------------------------------------------------------------------------

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls,
        pretrained_model_name_or_path: str | os.PathLike[str],
        *,
        settings: ProcessorSettings | None = None,
        limits: MediaLimits | None = None,
        **kwargs: Any,
    ) -> UmeProcessor:
        """Load from a folder or Hub repository.

        Args:
            settings: replaces the checkpoint's own; a published checkpoint without our settings gets defaults for
                its family, with its own pixel budget.
            kwargs: ``revision``, ``subfolder``, ``token``, ``cache_dir`` and so on; of a stock processor's arguments
                ``min_pixels``, ``max_pixels``, ``size``, ``fps``, ``min_frames``, ``max_frames``,
                ``model_max_length`` (see :func:`with_arguments`), ``padding_side`` (of native calls) and
                ``chat_template``. Arguments of models, which pipelines pass to processors, too, mean nothing here;
                others are left out with a warning.

        Raises:
            ValueError: an argument's value is impossible.
        """
        known = {*_HUB_KEYS, *_IGNORED_KEYS, *_TOKENIZER_KEYS, *ARGUMENTS, "chat_template"}
        if unknown := sorted(set(kwargs) - known):
            warnings.warn(
                f"the processor has no arguments {unknown}, they are left out; settings are changed by "
                "with_settings(...)",
                stacklevel=2,
            )
        source = os.fspath(pretrained_model_name_or_path)
        hub = {key: kwargs[key] for key in _HUB_KEYS if kwargs.get(key) is not None}
        # Whatever the door that was opened trusts: only this class is the repository's, these are stock ones.
        image_processor = AutoImageProcessor.from_pretrained(source, trust_remote_code=False, **hub)
        text = {key: kwargs[key] for key in _TOKENIZER_KEYS if kwargs.get(key) is not None}
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False, **hub, **text)
        stored, template = read_processor_settings(source, image_processor, hub)
        if settings is None and template is not None:
            stored = as_sentence_transformers_saved(stored, source, tokenizer, hub)
        if settings is not None:
            stored, template = settings, None
        if kwargs.get("chat_template") is not None:
            template = kwargs["chat_template"]
            stored = replace(stored, prompt=replace(stored.prompt, template=template))
        processor = cls(image_processor, tokenizer, template, with_arguments(stored, kwargs), limits)
        processor.origin = (source, hub)
        return processor

    def save_pretrained(self, save_directory: str | os.PathLike[str], **kwargs: Any) -> list[str]:  # type: ignore[override]
        """Write tokenizer, template, processor config (ours and the native one) and our code.

        A processor from a checkpoint of ours also brings that one's model code and sentence-transformers' files where
        the folder lacks them, so that a model which stock classes save there opens by every door.
        """
        if kwargs.pop("push_to_hub", False):
            raise ValueError("save first, then call push_to_hub")
        return write_processor_files(self, os.fspath(save_directory))

    # ---- as a native processor -----------------------------------------------------------------------------------

    item_of_messages = staticmethod(item_of_messages)

    @property
    def model_input_names(self) -> list[str]:
        return list(INPUT_NAMES)

    def prepare_messages(self, messages: Sequence[Mapping[str, Any]]) -> Prepared:
        """A chat as one row: a pair where it has the roles ``query`` and ``document``, an item otherwise."""
        if not {message["role"] for message in messages} >= set(ROLES):
            return self.prepare(item_of_messages(messages), instruction="")
        rest = [message for message in messages if message["role"] != "document"]
        documents = [message for message in messages if message["role"] == "document"]
        # A chat without a system message has no instruction, whatever the default is: the caller wrote all of it.
        return self.prepare_pair(item_of_messages(rest), item_of_messages(documents), instruction="")

    def apply_chat_template(  # type: ignore[override]
        self,
        conversation: Sequence[Any],
        chat_template: str | None = None,
        *,
        tokenize: bool = False,
        padding_side: str | None = None,
        return_slots: bool = False,
        **kwargs: Any,
    ) -> Any:
        """Chat messages to text, or with ``tokenize=True`` to a padded batch.

        Args:
            conversation: messages, or a list of conversations. A ``system`` message is the instruction.
            tokenize: False gives the rendered text (a list of them for several conversations).
            padding_side: side of the padding of a tokenized batch.
            thinking: among ``kwargs``: whether the prompt asks for a thought.
            return_slots: whether the batch has ``pooling_slots`` (native models do not know them).
            kwargs: ``min_pixels``, ``max_pixels``, ``size``, ``fps`` and the like for this call, by themselves or in
                ``processor_kwargs``; output arguments of native processors are ignored, torch tensors come out.
        """
        single = bool(conversation) and isinstance(conversation[0], Mapping)
        conversations = [conversation] if single else list(conversation)
        if not tokenize:
            told = {**self.tokenizer.special_tokens_map}
            told |= {name: kwargs[name] for name in ("thinking",) if name in kwargs}
            template = str(self.chat_template) if chat_template is None else chat_template
            texts = [render_template(template, one, told) for one in conversations]
            return texts[0] if single else texts
        if chat_template is not None and chat_template != self.chat_template:
            raise ValueError(
                "this processor tokenizes with its checkpoint's own template only; save another one there"
            )
        given = kwargs.get("processor_kwargs") or kwargs
        settings = sized(bounded(self.settings, given, self.tokenizer.model_max_length), given)
        processor = self._with(settings).for_mode("generative" if kwargs.get("thinking") else None)
        rows = [processor.prepare_messages(one) for one in conversations]
        Cuts().see(rows).warn(len(rows))
        return self._native_batch(rows, padding_side, return_slots)

    def __call__(
        self,
        images: Any = None,
        text: Any = None,
        videos: Any = None,
        *,
        padding_side: str | None = None,
        return_slots: bool = False,
        **kwargs: Any,
    ) -> BatchFeature:
        """Rendered prompts and their media, in the order of the placeholders, to a padded batch.

        Special tokens in ``text`` are real ones here: for text that users typed, use items or chat messages.
        ``kwargs`` are as for :meth:`apply_chat_template`.

        Raises:
            ValueError: placeholders and media do not match.
        """
        if text is None:
            raise ValueError(
                "give rendered text with placeholders, chat messages to apply_chat_template, or items: "
                "pictures alone are encode_items([{'image': picture}, ...])"
            )
        context = self._with(sized(self.settings, kwargs)).context
        rows = rows_of_prompts(context, [text] if isinstance(text, str) else list(text), images, videos)
        return self._native_batch(rows, padding_side, return_slots)

    def _native_batch(self, rows: list[Prepared], padding_side: str | None, slots: bool) -> BatchFeature:
        batch = self.collate(rows, padding_side or getattr(self.tokenizer, "padding_side", None))
        if not slots:
            batch.pop("pooling_slots")
        return batch


# What AutoProcessor, pipelines and sentence-transformers pass along and what means nothing here.
_IGNORED_KEYS = (
    "trust_remote_code",
    "code_revision",
    "use_fast",
    "use_auth_token",
    "backend",
    "_from_auto",
    "_from_pipeline",
    "_commit_hash",
    "dtype",
    "torch_dtype",
    "device_map",
    "max_memory",
    "low_cpu_mem_usage",
    "offload_folder",
    "attn_implementation",
    "quantization_config",
    "use_safetensors",
    "variant",
)
_TOKENIZER_KEYS = ("padding_side", "model_max_length")
_HUB_KEYS = ("revision", "subfolder", "token", "cache_dir", "local_files_only", "force_download", "proxies")
