"""The parts of a folder of shards: data written and read, and the manifest over all of them.

The end of a run, ``errors.jsonl`` and ``manifest.json``, is written by whoever finds all parts there. Any process may
do it, several may do it at once, and it may be done again: the bytes are the same. A finished folder is read one part
at a time, checked, its vectors mapped and not loaded.
"""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..inputs import InputError
from ..inputs.tables import import_parquet
from ..storage.contents import check_ids, check_plain, check_rows, file_facts, parse_json, read_npy
from ..storage.ownership import AtomicFolder
from .files import (
    COUNTED,
    ERRORS,
    KIND,
    MANIFEST,
    PART,
    SCHEMA,
    Done,
    Run,
    ShardFormatError,
    data_names,
    parse,
    part_name,
    read_done,
    run_of,
    to_json,
)

NAMED_DOUBLES = 20
# What reading a table may raise, where it is damaged or none.
UNREADABLE = (OSError, ValueError, TypeError, LookupError, AttributeError, NotImplementedError, MemoryError)


def write_part(
    scratch: AtomicFolder, part: str, run: Run, ids: list[str], vectors: NDArray[Any]
) -> dict[str, dict[str, Any]]:
    """Write the data of a part, vectors [rows, d]; returns size and sha256 by file name."""
    names = data_names(part, run.format)
    if run.format == "npy":
        with scratch.open(names[0]) as handle:
            np.save(handle, vectors, allow_pickle=False)
        scratch.write(names[1], json.dumps(ids, ensure_ascii=False, indent=0).encode())
    else:
        import pyarrow as pa

        flat = pa.array(np.ascontiguousarray(vectors).reshape(-1))
        column = pa.FixedSizeListArray.from_arrays(flat, run.dim)
        with scratch.open(names[0]) as handle:
            import_parquet().write_table(
                pa.table({"id": pa.array(ids, pa.string()), "embedding": column}), handle
            )
    return {name: file_facts(scratch.target / name) for name in names}


def finish(folder: Path, scratch: AtomicFolder, run: Run, digest: str, parts: int) -> dict[str, Any] | None:
    """Write the manifest if all parts are finished.

    Args:
        folder: of the shards.
        scratch: where files are written first.
        run, digest: what is being made, and the sha256 of its ``run.json``.
        parts: how many there are in all.

    Returns:
        The manifest; None while a part is missing.

    Raises:
        InputError: the parts do not have the source's number of samples.
    """
    found: list[tuple[str, Done]] = []
    for number in range(parts):
        part = part_name(number, run.parts)
        done = read_done(folder, part, run, digest, hashes=False)
        if done is None:
            return None
        found.append((part, done))
    units = sum(done.units for _, done in found)
    if run.units is not None and units != run.units:
        raise InputError(f"{folder} has parts of {units} samples, and the source has {run.units}")
    lines = (
        json.dumps(error, ensure_ascii=False, sort_keys=True) for _, done in found for error in done.errors
    )
    scratch.write(ERRORS, "".join(line + "\n" for line in lines).encode())
    doubles = _doubles(folder, found, run)
    manifest = {
        "kind": KIND,
        "schema": SCHEMA,
        **asdict(run),
        "run": digest,
        "units": units,
        "rows": sum(done.rows for _, done in found),
        "failed": sum(len(done.errors) for _, done in found),
        **{name: sum(getattr(done, name) for _, done in found) for name in COUNTED},
        "double_ids": len(doubles),
        "double_ids_named": doubles[:NAMED_DOUBLES],
        "parts": [
            {
                "name": part,
                "units": done.units,
                "rows": done.rows,
                "failed": len(done.errors),
                "files": done.files,
            }
            for part, done in found
        ],
    }
    scratch.write(MANIFEST, to_json(manifest))
    return manifest


def _doubles(folder: Path, found: list[tuple[str, Done]], run: Run) -> list[str]:
    """Ids that stand in two parts; within a part they are told apart when it is made.

    Eight bytes a row are held; names are compared only where these are equal.
    """

    def every_ids() -> Iterator[list[str]]:
        for part, done in found:
            yield ids_of(folder, part, run.format, done.rows)

    hashes = [np.fromiter(map(id_hash, ids), np.uint64, count=len(ids)) for ids in every_ids()]
    every: NDArray[np.uint64] = np.sort(np.concatenate([*hashes, np.zeros(0, np.uint64)]))
    suspects = set(every[1:][every[1:] == every[:-1]].tolist())
    if not suspects:
        return []
    seen: set[str] = set()
    doubles: dict[str, None] = {}
    for ids in every_ids():
        for name in ids:
            if id_hash(name) in suspects:
                if name in seen:
                    doubles[name] = None
                seen.add(name)
    return list(doubles)


def id_hash(name: str) -> int:
    """Eight bytes of an id's hash."""
    data = name.encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")


@dataclass(frozen=True)
class Part:
    """A part by its name, number of rows, and files with size and sha256."""

    name: str
    rows: int
    files: dict[str, dict[str, Any]]


class ShardSet:
    """A finished folder of shards.

    Raises:
        ShardFormatError: not one, not finished, or damaged.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        path = self.folder / MANIFEST
        if not path.is_file():
            why = "is not finished: run it again with --resume" if (self.folder / "run.json").is_file() else (
                f"is not a folder of shards: it has no {MANIFEST}"
            )  # fmt: skip
            raise ShardFormatError(f"{self.folder} {why}")
        raw = parse(path, path.read_bytes(), KIND)
        self.run: Run = run_of(raw, path)
        self.parts = [_part(path, entry, self.run) for entry in _list(path, raw.get("parts"))]
        self.rows = sum(part.rows for part in self.parts)
        if raw.get("rows") != self.rows:
            raise ShardFormatError(f"{path}: the parts have {self.rows} rows, not {raw.get('rows')}")
        if raw.get("double_ids"):
            named = ", ".join(map(repr, _list(path, raw.get("double_ids_named"))[:3]))
            self.doubles: str | None = f"{raw['double_ids']} ids stand there twice ({named})"
        else:
            self.doubles = None

    def index_settings(self) -> dict[str, Any]:
        """How rows were encoded and queries are to be, as indexes keep it; warns where the rows are no documents."""
        role = self.run.options.get("role")
        if role != "document":
            warnings.warn(
                f"{self.folder} was encoded with role {role!r}: an index holds documents, whose vectors may be others "
                "(encode with --role document)",
                stacklevel=4,
            )
        return {"model": self.run.model, "role": role, "mode": self.run.options.get("mode")}

    def __len__(self) -> int:
        return self.rows

    def __iter__(self) -> Iterator[tuple[list[str], NDArray[Any]]]:
        """Ids and vectors [rows, d] of each part, checked against the manifest; vectors of npy are mapped.

        Raises:
            ShardFormatError: a file is missing, a link, or not what was written; a vector is not of length 1.
        """
        for part in self.parts:
            for name, facts in part.files.items():
                check_plain(self.folder / name, facts["sha256"], ShardFormatError)
            ids = ids_of(self.folder, part.name, self.run.format, part.rows)
            vectors = vectors_of(self.folder, part, self.run)
            check_ids(ids, set(), ShardFormatError)
            yield ids, vectors

    def unit_rows(self) -> Iterator[tuple[list[str], NDArray[np.float32]]]:
        """Ids and float32 rows [rows, d] of length 1, a part at a time; float16 is normalised again."""
        for ids, vectors in self:
            rows = np.array(vectors, dtype=np.float32)
            check_rows(ids, rows, ShardFormatError)
            if vectors.dtype != np.float32:
                rows /= np.linalg.norm(rows, axis=1, keepdims=True)
            yield ids, rows


def ids_of(folder: Path, part: str, format: str, rows: int) -> list[str]:
    """The ids of a part. Raises ShardFormatError."""
    name = data_names(part, format)[-1]
    try:
        if format == "npy":
            found = parse_json(folder / name, (folder / name).read_bytes(), ShardFormatError)
        else:
            found = import_parquet().read_table(folder / name, columns=["id"]).column("id").to_pylist()
    except ShardFormatError:
        raise
    except UNREADABLE as error:
        raise ShardFormatError(f"{folder / name} can't be read: {error}") from None
    if not isinstance(found, list) or len(found) != rows:
        raise ShardFormatError(f"{folder / name} does not have {rows} ids")
    return found


def vectors_of(folder: Path, part: Part, run: Run) -> NDArray[Any]:
    """The vectors [rows, d] of a part; mapped from the disk where it is npy. Raises ShardFormatError."""
    path, shape = folder / data_names(part.name, run.format)[0], (part.rows, run.dim)
    if run.format == "npy":
        return read_npy(path, run.dtype, shape, ShardFormatError, mapped=True)
    try:
        column = import_parquet().read_table(path, columns=["embedding"]).column("embedding").combine_chunks()
        flat = column.flatten().to_numpy(zero_copy_only=False)
        vectors = flat.reshape(len(column), column.type.list_size)
    except UNREADABLE as error:
        raise ShardFormatError(f"{path} can't be read: {error}") from None
    if vectors.dtype != np.dtype(run.dtype) or vectors.shape != shape:
        raise ShardFormatError(f"{path} holds {vectors.dtype} {vectors.shape}, expected {run.dtype} {shape}")
    return vectors  # type: ignore[no-any-return]


def _part(path: Path, raw: Any, run: Run) -> Part:
    if not isinstance(raw, dict) or not PART.fullmatch(str(raw.get("name"))):
        raise ShardFormatError(f"{path}: a part has no name of a part")
    name, rows, files = raw["name"], raw.get("rows"), raw.get("files")
    if isinstance(rows, bool) or not isinstance(rows, int) or rows < 0:
        raise ShardFormatError(f"{path}: {name} has {rows!r} rows")
    if not isinstance(files, dict) or set(files) != set(data_names(name, run.format)):
        raise ShardFormatError(f"{path}: {name} does not list its files")
    for facts in files.values():
        if not isinstance(facts, dict) or not {"bytes", "sha256"} <= set(facts):
            raise ShardFormatError(f"{path}: {name} lists a file without size and sha256")
    return Part(name, rows, files)


def _list(path: Path, value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise ShardFormatError(f"{path} lists no parts")
    return value
