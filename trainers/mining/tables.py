"""Mined rows to parquet, for pictures and bytes. The rows are read once: they wait in a file until all are seen."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from ...encoding.inputs.sample import MEDIA
from .items import as_mapping
from .output_layout import ITEMS, LISTS, each_item

CHUNK_ROWS = 64
Orders = set[tuple[str, tuple[str, ...]]]  # name of a column, keys of an item in it


def write_parquet(path: Path, rows: Iterator[dict[str, Any]]) -> None:
    """Write rows under the one schema that holds all of them, which only the last row completes.

    Until then they wait in a file beside ``path``, so that memory holds ``CHUNK_ROWS`` of them.

    Raises:
        ValueError: rows whose items have their keys in contrary orders.
        TypeError: a medium that is neither a picture, bytes nor a path.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    chunks = path.with_name(f"{path.name}.chunks")
    try:
        schema, orders = _write_chunks(chunks, rows)
        _check_key_orders(orders, schema)
        with pq.ParquetWriter(path, schema) as writer:
            for table in _tables(chunks):
                writer.write_table(pa.Table.from_pylist(table.to_pylist(), schema=schema))
    finally:
        chunks.unlink(missing_ok=True)


def _write_chunks(path: Path, rows: Iterator[dict[str, Any]]) -> tuple[Any, Orders]:
    """Write chunks of rows one after the other, each under its own schema; the schema of all, and what was seen."""
    import pyarrow as pa

    schema, orders = pa.schema([]), set()
    with pa.OSFile(str(path), "wb") as file:
        for chunk in _chunks(rows):
            orders.update(_key_orders(chunk))
            # Not from_pylist: it takes the columns of the first row alone, and another may have more.
            names = dict.fromkeys(name for row in chunk for name in row)
            table = pa.table({name: [row.get(name) for row in chunk] for name in names})
            schema = pa.unify_schemas([schema, table.schema], promote_options="permissive")
            with pa.ipc.new_stream(file, table.schema) as stream:
                stream.write_table(table)
    return schema, orders


def _tables(path: Path) -> Iterator[Any]:
    """The chunks as they were written."""
    import pyarrow as pa

    with pa.OSFile(str(path), "rb") as file:
        while file.tell() < file.size():
            with pa.ipc.open_stream(file) as stream:
                yield stream.read_all()


def _chunks(rows: Iterator[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    chunk: list[dict[str, Any]] = []
    for row in rows:
        chunk.append(each_item(row, _record))
        if len(chunk) == CHUNK_ROWS:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _record(item: Any) -> dict[str, Any]:
    """An item as Arrow holds it: an object, every medium ``{"bytes", "path"}``, pictures as PNG."""
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


def _key_orders(rows: list[dict[str, Any]]) -> Orders:
    """Orders of content keys; there are few different ones, however many rows there are."""
    return {
        (name, tuple(key for key in item if key not in ("page", "instruction")))
        for row in rows
        for name in (*ITEMS, *LISTS)
        for item in ([row[name]] if name in ITEMS else row.get(name) or [])
    }


def _check_key_orders(orders: Orders, schema: Any) -> None:
    """Key order is content order, and a column of parquet has one order for all rows."""
    for name, keys in sorted(orders):
        kind = schema.field(name).type
        fields = [one.name for one in (kind.value_type if name in LISTS else kind)]
        places = [fields.index(key) for key in keys]
        if places != sorted(places):
            raise ValueError(
                f"parquet keeps one order of an item's keys, and {name} has {', '.join(keys)} in one row and "
                f"{', '.join(fields)} in others: give media as paths, which jsonl can hold"
            )
