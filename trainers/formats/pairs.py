"""Columns as sentence-transformers trains on them: anchor and positive, negatives, question and answer, pairs."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from ...encoding.inputs.json_records import FormatError
from ...encoding.inputs.media_root import MediaRoot, media_root
from .records import FormatRows, given, open_records

QUERIES = ("anchor", "query", "question", "sentence1", "sentence_A", "sent0")
POSITIVES = ("positive", "answer", "pos", "passage", "document", "sentence2", "sentence_B", "sent1")
LABELS = ("label", "labels", "score", "scores")
_NEGATIVE = re.compile(r"(?:negative|neg|hard_neg)(?:_?(\d+))?|negatives")


def read_pairs(
    where: Any,
    *,
    media: str | os.PathLike[str] | MediaRoot | None = None,
    columns: Mapping[str, str] | None = None,
    instruction: str | None = None,
    task: str | None = None,
    dataset: str | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
) -> FormatRows:
    """Rows of a table of texts or pictures.

    The query is the column ``anchor``, ``query``, ``question``, ``sentence1`` or ``sent0``; the positive
    ``positive``, ``answer``, ``passage``, ``sentence2`` or ``sent1``; negatives are ``negative``, ``negative_1`` ...,
    ``hard_neg``, or a list ``negatives``. A str is a text; an object with ``bytes`` or ``path`` is a picture; an
    object with keys of an item is an item. A row has one positive: one with a list of several is refused, since
    taking one of them would leave the others to be drawn as negatives.

    Args:
        where: see :func:`open_records`.
        media: root of the paths in objects; None is the folder of the file.
        columns: ``query`` and ``positive`` -> column, where they have other names.
        instruction: for every query.
        task, dataset: given to every row.
        cache_dir: see :func:`open_records`.

    Raises:
        FormatError: no such columns, or a column of labels (a pair that may not match is no positive pair); and (from
            ``rows[i]``) an empty query or positive, or several of them.
    """
    records = open_records(where, cache_dir=cache_dir)
    names = list(getattr(records, "column_names", None) or records[0])
    named = dict(columns or {})
    if labels := [name for name in names if name in LABELS]:
        raise FormatError(
            f"{records.place(0)}: the column {labels[0]!r} grades pairs, which contrastive training cannot use: keep "
            "the pairs that match, and drop the column"
        )
    query = _column(named.get("query"), names, QUERIES, "query")
    positive = _column(named.get("positive"), names, POSITIVES, "positive")
    negatives = [(int(found[1] or 0), name) for name in names if (found := _NEGATIVE.fullmatch(name))]
    root = media_root(media, records.root)
    extra = given(task=task, dataset=dataset)
    chosen = (query, positive, [name for _, name in sorted(negatives)])
    return FormatRows(records, root, partial(_row, chosen, instruction, extra))


def _column(given: str | None, names: Sequence[str], known: Sequence[str], what: str) -> str:
    if given is not None and given not in names:
        raise FormatError(f"no column {given!r}; there are {', '.join(names)}")
    found = given or next((name for name in known if name in names), None)
    if found is None:
        raise FormatError(
            f"no column that is the {what} ({', '.join(known)}); there are {', '.join(names)}: name it"
        )
    return found


def _row(
    chosen: tuple[str, str, list[str]],
    instruction: str | None,
    extra: Mapping[str, str],
    media: MediaRoot,
    record: Mapping[str, Any],
    _number: int,
) -> dict[str, Any]:
    query, positive, negatives = chosen
    found = _item(media, record, query)
    if instruction is not None:
        found = {**({"text": found} if isinstance(found, str) else found), "instruction": instruction}
    others: list[Any] = []
    for name in negatives:
        value = record.get(name)
        many = value if isinstance(value, list) else [value]
        others += [_as_item(media, one) for one in many if one is not None and one != ""]
    return {"query": found, "positive": _item(media, record, positive), "negatives": others, **extra}


def _item(media: MediaRoot, record: Mapping[str, Any], column: str) -> Any:
    value = record.get(column)
    if value is None or value == "":
        raise ValueError(f"{column!r} is empty")
    if isinstance(value, list):
        if len(value) != 1:
            raise ValueError(
                f"{column!r} is a list of {len(value)}: give each of them a row of its own, with the same query"
            )
        value = value[0]
    return _as_item(media, value)


def _as_item(media: MediaRoot, value: Any) -> Any:
    if isinstance(value, str):
        return value
    if isinstance(value, Mapping) and not set(value) <= {"bytes", "path"}:
        return media.item(value)
    return {"image": media.find(value)}
