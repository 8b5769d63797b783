"""Which rows have the same target: one number per row, the same for equal targets of any source.

Merging data sets merges their label spaces (RzenEmbed, trap 3.10.9). Two things make targets equal: within a source,
the same ``positive_id``; anywhere, the same text as the whole positive. So "7" of a digit set and "7" of a count set
are one target and are masked as such, while row 17 of one set and row 17 of another are two. Both relations together
are closed: a paraphrase with the same id and a copy of that paraphrase elsewhere are all one target.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from ..hashing import text_hash
from .source import Source, names_only

UNKNOWN = -1
_BATCH = 4096


def target_codes(sources: Sequence[Source]) -> list[np.ndarray]:
    """One int64 array [rows] per source: equal numbers for equal targets, ``-1`` where nothing tells.

    A row whose target is unknown (pictures without a ``positive_id``) counts as different from all others; the
    collator compares such positives by content. Columns of a ``datasets.Dataset`` are read without decoding media;
    of other data sets every row is read once. Time and memory are linear in the rows, 24 bytes each.
    """
    ids, texts = [], []
    for source in sources:
        own, text = _keys(source)
        ids.append(own)
        texts.append(text)
    known = np.concatenate([(a != 0) | (b != 0) for a, b in zip(ids, texts, strict=True)])
    joined = join(_dense(np.concatenate(ids)), _dense(np.concatenate(texts)))
    joined[~known] = UNKNOWN
    bounds = np.cumsum([len(source) for source in sources])[:-1]
    return list(np.split(joined, bounds))


def join(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Connected components of rows that are linked by an equal ``a`` or an equal ``b``.

    a, b: non-negative int64 [n]. Returns int64 [n], the smallest row of each component.
    """
    labels = np.arange(len(a))
    while True:
        before = labels
        for codes in (a, b):
            lowest = np.full(int(codes.max(initial=-1)) + 1, len(a), dtype=np.int64)
            np.minimum.at(lowest, codes, labels)
            labels = lowest[codes]
        if np.array_equal(before, labels):
            return labels


def _dense(hashes: np.ndarray) -> np.ndarray:
    """Numbers for hashes; a row without one (0) gets its own."""
    codes = np.unique(hashes, return_inverse=True)[1].astype(np.int64).reshape(-1)
    missing = np.flatnonzero(hashes == 0)
    codes[missing] = codes.max(initial=-1) + 1 + np.arange(len(missing))
    return codes


def _keys(source: Source) -> tuple[np.ndarray, np.ndarray]:
    """Hashes of the id and of the text of each row's positive, int64 [rows]; 0 where there is none."""
    ids = np.zeros(len(source), dtype=np.int64)
    texts = np.zeros(len(source), dtype=np.int64)
    if source.key is not None:
        ids[:] = [_hash(f"{source.name}\0{key}") for key in _own_keys(source)]
        return ids, texts
    for index, (own, positive) in enumerate(_positives(source.rows)):
        if own is not None:
            ids[index] = _hash(f"{source.name}\0{own}")
        text = text_of(positive)
        if text is not None:
            texts[index] = _hash(text)
    return ids, texts


def _hash(text: str) -> int:
    return text_hash(text) or 1  # 0 stands for none


def _own_keys(source: Source) -> Iterator[Any]:
    key, rows = source.key, names_only(source.rows)
    if isinstance(key, str):
        if key in getattr(rows, "column_names", ()):
            yield from rows[key]
            return
        for index in range(len(rows)):
            row = rows[index]
            if row.get(key) is None:
                raise ValueError(f"source {source.name!r}: row {index} has no {key!r} to tell its target by")
            yield row[key]
    elif callable(key):
        for index in range(len(rows)):
            yield key(rows[index])
    else:
        given = list(key)  # type: ignore[arg-type]
        if len(given) != len(rows):
            raise ValueError(f"source {source.name!r}: {len(given)} keys for {len(rows)} rows")
        yield from given


def text_of(positive: Any) -> str | None:
    """The text that is the whole positive, with its instruction; None for anything with media."""
    if isinstance(positive, str):
        return positive
    if not isinstance(positive, Mapping):
        return None
    given = {key for key, value in positive.items() if value is not None}
    if "text" not in given or given - {"text", "instruction"}:
        return None
    return "\0".join([positive["text"], *([positive["instruction"]] if "instruction" in given else [])])


def _positives(rows: Any) -> Iterator[tuple[Any, Any]]:
    """(positive_id, positive) of every row; of a positive with media only that it has some."""
    if hasattr(rows, "column_names") and hasattr(rows, "with_format"):
        yield from _arrow_positives(rows)
        return
    rows = names_only(rows)
    for index in range(len(rows)):
        row = rows[index]
        yield row.get("positive_id"), row.get("positive")


def _arrow_positives(rows: Any) -> Iterator[tuple[Any, Any]]:
    import pyarrow as pa
    import pyarrow.compute as pc

    wanted = [name for name in ("positive_id", "positive") if name in rows.column_names]
    if not wanted:
        raise ValueError(f"the data set has no column 'positive'; it has {', '.join(rows.column_names[:12])}")
    for table in rows.select_columns(wanted).with_format("arrow").iter(batch_size=_BATCH):
        none = [None] * table.num_rows
        ids = table["positive_id"].to_pylist() if "positive_id" in wanted else none
        if "positive" not in wanted:
            positives: list[Any] = none
        elif pa.types.is_struct(table.schema.field("positive").type):
            names = [field.name for field in table.schema.field("positive").type]
            fields = {name: pc.struct_field(table["positive"], name) for name in names}
            texts = {name: fields.pop(name).to_pylist() for name in ("text", "instruction") if name in fields}
            media = np.zeros(table.num_rows, dtype=bool)
            for part in fields.values():
                media |= np.asarray(pc.is_valid(part).to_pylist(), dtype=bool)
            positives = [
                None if has_media else {name: values[i] for name, values in texts.items()}
                for i, has_media in enumerate(media)
            ]
        elif pa.types.is_string(table.schema.field("positive").type) or pa.types.is_large_string(
            table.schema.field("positive").type
        ):
            positives = table["positive"].to_pylist()
        else:
            positives = none
        yield from zip(ids, positives, strict=True)
