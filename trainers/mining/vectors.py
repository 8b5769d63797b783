"""Vectors of a finished folder of shards, mapped from the disk; nearest neighbours by faiss, shard after shard."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm.auto import tqdm

from ...encoding.index.manifest import import_faiss
from ...encoding.shards.parts import ShardSet

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

    @property
    def shards(self) -> int:
        return len(self._parts)

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


class QueryBlock:
    """A block of queries, and the candidates found for it so far.

    Attributes:
        numbers: of the queries, [q].
        queries: unit rows, float32 [q, d].
        groups: of the queries, [q].
        scores: of what is found, float32 [q, depth + SLACK], best first, -inf where there is nothing yet.
        found: the candidates, int64, as ``scores``; -1 where there is nothing yet.
    """

    def __init__(
        self,
        numbers: NDArray[np.int64],
        queries: NDArray[np.float32],
        groups: NDArray[np.int64],
        depth: int,
    ) -> None:
        self.numbers, self.queries, self.groups = numbers, queries, groups
        self.scores = np.full((len(queries), depth + SLACK), -np.inf, np.float32)
        self.found = np.full((len(queries), depth + SLACK), -1, np.int64)

    @staticmethod
    def row_bytes(dim: int, depth: int) -> int:
        """Memory of one query and what is found for it."""
        return 4 * dim + 12 * (depth + SLACK) + 16

    def add_found(self, group: int, index: Any, names: NDArray[np.int64]) -> None:
        """Add what a faiss index over the candidates ``names`` has for the queries of ``group``."""
        here = np.flatnonzero(self.groups == group)
        if len(here) == 0:
            return
        width = self.found.shape[1]
        scores, places = index.search(np.ascontiguousarray(self.queries[here]), min(width, len(names)))
        both = np.concatenate([self.scores[here], scores], axis=1)
        either = np.concatenate([self.found[here], names[places]], axis=1)
        order = np.lexsort((either, -both), axis=1)[:, :width]
        self.scores[here] = np.take_along_axis(both, order, axis=1)
        self.found[here] = np.take_along_axis(either, order, axis=1)


def search(
    query_blocks: Sequence[QueryBlock],
    vectors: Vectors,
    entry_groups: NDArray[np.int64],
    *,
    show_progress: bool = False,
) -> None:
    """Find each query's candidates of its group with the largest inner products, in one pass over the vectors.

    What a block finds depends on its own queries alone: each is searched by itself, whatever shares the pass.

    Args:
        query_blocks: blocks to fill in; some more than ``depth`` are found, see ``SLACK``, unordered among near-equal
            scores.
        vectors: of the entries.
        entry_groups: [e].
        show_progress: a bar of shards.
    """
    faiss = import_faiss()
    wanted = np.unique(np.concatenate([block.groups for block in query_blocks]))
    bar = tqdm(vectors.blocks(), total=vectors.shards, unit="shard", desc="search", leave=False,
               disable=not show_progress)  # fmt: skip
    for positions, rows in bar:
        of = entry_groups[positions]
        for group in np.intersect1d(wanted, of):
            here = np.flatnonzero(of == group)
            index = faiss.IndexFlatIP(vectors.dim)
            index.add(np.ascontiguousarray(rows[here]))
            for block in query_blocks:
                block.add_found(int(group), index, positions[here])
