"""``umekit score ROWS --reranker PATH --out DIR``: a teacher's scores for rows with lists of candidates."""

from __future__ import annotations

import argparse
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..processing.prompts import MODES
from .common import UsageError, load_encoder, load_reranker, print_json

# Arguments of ``score`` that are called as the options are.
OPTIONS = (
    "alpha", "positive", "format", "max_failed", "mode", "dim", "block_size", "shard_size", "keep_vectors"
)  # fmt: skip


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser(
        "score",
        help="score rows' candidates by an embedder and a reranker, to distil from",
        description="Score every candidate of every row by the cosine of the embedder and by P(yes) of the reranker, "
        "and write the rows with both and with alpha * cosine + (1 - alpha) * P(yes), best first. What is written is a "
        "folder that `datasets` opens, and that distillation trains on. A run that was stopped goes on with the same "
        "call. Exit code 1: pairs failed and are left out.",
    )
    parser.add_argument(
        "rows", type=Path, metavar="ROWS", help="what `umekit mine` wrote, or jsonl, json or parquet with query, "
        "positive and candidates or negatives"
    )  # fmt: skip
    parser.add_argument("--model", metavar="PATH", help="the embedder (default: the packaged ume-tiny)")
    parser.add_argument("--reranker", metavar="PATH", required=True, help="the reranker: folder or Hub id")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="the folder to write")
    parser.add_argument(
        "--alpha", type=float, default=0.5, metavar="A", help="share of the cosine (default 0.5)"
    )
    parser.add_argument(
        "--positive",
        choices=("recalled", "always", "never"),
        default="recalled",
        help="whether the positive is in a row's list (default: where the embedder had recalled it)",
    )
    group = parser.add_argument_group("reading and writing")
    group.add_argument(
        "--media-root", type=Path, metavar="DIR", help="folder of the media (default: of ROWS)"
    )
    group.add_argument(
        "--format", choices=("jsonl", "parquet"), help="of the result (default: what can hold it)"
    )
    group.add_argument(
        "--max-failed", type=int, default=0, metavar="N", help="pairs that may fail (default 0)"
    )
    group.add_argument("--keep-vectors", action="store_true", help="keep DIR/work")
    group.add_argument("--block-size", type=int, default=16, metavar="N", help="rows scored at a time")
    group.add_argument("--shard-size", type=int, default=8192, metavar="N", help="vectors of a shard")
    group.add_argument(
        "--part",
        metavar="I/N",
        help="do part I (1 to N) only, beside other processes; a last call without --part writes the rows",
    )
    group = parser.add_argument_group("models")
    group.add_argument("--preset", help="of the embedder, for checkpoints without our settings")
    group.add_argument("--reranker-preset", help="of the reranker")
    group.add_argument("--device", help="cpu, cuda, cuda:1 ... (default: what is there)")
    group.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), help="default: by device")
    group.add_argument("--mode", choices=MODES, help="how to embed (default: the checkpoint's)")
    group.add_argument("--dim", type=int, metavar="N", help="keep the first N numbers of vectors")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")


def run(args: argparse.Namespace) -> int:
    if not 0 <= args.alpha <= 1:
        raise UsageError(f"--alpha is {args.alpha}; it is the share of the cosine, from 0 to 1")
    rank, world = part_of(args.part)
    rows, media = open_rows(args.rows, args.media_root)
    from ..trainers.scoring import score

    encoder = load_encoder(args)
    reranker = load_reranker(args, args.reranker, args.reranker_preset)
    report = score(
        encoder,
        reranker,
        rows,
        out=args.out,
        media_root=media,
        rank=rank,
        world=world,
        show_progress=False if args.quiet else None,
        **{name: getattr(args, name) for name in OPTIONS},
    )
    if report is None:
        print(
            f"{args.out}: part {args.part} is done; once all are, the same call without --part writes the rows"
        )
        return 0
    if args.json:
        print_json(asdict(report))
    else:
        print(
            f"{report.file}: {report.rows} rows, {report.pairs} pairs; {report.with_positive} lists hold the positive; "
            f"left out: {report.failed_rows} rows and {report.failed_pairs} pairs"
        )
    return 1 if report.failed_rows or report.failed_pairs else 0


def open_rows(path: Path, media: Any) -> tuple[Any, Any]:
    """Rows of a file, or of a folder that umekit made, and where their media are.

    Raises:
        UsageError: there is none, or it cannot be read.
    """
    from ..encoding.inputs.json_records import FormatError
    from ..encoding.inputs.records import open_records
    from ..trainers.formats.made import made_rows

    if not path.exists():
        raise UsageError(f"{path}: there is no such file or folder")
    try:
        known = None
        if path.is_dir():
            path, known = made_rows(path)
        return open_records(path), media or known or path.parent
    except (FormatError, ValueError) as error:
        raise UsageError(str(error)) from None


def part_of(text: str | None) -> tuple[int, int]:
    """Rank and number of processes. Raises UsageError for what is no I/N."""
    if text is None:
        return 0, 1
    found = re.fullmatch(r"(\d+)/(\d+)", text)
    number, count = (int(found[1]), int(found[2])) if found else (0, 0)
    if not 1 <= number <= count or count < 2:
        raise UsageError(f"--part {text}: give I/N, such as 1/8, with N of at least 2")
    return number - 1, count
