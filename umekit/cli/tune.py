"""``umekit tune DATA --out DIR``: the share of the recall score in a cascade, chosen on validation data."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .common import (
    UsageError,
    add_model_arguments,
    limits_of,
    load_encoder,
    load_reranker,
    loading_options,
    opening,
    positive,
    print_json,
    print_table,
    report_failures,
)
from .search import files_root, find_index

if TYPE_CHECKING:
    from ..encoding.cascade import Cascade
    from ..encoding.cascade_folder import CascadeRecord
    from ..evaluation.tuning import Judged

DIGIT_WORLD = Path("digit-world")
MADE_BY = ("model", "preset", "reranker", "reranker_preset")


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser(
        "tune",
        help="choose how recall and reranking scores are fused, for each task, and save it with both models",
        description="Rank validation queries by alpha * recall + (1 - alpha) * P(yes) for every alpha of a grid, take "
        "the best for each task, and write them into DIR (cascade.json, and the curves as tuning.json), which "
        "`umekit search --rerank DIR` and umekit.Cascade.load take. Exit code 1: candidates could not be opened and "
        "are left out.",
    )
    parser.add_argument(
        "data",
        type=Path,
        metavar="DATA",
        help="a folder of `umekit score`; or, with --index, jsonl, json or parquet with query, positive_id or "
        "positive_ids, and perhaps task; or digit-world, whose hard pools are searched",
    )
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="DIR",
        help="the cascade, made or tuned anew if it is there",
    )
    parser.add_argument(
        "--index", type=Path, metavar="DIR", help="search in this index (what is indexed: a folder)"
    )
    parser.add_argument("--root", type=Path, metavar="DIR", help="folder of the indexed files")
    parser.add_argument(
        "--media-root", type=Path, metavar="DIR", help="of the queries' media (default: of DATA)"
    )
    parser.add_argument("--reranker", metavar="PATH", help="of a new cascade: folder or Hub id")
    parser.add_argument(
        "--reranker-preset", metavar="NAME", help="its published system, if it lacks our settings"
    )
    group = parser.add_argument_group("tuning")
    group.add_argument(
        "--metric", default="hit@1", metavar="M", help="hit@K, mrr@K, map@K, recall@K, ndcg_linear@K"
    )
    group.add_argument(
        "--grid", type=positive, default=21, metavar="N", help="alphas from 0 to 1 (default 21)"
    )
    group.add_argument(
        "--depths",
        type=positive,
        nargs="+",
        metavar="N",
        help="depths to choose from (default: the cascade's, or 50)",
    )
    group.add_argument(
        "--depth-slack",
        type=float,
        default=0.0,
        metavar="S",
        help="of the metric, given up for a smaller depth (0)",
    )
    group.add_argument(
        "--min-queries",
        type=positive,
        default=50,
        metavar="N",
        help="for an alpha of a task's own (default 50)",
    )
    group.add_argument("--queries", type=positive, metavar="N", help="of a task of digit-world (default 200)")
    parser.add_argument("--picture", type=Path, metavar="FILE.png", help="draw the curves")
    parser.add_argument("--json", action="store_true", help="print what was chosen as JSON")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    add_model_arguments(parser)


def run(args: argparse.Namespace) -> int:
    _check(args)
    from ..encoding.cascade_folder import Fusion, is_cascade, read_cascade, write_cascade
    from ..evaluation.tuning import tune
    from ..evaluation.tuning_file import FILE, draw_tuning, save_tuning

    former = read_cascade(args.out) if is_cascade(args.out) else None
    if former is None and args.reranker is None:
        raise UsageError(f"{args.out} holds no cascade yet: name its models by --model and --reranker")
    if former is not None and (given := [name for name in MADE_BY if getattr(args, name) is not None]):
        raise UsageError(
            f"--{given[0].replace('_', '-')}: {args.out} has its models already; name another --out for others"
        )
    depths = args.depths or [(former.fusion if former is not None else Fusion()).depth]
    failed: list[tuple[str, str]] = []
    if args.data == DIGIT_WORLD:
        record, cases, data = _digit_world(args, former, max(depths))
    elif args.index:
        record, cases, data = _searched(args, former, max(depths), failed)
    else:
        record, cases, data = _scored(args, former)
    tuning = tune(
        cases,
        metric=args.metric,
        alphas=[number / (args.grid - 1) for number in range(args.grid)],
        depths=depths,
        min_queries=args.min_queries,
        depth_slack=args.depth_slack,
    )
    args.out.mkdir(parents=True, exist_ok=True)
    save_tuning(tuning, args.out / FILE, data, record.fingerprints)
    write_cascade(args.out, replace(record, fusion=tuning.fusion))
    if args.picture:
        draw_tuning(tuning, args.picture)
    report_failures(failed)
    if args.json:
        print_json({"out": str(args.out), "alpha": tuning.alpha, "tasks": tuning.tasks, "depth": tuning.depth,
                    "metric": tuning.metric, "queries": tuning.queries, "failed": failed})  # fmt: skip
    else:
        print_table(*tuning.rows())
        print(f"\n{args.out}: depth {tuning.depth}, alpha {tuning.alpha:g} where a task has none of its own")
    return 1 if failed else 0


def _check(args: argparse.Namespace) -> None:
    from ..evaluation.ranked import parse_metric

    if args.data == DIGIT_WORLD and args.index is not None:
        raise UsageError("digit-world is searched in pools of its own, and --index is of rows")
    if args.data != DIGIT_WORLD and args.queries is not None:
        raise UsageError("--queries is of digit-world")
    if args.data != DIGIT_WORLD and not args.data.exists():
        raise UsageError(f"{args.data}: there is no such file or folder")
    if args.index is None and args.data != DIGIT_WORLD and not args.data.is_dir():
        raise UsageError(f"{args.data} is no folder of `umekit score`; rows of queries need --index DIR")
    if args.root is not None and args.index is None:
        raise UsageError("--root needs --index DIR")
    if args.grid < 2 or not 0 <= args.depth_slack < 1:
        raise UsageError("--grid is 2 or more, and --depth-slack at least 0 and below 1")
    if args.picture and not args.picture.absolute().parent.is_dir():
        raise UsageError(f"--picture: there is no folder {args.picture.parent}")
    try:
        parse_metric(args.metric)
    except ValueError as error:
        raise UsageError(f"--metric: {error}") from None


def _scored(
    args: argparse.Namespace, former: CascadeRecord | None
) -> tuple[CascadeRecord, Iterator[Judged], dict[str, Any]]:
    """Cascade, queries and what they are, of rows that were scored; models are loaded to be compared, if at all."""
    from ..encoding.cascade_folder import CascadeRecord, Fusion
    from ..encoding.inputs.json_records import FormatError
    from ..encoding.inputs.records import open_records
    from ..evaluation.tuning_data import scored_cases
    from ..trainers.scoring.made import scored_by

    try:
        file, scored = scored_by(args.data)
    except FormatError as error:
        raise UsageError(str(error)) from None
    if former is None:
        sources = _sources(args)
        record = CascadeRecord(**sources, fingerprints=scored, fusion=Fusion())
        encoder = load_encoder(args)
        record.check("embedder", encoder.fingerprint(), args.data)
        del encoder  # two models need not be in memory at once
        reranker = load_reranker(args, args.reranker, args.reranker_preset)
        record.check("reranker", reranker.fingerprint(), args.data)
    else:
        record = former
        for which, fingerprint in scored.items():
            former.check(which, fingerprint, args.out)
    return record, scored_cases(open_records(file)), {"rows": str(args.data)}


def _searched(
    args: argparse.Namespace, former: CascadeRecord | None, depth: int, failed: list[tuple[str, str]]
) -> tuple[CascadeRecord, Iterator[Judged], dict[str, Any]]:
    """The same of a search in an index."""
    from ..encoding.index.opening import open_index
    from ..encoding.index.two_stage import folder_items
    from ..encoding.inputs.media_root import MediaRoot
    from ..encoding.inputs.records import open_records
    from ..evaluation.tuning_data import index_cases

    if args.data.is_dir():
        raise UsageError(f"{args.data} is a folder; with --index give a file of queries")
    folder = find_index(args.index)
    root = files_root(args, folder)
    cascade, record = _opened(args, former)
    index = open_index(folder, cascade.encoder.fingerprint())
    cases = index_cases(
        cascade,
        open_records(args.data),
        index,
        folder_items(index, root, limits_of(args)),
        MediaRoot(args.media_root or args.data.parent),
        depth,
        failed,
        _progress(args),
    )
    return record, cases, {"queries": str(args.data), "index": str(folder)}


def _digit_world(
    args: argparse.Namespace, former: CascadeRecord | None, depth: int
) -> tuple[CascadeRecord, Iterator[Judged], dict[str, Any]]:
    """The same of DigitWorld's hard pools, in the handwriting for validation."""
    from ..evaluation.tuning_data import QUERIES, digit_world_cases

    cascade, record = _opened(args, former)
    queries = args.queries or QUERIES
    data = {"name": "digit-world", "split": "validation", "queries": queries}
    return record, digit_world_cases(cascade, queries, depth, _progress(args)), data


def _opened(args: argparse.Namespace, former: CascadeRecord | None) -> tuple[Cascade, CascadeRecord]:
    """Both models, and what a cascade's file says of them."""
    from ..encoding.cascade import Cascade
    from ..encoding.cascade_folder import CascadeRecord, Fusion

    options = {
        name: value for name, value in loading_options(args).items() if name not in ("preset", "compile")
    }
    with opening(str(args.out if former is not None else args.reranker)):
        cascade = (
            Cascade.of(**_sources(args), **options) if former is None else Cascade.load(args.out, **options)
        )
    assert cascade.sources is not None
    prints = {"embedder": cascade.encoder.fingerprint(), "reranker": cascade.reranker.fingerprint()}
    return cascade, CascadeRecord(**cascade.sources, fingerprints=prints, fusion=Fusion())


def _progress(args: argparse.Namespace) -> bool | None:
    return None if not args.quiet and sys.stderr.isatty() else False


def _sources(args: argparse.Namespace) -> dict[str, Any]:
    from ..encoding.cascade_folder import ModelSource

    return {
        "embedder": ModelSource(args.model, args.preset),
        "reranker": ModelSource(args.reranker, args.reranker_preset),
    }
