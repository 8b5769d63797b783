"""Where a benchmark's rows and media come from: a folder in the published layout, or the Hub.

Notable: files are found by their exact names and never by their endings (``9741.mp4`` is not ``209741.mp4``,
evalscope#1752); folders of frames come before clips; archives are unpacked once, aside; and every set of rows has a
revision, which goes into the result.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ...encoding.inputs.columns import OutsideRootError, resolve_within
from ...encoding.inputs.json_records import FormatError
from ...encoding.inputs.records import ListRecords, Records, open_records
from ...encoding.inputs.sample import hash_of_files
from ...encoding.inputs.unpacking import archives_in, unpacked
from ...processing.limits import MediaLimits
from .definition import Benchmark, Task

TABLES = (".parquet", ".jsonl", ".json", ".csv")
PICTURES = (".jpg", ".jpeg", ".png")
CLIPS = (".mp4", ".avi", ".mov", ".mkv", ".webm")
_NUMBER = re.compile(r"(\d+)")


class BenchmarkDataError(FileNotFoundError):
    """Rows or media of a task are not where they belong; the message says what was looked for."""


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

    def revision(self, task: Task) -> str:
        """Of the rows: a commit, or a hash of the files."""
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


class Media:
    """Files below a task's folder of media, by exact names.

    Args:
        root: the folder; None where rows bring their pictures themselves.
        clips: where whole clips lie, if frames are not there.
    """

    def __init__(self, root: Path | None, clips: Path | None = None) -> None:
        self.root, self.clips = root, clips

    def picture(self, name: str) -> str:
        """Path of a picture. Raises BenchmarkDataError, OutsideRootError."""
        path = self._within(self.root, name)
        if path is None or not path.is_file():
            raise BenchmarkDataError(f"there is no picture {name!r} in {self.root}")
        return str(path)

    def video(self, name: str, frames: int) -> list[str] | str:
        """Frames of a clip, evenly chosen as the official code does; the clip itself where there are no frames.

        Raises:
            BenchmarkDataError: neither is there.
        """
        folder = self._within(self.root, name)
        if folder is not None and folder.is_dir():
            return self._frames(folder, frames)
        for ending in ("", *CLIPS):
            clip = self._within(self.clips, name + ending)
            if clip is not None and clip.is_file():
                return str(clip)
        raise BenchmarkDataError(
            f"there is no folder of frames {name!r} in {self.root}, and no clip of that name in {self.clips}"
        )

    def folders(self, name: str) -> list[str]:
        """Names of the folders in a folder, sorted. Raises BenchmarkDataError."""
        folder = self._within(self.root, name)
        if folder is None or not folder.is_dir():
            raise BenchmarkDataError(f"there is no folder {name!r} in {self.root}")
        return sorted(f"{name}/{one.name}" for one in folder.iterdir() if one.is_dir())

    def _frames(self, folder: Path, count: int) -> list[str]:
        found = sorted((one for one in folder.iterdir() if one.suffix.lower() in PICTURES), key=_natural)
        if not found:
            raise BenchmarkDataError(f"no frames in {folder}")
        return [str(one) for one in chosen_frames(found, count)]

    @staticmethod
    def _within(root: Path | None, name: str) -> Path | None:
        return None if root is None or not name else resolve_within(name, root)


def chosen_frames(frames: Sequence[Any], count: int) -> list[Any]:
    """``count`` of them, evenly, first and last among them; all where there are fewer.

    VLM2Vec ``vision_utils.process_video_frames``.

    >>> chosen_frames(list(range(64)), 8)
    [0, 9, 18, 27, 36, 45, 54, 63]
    """
    if len(frames) < count:
        return list(frames)
    return [frames[place] for place in np.linspace(0, len(frames) - 1, count, dtype=int)]


def _natural(path: Path) -> list[tuple[int, int, str]]:
    """``frame_10`` after ``frame_9``."""
    return [
        (0, int(part), "") if part.isdigit() else (1, 0, part.lower()) for part in _NUMBER.split(path.name)
    ]


class LocalData:
    """A folder in the layout of the Hub repositories.

    Rows of a task are looked for at its ``rows`` (``image-query/CIRR.jsonl``, or a folder of tables there), or below
    the name of their repository; media at its ``media``, or in an archive beside or above it.

    Args:
        root: the folder.
        cache: where archives are unpacked; ``.unpacked`` in the root when None.
    """

    def __init__(self, root: Path, cache: Path | None = None, limits: MediaLimits | None = None) -> None:
        if not root.is_dir():
            raise BenchmarkDataError(f"there is no folder {root}")
        self.root, self.limits = root, limits
        self.cache = root / ".unpacked" if cache is None else cache

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

    def revision(self, task: Task) -> str:
        files = [
            (path.relative_to(self.root).as_posix(), path)
            for part in ("", "queries", "corpus", "qrels")
            for path in self._found(task, part)
        ]
        return f"files-{hash_of_files(sorted(set(files)))[:40]}"

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
                if tables := _of_split(place, split, ending):
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


def _of_split(folder: Path, split: str, ending: str) -> list[Path]:
    """Tables of a split in a folder; all of them where none is named after a split."""
    every = sorted(folder.glob(f"*{ending}")) if folder.is_dir() else []
    own = [path for path in every if re.match(rf"{re.escape(split)}(?![a-z])", path.name)]
    return own or every


class HubData:
    """Rows by ``datasets``, streamed; media by a snapshot of the files that the chosen tasks need.

    Args:
        benchmark: whose.
        cache: folder of snapshots and of unpacked archives.
        revision: of all repositories; their newest commit when None. Either is resolved to a commit first.
    """

    def __init__(self, benchmark: Benchmark, cache: Path, revision: str | None = None) -> None:
        self.benchmark, self.cache, self.asked = benchmark, cache, revision

    def rows(self, task: Task, part: str = "") -> Rows:
        repo, config, split = self._hub(task)
        rows = stream_rows(repo, part or config, split, self._commit(repo))
        if not rows:
            raise BenchmarkDataError(f"{task.name}: {repo} has no rows")
        return Rows(ListRecords(rows), f"{task.name}: {repo}{f' {part or config}' if part or config else ''}")

    def file(self, name: str) -> Path:
        repo = self.benchmark.media_repo
        if repo is None:
            raise BenchmarkDataError(
                f"{self.benchmark.title}: {name} is in no Hub repository; give a local folder"
            )
        return snapshot(repo, [name, f"{name}/*"], self._commit(repo)) / name

    def media(self, task: Task) -> Media:
        repo = self.benchmark.media_repo
        if repo is None:
            raise BenchmarkDataError(f"{task.name}: its media are in no Hub repository; give a local folder")
        folder = snapshot(repo, _patterns(task.media), self._commit(repo))
        if not folder.is_dir():
            raise BenchmarkDataError(f"{task.name}: {repo} has neither {task.media} nor an archive of it")
        return LocalData(folder, self.cache / "unpacked").media(task)

    def revision(self, task: Task) -> str:
        return self._commit(self._hub(task)[0])

    def _hub(self, task: Task) -> tuple[str, str | None, str]:
        if task.hub is None:
            raise BenchmarkDataError(f"{task.name} is in no Hub repository; give a local folder")
        return task.hub

    def _commit(self, repo: str) -> str:
        return commit_of(repo, self.asked)


def _patterns(media: str) -> list[str]:
    """A folder of media, and what it may be packed in: archives called as it or as a folder above it, or beside it."""
    parts = Path(media).parts
    named = ["/".join(parts[:depth]) for depth in range(len(parts), 0, -1)]
    beside = [f"{named[1]}/*.tar*"] if len(named) > 1 else []
    return [f"{media}/*", *(f"{one}{sign}*" for one in named for sign in ".-_"), *beside]


@cache
def commit_of(repo: str, revision: str | None) -> str:
    """The commit that a revision is now."""
    from huggingface_hub import HfApi

    sha = HfApi().dataset_info(repo, revision=revision).sha
    if not sha:
        raise BenchmarkDataError(f"{repo}: the Hub names no commit")
    return str(sha)


def stream_rows(repo: str, config: str | None, split: str, commit: str) -> list[Mapping[str, Any]]:
    """Rows of a data set; pictures stay bytes."""
    import datasets

    table = datasets.load_dataset(repo, config, split=split, streaming=True, revision=commit)
    for name, feature in (table.features or {}).items():
        if isinstance(feature, datasets.Image):
            table = table.cast_column(name, datasets.Image(decode=False))
    return list(table)


def snapshot(repo: str, patterns: Sequence[str], commit: str) -> Path:
    """A local folder with those files of a repository."""
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(repo, repo_type="dataset", revision=commit, allow_patterns=list(patterns)))


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


__all__ = [
    "BenchmarkData",
    "BenchmarkDataError",
    "HubData",
    "LocalData",
    "Media",
    "OutsideRootError",
    "Rows",
    "chosen_frames",
    "list_of",
    "text_of",
]
