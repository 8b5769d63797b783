"""A hash of what rows hold, down to the files that they name: by it a part is known to be up to date."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ...processing.arrays import is_array, values_of
from ...processing.limits import MediaLimits
from ...processing.sources import local_path
from ..storage.atomic import file_sha256
from .columns import MEDIA, is_address
from .sample import Row, reason_of

DEPTH = 6  # of lists and objects in an item; no item that can be encoded has more
REMEMBERED = 1024  # files whose hash is kept at hand: the pages of a PDF are rows of one file


class ContentHash:
    """sha256 of ids, texts, bytes, pixels and files of rows, in their order. What is behind an address is not read.

    Args:
        largest: bytes of a file; a larger one is refused where it is encoded, and only its size counts here.
    """

    def __init__(self, largest: int = MediaLimits().file_bytes) -> None:
        self.largest = largest
        self._digest = hashlib.sha256()
        self._files: dict[tuple[Any, ...], str] = {}

    def add(self, row: Row) -> None:
        """Take a row; one that could not be read counts with the reason."""
        self._say("row", row.id, row.error or "")
        self._feed(row.item, False, DEPTH)

    def hexdigest(self) -> str:
        """Of all rows so far."""
        return self._digest.hexdigest()

    def _say(self, *words: str) -> None:
        for word in words:
            data = word.encode("utf-8", "surrogatepass")
            self._digest.update(len(data).to_bytes(8, "little") + data)

    def _feed(self, value: Any, is_medium: bool, depth: int) -> None:
        if isinstance(value, Mapping) and depth:
            self._say("object", str(len(value)))
            for key, one in value.items():
                self._say(str(key))
                self._feed(one, is_medium or key in MEDIA, depth - 1)
        elif isinstance(value, (list, tuple)) and depth:
            self._say("list", str(len(value)))
            for one in value:
                self._feed(one, is_medium, depth - 1)
        elif isinstance(value, (bytes, bytearray)):
            self._say("bytes", hashlib.sha256(value).hexdigest())
        elif isinstance(value, os.PathLike) or (is_medium and isinstance(value, str)):
            self._medium(os.fsdecode(value))
        elif isinstance(value, Image.Image):
            self._picture(value)
        elif is_array(value) and not isinstance(value, np.ndarray):
            self._say("tensor")  # its channels may be on another axis
            self._feed(values_of(value), is_medium, depth)
        elif isinstance(value, np.ndarray) or hasattr(value, "__array__"):
            array = np.ascontiguousarray(np.asarray(value))
            self._say("array", array.dtype.str, str(array.shape), hashlib.sha256(array.tobytes()).hexdigest())
        elif value is None or isinstance(value, (str, int, float)):
            self._say(type(value).__name__, str(value))
        else:  # what it holds cannot be told, so that it is never said to be the same
            self._say(type(value).__name__, os.urandom(16).hex())

    def _picture(self, image: Image.Image) -> None:
        try:
            pixels, turn = image.tobytes(), image.getexif().get(0x0112, 1)
        except Exception as error:  # what is wrong with it is told where it is encoded
            self._say("picture", reason_of(error))
            return
        self._say("picture", image.mode, str(image.size), str(turn), hashlib.sha256(pixels).hexdigest())

    def _medium(self, source: str) -> None:
        if is_address(source):
            self._say("address", source)
            return
        try:
            source = local_path(source)
            facts = os.stat(source)
            if not stat.S_ISREG(facts.st_mode) or facts.st_size > self.largest:
                self._say("no file to read", str(facts.st_size))
                return
            key = (source, facts.st_size, facts.st_mtime_ns, facts.st_ino)
            if key not in self._files:
                if len(self._files) == REMEMBERED:
                    self._files.clear()
                self._files[key] = file_sha256(Path(source))
            self._say("file", self._files[key])
        except (OSError, ValueError) as error:  # ValueError: a NUL in the name
            self._say("no file", reason_of(error))
