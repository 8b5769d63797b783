"""What a user may hand in: an *item* becomes a tuple of typed parts, in the order in which it was written.

A ``str`` is always text and never guessed to be a path; a list is a sequence of items, never one item. A list *in* an
item gives several parts of one kind, in order.
"""

from __future__ import annotations

import numbers
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from .animation import is_film
from .arrays import is_array
from .kinds import media_kind
from .sources import elements
from .video import is_decoder

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
