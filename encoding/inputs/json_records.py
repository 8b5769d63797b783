"""Objects in JSON files by number: their offsets are found once, each is parsed when it is asked for."""

from __future__ import annotations

import json
import re
from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from .lines import LINE_BYTES


class FormatError(ValueError):
    """A file or one of its rows is not in the format that was promised; the message names both."""


_CHUNK = 1 << 20
_BLANK = re.compile(r"[ \t\r\n]*")
_DECODER = json.JSONDecoder()


def _refuse(name: str) -> float:
    raise ValueError(f"{name} is no number of JSON")


_STRICT = json.JSONDecoder(parse_constant=_refuse)


class JsonRecords:
    """Objects in JSON files, found by their offsets; eight bytes of memory each."""

    def __init__(
        self, paths: Sequence[Path], find: Callable[[Path], tuple[array[int], array[int], array[int]]]
    ) -> None:
        self.paths = list(paths)
        self.root: Path | None = paths[0].parent
        found = [find(path) for path in self.paths]
        self.offsets = [np.frombuffer(offsets, dtype=np.int64) for offsets, _, _ in found]
        self.sizes = [np.frombuffer(sizes, dtype=np.int64) for _, sizes, _ in found]
        self.numbers = [np.frombuffer(numbers, dtype=np.int64) for _, _, numbers in found]
        self.ends: list[int] = np.cumsum([len(offsets) for offsets in self.offsets]).tolist()

    def __len__(self) -> int:
        return self.ends[-1]

    def __getitem__(self, index: int) -> Mapping[str, Any]:
        file, number = self._find(index)
        with self.paths[file].open("rb") as handle:
            handle.seek(int(self.offsets[file][number]))
            data = handle.read(int(self.sizes[file][number]))
        try:
            record = _STRICT.decode(data.decode("utf-8-sig"))
        except RecursionError:
            raise FormatError(f"{self.place(index)}: not JSON: nested too deeply") from None
        except ValueError as error:
            raise FormatError(f"{self.place(index)}: not JSON: {error}") from None
        return record if isinstance(record, dict) else as_object(record, self.place(index))

    def place(self, index: int) -> str:
        file, number = self._find(index)
        return f"{self.paths[file].name}:{int(self.numbers[file][number])}"

    def _find(self, index: int) -> tuple[int, int]:
        file = bisect_right(self.ends, index)
        return file, index - (self.ends[file - 1] if file else 0)


def line_offsets(path: Path) -> tuple[array[int], array[int], array[int]]:
    """Offsets, sizes and line numbers (from 1) of the lines that are not blank."""
    offsets, sizes, numbers = array("q"), array("q"), array("q")
    with path.open("rb") as handle:
        offset = number = 0
        while line := handle.readline(LINE_BYTES + 1):
            number += 1
            if len(line) > LINE_BYTES:
                raise FormatError(f"{path.name}:{number}: a line of more than {LINE_BYTES} bytes")
            if line.strip():
                offsets.append(offset)
                sizes.append(len(line))
                numbers.append(number)
            offset += len(line)
    return offsets, sizes, numbers


def element_offsets(path: Path) -> tuple[array[int], array[int], array[int]]:
    """Offsets, sizes and numbers (from 0) of the elements of an array."""
    offsets, sizes = array("q"), array("q")
    with path.open(encoding="utf-8-sig", newline="") as handle:
        reader = _ArrayReader(handle, path)
        for offset, size in reader.elements():
            offsets.append(offset)
            sizes.append(size)
    return offsets, sizes, array("q", range(len(offsets)))


class _ArrayReader:
    """Finds the elements of a JSON array in one pass that holds one chunk, or one element if it is larger."""

    def __init__(self, handle: TextIO, path: Path) -> None:
        self.handle, self.name = handle, path.name
        with path.open("rb") as raw:
            self.offset = 3 if raw.read(3) == b"\xef\xbb\xbf" else 0  # of the next character, in bytes
        self.text, self.at = "", 0

    def elements(self) -> Iterator[tuple[int, int]]:
        """(offset, size) in bytes."""
        count = 0
        self._take("[")
        if self._next() == "]":
            return
        while True:
            self._next()
            size = self._element(count)
            yield self.offset - size, size
            count += 1
            if self._next() == "]":
                return
            self._take(",")

    def _next(self) -> str:
        """The next character that is no blank."""
        while True:
            end = _BLANK.match(self.text, self.at).end()  # type: ignore[union-attr]  # it matches nothing, too
            self._advance(end)
            if self.at < len(self.text):
                return self.text[self.at]
            if not self._more():
                raise FormatError(f"{self.name}: the file ends within the array")

    def _take(self, character: str) -> None:
        if self._next() != character:
            raise FormatError(
                f"{self.name}: expected {character!r} at byte {self.offset}: not an array of objects"
            )
        self._advance(self.at + 1)

    def _element(self, count: int) -> int:
        while True:
            try:
                end = _DECODER.raw_decode(self.text, self.at)[1]
            except RecursionError:
                raise FormatError(f"{self.name}: element {count} is nested too deeply") from None
            except ValueError as error:
                if len(self.text) - self.at > LINE_BYTES or not self._more():
                    raise FormatError(f"{self.name}: element {count} is not JSON: {error}") from None
            else:
                return self._advance(end)

    def _advance(self, end: int) -> int:
        size = len(self.text[self.at : end].encode())
        self.offset, self.at = self.offset + size, end
        return size

    def _more(self) -> bool:
        chunk = self.handle.read(max(_CHUNK, len(self.text) - self.at))
        self.text, self.at = self.text[self.at :] + chunk, 0
        return bool(chunk)


def as_object(record: Any, place: str) -> Mapping[str, Any]:
    if not isinstance(record, Mapping):
        raise FormatError(f"{place}: a record is an object, not a {type(record).__name__}")
    return record
