"""What a source of items is: samples in a stable order, each of which is read only when it is asked for.

A hash of what rows hold, down to the files that they name, tells whether a part made of them is up to date.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

from ...processing.arrays import is_array, values_of
from ...processing.limits import MediaLimits
from ...processing.sources import local_path
from ..storage.contents import file_sha256

MEDIA = ("image", "images", "video", "document")
ADDRESSES = ("http://", "https://", "data:")  # nothing behind them is a file of this machine

CHUNK_ROWS = 1024  # items that the encoder is given at a time
CHUNK_BYTES = 1 << 28  # and bytes of those that are in memory
REASON_CHARACTERS = 500
EDGE_BYTES = 1 << 16  # of each end of a file that go into the hash of a source
DEPTH = 6  # of lists and objects in an item; no item that can be encoded has more
REMEMBERED = 1024  # files whose hash is kept at hand: the pages of a PDF are rows of one file
_POSITION = re.compile(r"^item \d+: ")


class InputError(ValueError):
    """A source as a whole cannot be used: there is nothing there, or its kind cannot be told."""


@dataclass(frozen=True)
class Row:
    """One item and its id; without an item, the reason why there is none."""

    id: str
    item: Any = None
    error: str | None = None


@dataclass(frozen=True)
class Sample:
    """One place in a source: a file of a folder, a line, a table's row, a sample of an archive.

    Shards count samples and not rows, because a PDF has a row per page and nobody knows how many before it is opened.
    """

    id: str
    load: Callable[[], list[Row]]

    def rows(self) -> list[Row]:
        """Read it: most often one row. What cannot be read is a row with an error, never an exception."""
        try:
            return self.load()
        except Exception as error:  # a damaged file can make its library raise anything
            return [Row(self.id, error=reason_of(error))]


class Source(Protocol):
    """Units in an order that depends on the data alone. Sources can be pickled and sent to another process."""

    def count(self) -> int | None:
        """How many samples there are; None where only reading all of it would tell."""
        ...

    def samples(self) -> Iterator[Sample]:
        """All samples, in order. Nothing but names, lines and headers is read before ``Sample.rows`` is called."""
        ...

    def fingerprint(self) -> str:
        """sha256 of what tells this source from another: names, sizes, and where it is cheap the contents."""
        ...


def failed_sample(name: str, error: BaseException | str) -> Sample:
    """A place where nothing can be read."""
    reason = error if isinstance(error, str) else reason_of(error)
    return Sample(name, lambda: [Row(name, error=reason)])


def reason_of(error: BaseException) -> str:
    """One line that says what is wrong, without the position of the item in some batch."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    text = _POSITION.sub("", " ".join(str(error).split()))
    text = text.encode("utf-8", "replace").decode("utf-8")
    return text[:REASON_CHARACTERS] or type(error).__name__


def hash_of_files(files: Iterable[tuple[str, Path]]) -> str:
    """sha256 of the names and sizes of files, and of both ends of each."""
    digest = hashlib.sha256()
    for name, path in files:
        size = path.stat().st_size
        digest.update(f"{name}\0{size}\0".encode("utf-8", "surrogateescape"))
        with path.open("rb") as handle:
            digest.update(handle.read(EDGE_BYTES))
            handle.seek(max(0, size - EDGE_BYTES))
            digest.update(handle.read(EDGE_BYTES))
    return digest.hexdigest()


def bytes_of(item: Any) -> int:
    """Bytes of an item's texts and files that are in memory; what it names by a path is not."""
    if isinstance(item, (bytes, str)):
        return len(item)
    values = item.values() if isinstance(item, dict) else item if isinstance(item, list) else ()
    return sum(bytes_of(value) for value in values)


def chunks(rows: Iterable[Row]) -> Iterator[list[Row]]:
    """Rows for one call of the encoder, bounded in number and in bytes, by nothing but the rows themselves."""
    chunk: list[Row] = []
    held = 0
    for row in rows:
        chunk.append(row)
        held += bytes_of(row.item)
        if len(chunk) == CHUNK_ROWS or held >= CHUNK_BYTES:
            yield chunk
            chunk, held = [], 0
    if chunk:
        yield chunk


def is_address(text: str) -> bool:
    """Whether a medium's text names a place on the net or holds the content itself."""
    return text[:8].lower().startswith(ADDRESSES)


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
