"""Our own rows in jsonl, json or parquet."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from ...encoding.inputs.media_root import MediaRoot, media_root
from .records import FormatRows, open_records

ITEMS = ("query", "positive")
LISTS = ("positives", "negatives", "candidates", "negative_queries")
OTHERS = (
    "task",
    "dataset",
    "positive_id",
    "positive_ids",
    "negative_ids",
    "query_id",
    "query_thought",
    "positive_thought",
    "answer",
    "positive_answer",
    "query_action",
    "positive_action",
    "query_thoughts",
    "positive_thoughts",
    "teacher_scores",
    "positive_teacher_score",
)


def read_rows(
    where: Any,
    *,
    media: str | os.PathLike[str] | MediaRoot | None = None,
    columns: Mapping[str, str] | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
) -> FormatRows:
    """Rows with ``query``, ``positive`` and, where they have them, ``positives`` (more that are right), ``negatives``,
    ``candidates``, ``task``, ``dataset``, ``positive_id``, ``positive_ids``, ``negative_ids`` (one per negative, as
    mining writes them), ``query_id``, ``query_thought``, ``positive_thought``, ``answer``, ``teacher_scores`` (one per
    candidate), ``positive_teacher_score``; pools ``query_thoughts`` and ``positive_thoughts`` with
    ``negative_queries``, and the chosen ``query_action`` and ``positive_action``.

    An item is a text, or an object with any of ``text, image, images, video, document, page, instruction``.

    Args:
        where: see :func:`open_records`.
        media: folder or archive of the media; None is the folder of the (first) file.
        columns: our name -> column of the file, where they differ.
        cache_dir: see :func:`open_records`.

    Raises:
        FormatError: no row, or (from ``rows[i]``) a row without query or positive; names file and row.
    """
    named = dict(columns or {})
    if unknown := sorted(set(named) - {*ITEMS, *LISTS, *OTHERS}):
        raise ValueError(f"unknown column {unknown[0]!r}; known are {', '.join((*ITEMS, *LISTS, *OTHERS))}")
    wanted = [named.get(name, name) for name in (*ITEMS, *LISTS, *OTHERS)]
    records = open_records(where, cache_dir=cache_dir, columns=wanted)
    root = media_root(media, records.root)
    return FormatRows(records, root, partial(_row, named))


def _row(
    named: Mapping[str, str], media: MediaRoot, record: Mapping[str, Any], _number: int
) -> dict[str, Any]:
    row: dict[str, Any] = {}
    for name in ITEMS:
        item = record.get(named.get(name, name))
        if item is None:
            raise ValueError(f"no {name!r}; the row has {', '.join(map(str, record)) or 'nothing'}")
        row[name] = media.item(item)
    for name in LISTS:
        items = record.get(named.get(name, name))
        if items is None:
            continue
        if isinstance(items, (str, Mapping)) or not isinstance(items, Sequence):
            raise TypeError(f"{name!r} is a list of items, not a {type(items).__name__}")
        row[name] = [media.item(item) for item in items]
    for name in OTHERS:
        value = record.get(named.get(name, name))
        if value is not None:
            row[name] = value
    return row
