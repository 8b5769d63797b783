"""``mine``: vectors of queries and pool on disk, negatives block by block, then one pass that writes the rows."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ...encoding.inputs.media_root import MediaRoot
from ...encoding.row_encoding import VectorMaker
from ...encoding.shards.files import ERRORS, PART_FILE
from ...encoding.shards.files import MANIFEST as SHARDS
from ...encoding.shards.run import encode_shards
from ...encoding.storage.atomic import naming_the_disk, write_atomically
from ...encoding.storage.contents import file_sha256, library_versions
from ...encoding.storage.ownership import check_own, remove_marked
from .blocks import mine_blocks
from .entries import Items, Scan, entry_item, scan
from .output_layout import OutputLayout
from .run_folder import finished, open_work
from .selecting import FILTERS
from .settings import MiningReport, MiningSettings
from .writing import is_of_run, write_rows

MANIFEST = "mining.json"
KIND = "umekit-mining"
SCHEMA = 1
# What a run puts into its work folder: shards of vectors, blocks of mined rows, the rows before they get their name.
WORK_FILES = re.compile(
    rf"(queries|pool)/(|run\.json|manifest\.json|errors\.jsonl|{PART_FILE.pattern})"
    r"|blocks-[0-9a-f]{16}/(|\d{5,}\.npy|\.\d{5,}\.npy\.[a-z0-9_]{8})"
    r"|mined\.(jsonl|parquet)\.\d+(\.chunks)?|mined\.json"
)


def mine(
    encoder: VectorMaker,
    rows: Sequence[Any],
    pool: Sequence[Any] | None = None,
    *,
    out: str | os.PathLike[str],
    k: int = 5,
    max_similarity: float | None = 0.7,
    relative_margin: float | None = None,
    max_positive_similarity: float | None = None,
    depth: int = 100,
    scope: Literal["global", "local"] = "global",
    local_by: str = "task",
    seed: int = 0,
    format: Literal["jsonl", "parquet"] | None = None,
    media_root: str | os.PathLike[str] | None = None,
    replace_negatives: bool = False,
    max_failed: int = 0,
    mode: str | None = None,
    dim: int | None = None,
    block_size: int = 1024,
    shard_size: int = 8192,
    memory_gib: float = 1.0,
    keep_vectors: bool = False,
    show_progress: bool | None = None,
) -> MiningReport:
    """Find hard negatives for rows with a model's own vectors.

    For each row the nearest ``depth`` candidates are taken, by exact cosine over the whole pool (faiss, a shard of
    vectors at a time). Known positives (by id or equal content, of all rows with the same query or ``query_id``), the
    query itself and likely false negatives are dropped, and the best ``k`` of what is left are the negatives. A row
    with fewer gets random candidates that pass the same filters. Equal scores are ordered by the pool's order.

    The released code of U-MARVEL keeps squared L2 distances for its global lists (section 2.6), to which a limit on
    similarity does the opposite of what it should; scores here are cosines, always.

    Memory holds a shard of vectors, ``memory_gib`` of queries and a few numbers for each row and candidate. A run that
    was killed goes on with the first block that is not written when it is called again with the same arguments, and
    writes the same bytes.

    Args:
        encoder: makes the vectors; queries with ``role="query"``, candidates with ``role="document"``.
        rows: dicts with ``query`` and ``positive``, perhaps ``positive_id``, ``positive_ids`` (all that are
            relevant), ``query_id``, ``task``, ``dataset`` and other columns, which are kept.
        pool: records that are items, or have an ``item`` or the columns of one, with ``id``; the rows' positives,
            each once, when None.
        out: folder to write. Holds ``mined.jsonl`` or ``mined.parquet`` and ``mining.json`` at the end.
        k, max_similarity, relative_margin, max_positive_similarity, depth, scope, local_by, seed: see
            :class:`MiningSettings`.
        format: of the rows; jsonl unless rows or pool hold pictures or bytes, which parquet keeps, when None.
            Members of archives that a reader of ours has read are named, as files are.
        media_root: what media paths are relative to and confined to; they are then written as they stand. None
            opens paths as they stand and writes them relative to the common folder of all files and archives of
            rows and pool (``report.media_root``).
        replace_negatives: drop negatives that rows already have; otherwise such rows are refused.
        max_failed: how many items may fail to be encoded. Their rows are left out and reported.
        mode, dim: as in ``Encoder.encode``.
        block_size: rows that are mined at a time.
        shard_size: vectors of a shard.
        memory_gib: what queries and their candidates may take. The pool is read once for as many rows as fit
            (150 000 of 1536 numbers in 1 GiB); nothing else depends on it.
        keep_vectors: leave ``work/`` for a further run with other limits, which then encodes nothing again.
        show_progress: None shows bars on a terminal.

    Returns:
        What was found, also in ``mining.json``. Rows gain ``negatives`` (items), ``negative_ids``,
        ``negative_scores``, ``positive_score`` and ``random_negatives`` (how many of the last are random).

    Raises:
        ValueError: a setting, row or pool item that cannot be used, or more than ``max_failed`` failed items.
        FileExistsError: ``out`` holds the result of other arguments, or files that no run of ours wrote where this one
            would write (ForeignFileError).
        ImportError: faiss is not installed.
    """
    settings = MiningSettings(
        k, max_similarity, relative_margin, max_positive_similarity, depth, scope, local_by, seed
    )
    if block_size < 1:
        raise ValueError(f"block_size is {block_size}; need at least 1")
    if not memory_gib > 0 or math.isinf(memory_gib):
        raise ValueError(f"memory_gib is {memory_gib}; need a number above 0")
    folder = Path(out)
    layout = OutputLayout(format, media_root)
    found = scan(rows, pool, settings, layout)
    media = None if media_root is None else MediaRoot(media_root)
    queries = Items(lambda number: rows[number]["query"], [found.instructed, found.same], media)
    entries = Items(
        partial(entry_item, rows, pool, found),
        [found.entry_content, found.entry_group, found.entry_id],
        media,
    )
    identity = {
        "settings": vars(settings),
        "rows": queries.fingerprint(),
        "columns": _sha256(found.columns, found.positive, found.positive_id, found.group),
        "pool": entries.fingerprint(),
        "encoder": encoder.fingerprint(),
        "mode": mode,
        "dim": dim,
        "format": format,
        "media_root": None if media_root is None else os.fspath(media_root),
        "block_size": block_size,
        "max_failed": max_failed,
    }
    done = finished(folder / MANIFEST, KIND, identity)
    if done is not None:
        return MiningReport.from_manifest(done, str(folder / done["file"]))
    if layout.negatives_at is not None and not replace_negatives:
        raise ValueError(
            f"row {layout.negatives_at} has negatives already: replace_negatives=True drops them"
        )
    work = open_work(folder)
    check_own(
        folder / f"mined.{layout.format}", partial(is_of_run, work), "name another folder for the mined rows"
    )
    shard_options: dict[str, Any] = {"mode": mode, "dim": dim, "shard_size": shard_size}
    shard_options["show_progress"] = show_progress
    encode_shards(encoder, queries, work / "queries", role="query", **shard_options)
    encode_shards(encoder, entries, work / "pool", role="document", **shard_options)
    failed = _failed(work, found, max_failed)
    encoded = [
        file_sha256(work / name / SHARDS) for name in ("queries", "pool")
    ]  # the files may have changed
    digest = hashlib.sha256(json.dumps([identity, encoded], sort_keys=True).encode()).hexdigest()
    blocks = work / f"blocks-{digest[:16]}"
    with naming_the_disk(blocks):
        mine_blocks(
            found, settings, work, blocks,
            size=block_size, memory=int(memory_gib * 2**30), show_progress=show_progress,
        )  # fmt: skip
    written = write_rows(folder, rows, pool, found, layout, blocks, k=settings.k)
    manifest = {
        "kind": KIND,
        "schema": SCHEMA,
        "score": "cosine",
        "identity": identity,
        "file": written.file,
        "media_root": written.media_root,
        "rows": written.rows,
        "candidates": found.candidates,
        "negatives": written.negatives,
        "filled": written.filled,
        "short": written.short,
        "dropped": dict(zip(FILTERS, written.dropped, strict=True)),
        "failed": failed,
        "versions": library_versions(),
    }
    write_atomically(folder / MANIFEST, (json.dumps(manifest, indent=2, sort_keys=True) + "\n").encode())
    if not keep_vectors:
        remove_marked(work, WORK_FILES)
    return MiningReport.from_manifest(manifest, str(folder / written.file))


def _sha256(*arrays: NDArray[np.int64]) -> str:
    return hashlib.sha256(b"".join(array.tobytes() for array in arrays)).hexdigest()


def _failed(work: Path, found: Scan, limit: int) -> list[str]:
    """Items without a vector, as lines for people. Raises ValueError for more than ``limit``."""
    lines = []
    for name in ("queries", "pool"):
        path = work / name / ERRORS
        listed = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
        for line in listed:
            error = json.loads(line)
            number = int(error["id"])
            if name == "queries":
                what = f"query of row {number}"
            else:
                kind = "pool item" if found.entry_pool[number] else "positive of row"
                what = f"{kind} {int(found.entry_number[number])}"
            lines.append(f"{what}: {error['reason']}")
    if len(lines) > limit:
        raise ValueError(
            f"{len(lines)} items could not be encoded, more than max_failed={limit}: {'; '.join(lines[:3])} "
            f"(mend them and remove {work}, or allow more)"
        )
    return lines
