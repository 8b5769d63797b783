"""What a source of items is: units in a stable order, each of which is read only when it is asked for."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

REASON_CHARACTERS = 500
EDGE_BYTES = 1 << 16  # of each end of a file that go into the hash of a source
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
class Unit:
    """One place in a source: a file of a folder, a line, a table's row, a sample of an archive.

    Shards count units and not rows, because a PDF has a row per page and nobody knows how many before it is opened.
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
        """How many units there are; None where only reading all of it would tell."""
        ...

    def units(self) -> Iterator[Unit]:
        """All units, in order. Nothing but names, lines and headers is read before ``Unit.rows`` is called."""
        ...

    def fingerprint(self) -> str:
        """sha256 of what tells this source from another: names, sizes, and where it is cheap the contents."""
        ...


def failed_unit(name: str, error: BaseException | str) -> Unit:
    """A place where nothing can be read."""
    reason = error if isinstance(error, str) else reason_of(error)
    return Unit(name, lambda: [Row(name, error=reason)])


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
