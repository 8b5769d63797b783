"""MMEB-train (VLM2Vec): ``qry``, ``qry_image_path``, ``pos_text``, ``pos_image_path`` and optional negatives.

The published loader (VLM2Vec ``src/data/dataset/mmeb_dataset.py``) puts the backbone's image token in the place of
``<|image_1|>``, keeps the instruction in the text, and leaves out rows with an empty query or positive. Here the
image comes first, as in the files, and the rest of the text follows.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np

from ...encoding.inputs.media_root import MediaRoot, media_root
from .records import FormatRows, Records, TableRecords, given, open_records

logger = logging.getLogger(__name__)

PLACEHOLDER = "<|image_1|>"
COLUMNS = ("qry", "qry_image_path", "pos_text", "pos_image_path", "neg_text", "neg_image_path")


def read_mmeb(
    where: Any,
    *,
    media: str | os.PathLike[str] | MediaRoot | None = None,
    dataset: str | None = None,
    task: str | None = None,
    query_instruction: str | None = None,
    positive_instruction: str | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
) -> FormatRows:
    """Rows of one subset of ``TIGER-Lab/MMEB-train``.

    Args:
        where: its parquet files, jsonl in the same layout, or the ``datasets.Dataset``.
        media: folder (or zip) of the images; None is the folder of the file.
        dataset, task: given to every row.
        query_instruction, positive_instruction: a text that every query (positive) begins with, taken
            out of it and made the item's ``instruction``. None keeps it in the text, like the published loader.
        cache_dir: see :func:`open_records`.

    Returns:
        Rows whose query and positive are not empty; how many are left out is logged.

    Raises:
        FormatError: a column is missing, no row is left, or (from ``rows[i]``) a row with ``<|image_1|>`` and no
            image, or without the instruction; names file and row.
    """
    records = open_records(where, cache_dir=cache_dir, columns=COLUMNS)
    kept = _filled(records)
    if len(kept) == 0:
        raise ValueError(f"{records.place(0)} and all others have an empty query or positive")
    if len(kept) < len(records):
        logger.warning(
            "%d of %d rows have an empty query or positive and are left out",
            len(records) - len(kept),
            len(records),
        )
    root = media_root(media, records.root)
    extra = given(dataset=dataset, task=task)
    return FormatRows(records, root, partial(_row, extra, query_instruction, positive_instruction), kept)


def _filled(records: Records) -> np.ndarray:
    """Numbers of the records that have a query and a positive."""
    sides = (COLUMNS[:2], COLUMNS[2:4])
    if isinstance(records, TableRecords):
        missing = [name for name in COLUMNS[:4] if name not in records.column_names]
        if missing:
            raise ValueError(f"{records.name} has no column {', '.join(missing)}: it is not MMEB-train")
        table = records.table.with_format(None)
        filled = np.ones(len(records), dtype=bool)
        for side in sides:
            columns = [np.fromiter((bool(value) for value in table[name]), dtype=bool) for name in side]
            filled &= columns[0] | columns[1]
        return np.flatnonzero(filled)
    every = (records[number] for number in range(len(records)))
    return np.array(
        [n for n, one in enumerate(every) if all(any(one.get(name) for name in side) for side in sides)],
        dtype=np.int64,
    )


def _row(
    extra: Mapping[str, str],
    query_instruction: str | None,
    positive_instruction: str | None,
    media: MediaRoot,
    record: Mapping[str, Any],
    _number: int,
) -> dict[str, Any]:
    path, text = record.get("pos_image_path") or "", record.get("pos_text") or ""
    row = {
        "query": _item(media, record.get("qry"), record.get("qry_image_path"), query_instruction),
        "positive": _item(media, text, path, positive_instruction),
        "negatives": [
            _item(media, *pair, positive_instruction)
            for pair in _pairs(record.get("neg_text"), record.get("neg_image_path"))
        ],
        **extra,
    }
    if path:
        row["positive_id"] = f"{path} {text}".strip()
    return row


def _item(media: MediaRoot, text: str | None, path: str | None, instruction: str | None) -> Any:
    if text and PLACEHOLDER in text and not path:
        raise ValueError(f"{PLACEHOLDER} in the text, but no image")
    words = (text or "").replace(PLACEHOLDER, "").strip()
    item: dict[str, Any] = {}
    if instruction is not None:
        if not words.startswith(instruction.strip()):
            raise ValueError(f"the text does not begin with the instruction {instruction!r}: {words[:80]!r}")
        words = words[len(instruction.strip()) :].strip()
    if path:
        item["image"] = media.find(path)
    if words:
        item["text"] = words
    if instruction is not None:
        item["instruction"] = instruction.strip()
    return words if set(item) == {"text"} else item


def _pairs(texts: Any, paths: Any) -> list[tuple[str | None, str | None]]:
    """Texts and images of the negatives: one of each, or lists."""
    many = [[one] if isinstance(one, str) or one is None else list(one) for one in (texts, paths)]
    if not any(any(one) for one in many):
        return []
    length = max(len(one) for one in many)
    for one in many:
        if not any(one):
            one[:] = [None] * length
    if len(many[0]) != len(many[1]):
        raise ValueError(f"{len(many[0])} neg_text and {len(many[1])} neg_image_path")
    return [(text, path) for text, path in zip(*many, strict=True) if text or path]
