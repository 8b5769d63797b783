"""``umekit select ROWS --evaluator PATH --out DIR``: the thought that helps each row's pair, or none."""

from __future__ import annotations

import argparse
import re
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from .common import UsageError, load_reranker, opening, positive, print_json
from .score import open_rows, part_of

# Arguments of ``select`` and of its settings that are called as the options are.
OPTIONS = ("own_thoughts", "format", "work", "max_failed", "samples", "block_size", "shard_size")
SETTINGS = ("choice", "negatives", "confidence", "temperature", "margin", "instruction", "seed")
CHOICES, SIDES = ("pair-aware", "random", "none"), ("query", "positive")  # those of the settings
CONFIDENCES = ("logit", "log-likelihood")
TEMPLATES = ("query_template", "positive_template")
WORKER = re.compile(r"(?P<name>[^=]+)=(?P<path>.+?)(@(?P<temperature>\d+(\.\d+)?))?")


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser(
        "select",
        help="choose the thoughts that rows are trained with",
        description="Collect candidate thoughts of queries and positives, from the rows' own columns and from models "
        "that each see one side only, weigh every one by what it adds to an evaluator's margin of the pair less what "
        "it adds to hard negatives, and write the rows with the best, or labelled to be embedded at once. A "
        "re-derivation of MMEmb-R1. The same call goes on with a run that was stopped. Exit code 1: pairs failed.",
    )
    parser.add_argument(
        "rows", type=Path, metavar="ROWS", help="what `umekit mine` wrote, or jsonl, json or parquet with query, "
        "positive, negatives and perhaps query_thoughts and positive_thoughts"
    )  # fmt: skip
    parser.add_argument(
        "--evaluator", metavar="PATH", required=True, help="a reranker, or a model by a reranker's preset"
    )
    parser.add_argument("--evaluator-preset", help="of the evaluator, such as qwen3-vl-reranker")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="the folder to write")
    group = parser.add_argument_group("candidates")
    group.add_argument(
        "--worker",
        action="append",
        default=[],
        metavar="NAME=PATH[@T]",
        help="a model that writes thoughts, at temperature T (default: its likeliest): a checkpoint of ours that "
        "thinks, or any image-text-to-text model; repeat it for more",
    )
    group.add_argument(
        "--own-thoughts", action="store_true", help="query_thought and positive_thought are candidates, too"
    )
    group.add_argument(
        "--num-samples", type=positive, default=1, metavar="N", help="thoughts of a worker (default 1)"
    )
    group.add_argument("--top-p", type=float, metavar="P", help="of workers with a temperature (default 1)")
    group.add_argument("--max-new-tokens", type=positive, metavar="N", help="of a worker's thought")
    group = parser.add_argument_group("choice")
    group.add_argument(
        "--choice",
        choices=CHOICES,
        default=CHOICES[0],
        help="by contribution, at random with as many tokens, or one of all for every row (default pair-aware)",
    )
    group.add_argument(
        "--side",
        action="append",
        choices=SIDES,
        help="whose thoughts; repeat it for both (default: both)",
    )
    group.add_argument(
        "--negatives",
        type=int,
        default=4,
        metavar="K",
        help="hard negatives of a row; 0: the plain form (default 4)",
    )
    group.add_argument(
        "--confidence",
        choices=CONFIDENCES,
        default=CONFIDENCES[0],
        help="what a thought adds to: the evaluator's margin, or the log-likelihood of its right answers, which leaves "
        "little to add where it is sure and right (default logit)",
    )
    group.add_argument(
        "--temperature",
        type=float,
        default=1.0,
        metavar="T",
        help="of the posterior; 0: the best (default 1)",
    )
    group.add_argument(
        "--margin",
        type=float,
        default=0.0,
        metavar="M",
        help="least contribution, exclusive (default 0)",
    )
    group.add_argument(
        "--prior", action="append", default=[], metavar="NAME=P", help="of a worker (default: 1 each)"
    )
    for side in SIDES:
        group.add_argument(
            f"--{side}-template",
            metavar="TEXT",
            help=f"how the evaluator reads a thought of the {side} (default '\\nRationale: {{thought}} {{answer}}')",
        )
    group.add_argument("--instruction", metavar="TEXT", help="of the evaluator's pairs (default: its own)")
    group.add_argument("--seed", type=int, default=0, metavar="N", help="of whatever is drawn (default 0)")
    group = parser.add_argument_group("reading and writing")
    group.add_argument(
        "--media-root", type=Path, metavar="DIR", help="folder of the media (default: of ROWS)"
    )
    group.add_argument(
        "--format", choices=("jsonl", "parquet"), help="of the result (default: what can hold it)"
    )
    group.add_argument(
        "--work", type=Path, metavar="DIR", help="keep thoughts and margins here, for another choice"
    )
    group.add_argument(
        "--max-failed", type=int, default=0, metavar="N", help="pairs that may fail (default 0)"
    )
    group.add_argument(
        "--samples", type=int, default=24, metavar="N", help="rows of samples.html (default 24)"
    )
    group.add_argument("--block-size", type=positive, default=16, metavar="N", help="rows weighed at a time")
    group.add_argument(
        "--shard-size", type=positive, default=1024, metavar="N", help="rows of thoughts a part"
    )
    group.add_argument(
        "--part",
        metavar="I/N",
        help="do part I (1 to N) only, beside other processes; a last call without --part writes the rows",
    )
    group = parser.add_argument_group("models")
    group.add_argument("--device", help="cpu, cuda, cuda:1 ... (default: what is there)")
    group.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), help="default: by device")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")


def run(args: argparse.Namespace) -> int:
    rank, world = part_of(args.part)
    asked = [_worker(text) for text in args.worker]
    from ..trainers.selection import SelectionSettings, Worker, select

    given: dict[str, Any] = {name: getattr(args, name) for name in SETTINGS}
    given |= {name: text for name in TEMPLATES if (text := getattr(args, name)) is not None}
    given["priors"] = dict(_prior(text) for text in args.prior)
    if args.side is not None:
        given["sides"] = tuple(dict.fromkeys(args.side))
    try:
        settings = SelectionSettings(**given)
    except ValueError as error:
        raise UsageError(str(error)) from None
    rows, media = open_rows(args.rows, args.media_root)
    drawn = {"samples": args.num_samples, "top_p": args.top_p, "max_new_tokens": args.max_new_tokens}
    try:
        workers = [
            Worker(name, partial(_thinker, args, name, path), temperature, **drawn)
            for name, path, temperature in asked
        ]
    except ValueError as error:
        raise UsageError(str(error)) from None
    report = select(
        partial(load_reranker, args, args.evaluator, args.evaluator_preset),
        rows,
        out=args.out,
        settings=settings,
        workers=workers,
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
            f"{report.file}: {report.rows} rows; left out: {report.failed_rows} rows, {report.failed_pairs} pairs"
        )
        for side in settings.sides:
            told = report.statistics[side]
            print(f"  {side}: {told['reason']} think ({told['tokens']} tokens), {told['direct']} are direct")
        print(f"samples to look at: {report.sheet}")
    return 1 if report.failed_rows or report.failed_pairs else 0


def _worker(text: str) -> tuple[str, str, float | None]:
    """Name, path and temperature. Raises UsageError for what is none."""
    found = WORKER.fullmatch(text)
    if found is None:
        raise UsageError(f"--worker {text}: give NAME=PATH, or NAME=PATH@TEMPERATURE")
    return found["name"], found["path"], None if found["temperature"] is None else float(found["temperature"])


def _prior(text: str) -> tuple[str, float]:
    name, given, value = text.partition("=")
    try:
        return name, float(value)
    except ValueError:
        raise UsageError(f"--prior {text}: give NAME=P{'' if given else ', with a number'}") from None


def _thinker(args: argparse.Namespace, name: str, path: str) -> Any:
    """A checkpoint of ours, or a stock model."""
    from ..trainers.selection.workers import open_thinker

    with opening(path):
        model = open_thinker(path, device=args.device, dtype=args.dtype)
        if "generative" not in getattr(getattr(model, "model", None), "modes", ("generative",)):
            raise UsageError(f"--worker {name}: {path} writes no thoughts")
        return model
