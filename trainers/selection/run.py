"""``select``: workers think, an evaluator weighs each thought, and one pass writes the rows with those kept."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ...encoding.inputs.media_root import MediaRoot
from ...encoding.storage.atomic import naming_the_disk, write_atomically
from ...encoding.storage.contents import library_versions
from ...encoding.storage.ownership import check_own, remove_marked
from ..mining.output_layout import OutputLayout, each_item
from ..mining.run_folder import finished, open_work
from ..mining.writing import is_of_run, write_file
from .choosing import choose, failed_rows
from .pools import Pools
from .queries import OtherQueries
from .records import Records, Weighing, block_starts, read_blocks, write_blocks
from .rows import best_contribution, finished_row, scan
from .settings import SelectionReport, SelectionSettings
from .sheet import is_sheet, sampled, sheet
from .statistics import statistics
from .weighing import PairEvaluator
from .workers import OneSide, Worker, WrittenThoughts, free_memory, let_think

MANIFEST, SHEET, CARD = "selection.json", "samples.html", "README.md"
KIND = "umekit-selection"
SCHEMA = 1
WORK_FILES = re.compile(
    r"thoughts-[0-9a-f]{16}/(|thoughts\.json|thoughts-\d{5,}\.jsonl)"
    r"|blocks-[0-9a-f]{16}/(|\d{5,}\.npy|\.\d{5,}\.npy\.[a-z0-9_]{8})"
    r"|selected\.(jsonl|parquet)\.\d+(\.chunks)?|selected\.json"
)
REPORTED = ("media_root", "rows", "failed_rows", "failed_pairs", "statistics")


def select(
    evaluator: PairEvaluator | Callable[[], PairEvaluator],
    rows: Sequence[Any],
    *,
    out: str | os.PathLike[str],
    settings: SelectionSettings | None = None,
    workers: Sequence[Worker] = (),
    own_thoughts: bool = False,
    tokenizer: Any = None,
    format: Literal["jsonl", "parquet"] | None = None,
    media_root: str | os.PathLike[str] | None = None,
    work: str | os.PathLike[str] | None = None,
    max_failed: int = 0,
    samples: int = 24,
    block_size: int = 16,
    shard_size: int = 1024,
    rank: int = 0,
    world: int = 1,
    show_progress: bool | None = None,
) -> SelectionReport | None:
    """Give every row the thought that helps its pair most, or the label that it is embedded at once.

    A run that was killed goes on with the first part of thoughts, or block of margins, that is not written when it is
    called again with the same arguments, and writes the same bytes.

    Args:
        evaluator: an ``umekit.Reranker``, or any other model that answers yes or no, see :class:`PairEvaluator`; or a
            function that opens it, which is called when all workers are done. It alone sees both sides.
        rows: dicts with ``query``, ``positive``, and ``negatives`` as mining writes them; pools that are there already
            in ``query_thoughts`` and ``positive_thoughts``: lists of ``{"worker", "thought", "answer"}``, or of texts
            ``<think>...</think><answer>...``. Other columns are kept.
        out: folder to write: ``selected.jsonl`` or ``selected.parquet``, ``selection.json`` with the statistics,
            ``samples.html``, and a card by which ``datasets.load_dataset(out)`` finds the rows.
        settings: how thoughts are weighed and chosen.
        workers: models that write more candidates, each shown one side of a row.
        own_thoughts: whether a row's ``query_thought`` and ``positive_thought`` are candidates, too.
        tokenizer: counts tokens of thoughts; the evaluator's when None.
        format, media_root: see :func:`umekit.trainers.mining.mine`.
        work: folder of thoughts and margins, which is kept, and from which another choice, temperature, margin or prior
            is made without a forward. None: a folder in ``out`` that is removed at the end.
        max_failed: how many pairs may fail to be scored. Rows whose own pair did are left out.
        samples: rows of the page of samples.
        block_size: rows that are weighed at a time.
        shard_size: rows of a part of thoughts, a multiple of ``block_size``.
        rank, world: which of how many processes this is. With more than one, each thinks and weighs its share; a last
            call with the same arguments and ``world=1`` writes the rows.
        show_progress: None shows bars on a terminal.

    Returns:
        What was selected; None where ``world`` is not 1. Rows gain, for the sides that were asked for,
        ``query_action`` (``"reason"`` or ``"direct"``), ``query_thought`` and ``answer`` (None where it is direct), and
        ``query_thoughts``, the pool with ``contribution``, ``lift``, ``posterior``, ``tokens`` and ``kept`` of each;
        the same of the positive.

    Raises:
        ValueError: a setting or row that cannot be used, or too many failures.
        FileExistsError: ``out`` holds the result of other arguments, or foreign files where this would write.
    """
    settings = settings or SelectionSettings()
    if block_size < 1 or not 0 <= rank < world:
        raise ValueError(f"block_size is {block_size}, rank {rank} of {world}: that makes no share")
    if shard_size < 1 or shard_size % block_size:
        raise ValueError(f"shard_size is {shard_size}: it must be a multiple of block_size, {block_size}")
    names = [worker.name for worker in workers]
    if len(set(names)) != len(names):
        raise ValueError(f"workers need different names, got {', '.join(names)}")
    folder, layout = Path(out), OutputLayout(format, media_root)
    keys = scan(rows, layout)
    media = None if media_root is None else MediaRoot(media_root)
    base: dict[str, Any] = {
        "rows": hashlib.sha256(b"".join(one.tobytes() for one in keys.values())).hexdigest(),
        "own_thoughts": own_thoughts,
        "weighing": settings.weighing(),
        "media_root": None if media_root is None else os.fspath(media_root),
        "block_size": block_size,
        "shard_size": shard_size,
    }
    more = {"choosing": settings.choosing(), "format": format, "max_failed": max_failed, "samples": samples}
    if (
        folder / MANIFEST
    ).exists():  # nobody needs to think: it is the result of these arguments, or of others
        base["workers"] = {worker.name: worker.hired().identity() for worker in workers}
        base["evaluator"] = _opened(evaluator).fingerprint()
        done = finished(folder / MANIFEST, KIND, base | more)
        assert done is not None
        return _report(done, folder)
    own = open_work(folder)
    store = own if work is None else Path(work)
    _check_places(folder, own, layout)

    written: dict[str, dict[str, Any]] = {worker.name: {} for worker in workers}
    known: dict[str, Any] = {}
    for worker in workers:
        hired = worker.hired()
        known[worker.name] = hired.identity()
        for side in (side for side in settings.sides if side in worker.sides):
            told = [base["rows"], worker.name, known[worker.name], side, shard_size, settings.seed]
            where = store / f"thoughts-{_digest(told)}"
            where.mkdir(parents=True, exist_ok=True)
            source, share = OneSide(rows, side, keys[side], media), {"rank": rank, "world": world}
            let_think(hired, source, side, where, shard_size=shard_size, seed=settings.seed, **share)
            written[worker.name][side] = WrittenThoughts(where, shard_size)
        del hired
        free_memory()  # the next one, or the evaluator, needs it
    evaluator = _opened(evaluator)
    base |= {"workers": known, "evaluator": evaluator.fingerprint()}
    counter = tokenizer or evaluator.processor.tokenizer  # type: ignore[attr-defined]
    pools = Pools(lambda text: len(counter(text, add_special_tokens=False).input_ids), own_thoughts, written)

    find = _as_it_is if media is None else media.item
    others = OtherQueries(rows, keys["query"], keys["positive"], keys["task"], settings.seed)
    blocks = store / f"blocks-{_digest(base)}"
    starts = block_starts(len(rows), block_size)
    with naming_the_disk(blocks):
        write_blocks(
            Weighing(rows, pools, evaluator, settings, find, others),
            blocks,
            # those of the rows that this process has let think
            [n for n in range(len(starts) - 1) if starts[n] // shard_size % world == rank],
            size=block_size,
            max_failed=max_failed,
            show_progress=show_progress,
        )
    if world > 1:
        return None
    records = read_blocks(blocks, len(rows), block_size)
    facts = _write(rows, records, pools, settings, folder, own, layout, find, samples)
    manifest = {
        "kind": KIND,
        "schema": SCHEMA,
        "identity": base | more,
        "file": _file(layout),
        "media_root": layout.media_root or layout.root,
        **facts,
        "versions": library_versions(),
    }
    write_atomically(folder / MANIFEST, (json.dumps(manifest, indent=2, sort_keys=True) + "\n").encode())
    remove_marked(own, WORK_FILES)
    return _report(manifest, folder)


def _opened(evaluator: Any) -> PairEvaluator:
    return evaluator() if callable(evaluator) else evaluator  # type: ignore[no-any-return]


def _write(
    rows: Sequence[Any],
    records: Records,
    pools: Pools,
    settings: SelectionSettings,
    folder: Path,
    work: Path,
    layout: OutputLayout,
    find: Callable[[Any], Any],
    samples: int,
) -> dict[str, Any]:
    """Write rows, page and card; returns counts and statistics."""
    choices, bad = choose(records, len(rows), settings), failed_rows(records)
    seen: dict[str, dict[str, None]] = {side: {} for side in choices}
    wanted = sampled(best_contribution(choices, len(rows)), samples)
    shown: dict[int, Mapping[str, Any]] = {number: {} for number in wanted}
    pools.malformed.clear()  # counted anew, over all rows

    def selected() -> Iterator[dict[str, Any]]:
        for number in range(len(rows)):
            if number not in bad:
                row = finished_row(rows[number], number, choices, pools, seen)
                if number in shown:
                    shown[number] = row
                yield each_item(row, layout.relative)

    write_file(folder / _file(layout), layout.format, work, selected())
    write_atomically(folder / SHEET, sheet(list(shown.items()), _told(settings), find).encode())
    write_atomically(folder / CARD, _card(_file(layout)).encode())
    count = len(rows) - len(bad)
    known = ~np.isin(records["row"], np.fromiter(bad, np.int64))
    told = {side: statistics(choice, list(seen[side]), count) for side, choice in choices.items()}
    return {
        "rows": count,
        "failed_rows": len(bad),
        "failed_pairs": int(records["missing"][known].sum()),
        "statistics": {**told, "malformed": dict(sorted(pools.malformed.items()))},
    }


def _check_places(folder: Path, work: Path, layout: OutputLayout) -> None:
    hint = "name another folder for the selected rows"
    check_own(folder / _file(layout), partial(is_of_run, work), hint)
    check_own(folder / SHEET, is_sheet, hint)
    check_own(folder / CARD, _is_card, hint)


def _file(layout: OutputLayout) -> str:
    return f"selected.{layout.format}"


def _digest(facts: Any) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


def _as_it_is(item: Any) -> Any:
    return item


def _told(settings: SelectionSettings) -> str:
    return (
        f"Choice {settings.choice}, {settings.negatives} negatives, confidence {settings.confidence}, temperature "
        f"{settings.temperature:g}, margin {settings.margin:g}"
    )


def _report(manifest: Mapping[str, Any], folder: Path) -> SelectionReport:
    facts = {name: manifest[name] for name in REPORTED}
    return SelectionReport(file=str(folder / manifest["file"]), sheet=str(folder / SHEET), **facts)


def _card(name: str) -> str:
    """By which ``datasets`` knows the rows from the manifest."""
    return (
        f"---\nconfigs:\n- config_name: default\n  data_files: {name}\n---\n\n"
        f"Rows with selected thoughts, written by umekit ({KIND}); `{MANIFEST}` says how, and `{SHEET}` shows some.\n"
    )


def _is_card(path: Path) -> bool:
    return path.stat().st_size < 1 << 12 and KIND in path.read_text(encoding="utf-8", errors="replace")
