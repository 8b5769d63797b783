"""``umekit soup A B C --out DIR``: one model out of several adapters, or several checkpoints."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path

from .common import UsageError, print_json


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser(
        "soup",
        help="average LoRA adapters of one base, or checkpoints of one model",
        description="Average LoRA adapters that were trained on one base: the mean of their changes is merged into it. "
        "Folders without an adapter are averaged as whole checkpoints.",
    )
    parser.add_argument("folders", nargs="+", type=Path, metavar="DIR", help="adapters, or checkpoints")
    parser.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="the folder to write; new or empty"
    )
    parser.add_argument(
        "--weights", nargs="+", type=float, metavar="W", help="one a folder, divided by their sum"
    )
    parser.add_argument("--base", metavar="PATH", help="base checkpoint (default: what the adapters name)")
    parser.add_argument("--json", action="store_true", help="print what was done as JSON")


def run(args: argparse.Namespace) -> int:
    for folder in args.folders:
        if not folder.is_dir():
            raise UsageError(f"{folder} is not a folder")
    from ..trainers.lora.folders import SoupError, is_adapter

    adapters = [is_adapter(folder) for folder in args.folders]
    if any(adapters) != all(adapters):
        odd = args.folders[adapters.index(not adapters[0])]
        raise UsageError(
            f"{args.folders[0]} and {odd} are of two kinds: give adapters or checkpoints, not both"
        )
    if not adapters[0] and args.base is not None:
        raise UsageError("--base is for adapters; these folders are checkpoints")
    try:
        if adapters[0]:
            from ..trainers.lora.souping import soup

            report = soup(args.folders, args.out, weights=args.weights, base=args.base)
        else:
            from ..trainers.lora.checkpoint_souping import soup_checkpoints

            report = soup_checkpoints(args.folders, args.out, weights=args.weights)
    except SoupError as error:
        raise UsageError(str(error)) from None
    if args.json:
        print_json(asdict(report))
    else:
        weights = ", ".join(f"{weight:.4g}" for weight in report.weights)
        print(f"{args.out}: {report.mode} of {len(report.weights)} folders (weights {weights})")
    return 0
