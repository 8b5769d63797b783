"""``mine``: vectors of queries and pool on disk, negatives block by block, then one pass that writes the rows."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from tqdm.auto import tqdm

from ...encoding.manifest import library_versions, write_atomically
from ...encoding.shard_files import ERRORS
from ...encoding.shard_work import ShardEncoder
from ...encoding.shards import encode_shards
from ..formats.media import MediaRoot
from .entries import Items, Scan, entry_item, scan
from .items import id_key
from .selecting import FILTERS, Selector
from .settings import MiningReport, MiningSettings
from .vectors import Vectors, nearest
from .writing import write_rows

MANIFEST, WORK = "mining.json", "work"
SCHEMA = 1


def mine(
    encoder: ShardEncoder,
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

    Memory holds a shard of vectors, a block of queries and a few numbers for each row and candidate. A run that was
    killed goes on where it was when it is called again with the same arguments, and writes the same bytes.

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
        media_root: what media paths are relative to and confined to; they are then written as they stand. None
            opens paths as they stand and writes them relative to their common folder (``report.media_root``).
        replace_negatives: drop negatives that rows already have; otherwise such rows are refused.
        max_failed: how many items may fail to be encoded. Their rows are left out and reported.
        mode, dim: as in ``Encoder.encode``.
        block_size: rows that are mined at a time.
        shard_size: vectors of a shard.
        keep_vectors: leave ``work/`` for a further run with other limits, which then encodes nothing again.
        show_progress: None shows bars on a terminal.

    Returns:
        What was found, also in ``mining.json``. Rows gain ``negatives`` (items), ``negative_ids``,
        ``negative_scores``, ``positive_score`` and ``random_negatives`` (how many of the last are random).

    Raises:
        ValueError: a setting, row or pool item that cannot be used, or more than ``max_failed`` failed items.
        FileExistsError: ``out`` holds the result of other arguments.
        ImportError: faiss is not installed.
    """
    settings = MiningSettings(
        k, max_similarity, relative_margin, max_positive_similarity, depth, scope, local_by, seed
    )
    if block_size < 1:
        raise ValueError(f"block_size is {block_size}; need at least 1")
    folder = Path(out)
    found = scan(rows, pool, settings)
    media = None if media_root is None else MediaRoot(media_root)
    queries = Items(lambda number: rows[number]["query"], [found.same, found.query], media)
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
    done = _finished(folder, identity)
    if done is not None:
        return done
    _refuse_negatives(rows, replace_negatives)
    work = folder / WORK
    work.mkdir(parents=True, exist_ok=True)
    shard_options: dict[str, Any] = {"mode": mode, "dim": dim, "shard_size": shard_size}
    shard_options["show_progress"] = show_progress
    encode_shards(encoder, queries, work / "queries", role="query", **shard_options)
    encode_shards(encoder, entries, work / "pool", role="document", **shard_options)
    failed = _failed(work, found, max_failed)
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
    blocks = work / f"blocks-{digest[:16]}"
    _mine_blocks(rows, found, settings, work, blocks, block_size, show_progress)
    written = write_rows(
        folder, rows, pool, found, blocks, k=settings.k, format=format, media_root=media_root
    )
    manifest = {
        "kind": "umekit-mining",
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
        shutil.rmtree(work)
    return MiningReport.from_manifest(manifest, str(folder / written.file))


def _sha256(*arrays: NDArray[np.int64]) -> str:
    return hashlib.sha256(b"".join(array.tobytes() for array in arrays)).hexdigest()


def _finished(folder: Path, identity: dict[str, Any]) -> MiningReport | None:
    """The report of a finished run of the same arguments; None where there is none yet.

    Raises:
        FileExistsError: a finished run of other arguments.
    """
    path = folder / MANIFEST
    if not path.is_file():
        return None
    manifest = json.loads(path.read_text(encoding="utf-8"))
    same = json.loads(json.dumps(identity))
    different = [name for name, value in same.items() if manifest["identity"].get(name) != value]
    if different:
        raise FileExistsError(
            f"{folder} holds negatives that were mined with other {', '.join(different)}: name another folder"
        )
    return MiningReport.from_manifest(manifest, str(folder / manifest["file"]))


def _refuse_negatives(rows: Sequence[Any], replace: bool) -> None:
    for number in range(0 if replace else len(rows)):
        if rows[number].get("negatives"):
            raise ValueError(f"row {number} has negatives already: replace_negatives=True drops them")


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


def _mine_blocks(
    rows: Sequence[Any],
    found: Scan,
    settings: MiningSettings,
    work: Path,
    blocks: Path,
    size: int,
    show_progress: bool | None,
) -> None:
    """Write ``blocks/00000.npy`` and so on; a block that is there was finished."""
    blocks.mkdir(exist_ok=True)
    queries, entries = Vectors(work / "queries", len(rows)), Vectors(work / "pool", len(found.entry_id))
    selector = Selector(found, entries, settings)
    usable = queries.present & entries.present[found.positive]
    visible = sys.stderr.isatty() if show_progress is None else show_progress
    with tqdm(total=len(rows), unit="row", desc="mine", disable=not visible) as bar:
        for number, start in enumerate(range(0, len(rows), size)):
            block = np.arange(start, min(start + size, len(rows)), dtype=np.int64)
            path = blocks / f"{number:05d}.npy"
            if not path.is_file():
                records = _mine_block(rows, block, usable, queries, entries, selector)
                scratch = path.with_suffix(f".{os.getpid()}.tmp")
                with scratch.open("wb") as handle:
                    np.save(handle, records, allow_pickle=False)
                    handle.flush()
                    os.fsync(handle.fileno())
                scratch.replace(path)
            bar.update(len(block))


def _mine_block(
    rows: Sequence[Any],
    block: NDArray[np.int64],
    usable: NDArray[np.bool_],
    queries: Vectors,
    entries: Vectors,
    selector: Selector,
) -> NDArray[Any]:
    settings, found = selector.settings, selector.scan
    records = np.zeros(len(block), block_dtype(settings.k))
    records["entries"], records["scores"], records["positive"] = -1, np.nan, np.nan
    asked = np.flatnonzero(usable[block])
    if len(asked) == 0:
        return records
    vectors = queries.take(block[asked])
    near = nearest(vectors, found.group[block[asked]], entries, found.entry_group, settings.depth)
    for place, vector, candidates in zip(asked, vectors, near, strict=True):
        row = int(block[place])
        more = np.array([id_key(name) for name in rows[row].get("positive_ids") or ()], np.int64)
        chosen = selector.select(row, vector, candidates[candidates >= 0], more)
        record = records[place]
        record["entries"][: len(chosen.entries)] = chosen.entries
        record["scores"][: len(chosen.scores)] = chosen.scores
        record["positive"], record["filled"] = chosen.positive_score, chosen.filled
        record["dropped"] = chosen.dropped
    return records
