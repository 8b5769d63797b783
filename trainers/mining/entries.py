"""Rows and pool, read once: keys and groups as arrays, items only by their number from then on.

An *entry* is an item that gets a vector on the document side: a candidate, or a positive that the pool lacks.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ...encoding.inputs.media_root import MediaRoot
from ...encoding.inputs.sample import Row, Sample
from ..sampling.targets import join
from .items import as_mapping, columns_key, content_key, id_key, modality, pool_item
from .output_layout import OutputLayout
from .settings import MiningSettings

NO_CANDIDATE = -1  # group of an entry that is never a candidate
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Scan:
    """Keys of rows ``[n]`` and entries ``[e]``.

    Attributes:
        query: content of the query, without its instruction. instructed: with it.
        same: rows of equal ``same`` ask for the same things: they have one ``query_id``, or one query and instruction.
        columns: of a row, whatever else it holds.
        positive_id, positive_content: keys of the positive. positive: its entry.
        group: of a row; it is offered the candidates of its group.
        entry_group: ``NO_CANDIDATE`` for a positive that the pool lacks.
        entry_id, entry_content: keys of entries. entry_pool: from the pool, or a row's positive; entry_number: which.
        more_id, more_row: the ``positive_ids`` of all rows, and whose they are.
        named_id, named_content: of everything in the pool, sorted by id: an entry has the id of the first only of all
            that are equal.
    """

    query: Ints
    instructed: Ints
    same: Ints
    columns: Ints
    positive_id: Ints
    positive_content: Ints
    positive: Ints
    group: Ints
    entry_group: Ints
    entry_id: Ints
    entry_content: Ints
    entry_pool: NDArray[np.bool_]
    entry_number: Ints
    more_id: Ints
    more_row: Ints
    named_id: Ints
    named_content: Ints

    @property
    def candidates(self) -> int:
        return int((self.entry_group != NO_CANDIDATE).sum())

    def contents_of(self, ids: Ints) -> Ints:
        """Contents of what the pool has under these ids, in any order."""
        first = np.searchsorted(self.named_id, ids)
        counts = np.searchsorted(self.named_id, ids, side="right") - first
        within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        return self.named_content[np.repeat(first, counts) + within]


class Items:
    """Queries or entries as a source for ``encode_shards``: one sample each, called by its number."""

    def __init__(self, get: Any, keys: Sequence[Ints], media: MediaRoot | None) -> None:
        """
        Args:
            get: number -> item as given.
            keys: arrays that tell this source from another; the first has its length.
            media: where paths lie; None takes items as they stand.
        """
        self.get, self.keys, self.media = get, list(keys), media

    def count(self) -> int:
        return len(self.keys[0])

    def samples(self) -> Iterator[Sample]:
        for number in range(self.count()):
            yield Sample(str(number), partial(self._rows, number))

    def fingerprint(self) -> str:
        digest = hashlib.sha256()
        for key in self.keys:
            digest.update(np.ascontiguousarray(key).tobytes())
        return digest.hexdigest()

    def _rows(self, number: int) -> list[Row]:
        item = self.get(number)
        if self.media is not None and not isinstance(item, Image.Image):
            item = self.media.item(item)
        return [Row(str(number), item)]


def scan(
    rows: Sequence[Any], pool: Sequence[Any] | None, settings: MiningSettings, layout: OutputLayout
) -> Scan:
    """Read rows and pool once, and show them to the layout.

    Raises:
        ValueError: no rows; a row without query or positive; a pool with an id twice; for ``scope="local"``, a
            row or pool item without the column, or a row whose group has no candidate.
    """
    if len(rows) == 0:
        raise ValueError("there are no rows to mine for")
    names: dict[str, int] = {}
    more_id, more_row = array("q"), array("q")
    query, asked, instructed, columns, positive_id, positive_content, group = (
        np.empty(len(rows), np.int64) for _ in range(7)
    )
    for number in range(len(rows)):
        try:
            row = rows[number]
            query[number], asked[number], instructed[number] = _query_keys(row)
            positive_id[number], positive_content[number] = _positive_keys(row)
            columns[number] = columns_key(row)
            group[number] = _group(row, row["positive"], settings, names)
            more_id.extend(id_key(name) for name in row.get("positive_ids") or ())
            more_row.extend([number] * (len(more_id) - len(more_row)))
            layout.add_row(number, row)
        except (TypeError, ValueError, KeyError) as error:
            raise ValueError(f"row {number}: {error}") from error
    if pool is None:
        entry_id, entry_content, entry_group = positive_id, positive_content, group
        kept = _first(entry_group, entry_id)
    else:
        entry_id, entry_content, entry_group = _scan_pool(pool, settings, names, layout)
        kept = np.arange(len(entry_id), dtype=np.int64)
    by_name = np.argsort(entry_id, kind="stable")
    named_id, named_content = entry_id[by_name], entry_content[by_name]
    kept = kept[_first(entry_group[kept], entry_content[kept])]
    entry_id, entry_content, entry_group = entry_id[kept], entry_content[kept], entry_group[kept]
    missing = ~np.isin(positive_content, entry_content)
    extra = np.flatnonzero(missing)
    extra = extra[np.sort(np.unique(positive_content[extra], return_index=True)[1])]
    content = np.concatenate([entry_content, positive_content[extra]])
    order = np.argsort(content, kind="stable")
    positive = order[np.searchsorted(content[order], positive_content)]
    empty = ~np.isin(group, entry_group)
    if empty.any():
        first = int(np.flatnonzero(empty)[0])
        what = list(names)[int(group[first])]  # groups are numbered in the order of their names
        raise ValueError(f"row {first}: no candidate has {settings.local_by} {what!r}")
    return Scan(
        query=query,
        instructed=instructed,
        same=join(_numbered(asked), _numbered(instructed)),
        columns=columns,
        positive_id=positive_id,
        positive_content=positive_content,
        positive=positive.astype(np.int64),
        group=group,
        entry_group=np.concatenate([entry_group, np.full(len(extra), NO_CANDIDATE, np.int64)]),
        entry_id=np.concatenate([entry_id, positive_id[extra]]),
        entry_content=content,
        entry_pool=np.concatenate([np.full(len(kept), pool is not None), np.zeros(len(extra), np.bool_)]),
        entry_number=np.concatenate([kept, extra]),
        more_id=np.frombuffer(more_id, np.int64),
        more_row=np.frombuffer(more_row, np.int64),
        named_id=named_id,
        named_content=named_content,
    )


def entry_item(rows: Sequence[Any], pool: Sequence[Any] | None, found: Scan, entry: int) -> Any:
    """The item of an entry, as it was given."""
    return named_entry(rows, pool, found, entry)[0]


def named_entry(rows: Sequence[Any], pool: Sequence[Any] | None, found: Scan, entry: int) -> tuple[Any, str]:
    """The item of an entry, and its id, in one read.

    The id is that of the pool's record or the row's ``positive_id``, else 16 hex digits of its content.
    """
    number = int(found.entry_number[entry])
    if found.entry_pool[entry]:
        assert pool is not None
        record = pool[number]
        item, name = pool_item(record), record.get("id") if isinstance(record, Mapping) else None
    else:
        row = rows[number]
        item, name = row["positive"], row.get("positive_id")
    return item, content_name(int(found.entry_content[entry])) if name is None else str(name)


def content_name(key: int) -> str:
    return f"{key & (2**64 - 1):016x}"


def _numbered(keys: Ints) -> Ints:
    """Keys as numbers from 0 on."""
    return np.unique(keys, return_inverse=True)[1].astype(np.int64)


def _query_keys(row: Any) -> tuple[int, int, int]:
    """Keys of the query, of its id (of itself where it has none), and of the query with its instruction."""
    if not isinstance(row, Mapping):
        raise TypeError(f"a row is an object, not a {type(row).__name__}")
    for name in ("query", "positive"):
        if row.get(name) is None:
            raise ValueError(f"no {name!r}; the row has {', '.join(map(str, row)) or 'nothing'}")
    asked, whole = row.get("query_id"), content_key(row["query"], instruction=True)
    return content_key(row["query"]), whole if asked is None else id_key(asked), whole


def _positive_keys(row: Mapping[str, Any]) -> tuple[int, int]:
    """Keys of id and content of the positive."""
    content, own = content_key(row["positive"]), row.get("positive_id")
    return id_key(content_name(content) if own is None else own), content


def _scan_pool(
    pool: Sequence[Any], settings: MiningSettings, names: dict[str, int], layout: OutputLayout
) -> tuple[Ints, Ints, Ints]:
    """Ids, contents and groups of a pool's records."""
    if len(pool) == 0:
        raise ValueError("the pool is empty")
    ids, contents, groups = (np.empty(len(pool), np.int64) for _ in range(3))
    for number in range(len(pool)):
        try:
            record = pool[number]
            item = as_mapping(pool_item(record))
            contents[number] = content_key(item)
            name = record.get("id") if isinstance(record, Mapping) else None
            ids[number] = id_key(content_name(int(contents[number])) if name is None else name)
            columns = record if isinstance(record, Mapping) else {}
            groups[number] = _group(columns, item, settings, names)
            layout.add_item(item)
        except (TypeError, ValueError, KeyError) as error:
            raise ValueError(f"pool item {number}: {error}") from error
    order = np.argsort(ids, kind="stable")
    twice = np.flatnonzero(
        (ids[order][1:] == ids[order][:-1]) & (contents[order][1:] != contents[order][:-1])
    )
    if len(twice):
        a, b = order[twice[0]], order[twice[0] + 1]
        raise ValueError(f"pool items {a} and {b} have one id and different content")
    return ids, contents, groups


def _group(columns: Mapping[str, Any], item: Any, settings: MiningSettings, names: dict[str, int]) -> int:
    if settings.scope == "global":
        value: Any = ""
    elif settings.local_by == "modality" and columns.get("modality") is None:
        value = modality(item)
    else:
        value = columns.get(settings.local_by)
        if value is None:
            raise ValueError(f"scope 'local' needs a column {settings.local_by!r} (or another local_by)")
    return names.setdefault(str(value), len(names))


def _first(group: Ints, key: Ints) -> Ints:
    """Numbers of the first of every pair of group and key, ascending."""
    pairs = np.stack([group, key], axis=1)
    return np.sort(np.unique(pairs, axis=0, return_index=True)[1]).astype(np.int64)
