"""``umekit demo``: a gallery of real files, indexed and searched in every way, on one HTML page."""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .cascades import add_rerank_arguments, cascade_of, check_embedder, reranker_of
from .common import (
    DEMO_SHEET,
    UsageError,
    add_model_arguments,
    load_encoder,
    mode_options,
    print_json,
    print_table,
    report_failures,
)

if TYPE_CHECKING:
    from ..demo.queries import Result

SHOWN = 3  # results of a query in a printed table
ON_SHEET = 5


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser(
        "demo",
        help="write a gallery of pictures, clips and PDFs, index it and search it",
        description="Write a gallery of real files in handwriting that the model never saw, index it and run "
        "text, image, video, document and composed queries, print tables, write a contact sheet (HTML).",
    )
    parser.add_argument(
        "--out", type=Path, default=Path("umekit-demo"), metavar="DIR", help="default: ./umekit-demo"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="another gallery and other queries")
    parser.add_argument("--json", action="store_true", help="print the results as JSON instead of tables")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    add_rerank_arguments(parser, "look twice at the best files of each query")
    add_model_arguments(parser)


def run(args: argparse.Namespace) -> int:
    if args.out.exists() and not args.out.is_dir():
        raise UsageError(f"{args.out} is not a folder")
    if args.seed < 0:
        raise UsageError(f"--seed is {args.seed}; need 0 or more")
    started = time.monotonic()
    from ..demo.contact_sheet import contact_sheet, is_contact_sheet
    from ..demo.gallery import write_gallery
    from ..demo.queries import make_queries, rank, rerank
    from ..encoding.cascade_folder import Fusion
    from ..encoding.index.folder_index import index_folder
    from ..encoding.index.two_stage import folder_items
    from ..encoding.storage.atomic import write_atomically
    from ..encoding.storage.contents import stored_model
    from ..encoding.storage.ownership import check_own

    check_own(args.out / DEMO_SHEET, is_contact_sheet, "give another --out")
    record = cascade_of(args)
    encoder = load_encoder(args)
    check_embedder(args, record, encoder)
    gallery = write_gallery(args.out / "gallery", args.seed)
    queries = make_queries(gallery, args.out / "queries", args.seed)
    index, report = index_folder(
        encoder,
        gallery.root,
        settings={"role": "document", "mode": args.mode, "model": stored_model(args.model)},
        rebuild=_needs_rebuild(gallery.root, encoder, args.mode),
        show_progress=False if args.quiet else None,
        encode_options=mode_options(args),
    )
    encoded = encoder.encode(
        [query.item for query in queries],
        role="query",
        show_progress=False if args.quiet else None,
        return_details=True,
        **mode_options(args),
    )
    results = rank(queries, encoded.embeddings, index, encoded.thoughts)
    if args.rerank is not None:
        own = Fusion() if record is None else record.fusion
        results = rerank(results, reranker_of(args, record), own, folder_items(index, gallery.root))
    first = sum(result.rank == 1 for result in results)
    seconds = time.monotonic() - started
    summary = f"right in first place: {first} of {len(results)} queries; {len(index)} rows; {seconds:.1f} s"
    page = contact_sheet(results, gallery.root, "umekit demo", summary, top=ON_SHEET)
    write_atomically(args.out / DEMO_SHEET, page.encode())
    if args.json:
        print_json(_as_json(results, args.out / DEMO_SHEET, time.monotonic() - started))
    else:
        _print(results)
        print(f"\n{summary}\nlook: {args.out / DEMO_SHEET}")
        print(f'next: umekit search "{queries[0].text}" --index {args.out / "gallery"} -k 3')
    report_failures(report.failed)
    return 1 if report.failed else 0


def _needs_rebuild(root: Path, encoder: Any, mode: str | None) -> bool:
    """The demo's own index of another model, or a damaged one, is simply made anew."""
    from ..encoding.index.exact import Index
    from ..encoding.index.folder_index import DEFAULT_FOLDER

    try:
        return Index.load(root / DEFAULT_FOLDER, encoder.fingerprint()).settings.get("mode") != mode
    except ValueError:
        return True


def _print(results: Sequence[Result]) -> None:
    for family, group in groupby(results, key=lambda result: result.query.family):
        members = list(group)
        right = sum(result.rank == 1 for result in members)
        among = len(members[0].hits)
        print(f"\n{family}: {right} of {len(members)} right in first place, among {among} of that kind")
        rows: list[tuple[str, str, str, str, str]] = []
        for result in members:
            label = result.query.label
            for place, (name, score) in enumerate(result.hits[:SHOWN], start=1):
                mark = "<- right" if name == result.query.right else ""
                rows.append((_cut(label) if place == 1 else "", str(place), f"{score:.4f}", name, mark))
            if result.rank > SHOWN:
                score = result.hits[result.rank - 1][1]
                rows.append(("", str(result.rank), f"{score:.4f}", result.query.right, "<- right"))
        print_table(("query", "rank", "score", "file", ""), rows, indent="  ")
        thoughts = [(_cut(one.query.label), one.thought) for one in members if one.thought is not None]
        if thoughts:
            print()
            print_table(("query", "thought"), thoughts, indent="  ")


def _cut(text: str, width: int = 48) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"


def _as_json(results: Sequence[Result], sheet: Path, seconds: float) -> dict[str, Any]:
    rows = [
        {
            "family": result.query.family,
            "query": {name: os.fspath(part) for name, part in result.query.item.items()},
            "right": result.query.right,
            "rank": result.rank,
            "thought": result.thought,
            "hits": [{"id": name, "score": score} for name, score in result.hits[:ON_SHEET]],
        }
        for result in results
    ]
    first = sum(result.rank == 1 for result in results)
    return {"first": first, "queries": len(results), "seconds": seconds, "sheet": str(sheet), "results": rows}
