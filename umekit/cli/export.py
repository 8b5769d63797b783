"""``umekit export SRC OUT``: a checkpoint or adapter to a folder that opens everywhere."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from .common import UsageError, opening, print_folder


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser(
        "export",
        help="write a checkpoint as a folder for transformers, sentence-transformers and umekit",
        description="Load a published checkpoint, one of ours or an adapter, and save a complete folder: "
        "weights, processor, settings, code files and the sentence-transformers files.",
    )
    parser.add_argument("src", metavar="SRC", help="checkpoint folder or Hub id")
    parser.add_argument("out", type=Path, metavar="OUT", help="the folder to write; new or empty")
    parser.add_argument("--preset", help="name of a published system, for checkpoints without our settings")
    parser.add_argument("--compat", choices=("official",), help="keep the official code's defects")
    parser.add_argument(
        "--no-golden", action="store_true", help="leave out the golden vectors for umekit verify"
    )
    parser.add_argument(
        "--role",
        help="the role to export, where the checkpoint allows several; discriminative: stock modules for "
        "sentence-transformers, where its settings have that form",
    )
    parser.add_argument(
        "--mode",
        help="how items are embedded where nobody names a mode: discriminative, generative or adaptive",
    )
    parser.add_argument("--json", action="store_true", help="print a summary as JSON")


def run(args: argparse.Namespace) -> int:
    if args.out.is_file():
        raise UsageError(f"{args.out} is a file")
    if args.out.is_dir() and any(args.out.iterdir()):
        raise UsageError(
            f"{args.out} is not empty; name a new folder, so that no old file stays among the new"
        )
    import umekit

    given = {"compat": args.compat, "mode": args.mode}
    options: dict[str, Any] = {name: value for name, value in given.items() if value}
    if args.no_golden:
        options["golden"] = False
    with opening(args.src):
        umekit.export(args.src, args.out, preset=args.preset, role=args.role, **options)
    print_folder(args.out, args.json)
    return 0
