"""``score``: vectors of queries and candidates on disk, P(yes) block by block, then one pass that writes the rows."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ...encoding.index.two_stage import FUSION, fuse
from ...encoding.inputs.media_root import MediaRoot
from ...encoding.row_encoding import VectorMaker
from ...encoding.shards.files import PART_FILE
from ...encoding.shards.run import encode_shards
from ...encoding.storage.atomic import naming_the_disk, write_atomically
from ...encoding.storage.contents import library_versions
from ...encoding.storage.ownership import check_own, remove_marked
from ..mining.entries import Items
from ..mining.items import as_mapping
from ..mining.output_layout import OutputLayout, each_item
from ..mining.run_folder import finished, open_work
from ..mining.selecting import cosines
from ..mining.vectors import Vectors
from ..mining.writing import is_of_run, write_file
from .blocks import PairScorer, block_starts, missing_blocks, read_block, score_blocks
from .lists import Listed, Lists, listed, scan

MANIFEST = "scoring.json"
KIND = "umekit-scoring"
SCHEMA = 1
CARD = "README.md"
POSITIVES = ("recalled", "always", "never")
Positives = Literal["recalled", "always", "never"]
WORK_FILES = re.compile(
    rf"(queries|items)/(|run\.json|manifest\.json|errors\.jsonl|{PART_FILE.pattern})"
    r"|blocks-[0-9a-f]{16}/(|\d{5,}\.npy|\.\d{5,}\.npy\.[a-z0-9_]{8})"
    r"|scored\.(jsonl|parquet)\.\d+(\.chunks)?|scored\.json"
)
REPORTED = ("media_root", "rows", "pairs", "with_positive", "failed_rows", "failed_pairs")


@dataclass(frozen=True)
class ScoringReport:
    """What a scoring run did.

    Attributes:
        file: the scored rows, ``scored.jsonl`` or ``scored.parquet``.
        media_root: folder that the media paths of ``file`` are relative to; None where it names no files.
        rows: rows written.
        pairs: candidates in all rows.
        with_positive: rows whose list holds the positive.
        failed_rows: rows left out, because the query, the positive or all candidates could not be scored.
        failed_pairs: candidates left out of the rows that were written.
    """

    file: str
    media_root: str | None
    rows: int
    pairs: int
    with_positive: int
    failed_rows: int
    failed_pairs: int


@dataclass
class _Counts:
    rows: int = 0
    pairs: int = 0
    with_positive: int = 0
    failed_rows: int = 0
    failed_pairs: int = 0


def score(
    encoder: VectorMaker,
    reranker: PairScorer,
    rows: Sequence[Any],
    *,
    out: str | os.PathLike[str],
    alpha: float = FUSION,
    positive: Positives = "recalled",
    format: Literal["jsonl", "parquet"] | None = None,
    media_root: str | os.PathLike[str] | None = None,
    max_failed: int = 0,
    mode: str | None = None,
    dim: int | None = None,
    block_size: int = 16,
    shard_size: int = 8192,
    rank: int = 0,
    world: int = 1,
    keep_vectors: bool = False,
    show_progress: bool | None = None,
) -> ScoringReport | None:
    """Score the candidates of rows by an embedder and a reranker, for :class:`DistillationTrainer` to learn.

    A row's pairs are scored together, so that the query is read once. ``S = alpha * cosine + (1 - alpha) * P(yes)``;
    U-MARVEL's files hold the double of it at ``alpha = 0.5``, which its loss then halves (correction 22).

    Memory holds a few numbers for each pair, one shard of vectors and one block of scores. A run that was killed goes
    on with the first block that is not written when it is called again with the same arguments, and writes the same
    bytes: what a row's scores are depends on the row alone.

    Args:
        encoder: the recall model; queries with ``role="query"``, candidates with ``role="document"``.
        reranker: the teacher.
        rows: dicts with ``query``, ``positive`` and ``candidates`` or, as mining writes them, ``negatives``; perhaps
            with ``candidate_ids`` or ``negative_ids`` and ``positive_id``. Other columns are kept.
        out: folder to write: ``scored.jsonl`` or ``scored.parquet``, ``scoring.json``, and a card by which
            ``datasets.load_dataset(out)`` finds the rows.
        alpha: share of the cosine.
        positive: whether the positive is in a row's list: ``"recalled"`` (published: it is not forced in): where it
            was among its ``candidates``, or its cosine is above that of one of the ``negatives``, so that as long a
            list of the recall model had held it; or ``"always"``, ``"never"``.
        format, media_root: see :func:`umekit.trainers.mining.mine`.
        max_failed: how many pairs may fail to be scored, and how many items to be encoded. They are left out; rows
            without query, positive or candidates go whole.
        mode, dim: as in ``Encoder.encode``.
        block_size: rows that are scored at a time.
        shard_size: vectors of a shard.
        rank, world: which of how many processes this is. With more than one, each does its share of the encoding and
            of the blocks; a last call with the same arguments and ``world=1`` writes the rows.
        keep_vectors: leave ``work/``.
        show_progress: None shows bars on a terminal.

    Returns:
        What was scored; None where ``world`` is not 1. Rows gain ``candidates`` (items, the best first), their
        ``candidate_ids`` (None where there is none), ``recall_scores`` (cosines), ``rerank_scores`` (P(yes)) and
        ``teacher_scores`` (S), and the same of the positive: ``positive_recall_score`` and so on.

    Raises:
        ValueError: a setting or row that cannot be used, or too many failures.
        FileExistsError: ``out`` holds the result of other arguments, or foreign files where this would write.
    """
    fuse([], [], alpha)
    if positive not in POSITIVES:
        raise ValueError(f"positive is {positive!r}; use one of {', '.join(POSITIVES)}")
    if block_size < 1 or not 0 <= rank < world:
        raise ValueError(f"block_size is {block_size}, rank {rank} of {world}: that makes no share")
    folder = Path(out)
    layout = OutputLayout(format, media_root)
    lists = scan(rows, layout)
    media = None if media_root is None else MediaRoot(media_root)
    queries = Items(lambda number: rows[number]["query"], [lists.query], media)
    items = Items(_item_reader(rows, lists), [lists.content], media)
    scored = {  # what P(yes) depends on
        "rows": queries.fingerprint(),
        "columns": hashlib.sha256(lists.columns.tobytes() + lists.entry.tobytes()).hexdigest(),
        "candidates": items.fingerprint(),
        "encoder": encoder.fingerprint(),
        "reranker": reranker.fingerprint(),
        "mode": mode,
        "dim": dim,
        "media_root": None if media_root is None else os.fspath(media_root),
        "block_size": block_size,
    }
    told = {"settings": {"alpha": alpha, "positive": positive}, "format": format, "max_failed": max_failed}
    identity = {**scored, **told}
    done = finished(folder / MANIFEST, KIND, identity)
    if done is not None:
        return _report(done, folder)
    work = open_work(folder)
    name = f"scored.{layout.format}"
    check_own(folder / name, partial(is_of_run, work), "name another folder for the scored rows")
    check_own(folder / CARD, _is_card, "name another folder for the scored rows")
    shard_options: dict[str, Any] = {"mode": mode, "dim": dim, "shard_size": shard_size}
    shard_options |= {"rank": rank, "world": world, "show_progress": show_progress}
    encode_shards(encoder, queries, work / "queries", role="query", **shard_options)
    encode_shards(encoder, items, work / "items", role="document", **shard_options)
    digest = hashlib.sha256(json.dumps(scored, sort_keys=True).encode()).hexdigest()
    blocks = work / f"blocks-{digest[:16]}"
    with naming_the_disk(blocks):
        score_blocks(
            reranker, rows, lists, blocks,
            size=block_size, find=(lambda item: item) if media is None else media.item,
            rank=rank, world=world, max_failed=max_failed, show_progress=show_progress,
        )  # fmt: skip
    if world > 1:
        return None
    assert not missing_blocks(lists, blocks, block_size)
    counts = _Counts()
    written = _scored(rows, lists, work, blocks, block_size, alpha, positive, counts, max_failed)
    write_file(folder / name, layout.format, work, (each_item(row, layout.relative) for row in written))
    write_atomically(folder / CARD, _card(name).encode())
    manifest = {
        "kind": KIND,
        "schema": SCHEMA,
        "identity": identity,
        "file": name,
        "media_root": layout.media_root or layout.root,
        **asdict(counts),
        "versions": library_versions(),
    }
    write_atomically(folder / MANIFEST, (json.dumps(manifest, indent=2, sort_keys=True) + "\n").encode())
    if not keep_vectors:
        remove_marked(work, WORK_FILES)
    return _report(manifest, folder)


def _report(manifest: dict[str, Any], folder: Path) -> ScoringReport:
    facts = {name: manifest[name] for name in REPORTED}
    return ScoringReport(file=str(folder / manifest["file"]), **facts)


def _item_reader(rows: Sequence[Any], lists: Lists) -> Any:
    """Number of an item -> the item; the rows that were read last are kept, since its neighbours are in them."""

    @lru_cache(maxsize=4)
    def items_of_row(row: int) -> list[Any]:
        return listed(rows[row])[0].items

    return lambda number: items_of_row(int(lists.row[number]))[int(lists.place[number])]


def _scored(
    rows: Sequence[Any],
    lists: Lists,
    work: Path,
    blocks: Path,
    size: int,
    alpha: float,
    positive: Positives,
    counts: _Counts,
    max_failed: int,
) -> Iterator[dict[str, Any]]:
    """The finished rows, and counts of them."""
    queries, items = Vectors(work / "queries", len(rows)), Vectors(work / "items", len(lists.content))
    has_query, has_item = queries.present, items.present
    lost = int((~has_query).sum() + (~has_item).sum())
    if lost > max_failed:
        raise ValueError(
            f"{lost} items could not be encoded, more than max_failed={max_failed}: {work}/*/errors.jsonl names them "
            f"(mend them and remove {work}, or allow more)"
        )
    starts = block_starts(lists, size)
    for number in range(len(starts) - 1):
        again = read_block(blocks, number, lists, size)
        base = int(lists.ends[starts[number]])
        for row in range(starts[number], starts[number + 1]):
            pairs = lists.pairs_of(row)
            entries, rerank = lists.entry[pairs], again[pairs.start - base : pairs.stop - base]
            good = has_item[entries] & ~np.isnan(rerank)
            if not has_query[row] or not good[0] or not good[1:].any():
                counts.failed_rows += 1
                continue
            query = queries.take(np.array([row]))[0]
            recall = np.full(len(entries), np.nan, np.float32)
            recall[good] = cosines(items.take(entries[good]), query)
            found = listed(rows[row])[0]
            whole = _row(rows[row], found, recall, rerank, good, alpha, positive)
            counts.rows += 1
            counts.pairs += len(whole["candidates"])
            counts.with_positive += bool(whole.pop("has_positive"))
            counts.failed_pairs += int((~good).sum())
            yield whole


def _row(
    row: dict[str, Any],
    found: Listed,
    recall: np.ndarray,
    rerank: np.ndarray,
    good: np.ndarray,
    alpha: float,
    positive: Positives,
) -> dict[str, Any]:
    """A row with its list, the best first; and whether the positive is in it."""
    both = fuse(recall, rerank, alpha)
    recalled = found.has_positive
    if (
        recalled is None
    ):  # a list of negatives: one of the recall model, as long, had held what is above its last
        recalled = bool(recall[0] > recall[1:][good[1:]].min())
    keep = good.copy()
    keep[0] = positive == "always" or (positive == "recalled" and recalled)
    places = np.flatnonzero(keep)
    places = places[np.argsort(-both[places], kind="stable")]
    return {
        **each_item(row, as_mapping),  # one form for all, as tables have
        "candidates": [found.items[place] for place in places],
        "candidate_ids": [found.ids[place] for place in places],
        "recall_scores": recall[places].tolist(),
        "rerank_scores": rerank[places].tolist(),
        "teacher_scores": both[places].tolist(),
        "positive_recall_score": float(recall[0]),
        "positive_rerank_score": float(rerank[0]),
        "positive_teacher_score": float(both[0]),
        "has_positive": keep[0],
    }


def _card(name: str) -> str:
    """By which ``datasets`` knows the rows from the manifest."""
    return (
        f"---\nconfigs:\n- config_name: default\n  data_files: {name}\n---\n\n"
        f"Rows with a teacher's scores, written by umekit ({KIND}); `{MANIFEST}` says of which models.\n"
    )


def _is_card(path: Path) -> bool:
    return path.stat().st_size < 1 << 12 and KIND in path.read_text(encoding="utf-8", errors="replace")
