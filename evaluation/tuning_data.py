"""Validation queries with the scores of both models: of rows that were scored, or of a search in an index or pool."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..encoding.cascade import Cascade, Searchable
from ..encoding.index.two_stage import Fused
from ..encoding.inputs.media_root import MediaRoot
from ..encoding.inputs.records import Records
from .digit_world.labelled import POOL, hard_tasks
from .digit_world.world import DigitWorld
from .tuning import Judged

BLOCK = 256  # queries that are searched at a time
QUERIES = 200  # of a task of DigitWorld


def scored_cases(records: Records) -> Iterator[Judged]:
    """Of rows that ``umekit score`` wrote.

    A candidate is right if it is the row's ``positive`` or one of its ``positives``, or if its id is the row's
    ``positive_id`` or among its ``positive_ids``. A positive that the list lacks was not recalled.

    Raises:
        ValueError: a row without candidates, positive or scores; it is named.
    """
    for number in range(len(records)):
        try:
            yield _scored(records[number])
        except (ValueError, TypeError, KeyError) as error:
            reason = f"no {error}" if isinstance(error, KeyError) else str(error)
            raise ValueError(f"{records.place(number)}: {reason}") from error


def _scored(row: Mapping[str, Any]) -> Judged:
    items = [_bare(item) for item in row["candidates"]]
    right = [_bare(item) for item in (row["positive"], *(row.get("positives") or ()))]
    names = _positive_ids(row)
    ids = row.get("candidate_ids") or [None] * len(items)
    relevant = [item in right or name in names for item, name in zip(items, ids, strict=True)]
    return Judged(
        row.get("task"),
        np.array(row["recall_scores"], dtype=np.float32),
        np.array(row["rerank_scores"], dtype=np.float32),
        np.array(relevant, dtype=bool),
        max(len(right), len(names), sum(relevant)),
    )


def index_cases(
    cascade: Cascade,
    records: Records,
    index: Searchable,
    item_of: Callable[[str], Any],
    media: MediaRoot,
    depth: int,
    failed: list[tuple[str, str]],
    show_progress: bool | None = None,
) -> Iterator[Judged]:
    """Of a search with a cascade.

    Args:
        records: rows with ``query``, ``positive_id`` or ``positive_ids`` (ids of the index), and perhaps ``task``.
        index, item_of: see ``Cascade.search``.
        media: where the media of queries are.
        depth: candidates of a query.
        failed: gains id and reason of every candidate that cannot be opened or scored; it is left out.
        show_progress: None shows a bar on a terminal.

    Raises:
        ValueError: a row that lacks query or ids; it is named. And what ``Cascade.search`` raises.
    """
    for start in range(0, len(records), BLOCK):
        numbers = range(start, min(start + BLOCK, len(records)))
        rows = [_query(records, number, media) for number in numbers]
        found = cascade.search(
            [query for query, *_ in rows],
            index,
            item_of,
            k=depth,
            depth=depth,
            on_error="skip",
            show_progress=show_progress,
            return_details=True,
        )
        failed += [(name, reason) for _, name, reason in found.failed]
        for (_, names, task), candidates in zip(rows, found.rows, strict=True):
            if not candidates:
                continue  # all of them are among the failed
            relevant = np.array([one.id in names for one in candidates])
            yield _judged(task, candidates, relevant, len(names))


def digit_world_cases(
    cascade: Cascade, queries: int, depth: int, show_progress: bool | None = None
) -> Iterator[Judged]:
    """Of a search in DigitWorld's hard pools, in the handwriting for validation, by the tasks that have any.

    Args:
        cascade: both models.
        queries: of each task. depth: candidates of a query.
        show_progress: None shows a bar on a terminal.
    """
    world = DigitWorld("validation")
    for task in hard_tasks():
        for index, first in enumerate(range(0, queries, POOL)):
            pool = world.pool(task, min(POOL, queries - first), POOL, "hard", index)
            candidates = dict(zip(pool.candidate_ids, pool.candidates, strict=True))
            found = cascade.rank(pool.queries, candidates, k=depth, depth=depth, show_progress=show_progress)
            for rows, right in zip(found, pool.positives, strict=True):
                relevant = np.array([one.id == pool.candidate_ids[right] for one in rows])
                yield _judged(task, rows, relevant, 1)


def _judged(task: str | None, rows: Sequence[Fused], relevant: NDArray[np.bool_], positives: int) -> Judged:
    recall, rerank = ([getattr(one, name) for one in rows] for name in ("recall", "rerank"))
    return Judged(
        task,
        np.array(recall, dtype=np.float32),
        np.array(rerank, dtype=np.float32),
        relevant,
        positives,
    )


def _query(records: Records, number: int, media: MediaRoot) -> tuple[Any, set[str], str | None]:
    row = records[number]
    names = _positive_ids(row)
    if row.get("query") is None or not names:
        raise ValueError(f"{records.place(number)}: a row needs a query, and positive_id or positive_ids")
    return media.item(row["query"]), names, row.get("task")


def _positive_ids(row: Mapping[str, Any]) -> set[str]:
    given = [row.get("positive_id"), *(row.get("positive_ids") or ())]
    return {str(name) for name in given if name is not None}


def _bare(item: Any) -> Any:
    """An item without keys that a table gave it."""
    if isinstance(item, Mapping):
        return {key: _bare(value) for key, value in item.items() if value is not None}
    return {"text": item} if isinstance(item, str) else item
