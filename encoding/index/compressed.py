"""An index for what does not fit into memory: faiss IVF-PQ over shards, scored again from the disk.

::

    manifest.json               kind, dim, count, fingerprint, settings, sha256 of files; names the data folder
    data-<generation>/
        index.faiss             IVF-PQ, inner product
        ids.utf8 ids.npy        all ids, and where each begins: int64 [n + 1]
        vectors.npy             float16 [n, d], if vectors are kept; mapped, never loaded

IVF-PQ finds candidates in a few bytes a row; the best of them are scored again with the kept vectors, so scores are
cosines to float16 accuracy. What stays approximate is which rows are looked at: ``nprobe`` lists of ``nlist``.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ...modeling.pooling import whole_number
from ..fingerprint import check_fingerprint
from ..storage.contents import check_rows, read_npy
from .compressed_files import (
    FAISS,
    VECTORS,
    build_compressed,
    read_compressed_manifest,
    read_faiss,
    read_names,
)
from .manifest import IndexFormatError, check_files


class CompressedIndex:
    """IVF-PQ with ids; :meth:`build` makes one from shards, :meth:`load` opens it, ``search`` is :class:`Index`'s.

    Attributes:
        nprobe: lists that a search looks into; more find more and take longer.
        rescored: candidates for each result that are scored again from the kept vectors.
    """

    def __init__(
        self,
        dim: int,
        fingerprint: Mapping[str, Any],
        settings: Mapping[str, Any],
        faiss_index: Any,
        names: bytes,
        starts: NDArray[np.int64],
        vectors: NDArray[np.float16] | None,
    ) -> None:
        self.dim, self.fingerprint, self.settings = dim, dict(fingerprint), dict(settings)
        self.nprobe, self.rescored = int(faiss_index.nprobe), 10
        self._faiss, self._names, self._starts, self._vectors = faiss_index, names, starts, vectors

    def __len__(self) -> int:
        return len(self._starts) - 1

    def get(self, name: str) -> dict[str, Any]:
        """Metadata of a row: there is none in a compressed index."""
        return {}

    def search(self, vectors: ArrayLike, k: int = 10) -> tuple[list[list[str | None]], NDArray[np.float32]]:
        """The k nearest rows of each query by cosine, best first, among the lists that are looked into.

        Args:
            vectors: [n, d] or [d], unit rows.
            k: how many per query.

        Returns:
            n lists of k ids, and float32 [n, k]; short lists are padded with None and -inf.

        Raises:
            ValueError: a wrong shape, k below 1, or a NaN, zero or non-unit query.
        """
        queries = np.array(vectors, dtype=np.float32, ndmin=2)
        k = whole_number("k", k)
        if queries.ndim != 2 or queries.shape[1] != self.dim:
            raise ValueError(f"queries have shape {np.shape(vectors)}; the index needs [n, {self.dim}]")
        check_rows([f"query {number}" for number in range(len(queries))], queries, ValueError)
        self._faiss.nprobe = self.nprobe
        width = k if self._vectors is None else max(k * self.rescored, 100)
        rough, rows = self._faiss.search(queries, min(width, len(self)))
        found: list[list[str | None]] = []
        scores = np.full((len(queries), k), -np.inf, dtype=np.float32)
        for number, query in enumerate(queries):
            there = np.sort(rows[number][rows[number] >= 0])
            if self._vectors is None:
                by_row = dict(zip(rows[number].tolist(), rough[number].tolist(), strict=True))
                values = np.array([by_row[row] for row in there.tolist()], dtype=np.float32)
            else:
                values = (self._vectors[there].astype(np.float32) @ query).astype(np.float32)
            names = [self._name(row) for row in there.tolist()]
            order = sorted(range(len(names)), key=lambda place: (-values[place], names[place]))[:k]
            found.append([*(names[place] for place in order), *[None] * (k - len(order))])
            scores[number, : len(order)] = values[order]
        return found, scores

    def _name(self, row: int) -> str:
        return self._names[self._starts[row] : self._starts[row + 1]].decode()

    @classmethod
    def build(
        cls,
        shards: str | os.PathLike[str],
        folder: str | os.PathLike[str],
        *,
        lists: int | None = None,
        code_bytes: int | None = None,
        nprobe: int | None = None,
        keep_vectors: bool = True,
        rebuild: bool = False,
    ) -> CompressedIndex:
        """Train on a sample, add shard after shard, save. Memory: the codes, the ids of a shard, one shard's rows.

        Args:
            shards: a finished folder of shards.
            folder: where the index is written.
            lists: of the coarse quantiser; about four times the root of the number of rows when None.
            code_bytes: of a row; must divide the dimension. About an eighth of the dimension when None.
            nprobe: lists a search looks into; a sixteenth of them, and at least 8, when None.
            keep_vectors: keep float16 rows on the disk to score candidates again; without, scores are approximate.
            rebuild: replace an index that is there.

        Raises:
            FileExistsError: there is an index already.
            ShardFormatError: the shards are not finished, or damaged, or hold an id twice.
            ValueError: fewer than 1024 rows, or a ``code_bytes`` that does not divide the dimension.
        """
        options = {"lists": lists, "code_bytes": code_bytes, "nprobe": nprobe}
        root = build_compressed(shards, folder, keep_vectors=keep_vectors, rebuild=rebuild, **options)
        return cls.load(root)

    @classmethod
    def load(
        cls,
        folder: str | os.PathLike[str],
        fingerprint: Mapping[str, Any] | None = None,
        *,
        hashes: bool = True,
    ) -> CompressedIndex:
        """Open an index and check its files.

        Args:
            folder: what :meth:`build` wrote.
            fingerprint: that of the encoder which will search; None skips the comparison.
            hashes: read every file and compare its sha256; False checks types and sizes only.

        Raises:
            IndexFormatError: not an index of this kind, or damaged.
            IndexMismatchError: another model or processor made it.
            ImportError: faiss is not installed.
        """
        root = Path(folder)
        manifest = read_compressed_manifest(root)
        if fingerprint is not None:
            check_fingerprint(str(root), manifest["fingerprint"], fingerprint)
        count, dim, files = manifest["count"], manifest["dim"], manifest["files"]
        data = check_files(root / manifest["generation"], files, hashes=hashes)
        index = read_faiss(data / FAISS, dim, count)
        names, starts = read_names(data, count)
        vectors = None
        if VECTORS in files:
            vectors = read_npy(data / VECTORS, np.float16, (count, dim), IndexFormatError, mapped=True)
        return cls(dim, manifest["fingerprint"], manifest["settings"], index, names, starts, vectors)
