"""``umekit evaluate CHECKPOINT --benchmark mteb:NAME``: a task or a benchmark of mteb, through its own loop."""

from __future__ import annotations

import argparse
import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...encoding.packaged import CASCADE
from ..common import UsageError, load_encoder, load_reranker
from ..ranks import rank_and_world
from .working import check_work, work_of

if TYPE_CHECKING:
    from ...evaluation.report import Report

NAMES = ("mteb",)
OPTIONS = ("task_file",)
SHARED = ("tasks", "mode", "rerank", "num_samples", "max_new_tokens", "limit", "work", "resume")
THINKING = ("mode", "num_samples", "max_new_tokens")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("mteb")
    group.add_argument(
        "--task-file",
        type=Path,
        metavar="FILE.py",
        help="tasks of your own, classes of mteb's AbsTask, to be run by their names; the file is executed",
    )


def check(args: argparse.Namespace) -> None:
    if not args.benchmark.startswith("mteb:") or not args.benchmark.partition(":")[2]:
        raise UsageError("give a task or benchmark of mteb: mteb:ViDoRe(v2), mteb:VidoreDocVQARetrieval")
    if args.rerank and (args.depth or args.alpha is not None):
        raise UsageError("--depth and --alpha are not of mteb, whose reranking tasks have their own lists")
    if args.rerank and any(getattr(args, name) is not None for name in THINKING):
        raise UsageError("--rerank runs the reranker alone in mteb, which has no mode and no thoughts")
    if args.task_file is not None and not args.task_file.is_file():
        raise UsageError(f"--task-file: there is no file {args.task_file}")
    if args.resume and work_of(args) is None:
        raise UsageError("--resume without --out or --work, where tasks that are done are kept")
    if rank_and_world()[1] > 1:
        raise UsageError("mteb has its own loop, of one process: give it a task of --tasks to each")
    check_work(args, "tasks")


def measure(args: argparse.Namespace, name: str, model: str, command: str) -> Report | None:
    """Raises UsageError: mteb knows no such name; the file of tasks has none."""
    from ...evaluation.mteb_run import named_tasks, own_tasks, run_mteb

    what = name.partition(":")[2]
    try:
        own = own_tasks(args.task_file) if args.task_file else {}
        chosen, known = named_tasks(what, args.tasks, own)
    except ValueError as error:
        raise UsageError(str(error)) from error
    options = {one: value for one in THINKING[1:] if (value := getattr(args, one)) is not None}
    return run_mteb(
        _reranker(args) if args.rerank else load_encoder(args),
        chosen,
        what,
        known=known,
        mode=args.mode,
        options=options,
        limit=args.limit,
        work=work_of(args),
        source=hashlib.sha256(args.task_file.read_bytes()).hexdigest() if args.task_file else None,
        model_name=model,
        command=command,
    )


def _reranker(args: argparse.Namespace) -> Any:
    """The one that is named, or ume-tiny's: mteb fuses nothing, so that of its cascade only the reranker is taken."""
    return load_reranker(args, None if args.rerank == CASCADE else args.rerank, args.rerank_preset)
