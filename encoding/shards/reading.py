"""Read a finished folder of shards: checked, one part at a time, vectors mapped and not loaded."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..storage.atomic import file_sha256
from ..storage.checked_files import parse_json, read_npy
from ..storage.checks import check_ids, check_rows
from .files import KIND, MANIFEST, PART, Run, ShardFormatError, data_names, parse, run_of

if TYPE_CHECKING:
    from ..index.exact import Index

# What reading a table may raise, where it is damaged or none.
UNREADABLE = (OSError, ValueError, TypeError, LookupError, AttributeError, NotImplementedError, MemoryError)


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
                file = self.folder / name
                if file.is_symlink() or not file.is_file():
                    raise ShardFormatError(f"{file} is missing or not a plain file")
                if file.stat().st_size != facts["bytes"] or file_sha256(file) != facts["sha256"]:
                    raise ShardFormatError(f"{file} is damaged: its sha256 differs from the manifest's")
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


def exact_index(folder: str | os.PathLike[str]) -> Index:
    """The exact :class:`Index` of all rows of a folder of shards.

    Raises:
        ShardFormatError: not finished or damaged, or an id stands in two parts.
    """
    from ..index.exact import Index

    shards = ShardSet(folder)
    if shards.doubles:
        raise ShardFormatError(f"{shards.folder}: {shards.doubles}")
    index = Index(shards.run.dim, shards.run.fingerprint | {"dim": shards.run.dim}, shards.index_settings())
    blocks = [index.vectors]
    for ids, rows in shards.unit_rows():
        index.ids.extend(ids)
        blocks.append(rows)
    check_ids(index.ids, set(), ShardFormatError)
    index.vectors = np.concatenate(blocks)
    index.metadata = [{} for _ in index.ids]
    return index


def ids_of(folder: Path, part: str, format: str, rows: int) -> list[str]:
    """The ids of a part. Raises ShardFormatError."""
    name = data_names(part, format)[-1]
    try:
        if format == "npy":
            found = parse_json(folder / name, (folder / name).read_bytes(), ShardFormatError)
        else:
            import pyarrow.parquet as pq

            found = pq.read_table(folder / name, columns=["id"]).column("id").to_pylist()
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
        import pyarrow.parquet as pq

        column = pq.read_table(path, columns=["embedding"]).column("embedding").combine_chunks()
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
