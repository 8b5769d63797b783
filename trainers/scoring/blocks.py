"""P(yes) of all pairs, some rows at a time, in files that a run that was stopped goes on from."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from tqdm.auto import tqdm

from ...encoding.inputs.sample import reason_of
from ...encoding.storage.atomic import write_atomically
from ...encoding.storage.contents import read_npy
from ..mining.items import as_mapping
from .lists import Lists, listed

Floats = NDArray[np.float32]
FAULTS = (OSError, ValueError, TypeError, ImportError)  # of an item, or of a query
REASONS = 3  # of pairs that could not be scored, that an error tells


class PairScorer(Protocol):
    """What is needed of an ``umekit.Reranker``."""

    def fingerprint(self) -> dict[str, Any]: ...

    def rerank(self, query: Any, candidates: Any, **options: Any) -> Any: ...


def block_starts(lists: Lists, size: int) -> list[int]:
    """The first row of every block, and the number of rows."""
    return [*range(0, len(lists.query), size), len(lists.query)]


def block_file(blocks: Path, number: int) -> Path:
    return blocks / f"{number:05d}.npy"


def missing_blocks(lists: Lists, blocks: Path, size: int) -> list[int]:
    """Numbers of the blocks that are not there yet."""
    return [n for n in range(len(block_starts(lists, size)) - 1) if not block_file(blocks, n).is_file()]


def score_blocks(
    reranker: PairScorer,
    rows: Sequence[Any],
    lists: Lists,
    blocks: Path,
    *,
    size: int,
    find: Callable[[Any], Any],
    rank: int,
    world: int,
    max_failed: int,
    show_progress: bool | None,
) -> None:
    """Write this process's share of ``blocks/00000.npy`` and so on: float32 ``[pairs of its rows]``.

    A pair that cannot be scored is NaN; so are those of a query that cannot be read.

    Args:
        size: rows of a block.
        find: an item to the same with its media found.
        rank, world: which of how many processes this is.
        max_failed: pairs of one process that may fail, those of blocks that are there included.
        show_progress: None shows a bar on a terminal.

    Raises:
        ValueError: more pairs failed.
    """
    blocks.mkdir(exist_ok=True)
    starts = block_starts(lists, size)
    missing = set(missing_blocks(lists, blocks, size))
    own = range(rank, len(starts) - 1, world)
    mine = [number for number in own if number in missing]
    failed = sum(
        int(np.isnan(read_block(blocks, number, lists, size)).sum())
        for number in own
        if number not in missing
    )
    total = sum(int(lists.ends[starts[n + 1]] - lists.ends[starts[n]]) for n in mine)
    visible = sys.stderr.isatty() if show_progress is None else show_progress
    reasons: list[str] = []
    _check_failed(failed, reasons, max_failed)
    with tqdm(total=total, unit="pair", desc="score", disable=not visible) as bar:
        for number in mine:
            found = [
                _score_row(reranker, rows[row], row, find, reasons)
                for row in range(starts[number], starts[number + 1])
            ]
            _check_failed(failed, reasons, max_failed)
            data = io.BytesIO()
            np.save(data, np.concatenate(found), allow_pickle=False)
            write_atomically(block_file(blocks, number), data.getvalue())
            bar.update(sum(map(len, found)))


def _check_failed(before: int, reasons: Sequence[str], most: int) -> None:
    """Raise ValueError where more than ``most`` pairs failed: ``before``, in blocks that are there, and now."""
    if before + len(reasons) > most:
        told = "; ".join(reasons[:REASONS]) or "all of them by a run before this one"
        raise ValueError(
            f"{before + len(reasons)} pairs could not be scored, more than max_failed={most}: {told}"
        )


def _score_row(
    reranker: PairScorer, row: Any, number: int, find: Callable[[Any], Any], reasons: list[str]
) -> Floats:
    found, _ = listed(row)
    scores = np.full(len(found.items), np.nan, np.float32)
    items: list[Any] = []
    places: list[int] = []
    for place, item in enumerate(found.items):
        try:
            items.append(find(item))
            places.append(place)
        except FAULTS as error:
            reasons.append(f"row {number}, {found.names[place]}: {reason_of(error)}")
    try:
        query = find(as_mapping(row["query"]))
        result = reranker.rerank(query, items, on_error="skip", return_details=True, show_progress=False)
    except FAULTS as error:
        reasons += [f"row {number}: {reason_of(error)}"] * len(items)
        return scores
    scores[places] = result.scores
    for place, fault in result.errors:
        reasons.append(f"row {number}, {found.names[places[place]]}: {reason_of(fault)}")
    return scores


def read_block(blocks: Path, number: int, lists: Lists, size: int) -> Floats:
    """The scores of a block. Raises ValueError for a file that is damaged."""
    starts = block_starts(lists, size)
    pairs = int(lists.ends[starts[number + 1]] - lists.ends[starts[number]])
    return read_npy(block_file(blocks, number), np.float32, (pairs,), ValueError)
