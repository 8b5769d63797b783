"""``umekit rerank F... --query TEXT --model PATH``: candidates in the order in which they fit a query."""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import Any

from .common import (
    UsageError,
    add_item_arguments,
    add_model_arguments,
    item_from,
    limits_of,
    load_reranker,
    print_json,
    print_table,
    report_failures,
)

SNIPPET = 60


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser(
        "rerank",
        help="order files and texts by how well they fit a query, with a reranker",
        description="Score every candidate against the query, 0 to 1, best first. A PDF gives a candidate per page. "
        "--query, --image, --video and --document together are one query. Candidates that can't be read are left out; "
        "exit code 1.",
    )
    parser.add_argument(
        "files", nargs="*", type=Path, metavar="F", help="candidates: images, clips, PDFs, texts (.txt, .md)"
    )
    parser.add_argument(
        "--candidate", action="append", default=[], metavar="TEXT", help="a candidate text (may be repeated)"
    )
    parser.add_argument("--query", metavar="TEXT", help="the text of the query")
    parser.add_argument("-k", type=int, metavar="N", help="how many results (default: all)")
    parser.add_argument("--json", action="store_true", help="print the results as JSON")
    add_item_arguments(parser)
    add_model_arguments(parser, embedder=False)


def run(args: argparse.Namespace) -> int:
    if args.k is not None and args.k < 1:
        raise UsageError(f"-k is {args.k}; need at least 1")
    query = item_from(args, args.query)
    candidates, failed = _candidates(args)
    if not candidates:
        report_failures(failed)
        raise UsageError("no candidate that can be read: give files or --candidate")
    reranker = load_reranker(args, args.model, args.preset)
    items = [item for _, _, item in candidates]
    found = reranker.rerank(query, items, on_error="skip", return_details=True)
    rows = [
        (float(score), name, what) for score, (name, what, _) in zip(found.scores, candidates, strict=True)
    ]
    failed += [(candidates[number][0], str(error)) for number, error in found.errors]
    best = sorted((row for row in rows if not math.isnan(row[0])), key=lambda row: -row[0])[: args.k]
    report_failures(failed)
    ranked = [(rank, *row) for rank, row in enumerate(best, start=1)]
    if args.json:
        results = [dict(zip(("rank", "score", "id", "what"), row, strict=True)) for row in ranked]
        print_json({"results": results, "failed": failed})
    else:
        print_table(("rank", "score", "id", "what"), ranked)
    return 1 if failed else 0


def _candidates(args: argparse.Namespace) -> tuple[list[tuple[str, str, Any]], list[tuple[str, str]]]:
    """Name, description and item of every candidate, and what could not be read."""
    from ..encoding.inputs.files import file_items

    found: list[tuple[str, str, Any]] = []
    failed: list[tuple[str, str]] = []
    for file in args.files:
        try:
            for suffix, item, facts in file_items(file, limits_of(args)):
                what = facts.get("snippet") or facts.get("kind", "")
                found.append((file.as_posix() + suffix, what[:SNIPPET], item))
        except (ValueError, ImportError) as error:
            failed.append((str(file), str(error)))
    for number, text in enumerate(args.candidate):
        found.append((f"text:{number}", " ".join(text.split())[:SNIPPET], {"text": text}))
    return found, failed
