"""``umekit card CHECKPOINT``: a model card from the checkpoint's own files and its result files."""

from __future__ import annotations

import argparse
from pathlib import Path

from .common import UsageError, print_json


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser(
        "card",
        help="write the model card (README.md) of a checkpoint from measured results",
        description="Write a model card: what the checkpoint is, how to use it, its settings, and the scores "
        "of result files that were measured of this very checkpoint (others are refused).",
    )
    parser.add_argument("checkpoint", type=Path, metavar="CHECKPOINT", help="checkpoint folder")
    parser.add_argument(
        "--results",
        type=Path,
        action="append",
        default=[],
        metavar="FILE.json",
        help="result file of `umekit evaluate` (may be repeated)",
    )
    parser.add_argument(
        "--about", type=Path, metavar="FILE.md", help="what it is; sections Training data and Limits"
    )
    parser.add_argument("--out", type=Path, metavar="FILE.md", help="default: README.md in the checkpoint")
    parser.add_argument("--force", action="store_true", help="replace a file that is there")
    parser.add_argument("--repo", metavar="NAME", help="Hub id for the code (default: the folder's name)")
    parser.add_argument("--license", default="apache-2.0", metavar="ID", help="default: apache-2.0")
    parser.add_argument("--base-model", metavar="ID", help="Hub id of the model that this one was made from")
    parser.add_argument("--query", metavar="TEXT", help="example query of the code")
    parser.add_argument("--text", metavar="TEXT", help="example text of the code")
    parser.add_argument("--json", action="store_true", help="print a summary as JSON")


def run(args: argparse.Namespace) -> int:
    out = args.out or args.checkpoint / "README.md"
    if not args.checkpoint.is_dir():
        raise UsageError(f"{args.checkpoint} is not a folder; download the checkpoint first")
    for file in (*args.results, *([args.about] if args.about else [])):
        if not file.is_file():
            raise UsageError(f"there is no file {file}")
    if not out.absolute().parent.is_dir():
        raise UsageError(f"--out: there is no folder {out.parent}")
    if out.exists() and not args.force:
        raise UsageError(f"{out} is there already; give --force to replace it")
    from ..encoding.storage.atomic import write_atomically
    from ..evaluation.results import load_report
    from ..hub_cards.card import CardOptions, build_card

    examples = {name: value for name in ("query", "text") if (value := getattr(args, name)) is not None}
    options = CardOptions(repo=args.repo, license=args.license, base_model=args.base_model, **examples)
    reports = [load_report(file) for file in args.results]
    about = args.about.read_text(encoding="utf-8") if args.about else ""
    write_atomically(out.resolve(), str(build_card(args.checkpoint, reports, about, options)).encode())
    if args.json:
        print_json({"out": str(out), "results": len(reports)})
    else:
        print(f"{out}: {len(reports)} result file{'' if len(reports) == 1 else 's'}")
    return 0
