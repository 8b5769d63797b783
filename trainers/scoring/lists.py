"""The list of candidates of every row, read once: keys as arrays, items only by their number from then on."""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..collating import items_of
from ..mining.items import as_mapping, columns_key, content_key
from ..mining.output_layout import OutputLayout

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Listed:
    """What is scored for a row.

    Attributes:
        items: the positive, and the candidates that are not it, by their ids or content; each content once.
        ids: of the same, None where there is none.
        names: how errors call them: ``the positive``, ``negative 3``, counted from 0 as the row has them.
        has_positive: whether the positive stood among the row's ``candidates``; None for a row with ``negatives``,
            which it never does.
    """

    items: list[Any]
    ids: list[str | None]
    names: list[str]
    has_positive: bool | None


def listed(row: Any) -> tuple[Listed, list[int]]:
    """The list of a row, and the keys of its contents.

    Raises:
        TypeError, ValueError: no query, no positive, no candidates, or ids that are not as many.
    """
    if not isinstance(row, Mapping):
        raise TypeError(f"a row is an object, not a {type(row).__name__}")
    for name in ("query", "positive"):
        if row.get(name) is None:
            raise ValueError(f"no {name!r}; the row has {', '.join(map(str, row)) or 'nothing'}")
    column, names = (
        ("candidates", "candidate_ids") if row.get("candidates") else ("negatives", "negative_ids")
    )
    others = items_of(row, column)
    if not others:
        raise ValueError("neither 'candidates' nor 'negatives': mine them first")
    ids = list(row.get(names) or [None] * len(others))
    if len(ids) != len(others):
        raise ValueError(f"{len(ids)} {names} for {len(others)} {column}")
    found: dict[int, tuple[Any, str | None, str]] = {}
    own, own_id = content_key(row["positive"]), row.get("positive_id")
    found[own] = as_mapping(row["positive"]), own_id, "the positive"
    keys = [
        own if None not in (name, own_id) and str(name) == str(own_id) else content_key(item)
        for item, name in zip(others, ids, strict=True)
    ]
    for place, (key, item, name) in enumerate(zip(keys, others, ids, strict=True)):
        found.setdefault(key, (as_mapping(item), name, f"{column.removesuffix('s')} {place}"))
    items, kept, called = zip(*found.values(), strict=True)
    has_positive = own in keys if column == "candidates" else None
    texts = [None if n is None else str(n) for n in kept]
    return Listed(list(items), texts, list(called), has_positive), list(found)


@dataclass(frozen=True)
class Lists:
    """Keys of rows ``[n]``, and where each different item is.

    Attributes:
        query: content of the query with its instruction. columns: whatever else a row holds.
        ends: of the row's pairs among all, ``[n + 1]``; the first of a row is its positive.
        entry: number of the item of every pair, ``[pairs]``.
        content: key of every item, ``[items]``. row, place: where it is found first.
    """

    query: Ints
    columns: Ints
    ends: Ints
    entry: Ints
    content: Ints
    row: Ints
    place: Ints

    def pairs_of(self, row: int) -> slice:
        """Where a row's pairs stand among all."""
        return slice(int(self.ends[row]), int(self.ends[row + 1]))


def scan(rows: Sequence[Any], layout: OutputLayout) -> Lists:
    """Read the rows once, and show them to the layout.

    Raises:
        ValueError: no rows, or one that cannot be used.
    """
    if len(rows) == 0:
        raise ValueError("there are no rows to score")
    query, columns = np.empty(len(rows), np.int64), np.empty(len(rows), np.int64)
    contents, counts = array("q"), np.zeros(len(rows) + 1, np.int64)
    for number in range(len(rows)):
        try:
            row = rows[number]
            found, keys = listed(row)
            query[number] = content_key(row["query"], instruction=True)
            columns[number] = columns_key(row)
            layout.add_row(number, {**row, "candidates": found.items})
        except (TypeError, ValueError, KeyError) as error:
            raise ValueError(f"row {number}: {error}") from error
        contents.extend(keys)
        counts[number + 1] = len(keys)
    ends = np.cumsum(counts)
    every = np.frombuffer(contents, np.int64)
    content, first, entry = np.unique(every, return_index=True, return_inverse=True)
    order = np.argsort(first)  # items in the order in which they are met, so that they are read row by row
    number_of = np.empty_like(order)
    number_of[order] = np.arange(len(order))
    first = first[order]
    row = np.searchsorted(ends, first, side="right") - 1
    return Lists(query, columns, ends, number_of[entry], content[order], row, first - ends[row])
