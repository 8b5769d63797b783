"""Pictures that several items of a call show: each file is read and decoded once."""

from __future__ import annotations

import threading
from collections import Counter, OrderedDict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from PIL import Image

from ..processing.arrays import is_array
from ..processing.items import ImagePart, ItemError, parse_item
from ..processing.limits import MediaLimits
from ..processing.media import load_image
from .deduplication import NoKeyError, media_key

KEPT_PIXELS = 1 << 26  # of decoded pictures that wait for their next item: 200 MB


@dataclass
class _Slot:
    """A picture once it is decoded; ``lock`` is held by the thread that does it."""

    picture: Image.Image | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)


class SharedPictures:
    """Decoded pictures, each kept until the last of its items has it, or room is needed.

    Args:
        items: of the call.
        indices: those that will be prepared.
        limits: what one file may cost.
        kept_pixels: most pixels that wait; beyond, those used longest ago are read again when they are needed.
    """

    def __init__(
        self,
        items: Sequence[Any],
        indices: Sequence[int],
        limits: MediaLimits,
        kept_pixels: int = KEPT_PIXELS,
    ) -> None:
        self.limits, self.kept_pixels = limits, kept_pixels
        self.reads = 0  # pictures that were decoded here
        self._lock = threading.Lock()
        self._slots: OrderedDict[Hashable, _Slot] = OrderedDict()
        listed = isinstance(items, (list, tuple))  # others make their items anew each time
        shown = Counter(key for index in indices for key in _keys(items[index])) if listed else Counter()
        self._left = Counter({key: count for key, count in shown.items() if count > 1})

    def put_into(self, raw: Any) -> Any:
        """The item with its shared pictures decoded; what cannot be read is left, to fail where it is prepared."""
        if not self._left or isinstance(raw, (str, Image.Image)):
            return raw
        try:
            item = parse_item(raw)
        except ItemError:
            return raw
        return replace(item, parts=tuple(self._decoded(part) for part in item.parts))

    def _decoded(self, part: Any) -> Any:
        key = _key(part)
        if key is None or key not in self._left:
            return part
        with self._lock:
            slot = self._slots.setdefault(key, _Slot())
        with slot.lock:
            if slot.picture is None:
                try:
                    slot.picture = load_image(part.source, self.limits)
                except (ValueError, TypeError):
                    return part
                self.reads += 1
            picture = slot.picture
        with self._lock:
            self._left[key] -= 1
            if key in self._slots:
                self._slots.move_to_end(key)
            if self._left[key] <= 0:
                self._slots.pop(key, None)
            self._trim()
        return ImagePart(picture)

    def _trim(self) -> None:
        sizes = {
            key: slot.picture.width * slot.picture.height
            for key, slot in self._slots.items()
            if slot.picture is not None
        }
        held = sum(sizes.values())
        for key, size in sizes.items():
            if held <= self.kept_pixels:
                return
            held -= size
            del self._slots[key]


def _keys(raw: Any) -> list[Hashable]:
    if isinstance(raw, (str, Image.Image)):
        return []
    try:
        parts = parse_item(raw).parts
    except ItemError:
        return []
    return [key for key in map(_key, parts) if key is not None]


def _key(part: Any) -> Hashable | None:
    """Of a picture that has to be decoded; None of all else."""
    if not isinstance(part, ImagePart) or isinstance(part.source, Image.Image) or is_array(part.source):
        return None
    try:
        return media_key(part.source)
    except NoKeyError:
        return None
