"""Vectors of a finished folder of shards, mapped from the disk; nearest neighbours by faiss, shard after shard."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...encoding.compressed_files import import_faiss
from ...encoding.shard_reading import ShardSet

SLACK = 16  # more than asked for, so that equal scores at the edge are ordered by us and not by faiss


class Vectors:
    """Unit rows by number; what could not be encoded has none.

    Raises:
        ShardFormatError: the folder is not finished or damaged (every file is compared with its hash once).
    """

    def __init__(self, folder: Path, count: int) -> None:
        shards = ShardSet(folder)
        self.dim = shards.run.dim
        self._parts = [(np.array([int(name) for name in ids], np.int64), rows) for ids, rows in shards]
        self._part = np.full(count, -1, np.int32)
        self._row = np.zeros(count, np.int32)
        for number, (positions, _) in enumerate(self._parts):
            self._part[positions] = number
            self._row[positions] = np.arange(len(positions))

    @property
    def present(self) -> NDArray[np.bool_]:
        """Which numbers have a vector, [count]."""
        return self._part >= 0

    def take(self, numbers: NDArray[np.int64]) -> NDArray[np.float32]:
        """Unit rows [n, d] of numbers that are present, in their order."""
        rows = np.empty((len(numbers), self.dim), np.float32)
        parts = self._part[numbers]
        for part in np.unique(parts):
            here = parts == part
            rows[here] = self._parts[part][1][self._row[numbers[here]]]
        return unit(rows)

    def blocks(self) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
        """Numbers and unit rows of one shard after the other."""
        for positions, rows in self._parts:
            yield positions, unit(np.array(rows, dtype=np.float32))


def unit(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """Rows divided by their lengths, so that an inner product is a cosine whatever the checkpoint's settings."""
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def nearest(
    queries: NDArray[np.float32],
    groups: NDArray[np.int64],
    vectors: Vectors,
    entry_groups: NDArray[np.int64],
    depth: int,
) -> NDArray[np.int64]:
    """Candidates of each query's group with the largest inner products.

    Args:
        queries: float32 [q, d], unit rows.
        groups: [q].
        vectors: of the entries.
        entry_groups: [e].
        depth: how many; some more come back, see ``SLACK``.

    Returns:
        int64 [q, depth + SLACK], unordered among near-equal scores, padded with -1.
    """
    faiss = import_faiss()
    width = depth + SLACK
    best = np.full((len(queries), width), -np.inf, np.float32)
    found = np.full((len(queries), width), -1, np.int64)
    members = {int(group): np.flatnonzero(groups == group) for group in np.unique(groups)}
    for positions, rows in vectors.blocks():
        of = entry_groups[positions]
        for group, asking in members.items():
            here = np.flatnonzero(of == group)
            if len(here) == 0:
                continue
            index = faiss.IndexFlatIP(vectors.dim)
            index.add(np.ascontiguousarray(rows[here]))
            scores, numbers = index.search(np.ascontiguousarray(queries[asking]), min(width, len(here)))
            both = np.concatenate([best[asking], scores], axis=1)
            names = np.concatenate([found[asking], positions[here][numbers]], axis=1)
            order = np.lexsort((names, -both), axis=1)[:, :width]
            best[asking] = np.take_along_axis(both, order, axis=1)
            found[asking] = np.take_along_axis(names, order, axis=1)
    return found
