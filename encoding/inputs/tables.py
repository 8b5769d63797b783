"""parquet files and ``datasets``: a sample is a row, read in small batches and never decoded here."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from .columns import Columns
from .sample import InputError, Row, Sample, failed_sample, hash_of_files

BATCH_ROWS = 64


class ParquetSource:
    """Rows of parquet files; without an id of its own, a row is called ``name.parquet#17``, counted from 0.

    Raises:
        ImportError: pyarrow is not installed.
    """

    def __init__(self, files: Sequence[tuple[str, Path]], columns: Columns | None = None) -> None:
        import_parquet()
        self.files = list(files)
        self.columns = columns or Columns()

    def count(self) -> int:
        total = 0
        for _, path in self.files:
            try:
                total += sum(_Groups(path, self.columns).sizes)
            except Exception:  # pyarrow raises what it likes, as in samples()
                total += 1  # a file that cannot be opened is one failed sample
        return total

    def samples(self) -> Iterator[Sample]:
        for name, path in self.files:
            try:
                table = _Groups(path, self.columns)
            except Exception as error:
                yield failed_sample(name, error)
                continue
            row = 0
            for group, rows in enumerate(table.sizes):
                for offset in range(rows):
                    place = f"{name}#{row}"
                    yield Sample(place, partial(self._rows, table, group, offset, place, path.parent))
                    row += 1

    def fingerprint(self) -> str:
        return hash_of_files(self.files)

    def _rows(self, table: _Groups, group: int, offset: int, place: str, root: Path) -> list[Row]:
        return [self.columns.row(table.record(group, offset), place, root)]


class _Groups:
    """Row groups of one file; reading forward is cheap, a step back starts the group again."""

    def __init__(self, path: Path, columns: Columns) -> None:
        self.file = import_parquet().ParquetFile(path)
        self.wanted = columns.wanted(self.file.schema_arrow.names)
        if not self.wanted:
            found = ", ".join(self.file.schema_arrow.names[:12])
            raise InputError(f"{path.name} has no column of an item; it has {found}")
        metadata = self.file.metadata
        self.sizes = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
        self._group, self._first, self._batches, self._batch = -1, 0, iter(()), None  # type: Any, int, Any, Any

    def record(self, group: int, offset: int) -> dict[str, Any]:
        if group != self._group or offset < self._first:
            self._batches = self.file.iter_batches(BATCH_ROWS, row_groups=[group], columns=self.wanted)
            self._first, self._batch = 0, None
        # No group is in hand while it is read on: after an error it begins anew, and no row is taken for another.
        self._group = -1
        while self._batch is None or offset >= self._first + len(self._batch):
            self._first += 0 if self._batch is None else len(self._batch)
            self._batch = next(self._batches, None)
            if self._batch is None:
                raise InputError("the file has fewer rows than it says")
        self._group = group
        return self._batch.slice(offset - self._first, 1).to_pylist()[0]


class DatasetSource:
    """Rows of a ``datasets.Dataset``; without an id of its own, a row is called ``name#17``, counted from 0.

    Images and videos are taken as the bytes that are stored; nothing is decoded twice.

    Args:
        dataset: a ``datasets.Dataset``.
        name: how it is called in ids.
        columns: where the parts of an item stand.
        root: the folder that media paths of its rows are confined to; None allows none.
    """

    def __init__(
        self, dataset: Any, name: str = "row", columns: Columns | None = None, root: Path | None = None
    ) -> None:
        self.columns = columns or Columns()
        wanted = self.columns.wanted(list(dataset.column_names))
        if not wanted:
            found = ", ".join(dataset.column_names[:12])
            raise InputError(f"the data set has no column of an item; it has {found}")
        self.identity = str(dataset._fingerprint)
        self.dataset = dataset.select_columns(wanted).with_format("arrow")
        self.name, self.root = name, root

    def count(self) -> int:
        return len(self.dataset)

    def samples(self) -> Iterator[Sample]:
        for row in range(len(self.dataset)):
            place = f"{self.name}#{row}"
            yield Sample(place, partial(self._rows, row, place))

    def fingerprint(self) -> str:
        return hashlib.sha256(f"dataset\0{self.identity}\0{len(self.dataset)}".encode()).hexdigest()

    def _rows(self, row: int, place: str) -> list[Row]:
        return [self.columns.row(self.dataset[row : row + 1].to_pylist()[0], place, self.root)]


def import_parquet() -> Any:
    """pyarrow's module of parquet. Raises ImportError with what to install."""
    try:
        import pyarrow.parquet
    except ImportError:
        raise ImportError("parquet files need pyarrow: pip install umekit[scale]") from None
    return pyarrow.parquet
