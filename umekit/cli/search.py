"""``umekit search``: the best rows of an index for a text, an image, a clip, a document page or a mix."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..encoding.packaged import CASCADE
from .cascades import add_rerank_arguments, cascade_of, check_embedder, reranker_of
from .common import (
    UsageError,
    add_adaptive_arguments,
    add_item_arguments,
    add_model_arguments,
    check_adaptive,
    costs_of,
    item_from,
    limits_of,
    mode_options,
    print_json,
    print_table,
    report_failures,
    shown_thought,
    tell_tiny,
    told_costs,
    told_thought,
)
from .reasoners import add_reasoner_arguments, load_encoder

if TYPE_CHECKING:
    from ..encoding.cascade_folder import CascadeRecord, Fusion


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser(
        "search",
        help="search an index by text, image, video, document or a mix",
        description="Rank the rows of an index by cosine. Text and media together are one composed query. With "
        "--rerank the best of them are opened and scored again by a reranker; the score is then fusion * cosine + "
        "(1 - fusion) * P(yes). Files that can't be opened are left out; exit code 1.",
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
    add_reasoner_arguments(parser)
    add_adaptive_arguments(parser)
    group = parser.add_argument_group("reranking")
    add_rerank_arguments(group, "score the best rows again")
    group.add_argument(
        "--rerank-depth",
        type=int,
        metavar="N",
        help="how many rows are scored again (default: the cascade's, or 50; at least -k)",
    )
    group.add_argument(
        "--fusion",
        type=float,
        metavar="A",
        help="share of the cosine, 0 to 1 (default: the cascade's, or 0.5)",
    )
    group.add_argument("--task", metavar="NAME", help="take the cascade's share of the cosine for this task")
    group.add_argument(
        "--root",
        type=Path,
        metavar="DIR",
        help="folder of the indexed files (default: the one around the index)",
    )


def find_index(folder: Path) -> Path:
    """The index folder that ``folder`` is, or holds as ``.umekit-index``. Raises UsageError for neither."""
    for candidate in (folder / ".umekit-index", folder):  # a folder of shards has a manifest too
        if (candidate / "manifest.json").is_file():
            return candidate
    raise UsageError(f"no index in {folder}: run `umekit index {folder}` first, or give --index DIR")


def run(args: argparse.Namespace) -> int:
    from ..encoding.index.opening import index_settings, named_model, open_index

    if args.query is not None and args.text is not None:
        raise UsageError("give the text once: as TEXT or as --text")
    if args.k < 1:
        raise UsageError(f"-k is {args.k}; need at least 1")
    check_reranking(args)
    item = item_of(args)
    record = cascade_of(args)
    fusion = fusion_of(args, record)
    folder = find_index(args.index)
    root = files_root(args, folder) if args.rerank else None
    settings = index_settings(folder)
    model = args.model or named_model(folder, settings)
    tell_tiny(model, [folder])
    encoder = load_encoder(args, model)
    index = open_index(folder, encoder.fingerprint())
    check_embedder(args, record, encoder)
    if len(index) == 0:
        raise UsageError(f"the index {folder} is empty")
    if args.mode is None:
        args.mode = settings.get("mode")
    check_adaptive(args, encoder)
    query = encoder.encode([item], role="query", return_details=True, **mode_options(args))
    wanted = args.k if fusion is None else fusion.depth
    found, scores = index.search(query.embeddings, min(wanted, len(index)))
    best = [(name, float(score)) for name, score in zip(found[0], scores[0], strict=True) if name is not None]
    ranked = [(name, {"score": score}) for name, score in best]
    told: dict[str, Any] = told_thought(query)
    if told and not args.json:
        print(shown_thought(told), told_costs(costs_of(query)), sep="\n", end="\n\n")
    cost = costs_of(query)
    if root is not None and fusion is not None:
        del encoder  # two models need not be in memory at once
        ranked, told["failed"] = rerank(args, item, index, best, root, fusion, record)
        report_failures(told["failed"])
    if args.json:
        rows = [
            {"rank": rank, **scores, "id": name, "metadata": index.get(name)}
            for rank, (name, scores) in enumerate(ranked, start=1)
        ]
        print_json({"index": str(folder), "results": rows, **told, "cost": cost})
    else:
        print_table(
            ("rank", *ranked[0][1], "id", "what"),
            [
                (rank, *scores.values(), name, described(index.get(name)))
                for rank, (name, scores) in enumerate(ranked, start=1)
            ],
        )
    return 1 if told.get("failed") else 0


def item_of(args: argparse.Namespace) -> dict[str, Any]:
    """The query. Raises UsageError for none; ``--rerank TEXT`` has taken the text for its PATH."""
    given = (args.query, args.text, args.image, args.video, args.document)
    if args.rerank not in (None, CASCADE) and all(one is None for one in given):
        raise UsageError(
            f"there is no query, as {args.rerank!r} was taken for --rerank PATH: write the query first, or give a PATH"
        )
    return item_from(args, args.query if args.query is not None else args.text)


def check_reranking(args: argparse.Namespace) -> None:
    """Raises UsageError for options that don't go together."""
    given = ("rerank_preset", "rerank_depth", "fusion", "task", "root")
    lonely = [name for name in given if getattr(args, name) is not None]
    if args.rerank is None and lonely:
        raise UsageError(f"--{lonely[0].replace('_', '-')} needs --rerank PATH")
    if args.fusion is not None and not 0 <= args.fusion <= 1:
        raise UsageError(f"--fusion is {args.fusion}; it is the share of the cosine, from 0 to 1")
    if args.rerank_depth is not None and args.rerank_depth < args.k:
        raise UsageError(
            f"--rerank-depth is {args.rerank_depth}, fewer than the {args.k} results asked for with -k"
        )


def fusion_of(args: argparse.Namespace, record: CascadeRecord | None) -> Fusion | None:
    """Share of the cosine and depth of this search; None without reranking. Raises UsageError for a task without."""
    from ..encoding.cascade_folder import Fusion

    if args.rerank is None:
        return None
    if args.task is not None and record is None:
        raise UsageError(f"--task is of a cascade, and {args.rerank} is none: `umekit tune` makes one")
    if args.task is not None and record is not None and args.task not in record.fusion.tasks:
        there = ", ".join(record.fusion.tasks) or "no task"
        raise UsageError(f"--task: no share was chosen for {args.task}; {args.rerank} has {there}")
    own = Fusion() if record is None else record.fusion
    alpha = own.alpha_of(args.task) if args.fusion is None else args.fusion
    return Fusion(alpha, depth=max(own.depth, args.k) if args.rerank_depth is None else args.rerank_depth)


def files_root(args: argparse.Namespace, index: Path) -> Path:
    """The folder that ids of an index are relative to. Raises UsageError where it can't be told."""
    root: Path = args.root if args.root is not None else index.resolve().parent
    if args.root is None and index.resolve().name != ".umekit-index":
        raise UsageError(
            f"{index} does not lie in the folder that was indexed: give that folder as --root DIR"
        )
    if not root.is_dir():
        raise UsageError(f"--root: {root} is not a folder")
    return root


def rerank(
    args: argparse.Namespace,
    item: dict[str, Any],
    index: Any,
    best: list[tuple[str, float]],
    root: Path,
    fusion: Fusion,
    record: CascadeRecord | None,
) -> tuple[list[tuple[str, dict[str, float]]], list[tuple[str, str]]]:
    """Ids with their three scores, best first, and what could not be opened.

    Raises:
        UsageError: the checkpoint is no reranker, or no row could be opened.
        CascadeMismatchError: it is not the one of the cascade.
    """
    from ..encoding.index.two_stage import folder_items, rescore

    [fused], told = rescore(
        reranker_of(args, record),
        [item],
        [best],
        folder_items(index, root, limits_of(args)),
        alphas=[fusion.alpha],
        on_error="skip",
    )
    failed = [(name, reason) for _, name, reason in told]
    if not fused:
        report_failures(failed)
        raise UsageError(f"none of the {len(best)} rows found can be opened below {root}: give --root DIR")
    return [
        (row.id, {"score": row.score, "recall": row.recall, "rerank": row.rerank}) for row in fused[: args.k]
    ], failed


def described(metadata: dict[str, Any]) -> str:
    """A row in a word or a line."""
    return str(metadata.get("snippet") or metadata.get("kind", ""))
