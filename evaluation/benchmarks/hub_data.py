"""A benchmark's rows and media from the Hub: rows streamed, media by what the chosen tasks need, all of one commit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from ...encoding.inputs.records import ListRecords
from .data import LocalData, Rows
from .definition import Benchmark, Task
from .media import BenchmarkDataError, Media


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

    def revision(self, task: Task, files: Sequence[str] = (), media: Sequence[str] = ()) -> str:
        own, apart = self._commit(self._hub(task)[0]), self.benchmark.media_repo
        other = own if apart is None or not media else self._commit(apart)
        return own if other == own else f"{own}, media {other}"

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
