"""``umekit search``: the best rows of an index for a text, an image, a clip, a document page or a mix."""

from __future__ import annotations

import argparse
from pathlib import Path

from .common import (
    UsageError,
    add_item_arguments,
    add_model_arguments,
    item_from,
    load_encoder,
    mode_options,
    print_json,
    print_table,
)


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser(
        "search",
        help="search an index by text, image, video, document or a mix",
        description="Rank the rows of an index by cosine. Text and media together are one composed query.",
    )
    parser.add_argument("query", nargs="?", metavar="TEXT", help="the text of the query")
    parser.add_argument("--text", dest="text", metavar="TEXT", help="the same, as an option")
    parser.add_argument(
        "--index",
        type=Path,
        default=Path(),
        metavar="DIR",
        help="an index, or a folder that was indexed (default: .)",
    )
    parser.add_argument("-k", type=int, default=10, metavar="N", help="how many results (default 10)")
    parser.add_argument("--json", action="store_true", help="print the results as JSON")
    add_item_arguments(parser)
    add_model_arguments(parser)


def find_index(folder: Path) -> Path:
    """The index folder that ``folder`` is, or holds as ``.umekit-index``. Raises UsageError for neither."""
    for candidate in (folder / ".umekit-index", folder):  # a folder of shards has a manifest too
        if (candidate / "manifest.json").is_file():
            return candidate
    raise UsageError(f"no index in {folder}: run `umekit index {folder}` first, or give --index DIR")


def run(args: argparse.Namespace) -> int:
    from ..encoding.index_opening import index_settings, open_index

    if args.query is not None and args.text is not None:
        raise UsageError("give the text once: as TEXT or as --text")
    if args.k < 1:
        raise UsageError(f"-k is {args.k}; need at least 1")
    item = item_from(args, args.query if args.query is not None else args.text)
    folder = find_index(args.index)
    settings = index_settings(folder)
    encoder = load_encoder(args, settings.get("model"))
    index = open_index(folder, encoder.fingerprint())
    if len(index) == 0:
        raise UsageError(f"the index {folder} is empty")
    if args.mode is None:
        args.mode = settings.get("mode")
    found, scores = index.search(encoder.encode([item], role="query", **mode_options(args)), args.k)
    ranked = [
        (name, float(score)) for name, score in zip(found[0], scores[0], strict=True) if name is not None
    ]
    metadata = {name: index.get(name) for name, _ in ranked}
    if args.json:
        rows = [
            {"rank": rank, "score": score, "id": name, "metadata": metadata[name]}
            for rank, (name, score) in enumerate(ranked, start=1)
        ]
        print_json({"index": str(folder), "results": rows})
    else:
        print_table(
            ("rank", "score", "id", "what"),
            [
                (rank, score, name, metadata[name].get("snippet") or metadata[name].get("kind", ""))
                for rank, (name, score) in enumerate(ranked, start=1)
            ],
        )
    return 0
