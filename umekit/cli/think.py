"""``umekit think IN --out DIR``: what a checkpoint thinks of a data set, in parts that survive a stop."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..processing.prompts import ROLES
from .common import (
    UsageError,
    add_model_arguments,
    add_password_argument,
    limits_of,
    positive,
    print_json,
    report_left_out,
    tell_tiny,
)
from .encode_shards import columns_of, hub_or_path
from .ranks import device_of_rank, rank_and_world
from .reasoners import add_reasoner_arguments, load_encoder


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser(
        "think",
        help="write the thoughts of a data set",
        description="Write what a generative checkpoint thinks of a folder, jsonl, parquet, webdataset tars or a data "
        "set: thoughts-*.jsonl with id, thought, tokens and forced (cut at its limit). With --reasoner, what that "
        "model thinks, for any checkpoint: thought, answer, and text, all that it wrote. The same call goes on with "
        "what --out holds. umekit encode --thoughts DIR embeds with them. Exit code 1: some items could not be read.",
    )
    parser.add_argument("files", nargs="+", type=Path, metavar="IN", help="what to think about")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="the folder to write")
    parser.add_argument(
        "--role", choices=ROLES, help="which side of a search the items are on (default: neither)"
    )
    parser.add_argument("--instruction", metavar="TEXT", help="default: the checkpoint's")
    parser.add_argument(
        "--num-samples", type=positive, default=1, metavar="N", help="thoughts an item (default 1)"
    )
    parser.add_argument("--temperature", type=float, metavar="T", help="default: 0 for one, 1 for several")
    parser.add_argument("--top-p", type=float, metavar="P", help="default 1")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of drawn thoughts (default 0)")
    parser.add_argument(
        "--shard-size", type=positive, default=1024, metavar="N", help="of a part (default 1024)"
    )
    parser.add_argument(
        "--input-format",
        choices=("folder", "jsonl", "parquet", "tar", "dataset"),
        help="of IN (default: told by it)",
    )
    parser.add_argument(
        "--column", action="append", default=[], metavar="KEY=NAME", help="as in umekit encode"
    )
    parser.add_argument("--split", metavar="NAME", help="of a data set")
    parser.add_argument("--json", action="store_true", help="print a summary as JSON")
    add_password_argument(parser)
    add_model_arguments(parser)
    add_reasoner_arguments(parser)


def run(args: argparse.Namespace) -> int:
    from ..encoding.inputs import open_source
    from ..encoding.shards.thinkers import thinker_of
    from ..encoding.shards.thoughts import write_thoughts

    rank, world = rank_and_world()
    if args.mode not in (None, "generative"):
        raise UsageError(f"--mode is {args.mode}; thoughts are of mode generative")
    if args.out.is_file():
        raise UsageError(f"--out is a folder, not {args.out}")
    try:
        source = open_source(
            [hub_or_path(file) for file in args.files],
            format=args.input_format,
            columns=columns_of(args.column),
            split=args.split,
            limits=limits_of(args),
        )
    except (ValueError, ImportError) as error:
        raise UsageError(str(error)) from None
    tell_tiny(args.model, args.files)
    names = ("role", "instruction", "max_new_tokens", "num_samples", "temperature", "top_p")
    asked = {name: getattr(args, name) for name in names}
    args.device = args.device or device_of_rank()
    encoder = load_encoder(args)
    try:
        thinker_of(encoder, asked)
    except ValueError as error:
        raise UsageError(str(error)) from None
    report = write_thoughts(
        encoder,
        source,
        args.out,
        args.shard_size,
        seed=args.seed,
        rank=rank,
        world=world,
        **asked,
    )
    if args.json:
        print_json({"out": str(args.out), **vars(report)})
    else:
        done = "another process ends the run"
        if report.rows is not None:
            done = f"thoughts of {report.rows} items, {report.forced} cut at their limit, {report.failed} not readable"
        print(f"{args.out}: {report.made} parts made, {report.kept} there already; {done}")
    report_left_out(getattr(source, "left_out", {}))
    return 1 if report.failed and world == 1 else 0
