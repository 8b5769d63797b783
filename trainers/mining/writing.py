"""Mined rows to one file: jsonl, or parquet where items hold pictures or bytes. Media files are named, not copied."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ...encoding.inputs.rooted import MEDIA
from .entries import Scan, entry_item, entry_name
from .items import as_mapping
from .selecting import FILTERS

CHUNK_ROWS = 64
ITEMS, LISTS = ("query", "positive"), ("negatives", "candidates")
FORMATS = ("jsonl", "parquet")


@dataclass
class Written:
    """The file that was written, and counts over its rows."""

    file: str = ""
    media_root: str | None = None
    rows: int = 0
    negatives: int = 0
    filled: int = 0
    short: int = 0
    dropped: list[int] = field(default_factory=lambda: [0] * len(FILTERS))


def write_rows(
    folder: Path,
    rows: Sequence[Any],
    pool: Sequence[Any] | None,
    found: Scan,
    blocks: Path,
    *,
    k: int,
    format: str | None,
    media_root: str | os.PathLike[str] | None,
) -> Written:
    """Write ``mined.jsonl`` or ``mined.parquet`` in one step; the same inputs give the same bytes.

    Raises:
        TypeError: ``format="jsonl"`` and a row that JSON cannot hold.
        ValueError: parquet, and rows whose items have their keys in contrary orders.
    """
    if format not in (None, *FORMATS):
        raise ValueError(f"format is {format!r}; use one of {', '.join(FORMATS)}")
    written = Written(media_root=None if media_root is None else os.fspath(media_root))
    paths = _Paths(keep=media_root is not None)
    is_json = format == "jsonl"
    if format is None:
        is_json = all(_is_json(row) for row in _rows(rows, pool, found, blocks))
    if not paths.keep:
        for row in _rows(rows, pool, found, blocks):
            _each_item(row, paths.see)
        written.media_root = paths.root

    def finished() -> Iterator[dict[str, Any]]:
        for row, record in _mined(rows, pool, found, blocks):
            yield _each_item(row, paths.rewrite)
            count = len(row["negatives"])
            written.rows += 1
            written.negatives += count
            written.short += count < k
            written.filled += int(record["filled"])
            written.dropped = [a + int(b) for a, b in zip(written.dropped, record["dropped"], strict=True)]

    written.file = "mined.jsonl" if is_json else "mined.parquet"
    scratch = folder / f".{written.file}.{os.getpid()}"
    try:
        if is_json:
            _write_jsonl(scratch, finished())
        else:
            schema = _schema(_each_item(row, paths.rewrite) for row in _rows(rows, pool, found, blocks))
            _write_parquet(scratch, finished(), schema)
        os.replace(scratch, folder / written.file)
    finally:
        scratch.unlink(missing_ok=True)
    return written


def _mined(
    rows: Sequence[Any], pool: Sequence[Any] | None, found: Scan, blocks: Path
) -> Iterator[tuple[dict[str, Any], Any]]:
    """Rows with their negatives, and the record of each."""
    number = 0
    for path in sorted(blocks.glob("*.npy")):
        for record in np.load(path, allow_pickle=False):
            if not np.isnan(record["positive"]):
                entries = [int(entry) for entry in record["entries"] if entry >= 0]
                yield (
                    {
                        **rows[number],
                        "negatives": [entry_item(rows, pool, found, entry) for entry in entries],
                        "negative_ids": [entry_name(rows, pool, found, entry) for entry in entries],
                        "negative_scores": [float(score) for score in record["scores"][: len(entries)]],
                        "positive_score": float(record["positive"]),
                        "random_negatives": int(record["filled"]),
                    },
                    record,
                )
            number += 1


def _rows(
    rows: Sequence[Any], pool: Sequence[Any] | None, found: Scan, blocks: Path
) -> Iterator[dict[str, Any]]:
    return (row for row, _ in _mined(rows, pool, found, blocks))


def _each_item(row: Mapping[str, Any], change: Any) -> dict[str, Any]:
    """A row with ``change`` applied to its items."""
    changed = dict(row)
    for name in ITEMS:
        changed[name] = change(row[name])
    for name in LISTS:
        if row.get(name) is not None:
            changed[name] = [change(item) for item in row[name]]
    return changed


class _Paths:
    """Paths of media as they are written: as they stand, or relative to the folder that all have in common."""

    def __init__(self, keep: bool) -> None:
        self.keep = keep
        self.root: str | None = None

    def see(self, item: Any) -> Any:
        for path in _paths_of(item):
            folder = os.path.dirname(os.path.abspath(path))
            self.root = folder if self.root is None else os.path.commonpath([self.root, folder])
        return item

    def rewrite(self, item: Any) -> Any:
        if self.keep or self.root is None or not isinstance(item, Mapping):
            return item
        return {key: self._value(value) if key in MEDIA else value for key, value in item.items()}

    def _value(self, value: Any) -> Any:
        if isinstance(value, (list, tuple)):
            return [self._value(one) for one in value]
        if isinstance(value, Mapping) and value.get("bytes") is None and value.get("path") is not None:
            return {**value, "path": self._value(value["path"])}
        if not _is_path(value):
            return value
        return Path(os.path.relpath(os.path.abspath(value), self.root)).as_posix()


def _paths_of(item: Any) -> Iterator[str]:
    if not isinstance(item, Mapping):
        return
    for key in MEDIA:
        value = item.get(key)
        for one in value if isinstance(value, (list, tuple)) else [value]:
            path: Any = one.get("path") if isinstance(one, Mapping) and one.get("bytes") is None else one
            if _is_path(path):
                yield os.fspath(path)


def _is_path(value: Any) -> bool:
    return isinstance(value, (str, os.PathLike)) and not str(value).startswith(("http://", "https://"))


# ---- jsonl -------------------------------------------------------------------------------------------------------


def _is_json(row: Mapping[str, Any]) -> bool:
    try:
        _line(row)
    except TypeError:
        return False
    return True


def _line(row: Mapping[str, Any]) -> str:
    return json.dumps(row, ensure_ascii=False, allow_nan=False, default=_as_json) + "\n"


def _as_json(value: Any) -> Any:
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"a {type(value).__name__} cannot be written to jsonl: use format 'parquet'")


def _write_jsonl(path: Path, rows: Iterator[dict[str, Any]]) -> None:
    with path.open("w", encoding="utf-8", newline="\n") as handle:
        handle.writelines(_line(row) for row in rows)
        handle.flush()
        os.fsync(handle.fileno())


# ---- parquet -----------------------------------------------------------------------------------------------------


def _record(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row as Arrow holds it: every item an object, every medium ``{"bytes", "path"}``, pictures as PNG."""
    return _each_item(row, _item_record)


def _item_record(item: Any) -> dict[str, Any]:
    return {key: _medium(value) if key in MEDIA else value for key, value in as_mapping(item).items()}


def _medium(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return [_medium(one) for one in value]
    if isinstance(value, Image.Image):
        buffer = io.BytesIO()
        value.save(buffer, format="PNG")
        return {"bytes": buffer.getvalue(), "path": None}
    if isinstance(value, (bytes, bytearray)):
        return {"bytes": bytes(value), "path": None}
    if isinstance(value, Mapping):
        return {"bytes": value.get("bytes"), "path": value.get("path")}
    if isinstance(value, (str, os.PathLike)):
        return {"bytes": None, "path": os.fspath(value)}
    raise TypeError(
        f"a medium that is a {type(value).__name__} cannot be written: give a picture, bytes or a path"
    )


def _chunks(rows: Iterator[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    chunk: list[dict[str, Any]] = []
    for row in rows:
        chunk.append(_record(row))
        if len(chunk) == CHUNK_ROWS:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _schema(rows: Iterator[dict[str, Any]]) -> Any:
    """The one schema that holds all rows."""
    import pyarrow as pa

    schema = pa.schema([])
    for chunk in _chunks(rows):
        found = pa.Table.from_pylist(chunk).schema
        schema = pa.unify_schemas([schema, found], promote_options="permissive")
    return schema


def _write_parquet(path: Path, rows: Iterator[dict[str, Any]], schema: Any) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    with pq.ParquetWriter(path, schema) as writer:
        for chunk in _chunks(rows):
            for row in chunk:
                _check_order(row, schema)
            writer.write_table(pa.Table.from_pylist(chunk, schema=schema))


def _check_order(row: Mapping[str, Any], schema: Any) -> None:
    """Key order is content order, and a column of parquet has one order for all rows."""
    for name in (*ITEMS, *LISTS):
        items = row.get(name) or []
        for item in [items] if isinstance(items, Mapping) else items:
            kind = schema.field(name).type
            fields = [one.name for one in (kind.value_type if name in LISTS else kind)]
            places = [fields.index(key) for key in item if key not in ("page", "instruction")]
            if places != sorted(places):
                raise ValueError(
                    f"parquet keeps one order of an item's keys, and {name} has {', '.join(item)} in one row and "
                    f"{', '.join(fields)} in others: give media as paths, which jsonl can hold"
                )
