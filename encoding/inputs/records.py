"""Records of files, tables and lists by number: each is read when it is asked for."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from .json_records import FormatError, JsonRecords, as_object, element_offsets, line_offsets


class Records(Protocol):
    """Records in order; ``root`` is the folder that relative media paths start from, where there is one."""

    root: Path | None

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Mapping[str, Any]: ...

    def place(self, index: int) -> str:
        """What to call a record in an error: file and line or row."""
        ...


def open_records(
    where: Any, *, cache_dir: str | os.PathLike[str] | None = None, columns: Sequence[str] | None = None
) -> Records:
    """Records of a file, of several files of one kind, or of a data set.

    Args:
        where: ``.jsonl``, ``.json`` (an array of objects), ``.parquet`` or ``.csv``, or several of these; a
            ``datasets.Dataset``; or a list of dicts.
        cache_dir: where ``datasets`` keeps the memory-mapped copy of parquet and csv.
        columns: columns of a table to read; None for all.

    Raises:
        FormatError: not such a file, or no record in it.
        FileNotFoundError: there is no such file.
        ImportError: parquet or csv without ``datasets``.
    """
    if hasattr(where, "column_names"):
        records: Records = TableRecords(where, columns)
    elif isinstance(where, (str, os.PathLike)) or (
        isinstance(where, Sequence) and where and all(isinstance(one, (str, os.PathLike)) for one in where)
    ):
        paths = [Path(where)] if isinstance(where, (str, os.PathLike)) else [Path(one) for one in where]
        records = _open_files(paths, cache_dir, columns)
    elif isinstance(where, Sequence):
        records = ListRecords(where)
    else:
        raise TypeError(f"give files, a datasets.Dataset or a list of dicts, not a {type(where).__name__}")
    if len(records) == 0:
        raise FormatError(
            f"{where if isinstance(where, (str, os.PathLike)) else 'the data set'} holds no record"
        )
    return records


def _open_files(
    paths: list[Path], cache_dir: str | os.PathLike[str] | None, columns: Sequence[str] | None
) -> Records:
    for path in paths:
        if not path.is_file():
            raise FileNotFoundError(f"there is no file {path}")
    endings = {path.suffix.lower() for path in paths}
    ending = endings.pop()
    if endings:
        raise FormatError(f"{', '.join(path.name for path in paths)} are not of one kind")
    if ending in (".jsonl", ".ndjson"):
        return JsonRecords(paths, line_offsets)
    if ending == ".json":
        return JsonRecords(paths, element_offsets)
    kind = {".parquet": "parquet", ".csv": "csv"}.get(ending)
    if kind is None:
        raise FormatError(
            f"can't read {paths[0].name}: give jsonl, json, parquet or csv (unpacked, if it is a .gz)"
        )
    try:
        import datasets
    except ImportError:
        raise ImportError(f"{kind} files need the library datasets: pip install umekit[train]") from None
    table = datasets.load_dataset(
        kind,
        data_files=[str(path) for path in paths],
        split="train",
        cache_dir=None if cache_dir is None else str(cache_dir),
    )
    return TableRecords(table, columns, ", ".join(path.name for path in paths), paths[0].parent)


class ListRecords:
    """A list of dicts."""

    def __init__(self, records: Sequence[Mapping[str, Any]]) -> None:
        self.records = records
        self.root: Path | None = None

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> Mapping[str, Any]:
        return as_object(self.records[index], self.place(index))

    def place(self, index: int) -> str:
        return f"row {index}"


class TableRecords:
    """Rows of a ``datasets.Dataset`` as they are stored: pictures and videos as bytes, nothing decoded."""

    def __init__(
        self,
        table: Any,
        columns: Sequence[str] | None = None,
        name: str = "the data set",
        root: Path | None = None,
    ) -> None:
        kept = (
            table
            if columns is None
            else table.select_columns([c for c in table.column_names if c in columns])
        )
        self.table, self.name, self.root = kept.with_format("arrow"), name, root
        self.column_names: list[str] = list(kept.column_names)

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, index: int) -> Mapping[str, Any]:
        record: dict[str, Any] = self.table[index : index + 1].to_pylist()[0]
        return record

    def place(self, index: int) -> str:
        return f"{self.name} row {index}"
