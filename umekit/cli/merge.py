"""``umekit merge ADAPTER OUT``: an adapter and its base as one stock checkpoint."""

from __future__ import annotations

import argparse
from pathlib import Path

from .common import UsageError, print_folder


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser(
        "merge",
        help="merge a LoRA adapter into its base and write a stock checkpoint",
        description="Load the base with the adapter, merge it, and write a complete folder. The vectors of the written "
        "checkpoint are compared with those of base and adapter; where they differ, nothing is written (exit code 1).",
    )
    parser.add_argument("adapter", type=Path, metavar="ADAPTER", help="the adapter's folder")
    parser.add_argument("out", type=Path, metavar="OUT", help="the folder to write; new or empty")
    parser.add_argument("--base", metavar="PATH", help="base checkpoint (default: what the adapter names)")
    parser.add_argument(
        "--dtype", choices=("float32", "bfloat16", "float16"), help="of the weights (default: the base's)"
    )
    parser.add_argument("--json", action="store_true", help="print a summary as JSON")


def run(args: argparse.Namespace) -> int:
    if not args.adapter.is_dir():
        raise UsageError(f"{args.adapter} is not a folder")
    from ..trainers.lora.merging import merge

    merge(args.adapter, args.out, base=args.base, dtype=args.dtype or "auto")
    print_folder(args.out, args.json)
    return 0
