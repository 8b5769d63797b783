"""``umekit mine MODEL ROWS --out DIR``: hard negatives for training rows, by a model's own vectors."""

from __future__ import annotations

import argparse
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from ..processing.prompts import MODES
from .common import UsageError, load_encoder, print_json, report_failures

# Arguments of ``mine`` beside the settings, called as the options are.
OTHERS = ("format", "max_failed", "mode", "dim", "block_size", "shard_size", "memory_gib", "keep_vectors")


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser(
        "mine",
        help="find hard negatives for training rows with a model's own vectors",
        description="Encode queries and candidates, take the nearest candidates of each query, drop known "
        "positives and likely false negatives, and write the rows with the best k of what is left. Similarities are "
        "cosines. A run that was stopped goes on with the same call. Exit code 1: items failed and their rows are left "
        "out.",
    )
    parser.add_argument("model", metavar="MODEL", help="checkpoint folder or Hub id")
    parser.add_argument(
        "rows", type=Path, metavar="ROWS", help="jsonl, json or parquet with query and positive"
    )
    parser.add_argument(
        "--pool", type=Path, metavar="FILE", help="candidates with id (default: the positives of ROWS)"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="the folder to write")
    group = parser.add_argument_group("which candidates become negatives")
    group.add_argument("-k", type=int, default=5, metavar="N", help="negatives of a row (default 5)")
    group.add_argument(
        "--max-similarity",
        type=_limit,
        default=0.7,
        metavar="S",
        help="drop candidates nearer to the query; 'none' for no limit (default 0.7)",
    )
    group.add_argument(
        "--relative-margin",
        type=float,
        metavar="F",
        help="drop candidates above F times the positive's similarity (typical 0.95; default: off)",
    )
    group.add_argument(
        "--max-positive-similarity",
        type=float,
        metavar="S",
        help="drop candidates nearer to the positive (default: off)",
    )
    group.add_argument(
        "--depth",
        type=int,
        default=100,
        metavar="N",
        help="nearest candidates that are looked at (default 100)",
    )
    group.add_argument(
        "--scope",
        choices=("global", "local"),
        default="global",
        help="all candidates, or those of a row's group",
    )
    group.add_argument(
        "--local-by",
        default="task",
        metavar="COLUMN",
        help="what groups are: a column, or modality (default task)",
    )
    group.add_argument("--seed", type=int, default=0, metavar="N", help="of random negatives that fill up")
    group = parser.add_argument_group("reading and writing")
    group.add_argument(
        "--media-root",
        type=Path,
        metavar="DIR",
        help="of media paths of ROWS and pool (default: ROWS' folder)",
    )
    group.add_argument(
        "--format", choices=("jsonl", "parquet"), help="of the result (default: what can hold it)"
    )
    group.add_argument("--replace", action="store_true", help="drop negatives that ROWS already have")
    group.add_argument(
        "--max-failed", type=int, default=0, metavar="N", help="items that may fail (default 0)"
    )
    group.add_argument(
        "--keep-vectors", action="store_true", help="keep DIR/work for a run with other limits"
    )
    group.add_argument("--block-size", type=int, default=1024, metavar="N", help="rows mined at a time")
    group.add_argument("--shard-size", type=int, default=8192, metavar="N", help="vectors of a shard")
    group.add_argument(
        "--memory-gib",
        type=float,
        default=1.0,
        metavar="N",
        help="what queries and their candidates may take; with more, the pool is read less often (default 1)",
    )
    parser.add_argument("--preset", help="name of a published system, for checkpoints without our settings")
    parser.add_argument("--device", help="cpu, cuda, cuda:1 ... (default: what is there)")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), help="default: by device")
    parser.add_argument("--mode", choices=MODES, help="how to embed (default: the checkpoint's)")
    parser.add_argument("--dim", type=int, metavar="N", help="keep the first N numbers of vectors")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")


def run(args: argparse.Namespace) -> int:
    if not 0 < args.memory_gib < float("inf"):
        raise UsageError(f"--memory-gib {args.memory_gib:g}: need a number above 0")
    for file in (args.rows, args.pool):
        if file is not None and not file.is_file():
            raise UsageError(f"{file}: there is no such file")
    from ..encoding.inputs.json_records import FormatError
    from ..encoding.inputs.records import open_records
    from ..trainers.mining import MiningSettings, mine

    limits = {field.name: getattr(args, field.name) for field in fields(MiningSettings)}
    try:
        MiningSettings(**limits)  # before a model is loaded
        rows: Any = open_records(args.rows)
        pool: Any = None if args.pool is None else open_records(args.pool)
    except (FormatError, ValueError) as error:
        raise UsageError(str(error)) from None
    report = mine(
        load_encoder(args),
        rows,
        pool,
        out=args.out,
        **limits,
        **{name: getattr(args, name) for name in OTHERS},
        media_root=args.media_root or args.rows.parent,
        replace_negatives=args.replace,
        show_progress=False if args.quiet else None,
    )
    if args.json:
        print_json(asdict(report))
    else:
        turned = ", ".join(f"{count} {name}" for name, count in report.dropped.items() if count) or "none"
        print(
            f"{report.file}: {report.rows} rows, {report.negatives} negatives of {report.candidates} candidates "
            f"({report.filled} random; {report.short} rows have fewer than {args.k}); turned away: {turned}"
        )
    report_failures([("", line) for line in report.failed])
    return 1 if report.failed else 0


def _limit(text: str) -> float | None:
    return None if text == "none" else float(text)
