"""An exact vector index that is a folder: cosine scores by faiss, nothing approximate, nothing pickled.

Every row has an id and a JSON object of metadata. What enters is checked (unit length, finite, a new id),
so that a zero or NaN vector can't sit in an index and be found by everything or by nothing.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ...modeling.pooling import whole_number
from ..fingerprint import IndexMismatchError, check_fingerprint
from ..shards.files import ShardFormatError
from ..shards.parts import ShardSet
from ..storage.atomic import write_atomically, written_atomically
from ..storage.contents import check_ids, check_rows, file_sha256, library_versions, now, parse_json, read_npy
from ..storage.ownership import check_own, json_of, make_marked, remove_marked
from .manifest import (
    COMPRESSED_KIND,
    IDS,
    KIND,
    MANIFEST,
    METADATA,
    VECTORS,
    IndexFormatError,
    Manifest,
    check_files,
    generation_in_force,
    import_faiss,
    read_manifest,
    remove_stale,
)

__all__ = ["Index", "IndexFormatError", "IndexMismatchError"]


class Index:
    """Unit vectors with ids and metadata, searched exactly.

    Example:
        >>> index = Index(2, fingerprint={"model": "m", "processor": "p", "dim": 2})
        >>> index.add(["right", "up"], [[1.0, 0.0], [0.0, 1.0]])
        >>> ids, scores = index.search([[0.6, 0.8]], k=3)
        >>> ids
        [['up', 'right', None]]
    """

    def __init__(
        self,
        dim: int,
        fingerprint: Mapping[str, Any] | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        """
        Args:
            dim: length of a vector.
            fingerprint: ``Encoder.fingerprint()`` of whatever makes the vectors.
            settings: how the rows are encoded (model name, role, mode), kept in the manifest.

        Raises:
            ValueError: ``dim`` is below 1 or differs from the fingerprint's.
        """
        self.fingerprint = dict(fingerprint or {})
        if dim < 1 or self.fingerprint.get("dim", dim) != dim:
            raise ValueError(
                f"an index of dim {dim} for an encoder of dim {self.fingerprint.get('dim', dim)}"
            )
        self.dim = dim
        self.settings = dict(settings or {})
        self.ids: list[str] = []
        self.metadata: list[dict[str, Any]] = []
        self.vectors: NDArray[np.float32] = np.zeros((0, dim), dtype=np.float32)  # [n, d]
        self._faiss: Any = None
        self._place: dict[str, int] | None = None  # of every id, made when one is asked for

    def __len__(self) -> int:
        return len(self.ids)

    def __contains__(self, item: object) -> bool:
        return item in self._places()

    def add(
        self, ids: Sequence[str], vectors: ArrayLike, metadata: Sequence[Mapping[str, Any]] | None = None
    ) -> None:
        """Append rows; all of them or, on an error, none.

        Args:
            ids: n strings that the index does not hold yet.
            vectors: [n, d], unit rows.
            metadata: n objects that JSON can hold.

        Raises:
            ValueError: a wrong shape, a double or empty id, or a vector not of length 1 (ids are named).
        """
        names = list(ids)
        rows = (
            np.array(vectors, dtype=np.float32, ndmin=2).reshape(len(names), -1)
            if names
            else self.vectors[:0]
        )
        objects = [dict(row) for row in metadata] if metadata is not None else [{} for _ in names]
        if rows.shape != (len(names), self.dim) or len(objects) != len(names):
            counts = f"{len(names)} ids, vectors {np.shape(vectors)}, {len(objects)} metadata"
            raise ValueError(f"{counts}; need [n, {self.dim}] and n of each")
        check_ids(names, set(self.ids), ValueError)
        check_rows(names, rows, ValueError)
        json.dumps(objects, allow_nan=False)
        self.vectors = np.concatenate([self.vectors, rows])
        self.ids.extend(names)
        self.metadata.extend(objects)
        self._faiss = self._place = None

    def remove(self, ids: Sequence[str]) -> int:
        """Take rows out; returns how many there were. Unknown ids are ignored."""
        gone = set(ids)
        keep = [position for position, name in enumerate(self.ids) if name not in gone]
        removed = len(self.ids) - len(keep)
        if removed:
            self.vectors = np.ascontiguousarray(self.vectors[keep])
            self.ids = [self.ids[position] for position in keep]
            self.metadata = [self.metadata[position] for position in keep]
            self._faiss = self._place = None
        return removed

    def get(self, name: str) -> dict[str, Any]:
        """The metadata of a row. Raises KeyError for an unknown id."""
        return self.metadata[self._places()[name]]

    def _places(self) -> dict[str, int]:
        if self._place is None:
            self._place = {name: place for place, name in enumerate(self.ids)}
        return self._place

    def search(self, vectors: ArrayLike, k: int = 10) -> tuple[list[list[str | None]], NDArray[np.float32]]:
        """The k nearest rows of each query by cosine, best first; equal scores in order of their ids.

        Args:
            vectors: [n, d] or [d], unit rows.
            k: how many per query; may exceed the number of rows.

        Returns:
            n lists of k ids, and float32 [n, k]; short lists are padded with None and -inf.

        Raises:
            ValueError: a wrong shape, k below 1, or a NaN, zero or non-unit query.
            ImportError: faiss is not installed.
        """
        queries = np.array(vectors, dtype=np.float32, ndmin=2)
        k = whole_number("k", k)
        if queries.ndim != 2 or queries.shape[1] != self.dim:
            raise ValueError(f"queries have shape {np.shape(vectors)}; the index needs [n, {self.dim}]")
        check_rows([f"query {number}" for number in range(len(queries))], queries, ValueError)
        found: list[list[str | None]] = []
        scores = np.full((len(queries), k), -np.inf, dtype=np.float32)
        for number, query in enumerate(queries):
            names, values = self._nearest(query, min(k, len(self.ids)))
            found.append([*names, *[None] * (k - len(names))])
            scores[number, : len(values)] = values
        return found, scores

    def _nearest(self, query: NDArray[np.float32], k: int) -> tuple[list[str], NDArray[np.float32]]:
        """The k best of one query [d]; the net is wide enough for ties, and equal rows score equal."""
        if k == 0:
            return [], np.zeros(0, dtype=np.float32)
        if self._faiss is None:
            self._faiss = import_faiss().IndexFlatIP(self.dim)
            self._faiss.add(self.vectors)
        width = min(len(self.ids), k + 16)
        while True:
            rough, rows = self._faiss.search(query[None], width)
            if width == len(self.ids) or rough[0, -1] < rough[0, k - 1] - 1e-5:
                break
            width = min(len(self.ids), width * 4)
        exact = (self.vectors[rows[0]].astype(np.float64) * query).sum(axis=1).astype(np.float32)
        names = [self.ids[row] for row in rows[0]]
        order = sorted(range(width), key=lambda position: (-exact[position], names[position]))[:k]
        return [names[position] for position in order], exact[order]

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write the index; until the last step a former one in ``folder`` stays whole and in force.

        Raises:
            ForeignFileError: the folder has a ``manifest.json`` that is not that of an index.
        """
        root = Path(folder)
        root.mkdir(parents=True, exist_ok=True)
        check_own(root / MANIFEST, json_of(KIND, COMPRESSED_KIND), "name another folder for the index")
        generation = f"data-{secrets.token_hex(8)}"
        data = make_marked(root / generation, VECTORS, IDS, METADATA)
        try:
            lines = [json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in self.metadata]
            with written_atomically(data / VECTORS) as file:
                np.save(file, self.vectors, allow_pickle=False)
            write_atomically(data / IDS, json.dumps(self.ids, ensure_ascii=False, indent=0).encode())
            write_atomically(data / METADATA, "".join(lines).encode())
            manifest = Manifest(
                generation=generation,
                dim=self.dim,
                count=len(self.ids),
                fingerprint=self.fingerprint,
                files={name: file_sha256(data / name) for name in (VECTORS, IDS, METADATA)},
                settings=self.settings,
                versions=library_versions(),
                created=now(),
            )
            former = generation_in_force(root)
            write_atomically(root / MANIFEST, manifest.to_json().encode())
        except BaseException:
            remove_marked(data)
            raise
        remove_stale(root, former, generation)

    @classmethod
    def from_shards(cls, folder: str | os.PathLike[str]) -> Index:
        """All rows of a finished folder of shards.

        Raises:
            ShardFormatError: (an IndexFormatError) not finished or damaged, or an id stands in two parts.
        """
        shards = ShardSet(folder)
        if shards.doubles:
            raise ShardFormatError(f"{shards.folder}: {shards.doubles}")
        fingerprint = shards.run.fingerprint | {"dim": shards.run.dim}
        index = cls(shards.run.dim, fingerprint, shards.index_settings())
        blocks = [index.vectors]
        for ids, rows in shards.unit_rows():
            index.ids.extend(ids)
            blocks.append(rows)
        check_ids(index.ids, set(), ShardFormatError)
        index.vectors = np.concatenate(blocks)
        index.metadata = [{} for _ in index.ids]
        return index

    @classmethod
    def load(cls, folder: str | os.PathLike[str], fingerprint: Mapping[str, Any] | None = None) -> Index:
        """Read an index and check all of it.

        Args:
            folder: what ``save`` wrote.
            fingerprint: that of the encoder which will search; None skips the comparison.

        Raises:
            IndexFormatError: not an index, or damaged: wrong counts, hashes, vectors or ids.
            IndexMismatchError: another model or processor made it (both are named).
        """
        root = Path(folder)
        manifest = read_manifest(root)
        if fingerprint is not None:
            check_fingerprint(str(root), manifest.fingerprint, fingerprint)
        try:
            return cls._read(root, manifest)
        except (IndexFormatError, FileNotFoundError):
            if generation_in_force(root) in (None, manifest.generation):
                raise
            return cls.load(folder, fingerprint)  # a writer replaced it meanwhile

    @classmethod
    def _read(cls, root: Path, manifest: Manifest) -> Index:
        data = check_files(root / manifest.generation, manifest.files)
        if manifest.fingerprint.get("dim", manifest.dim) != manifest.dim:
            told = f"{manifest.fingerprint['dim']!r:.80}"
            raise IndexFormatError(f"{root / MANIFEST}: fingerprint.dim is {told}, and dim {manifest.dim}")
        index = cls(manifest.dim, manifest.fingerprint, manifest.settings)
        index.vectors = read_npy(data / VECTORS, np.float32, (manifest.count, manifest.dim), IndexFormatError)
        index.ids = parse_json(data / IDS, (data / IDS).read_bytes(), IndexFormatError)
        index.metadata = list(_objects(data / METADATA))
        index._validate(data, manifest.count)
        return index

    def _validate(self, data: Path, count: int) -> None:
        for name, rows in ((IDS, self.ids), (METADATA, self.metadata)):
            if not isinstance(rows, list) or len(rows) != count:
                raise IndexFormatError(f"{data / name} does not have {count} rows")
        check_ids(self.ids, set(), IndexFormatError)
        check_rows(self.ids, self.vectors, IndexFormatError)


def _objects(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of a file with one on each line. Raises IndexFormatError with the line."""
    for number, line in enumerate(path.read_bytes().split(b"\n")[:-1], start=1):
        row = parse_json(path, line, IndexFormatError, f", line {number},")
        if not isinstance(row, dict):
            raise IndexFormatError(f"{path}, line {number}, is not an object")
        yield row
