"""Rows in blocks: the pool is read once for as many blocks as fit in memory, then each is mined and written."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm.auto import tqdm

from ...encoding.storage.atomic import write_atomically
from .entries import Scan
from .selecting import FILTERS, Selector
from .settings import MiningSettings
from .vectors import QueryBlock, Vectors, search


def block_dtype(k: int) -> np.dtype[Any]:
    """A mined row on disk; ``positive`` is NaN for a row that is left out, entries are padded with -1."""
    return np.dtype(
        [
            ("entries", np.int64, (k,)),
            ("scores", np.float32, (k,)),
            ("positive", np.float32),
            ("filled", np.int32),
            ("dropped", np.int32, (len(FILTERS),)),
        ]
    )


def mine_blocks(
    found: Scan,
    settings: MiningSettings,
    work: Path,
    blocks: Path,
    *,
    size: int,
    memory: int,
    show_progress: bool | None,
) -> None:
    """Write ``blocks/00000.npy`` and so on; a block that is there was finished.

    A block's searches do not depend on which blocks share its pass, so neither ``memory`` nor a stop shows in them.

    Args:
        found, settings: as scanned.
        work: holds the shards ``queries`` and ``pool``.
        blocks: folder to write; made if missing.
        size: rows of a block.
        memory: bytes that the queries of a pass and what is found for them may take; at least one block is searched.
        show_progress: None shows bars on a terminal.
    """
    blocks.mkdir(exist_ok=True)
    count = len(found.query)
    queries, entries = Vectors(work / "queries", count), Vectors(work / "pool", len(found.entry_id))
    selector = Selector(found, entries, settings)
    usable = queries.present & entries.present[found.positive]
    starts = {blocks / f"{number:05d}.npy": start for number, start in enumerate(range(0, count, size))}
    missing = [path for path in starts if not path.is_file()]
    in_pass = max(1, memory // (size * QueryBlock.row_bytes(queries.dim, settings.depth)))
    visible = sys.stderr.isatty() if show_progress is None else show_progress
    left = sum(min(size, count - starts[path]) for path in missing)
    with tqdm(total=count, initial=count - left, unit="row", desc="mine", disable=not visible) as bar:
        for first in range(0, len(missing), in_pass):
            paths = missing[first : first + in_pass]
            query_blocks = []
            for path in paths:
                numbers = np.arange(starts[path], min(starts[path] + size, count), dtype=np.int64)
                asked = numbers[usable[numbers]]
                query_blocks.append(
                    QueryBlock(asked, queries.take(asked), found.group[asked], settings.depth)
                )
            search(query_blocks, entries, found.entry_group, show_progress=visible)
            for path, block in zip(paths, query_blocks, strict=True):
                here = min(size, count - starts[path])
                data = io.BytesIO()
                np.save(data, mine_block(starts[path], here, block, selector), allow_pickle=False)
                write_atomically(path, data.getvalue())
                bar.update(here)


def mine_block(start: int, count: int, block: QueryBlock, selector: Selector) -> NDArray[Any]:
    """Records [count] of the rows from ``start`` on; those that ``block`` lacks are left out."""
    records = np.zeros(count, block_dtype(selector.settings.k))
    records["entries"], records["scores"], records["positive"] = -1, np.nan, np.nan
    for number, vector, candidates in zip(block.numbers, block.queries, block.found, strict=True):
        row = int(number)
        chosen = selector.select(row, vector, candidates[candidates >= 0])
        record = records[row - start]
        record["entries"][: len(chosen.entries)] = chosen.entries
        record["scores"][: len(chosen.scores)] = chosen.scores
        record["positive"], record["filled"] = chosen.positive_score, chosen.filled
        record["dropped"] = chosen.dropped
    return records
