"""Equal items of a call, found before anything is read, so that each is prepared and encoded once.

Equality is exact, and is looked at only where a cheap hash agrees: what is not there twice costs next to nothing.
"""

from __future__ import annotations

import os
from collections.abc import Hashable, Mapping, Sequence
from functools import cached_property
from typing import Any

from PIL import Image

from ..processing.arrays import is_array
from ..processing.items import DocumentPart, ImagePart, Item, TextPart, VideoPart

SAMPLES, MORE_SAMPLES = 32, 256  # pixels per side that the hashes of a picture look at


class NoKeyError(TypeError):
    """An item holds something that cannot be compared; it counts as equal to nothing."""


def first_occurrences(items: Sequence[Any]) -> list[int]:
    """For each item the index of the first that is equal to it, its own if there is none before.

    A file is the same file if its path is the same; bytes, texts and pixels are compared. Sequences that make their
    items when they are asked (a data set's column) are not looked through, since that would read everything twice.
    """
    if not isinstance(items, (list, tuple)):
        return list(range(len(items)))
    seen: dict[Hashable, int] = {}
    firsts = []
    for index, item in enumerate(items):
        try:
            firsts.append(seen.setdefault(key_of(item), index))
        except NoKeyError:
            firsts.append(index)
    return firsts


def key_of(item: Any) -> Hashable:
    """What equal items have in common, and no others.

    Raises:
        NoKeyError: the item is none, or holds what cannot be compared.
    """
    if isinstance(item, str):
        return ("text", item)
    if isinstance(item, Image.Image):
        return ("image", media_key(item))
    if isinstance(item, Item):
        return (tuple(_part_key(part) for part in item.parts), item.instruction, item.listed)
    if isinstance(item, Mapping):
        return tuple((_plain(key), _value_key(key, value)) for key, value in item.items())
    raise NoKeyError(type(item).__name__)


def media_key(source: Any) -> Hashable:
    """The same of a picture, video or document: a path, URL, bytes, record, PIL image, array, or list of frames."""
    if isinstance(source, Image.Image):
        return _Picture(source)
    if is_array(source):
        return ("array", id(source))  # the caller holds it
    if isinstance(source, (list, tuple)):
        return ("frames", tuple(_frame_key(frame) for frame in source))
    if isinstance(source, Mapping) and "array" in source:
        raise NoKeyError("frames with times of their own")
    if isinstance(source, Mapping):
        content = source["bytes"] if source.get("bytes") is not None else source.get("path")
        return ("record", _plain(content))
    return _plain(source)


def _frame_key(frame: Any) -> Hashable:
    if isinstance(frame, (list, tuple)):  # of any depth, where it comes from outside
        raise NoKeyError("a list in a list")
    return media_key(frame)


def _value_key(key: Any, value: Any) -> Hashable:
    if key == "images" and isinstance(value, (list, tuple)):
        return tuple(media_key(one) for one in value)
    if key in ("image", "video", "document"):
        return media_key(value)
    return _plain(value)


def _part_key(part: Any) -> Hashable:
    if isinstance(part, TextPart):
        return ("text", part.text)
    if isinstance(part, DocumentPart):
        return ("document", media_key(part.source), part.page)
    if isinstance(part, (ImagePart, VideoPart)):
        return (type(part).__name__, media_key(part.source))
    raise NoKeyError(type(part).__name__)


def _plain(value: Any) -> Hashable:
    """Of a text, bytes, path or number."""
    if isinstance(value, bytearray):
        return bytes(value)
    if value is not None and not isinstance(value, (str, bytes, int, float, os.PathLike)):
        raise NoKeyError(type(value).__name__)
    return (type(value), value)  # 1, 1.0 and True are equal, and not all of them are page numbers


class _Picture:
    """A PIL image as a key. Its hash looks at some of its pixels, and all are compared only where many agree.

    One that is not decoded yet is equal to itself alone: looking at it would decode it here, outside the threads.
    So is one that cannot be looked at, because it was closed, say.
    """

    def __init__(self, image: Image.Image) -> None:
        self.image = image
        self.loaded = not getattr(image, "tile", None)
        self._hash = id(image)
        if self.loaded:
            try:
                self._hash = _sampled(image, SAMPLES)
            except Exception:  # whatever is wrong with it is told where it is prepared
                self.loaded = False

    @cached_property
    def _finer(self) -> int:
        """So that many pages that are white wherever the first hash looks are not all compared with each other."""
        return _sampled(self.image, MORE_SAMPLES)

    @property
    def _exif(self) -> dict[int, Any]:
        """It turns a picture upright, and one that was set in memory is not in what Pillow compares."""
        return dict(self.image.getexif())

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, _Picture):
            return False
        if self.image is other.image:
            return True
        return (
            self.loaded
            and other.loaded
            and self._finer == other._finer
            and bool(self.image == other.image)
            and self._exif == other._exif
        )


def _sampled(image: Image.Image, side: int) -> int:
    """Hash of an even grid of ``side`` x ``side`` pixels."""
    pixels = image.resize((side, side), Image.Resampling.NEAREST).tobytes() if all(image.size) else b""
    return hash((image.mode, image.size, pixels))
