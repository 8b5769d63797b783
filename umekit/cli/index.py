"""``umekit index PATH``: make or update the index of a folder, or make one from shards."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from .common import (
    UsageError,
    add_adaptive_arguments,
    add_model_arguments,
    add_password_argument,
    check_adaptive,
    limits_of,
    mode_options,
    print_json,
    report_failures,
    report_left_out,
    tell_tiny,
    told_cuts,
)
from .reasoners import add_reasoner_arguments, load_encoder

if TYPE_CHECKING:
    from ..encoding.index.folder_index import IndexReport


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser(
        "index",
        help="index a folder of images, clips, PDFs and texts",
        description="Encode every image, video, PDF page and text of a folder. A second run encodes only "
        "what is new or changed, and rows of deleted files leave. Exit code 1: some files could not be read. "
        "With --from-shards, the index of what `umekit encode --shard-size` wrote; no model is needed.",
    )
    parser.add_argument("path", type=Path, nargs="?", metavar="PATH", help="the folder")
    parser.add_argument(
        "--index", type=Path, metavar="DIR", help="where the index lies (default: PATH/.umekit-index)"
    )
    parser.add_argument(
        "--from-shards", type=Path, metavar="DIR", help="a finished folder of shards, instead of PATH"
    )
    parser.add_argument(
        "--compressed",
        action="store_true",
        help="with --from-shards: faiss IVF-PQ, for more vectors than fit into memory",
    )
    parser.add_argument("--no-recursive", action="store_true", help="leave subfolders out")
    parser.add_argument("--rebuild", action="store_true", help="forget what is there and index anew")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    add_password_argument(parser)
    add_model_arguments(parser)
    add_reasoner_arguments(parser)
    add_adaptive_arguments(parser)


def run(args: argparse.Namespace) -> int:
    if args.from_shards is not None:
        return _from_shards(args)
    if args.path is None:
        raise UsageError("give a folder, or --from-shards DIR (see umekit index --help)")
    if args.compressed:
        raise UsageError("--compressed needs --from-shards DIR (see umekit index --help)")
    from ..encoding.index.folder_index import DEFAULT_FOLDER, index_folder
    from ..encoding.index.manifest import MANIFEST
    from ..encoding.index.opening import index_settings, named_model
    from ..encoding.storage.contents import stored_model
    from ..modeling.budget import Budget
    from ..processing.cut_texts import cuts_untold

    if not args.path.is_dir():
        raise UsageError(f"{args.path} is not a folder")
    target = args.index or args.path / DEFAULT_FOLDER
    if (
        target / MANIFEST
    ).is_file() and not args.rebuild:  # a second run uses the model and mode of the first
        former = index_settings(target)
        args.model = args.model or named_model(target, former)
        args.mode = args.mode or former.get("mode")
        if args.mode == former.get("mode") and args.kappa is None and args.budget is None:
            args.kappa, args.budget = former.get("kappa"), former.get("budget")
    settings = {"role": "document", "mode": args.mode, "model": stored_model(args.model)}
    deciding = {"kappa": args.kappa, "budget": args.budget}
    settings |= {name: value for name, value in deciding.items() if value is not None}
    tell_tiny(args.model, [args.path])
    encoder = load_encoder(args)
    check_adaptive(args, encoder)
    options = mode_options(args)
    if args.budget is not None:
        options["budget"] = Budget(args.budget)  # one account over all that is encoded
    with cuts_untold():  # told below
        _, report = index_folder(
            encoder,
            args.path,
            target,
            recursive=not args.no_recursive,
            settings=settings,
            rebuild=args.rebuild,
            show_progress=False if args.quiet else None,
            encode_options=options,
            limits=limits_of(args),
        )
    if args.json:
        print_json({"index": str(target), **asdict(report)})
    else:
        print(
            f"{target}: {report.rows} rows; files: {len(report.added)} new, {len(report.updated)} changed, "
            f"{report.unchanged} unchanged, {len(report.removed)} gone, {len(report.failed)} not readable; "
            f"{told_cuts(report.truncated)}{_told_thoughts(report)}{report.seconds:.1f} s"
        )
    report_left_out(report.left_out)
    report_failures(report.failed)
    return 1 if report.failed else 0


def _told_thoughts(report: IndexReport) -> str:
    """What was thought about the rows of this run; nothing where nothing was."""
    if not report.reasoned:
        return ""
    tokens, rows = report.thought_tokens, max(report.encoded, 1)
    return f"{report.reasoned} of {report.encoded} rows thought about, {tokens / rows:.1f} thought tokens a row, "


def _from_shards(args: argparse.Namespace) -> int:
    if args.path is not None:
        raise UsageError("give PATH or --from-shards, not both")
    from ..encoding.index.exact import Index
    from ..encoding.index.folder_index import DEFAULT_FOLDER
    from ..encoding.index.manifest import COMPRESSED_KIND, KIND, MANIFEST
    from ..encoding.storage.ownership import check_own, json_of

    target = args.index or args.from_shards / DEFAULT_FOLDER
    check_own(target / MANIFEST, json_of(KIND, COMPRESSED_KIND), "name another folder for the index")
    if (target / MANIFEST).exists() and not args.rebuild:
        raise UsageError(f"{target} already holds an index; give --rebuild to replace it")
    if args.compressed:
        from ..encoding.index.compressed import CompressedIndex

        rows = len(CompressedIndex.build(args.from_shards, target, rebuild=args.rebuild))
    else:
        index = Index.from_shards(args.from_shards)
        index.save(target)
        rows = len(index)
    if args.json:
        print_json({"index": str(target), "rows": rows, "compressed": args.compressed})
    else:
        print(f"{target}: {rows} rows{', compressed' if args.compressed else ''}")
    return 0
