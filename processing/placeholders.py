"""Media placeholders of a rendered prompt, repeated to as many tokens as their media have."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from .rendering import Piece
from .vision import Patches

IMAGE_TOKEN, VIDEO_TOKEN = "<|image_pad|>", "<|video_pad|>"
VISION_START, VISION_END = "<|vision_start|>", "<|vision_end|>"


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
    stills, films = iter(images), iter(videos)
    expanded: list[Piece] = []
    rest = iter(pieces)
    for piece in rest:
        if piece == Piece(IMAGE_TOKEN, True):
            expanded.append(replace(piece, repeat=len(next(stills).values) // patches_per_token))
        elif piece == Piece(VIDEO_TOKEN, True) and not timestamps:
            expanded.append(replace(piece, repeat=len(next(films).values) // patches_per_token))
        elif piece == Piece(VIDEO_TOKEN, True):
            if expanded and expanded[-1] == Piece(VISION_START, True):
                expanded.pop()
                next(rest)  # the pair's end
            expanded.extend(_steps(next(films), patches_per_token))
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


def _steps(film: Patches, patches_per_token: int) -> Iterator[Piece]:
    per_step = len(film.values) // patches_per_token // film.grid[0]
    for second in film.seconds:
        yield Piece(f"<{second:.1f} seconds>", False)
        yield Piece(VISION_START, True)
        yield Piece(VIDEO_TOKEN, True, per_step)
        yield Piece(VISION_END, True)
