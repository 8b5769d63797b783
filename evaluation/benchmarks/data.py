"""Where a benchmark's rows come from: what readers ask for, and a folder in the published layout that has it.

Notable: archives are unpacked once, aside; and every set of rows has a revision, which goes into the result.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Protocol

from ...encoding.inputs.columns import resolve_within
from ...encoding.inputs.json_records import FormatError
from ...encoding.inputs.records import Records, open_records
from ...encoding.inputs.unpacking import archives_in, unpacked
from ...encoding.storage.contents import file_sha256
from ...processing.limits import MediaLimits
from .definition import Task
from .media import BenchmarkDataError, Media

_SPLIT = re.compile(r"(train|validation|valid|val|dev|test)(?![a-z])")
TABLES = (".parquet", ".jsonl", ".json", ".csv")


class BenchmarkData(Protocol):
    """What readers ask for."""

    def rows(self, task: Task, part: str = "") -> Rows:
        """Rows of a task, or of a part of it (``queries``, ``corpus``, ``qrels``, a subset)."""
        ...

    def media(self, task: Task) -> Media:
        """Where its pictures, frames and clips lie."""
        ...

    def file(self, name: str) -> Path:
        """A file of the whole benchmark."""
        ...

    def revision(self, task: Task, files: Sequence[str] = (), media: Sequence[str] = ()) -> str:
        """Of the rows, of files of the whole benchmark, and of media that items name: commits, or a hash of all."""
        ...


class Rows:
    """Rows with their place in a message."""

    def __init__(self, records: Records, name: str) -> None:
        self.records, self.name = records, name

    def __len__(self) -> int:
        return len(self.records)

    def __iter__(self) -> Iterator[tuple[str, Mapping[str, Any]]]:
        """(place, row) in order."""
        for number in range(len(self.records)):
            yield f"{self.name}, {self.records.place(number)}", self.records[number]


class LocalData:
    """A folder in the layout of the Hub repositories.

    Rows of a task are looked for at its ``rows`` (``image-query/CIRR.jsonl``, or a folder of tables there), or below
    the name of their repository, in ``data`` if need be; media at its ``media``, or in an archive beside or above it.

    Args:
        root: the folder.
        cache: where archives are unpacked; ``.unpacked`` in the root when None.
    """

    def __init__(self, root: Path, cache: Path | None = None, limits: MediaLimits | None = None) -> None:
        if not root.is_dir():
            raise BenchmarkDataError(f"there is no folder {root}")
        self.root, self.limits = root.resolve(), limits
        self.cache = self.root / ".unpacked" if cache is None else cache.resolve()

    def rows(self, task: Task, part: str = "") -> Rows:
        files = self._tables(task, part)
        return Rows(open_records(files), f"{task.name}{f' {part}' if part else ''}: {files[0].name}")

    def file(self, name: str) -> Path:
        path = resolve_within(name, self.root)
        if not path.exists():
            raise BenchmarkDataError(f"there is no {name} in {self.root}")
        return path

    def media(self, task: Task) -> Media:
        root = self._folder(task.media)
        clips = self._folder(task.media.replace("/frames/", "/videos/")) if "/frames/" in task.media else None
        return Media(root, clips)

    def revision(self, task: Task, files: Sequence[str] = (), media: Sequence[str] = ()) -> str:
        paths = [path for part in ("", "queries", "corpus", "qrels") for path in self._found(task, part)]
        for name in files:
            path = self.file(name)
            paths += sorted(one for one in path.rglob("*") if one.is_file()) if path.is_dir() else [path]
        digest = hashlib.sha256()
        for path in sorted(set(paths)):
            facts = path.stat()
            content = _content(path, facts.st_size, facts.st_mtime_ns)
            digest.update(f"{path.relative_to(self.root).as_posix()}\0{content}\0".encode())
        for path in sorted(map(Path, media)):  # of media, which may be millions, names and sizes alone
            base = self.cache if path.is_relative_to(self.cache) else self.root
            digest.update(f"{path.relative_to(base).as_posix()}\0{path.stat().st_size}\0".encode())
        return f"files-{digest.hexdigest()[:40]}"

    def _tables(self, task: Task, part: str) -> list[Path]:
        files = self._found(task, part)
        if not files:
            where = ", ".join(str(one) for one in self._places(task, part))
            raise BenchmarkDataError(
                f"{task.name}: no rows{f' of {part}' if part else ''}; looked for {where}"
            )
        return files

    def _places(self, task: Task, part: str) -> list[Path]:
        names = [task.rows]
        if task.hub is not None:
            repo, config, _ = task.hub
            names += [f"{one}/{config}" if config else one for one in (repo, repo.rpartition("/")[2])]
        return [resolve_within(f"{name}/{part}" if part else name, self.root) for name in names if name]

    def _found(self, task: Task, part: str) -> list[Path]:
        split = task.hub[2] if task.hub else "test"
        for place in self._places(task, part):
            if place.is_file():
                return [place]
            for ending in TABLES:
                if (path := place.with_name(place.name + ending)).is_file():
                    return [path]
                if tables := _of_split(place, split, ending) or _of_split(place / "data", split, ending):
                    return tables
        return []

    def _folder(self, name: str) -> Path | None:
        if not name:
            return self.root
        path = resolve_within(name, self.root)
        if path.is_dir():
            return path
        parts = Path(name).parts
        for depth in range(len(parts) - 1, -1, -1):
            for archive in archives_in(self.root.joinpath(*parts[:depth])).values():
                stem = archive[0].name.partition(".")[0]
                if depth < len(parts) - 1 and stem not in parts:
                    continue  # of another part of the benchmark
                into = unpacked(archive, self.cache, self.limits)
                for start in range(len(parts)):
                    if (found := into.joinpath(*parts[start:])).is_dir():
                        return found
        return None


@cache
def _content(path: Path, _size: int, _changed: int) -> str:
    """sha256 of a file as it is now; tasks share pools."""
    return file_sha256(path)


def _of_split(folder: Path, split: str, ending: str) -> list[Path]:
    """Tables of a split in a folder; all of them where none is named after a split."""
    every = sorted(folder.glob(f"*{ending}")) if folder.is_dir() else []
    own = [path for path in every if re.match(rf"{re.escape(split)}(?![a-z])", path.name)]
    return own or [path for path in every if not _SPLIT.match(path.name)]


def text_of(row: Mapping[str, Any], name: str, place: str, default: str | None = None) -> str:
    """A column that holds a text. Raises FormatError."""
    value = row.get(name, default)
    if value is None and default is not None:
        value = default
    if not isinstance(value, (str, int)) or isinstance(value, bool):
        raise FormatError(f"{place}: {name!r} is missing, or no text: {value!r}"[:300])
    return str(value)


def list_of(row: Mapping[str, Any], name: str, place: str) -> list[str]:
    """A column that holds texts; one alone is a list of one. Raises FormatError."""
    value = row.get(name)
    value = [value] if isinstance(value, str) else value
    if not isinstance(value, (list, tuple)) or not all(isinstance(one, str) for one in value):
        raise FormatError(f"{place}: {name!r} is missing, or no list of texts: {value!r}"[:300])
    return list(value)
