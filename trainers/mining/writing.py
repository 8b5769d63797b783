"""Mined rows to one file: jsonl, or parquet where items hold pictures or bytes. Media files are named, not copied."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ...encoding.storage.atomic import naming_the_disk
from ...encoding.storage.contents import file_sha256
from .entries import Scan, named_entry
from .output_layout import OutputLayout, each_item, json_line
from .selecting import FILTERS
from .tables import write_parquet


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
    layout: OutputLayout,
    blocks: Path,
    *,
    k: int,
) -> Written:
    """Write ``mined.jsonl`` or ``mined.parquet`` in one step; the same inputs give the same bytes.

    Every row is read once, and once more as the negative of each row that it is one of. Memory holds a few rows.

    Args:
        folder: to write in; the rows are written beside ``blocks`` first.
        rows, pool, found: as scanned.
        layout: has seen all of them.
        blocks: folder of what was chosen.
        k: negatives that were asked for.

    Raises:
        TypeError: ``format="jsonl"`` and a row that JSON cannot hold.
        ValueError: parquet, and rows whose items have their keys in contrary orders.
    """
    written = Written(file=f"mined.{layout.format}", media_root=layout.media_root or layout.root)

    def finished() -> Iterator[dict[str, Any]]:
        for row, record in _mined(rows, pool, found, blocks):
            yield each_item(row, layout.relative)
            count = len(row["negatives"])
            written.rows += 1
            written.negatives += count
            written.short += count < k
            written.filled += int(record["filled"])
            written.dropped = [a + int(b) for a, b in zip(written.dropped, record["dropped"], strict=True)]

    write_file(folder / written.file, layout.format, blocks.parent, finished())
    return written


def write_file(path: Path, format: str, work: Path, rows: Iterator[dict[str, Any]]) -> None:
    """Write rows as ``path`` in one step; ``work`` notes what the file is before it gets its name."""
    scratch = work / f"{path.name}.{os.getpid()}"
    try:
        with naming_the_disk(path.parent):
            (_write_jsonl if format == "jsonl" else write_parquet)(scratch, rows)
        record = json.dumps({"sha256": file_sha256(scratch)})
        (work / f"{path.stem}.json").write_text(record, encoding="utf-8")
        os.replace(scratch, path)
    finally:
        scratch.unlink(missing_ok=True)


def is_of_run(work: Path, path: Path) -> bool:
    """Whether a file of rows is what the run of this work folder wrote, before it was broken off."""
    try:
        noted = json.loads((work / f"{path.stem}.json").read_bytes())
        return isinstance(noted, dict) and noted.get("sha256") == file_sha256(path)
    except (OSError, ValueError, RecursionError):
        return False


def _mined(
    rows: Sequence[Any], pool: Sequence[Any] | None, found: Scan, blocks: Path
) -> Iterator[tuple[dict[str, Any], Any]]:
    """Rows with their negatives, and the record of each."""
    number = 0
    for path in sorted(blocks.glob("*.npy")):
        for record in np.load(path, allow_pickle=False):
            if not np.isnan(record["positive"]):
                chosen = [named_entry(rows, pool, found, int(one)) for one in record["entries"] if one >= 0]
                yield (
                    {
                        **rows[number],
                        "negatives": [item for item, _ in chosen],
                        "negative_ids": [name for _, name in chosen],
                        "negative_scores": [float(score) for score in record["scores"][: len(chosen)]],
                        "positive_score": float(record["positive"]),
                        "random_negatives": int(record["filled"]),
                    },
                    record,
                )
            number += 1


def _write_jsonl(path: Path, rows: Iterator[dict[str, Any]]) -> None:
    with path.open("w", encoding="utf-8", newline="\n") as handle:
        handle.writelines(json_line(row) for row in rows)
        handle.flush()
        os.fsync(handle.fileno())
