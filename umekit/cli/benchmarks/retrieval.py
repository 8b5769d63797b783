"""``umekit evaluate CHECKPOINT --benchmark mmeb-v1|mmeb-v2|m-beir|zero-shot``: data from a folder or the Hub."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..cascades import fusing_of
from ..common import UsageError, load_encoder, positive
from ..ranks import rank_and_world
from .working import check_work, work_of

if TYPE_CHECKING:
    from ...evaluation.report import Report

NAMES = ("mmeb-v1", "mmeb-v2", "m-beir", "zero-shot")
OPTIONS = (
    "data",
    "work",
    "revision",
    "text",
    "prompt",
    "pool",
    "limit",
    "threads",
    "batch_tokens",
    "shard_size",
)
SHARED = ("tasks", "mode", "rerank", "depth", "alpha", "num_samples", "max_new_tokens", "seed", "resume")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("mmeb-v1, mmeb-v2, m-beir, zero-shot")
    group.add_argument(
        "--data", type=Path, metavar="DIR", help="in the layout of the Hub repositories (default: the Hub)"
    )
    group.add_argument("--revision", help="of the data on the Hub (default: the newest commit)")
    group.add_argument(
        "--work",
        type=Path,
        metavar="DIR",
        help="vectors, unpacked archives, tasks of mteb that are done (default: beside --out)",
    )
    group.add_argument(
        "--text",
        choices=("joined", "separate", "none"),
        help="instructions joined with texts as the official code does, apart from them, or left out "
        "(default: as the model's system was evaluated, or else the benchmark's)",
    )
    group.add_argument(
        "--prompt", metavar="N", help="of M-BEIR: which paraphrase, from 1 (default: the first, always)"
    )
    group.add_argument(
        "--pool",
        choices=("local", "global", "both"),
        help="of M-BEIR: a task's own, or the union (default local)",
    )
    group.add_argument(
        "--limit",
        type=positive,
        metavar="N",
        help="first N queries of a task (of mteb's, too); no means then",
    )
    group.add_argument("--threads", type=positive, metavar="N", help="of torch on a CPU (default 1)")
    group.add_argument("--batch-tokens", type=positive, metavar="N", help="padded tokens of a forward")
    group.add_argument("--shard-size", type=positive, metavar="N", help="items of a part (default 4096)")


def check(args: argparse.Namespace) -> None:
    from ...evaluation.benchmarks.definition import TaskNameError, load_benchmark

    try:
        load_benchmark(args.benchmark).chosen(args.tasks)
    except TaskNameError as error:
        raise UsageError(f"--tasks: {error}") from None
    for name in ("prompt", "pool"):
        if getattr(args, name) is not None and args.benchmark != "m-beir":
            raise UsageError(f"--{name} is of m-beir")
    if args.prompt is not None and args.prompt != "first" and not args.prompt.isdigit():
        raise UsageError(f"--prompt {args.prompt}: give 'first', or a number from 1")
    if args.data is not None and not args.data.is_dir():
        raise UsageError(f"--data: there is no folder {args.data}")
    if args.data is not None and args.revision is not None:
        raise UsageError("--revision is of the Hub, and --data is a folder")
    if work_of(args) is None:
        raise UsageError("give --out or --work: vectors are kept, so that a stopped run goes on")
    check_work(args, "vectors")


def measure(args: argparse.Namespace, name: str, model: str, command: str) -> Report | None:
    from ...evaluation.benchmarks import HubData, LocalData, load_benchmark, run_benchmark
    from ...evaluation.benchmarks.prompting import prompting
    from ...evaluation.benchmarks.run import RunSettings

    rank, world = rank_and_world()
    benchmark, work = load_benchmark(name), work_of(args)
    assert work is not None, "checked"
    how = prompting(args.model, args.preset)
    if how is not None and args.preset != how.preset:
        print(f"evaluated under the preset {how.preset} ({how.source})", file=sys.stderr)
        args.preset = how.preset
    work.mkdir(parents=True, exist_ok=True)
    data: Any = (
        LocalData(args.data, work / "unpacked")
        if args.data
        else HubData(benchmark, work / "hub", args.revision)
    )
    encoder = load_encoder(args)
    report = run_benchmark(
        encoder,
        benchmark,
        data,
        work,
        RunSettings(
            tasks=args.tasks,
            mode=args.mode,
            num_samples=args.num_samples or 1,
            text=args.text or (how.text if how is not None and benchmark.text == "joined" else None),
            prompt=args.prompt or "first",
            pools=("local", "global") if args.pool == "both" else (args.pool or "local",),
            limit=args.limit,
            seed=args.seed,
            max_new_tokens=args.max_new_tokens,
            preset=args.preset,
        ),
        rerank=fusing_of(args, encoder),
        rank=rank,
        world=world,
        model=model,
        command=command,
        threads=args.threads,
        batch_tokens=args.batch_tokens,
        shard_size=args.shard_size or 4096,
        progress=False if args.quiet else None,
    )
    if report is None:
        print(f"process {rank} of {world} is done; the last one reports", file=sys.stderr)
    return report
