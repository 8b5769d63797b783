"""Thoughts by id, for items that are embedded with them: a finished folder of ``umekit think``, or a jsonl.

A line has an ``id`` and a ``thought``: a text, a list of them for several samples, or with ``answer`` beside it the
thought alone. Millions of them are never in memory. Where a folder was written of the very source that is encoded, the
parts of the shard at hand are read; else 20 bytes a thought say where each one stands.
"""

from __future__ import annotations

import hashlib
import os
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..storage.contents import IndexFormatError, file_sha256, parse_json, read_object
from .parts import id_hash
from .thoughts import KIND, RUN, part_file

Lookup = Callable[[str], Any]  # an id to its thought, or list of thoughts; None without one


class GivenThoughts(Protocol):
    """Thoughts of a run. They can be pickled and sent to another process.

    Attributes:
        sha256: of all that is read: with another, vectors are others.
        num_samples: thoughts of an item.
    """

    @property
    def sha256(self) -> str: ...

    @property
    def num_samples(self) -> int: ...

    def of_samples(self, first: int, end: int) -> Lookup:
        """Finds thoughts of the rows of a source's samples from ``first`` to before ``end``."""
        ...


def open_thoughts(where: str | os.PathLike[str], source: str | None = None) -> GivenThoughts:
    """Thoughts to embed with; reads all of them once.

    Args:
        where: a folder of ``umekit think``, or a jsonl.
        source: ``Source.fingerprint()`` of what is encoded, where it is one.

    Raises:
        IndexFormatError: an unfinished folder; a line that is none of a thought, or another number of them than the
            first, or a second one of an id: it is named.
    """
    path = Path(where)
    if not path.is_dir():
        return IndexedThoughts.of([path])
    run = read_object(path / RUN, IndexFormatError)
    if not isinstance(run, dict) or run.get("kind") != KIND or not isinstance(run.get("parts"), int):
        raise IndexFormatError(
            f"{path} holds no finished run of umekit think: the same call again goes on with it"
        )
    options = run.get("options")
    samples = options.get("num_samples") if isinstance(options, dict) else None
    size = run.get("shard_size")
    if not isinstance(size, int) or not isinstance(samples, int) or min(size, samples) < 1:
        raise IndexFormatError(f"{path / RUN}: shard_size is {size!r:.80}, num_samples {samples!r:.80}")
    files = [path / part_file(number) for number in range(run["parts"])]
    if source is None or run.get("source") != source:
        return IndexedThoughts.of(files)
    return ThoughtsInOrder(files, [file_sha256(file) for file in files], size, samples)


@dataclass
class ThoughtsInOrder:
    """Of the source that is encoded, in its order: what a shard needs stands in a part or a few.

    Args:
        files, digests: parts, and sha256 of each.
        shard_size: samples of a part.
        num_samples: thoughts of an item.
    """

    files: Sequence[Path]
    digests: Sequence[str]
    shard_size: int
    num_samples: int
    _held: dict[int, dict[str, Any]] = field(default_factory=dict, repr=False)

    @property
    def sha256(self) -> str:
        """Of what the parts hold, whatever folder they lie in."""
        return _sha256_of(self.digests)

    def of_samples(self, first: int, end: int) -> Lookup:
        numbers = range(first // self.shard_size, min(-(-end // self.shard_size), len(self.files)))
        self._held = {number: self._held.get(number) or self._part(number) for number in numbers}
        parts = list(self._held.values())
        return lambda name: next((part[name] for part in parts if name in part), None)

    def _part(self, number: int) -> dict[str, Any]:
        file = self.files[number]
        if file_sha256(file) != self.digests[number]:
            raise IndexFormatError(f"{file} has changed since this run began to read it")
        found: dict[str, Any] = {}
        for place, _, line in _lines(file):
            name, thought = thought_of(file, line, place, self.num_samples)
            if thought is not None:
                found.setdefault(name, thought)  # of an id that is there twice, the first row is encoded
        return found


@dataclass
class IndexedThoughts:
    """In any order: where each stands, by a hash of its id.

    Args:
        files: that they stand in.
        sha256: of what these hold.
        num_samples: thoughts of an item.
        hashes: of ids, uint64 ``[n]``, ascending.
        numbers, offsets: file and byte of each one's line, uint32 and int64 ``[n]``.
    """

    files: Sequence[Path]
    sha256: str
    num_samples: int
    hashes: NDArray[np.uint64]
    numbers: NDArray[np.uint32]
    offsets: NDArray[np.int64]

    @classmethod
    def of(cls, files: Sequence[Path]) -> IndexedThoughts:
        """Read files once, and note where each thought stands.

        Raises:
            IndexFormatError: see :func:`open_thoughts`.
        """
        hashes, numbers, offsets = array("Q"), array("I"), array("q")
        samples: int | None = None
        digests = []
        for number, file in enumerate(files):
            digest = hashlib.sha256()
            for place, offset, line in _lines(file, digest):
                name, thought = thought_of(file, line, place, samples)
                if thought is None:
                    continue
                if samples is None:
                    samples = len(thought) if isinstance(thought, list) else 1
                hashes.append(id_hash(name))
                numbers.append(number)
                offsets.append(offset)
            digests.append(digest.hexdigest())
        order = np.argsort(np.frombuffer(hashes, np.uint64), kind="stable")
        found = cls(
            files,
            _sha256_of(digests),
            samples or 1,
            np.frombuffer(hashes, np.uint64)[order],
            np.frombuffer(numbers, np.uint32)[order],
            np.frombuffer(offsets, np.int64)[order],
        )
        found._refuse_doubles()
        return found

    def of_samples(self, first: int, end: int) -> Lookup:
        return self.get

    def get(self, name: str) -> Any:
        """The thought of an id, or the list of its thoughts; None without one."""
        wanted = np.uint64(id_hash(name))
        begin, end = (int(np.searchsorted(self.hashes, wanted, side)) for side in ("left", "right"))
        for place in range(begin, end):
            found, thought = self._read(place)
            if found == name:
                return thought
        return None

    def _read(self, place: int) -> tuple[str, Any]:
        file = self.files[self.numbers[place]]
        with file.open("rb") as handle:
            handle.seek(int(self.offsets[place]))
            name, thought = thought_of(file, handle.readline(), None, self.num_samples)
        if id_hash(name) != self.hashes[place] or thought is None:
            raise IndexFormatError(f"{file} has changed since this run began to read it")
        return name, thought

    def _refuse_doubles(self) -> None:
        for place in np.flatnonzero(self.hashes[1:] == self.hashes[:-1]):
            name = self._read(int(place))[0]
            if name == self._read(int(place) + 1)[0]:
                file = self.files[self.numbers[place + 1]]
                raise IndexFormatError(f"{file}: the id {name!r} is there twice")


def thought_of(path: Path, line: bytes, number: int | None, samples: int | None) -> tuple[str, Any]:
    """Id and thought of a line: a text, a pair of thought and answer, or for several samples a list; None of an error.

    Args:
        path, number: of the line, for messages.
        samples: thoughts that there must be; None for any number.

    Raises:
        IndexFormatError: it is none.
    """
    where = "" if number is None else f", line {number}"
    row = parse_json(path, line, IndexFormatError, where)
    name, thought = (row.get(key) if isinstance(row, dict) else None for key in ("id", "thought"))
    if isinstance(name, str) and "error" in row:
        return name, None
    thoughts = thought if isinstance(thought, list) else [thought]
    if not isinstance(name, str) or not thoughts or not all(isinstance(one, str) for one in thoughts):
        raise IndexFormatError(
            f"{path}{where}: a line has an id and a thought, both texts (or a list of thoughts)"
        )
    if samples is not None and len(thoughts) != samples:
        raise IndexFormatError(
            f"{path}{where}: {name!r} has {len(thoughts)} thoughts, and those before it {samples}: need one number"
        )
    if "answer" in row:
        return name, (thought, row["answer"])
    return name, thoughts if len(thoughts) > 1 else thoughts[0]


def _lines(file: Path, digest: Any = None) -> Iterator[tuple[int, int, bytes]]:
    """Number, offset and bytes of the lines of a file that are not blank; all of it goes into a digest."""
    offset = 0
    with file.open("rb") as handle:
        for number, line in enumerate(handle, start=1):
            if digest is not None:
                digest.update(line)
            if line.strip():
                yield number, offset, line
            offset += len(line)


def _sha256_of(digests: Sequence[str]) -> str:
    return hashlib.sha256("".join(digests).encode()).hexdigest()
