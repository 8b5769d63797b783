"""Vectors of a benchmark's items: each item is encoded once, whatever tasks show it, and kept on disk in shards.

Encoding is that of ``umekit encode``: a run that is stopped goes on where it was, and several processes (``torchrun``)
share a task's items, with the same vectors. What has been encoded is found again by a hash of model, settings, code
and item, never by a file's name alone.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ... import encoding, modeling, processing
from ..._version import __version__
from ...encoding.inputs.sample import Row, Sample
from ...encoding.shards.parts import ShardSet
from ...encoding.shards.run import encode_shards
from ..costs import Cost, Measured, logged

SHARD = 4096
Role = str


class ItemSource:
    """Items by their keys, as a source of shards."""

    def __init__(self, items: Mapping[str, Mapping[str, Any]]) -> None:
        self.items = dict(items)

    def count(self) -> int:
        return len(self.items)

    def samples(self) -> Iterator[Sample]:
        for key, item in self.items.items():
            yield Sample(key, _Load(key, dict(item)))

    def fingerprint(self) -> str:
        return hashlib.sha256("\n".join(self.items).encode()).hexdigest()


class _Load:
    def __init__(self, key: str, item: dict[str, Any]) -> None:
        self.row = Row(key, item)

    def __call__(self) -> list[Row]:
        return [self.row]


class VectorStore:
    """Vectors of items, in a folder.

    Args:
        encoder: makes them.
        root: the folder.
        options: of every call of ``encode``: ``num_samples`` ...
        query_options: of those of queries, beside them.
        settings: whatever else the items depend on (revisions of data, say); they name the folder.
        rank, world: which of how many processes this is.
    """

    def __init__(
        self,
        encoder: Any,
        root: Path,
        *,
        mode: str | None = None,
        options: Mapping[str, Any] | None = None,
        query_options: Mapping[str, Any] | None = None,
        settings: Mapping[str, Any] | None = None,
        rank: int = 0,
        world: int = 1,
        shard_size: int = SHARD,
        batch_tokens: int | None = None,
        threads: int | None = None,
        show_progress: bool | None = None,
    ) -> None:
        self.encoder, self.mode = encoder, mode
        self.options = {"document": dict(options or {})}
        self.options["query"] = {**self.options["document"], **(query_options or {})}
        facts = {"encoder": encoder.fingerprint(), "mode": mode, "options": self.options}
        facts |= {"code": code_hash(), "settings": dict(settings or {})}
        digest = hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()
        self.folder = root / digest[:24]
        self.folder.mkdir(parents=True, exist_ok=True)
        self.rank, self.world, self.shard_size = rank, world, shard_size
        self.calls = {"batch_tokens": batch_tokens, "threads": threads, "show_progress": show_progress}
        self.failures: dict[str, str] = {}
        self.costs: dict[str, Cost] = {}
        self._rows: dict[str, tuple[NDArray[Any], int]] = {}
        self._planned: set[str] = set()
        self._folders: list[Path] = []

    def encode(self, name: str, role: Role, items: Sequence[Mapping[str, Any]]) -> list[str]:
        """Encode this process's share of the items that are not planned already; returns the keys of all."""
        keys = [item_key(item, role) for item in items]
        fresh = {key: item for key, item in zip(keys, items, strict=True) if key not in self._planned}
        self._planned |= set(fresh)
        if fresh:
            source = ItemSource(fresh)
            folder = self.folder / f"{_plain(name)}-{role}-{source.fingerprint()[:16]}"
            log = folder.with_name(f"{folder.name}.costs-{self.rank}.jsonl")
            encode_shards(
                Measured(self.encoder, self.options[role], log),
                source,
                folder,
                self.shard_size,
                role=role,
                mode=self.mode,
                rank=self.rank,
                world=self.world,
                **self.calls,  # type: ignore[arg-type]
            )
            self._folders.append(folder)
        return keys

    def finished(self) -> bool:
        """Whether all processes have done their shares; this one need not wait."""
        return all((folder / "manifest.json").is_file() for folder in self._folders)

    def open(self) -> None:
        """Map what was encoded. Raises ShardFormatError where it is damaged or not finished."""
        for folder in self._folders:
            for ids, vectors in ShardSet(folder):
                self._rows |= {key: (vectors, row) for row, key in enumerate(ids)}
            errors = (folder / "errors.jsonl").read_text(encoding="utf-8").splitlines()
            self.failures |= {one["id"]: one["reason"] for one in map(json.loads, errors)}
            logs = sorted(folder.parent.glob(f"{folder.name}.costs-*.jsonl"))
            self.costs[folder.name.rsplit("-", 1)[0]] = logged(logs)

    def vectors(self, keys: Sequence[str]) -> NDArray[np.float32]:
        """Float32 [n, d]; NaN where an item could not be encoded."""
        found = np.full((len(keys), self.encoder.dim), np.nan, dtype=np.float32)
        for place, key in enumerate(keys):
            if key in self._rows:
                block, row = self._rows[key]
                found[place] = block[row]
        return found


def item_key(item: Mapping[str, Any], role: Role) -> str:
    """sha256 of an item and its role: its texts, paths and bytes."""
    digest = hashlib.sha256(role.encode())

    def feed(value: Any) -> None:
        if isinstance(value, (bytes, bytearray)):
            digest.update(b"b" + hashlib.sha256(value).digest())
        elif isinstance(value, (list, tuple)):
            digest.update(f"l{len(value)}".encode())
            for one in value:
                feed(one)
        else:
            text = str(value).encode("utf-8", "surrogatepass")
            digest.update(f"{type(value).__name__}{len(text)}:".encode() + text)

    for name in sorted(item):
        feed(name)
        feed(item[name])
    return digest.hexdigest()[:40]


@cache
def code_hash() -> str:
    """sha256 of the sources that have a say in a vector: a change of code makes vectors anew."""
    digest = hashlib.sha256(__version__.encode())
    for room in (modeling, processing, encoding):
        base = Path(next(iter(room.__path__)))
        for path in sorted(base.rglob("*.py")):
            digest.update(path.relative_to(base).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def _plain(name: str) -> str:
    return "".join(letter if letter.isalnum() or letter in "-_." else "_" for letter in name)
