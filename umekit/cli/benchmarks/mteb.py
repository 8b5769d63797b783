"""``umekit evaluate CHECKPOINT --benchmark mteb:NAME``: a task or a benchmark of mteb, through its own loop."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from ..common import UsageError, load_encoder, load_reranker

if TYPE_CHECKING:
    from ...evaluation.report import Report

NAMES = ("mteb",)
OPTIONS: tuple[str, ...] = ()
SHARED = ("tasks", "mode", "rerank")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """None of its own."""


def check(args: argparse.Namespace) -> None:
    if not args.benchmark.startswith("mteb:") or not args.benchmark.partition(":")[2]:
        raise UsageError("give a task or benchmark of mteb: mteb:ViDoRe(v2), mteb:VidoreDocVQARetrieval")
    if args.rerank and (args.depth or args.alpha is not None):
        raise UsageError("--depth and --alpha are not of mteb, whose reranking tasks have their own lists")


def measure(args: argparse.Namespace, name: str, model: str, command: str) -> Report | None:
    from ...evaluation.mteb_run import run_mteb

    encoder = load_reranker(args, args.rerank, args.rerank_preset) if args.rerank else load_encoder(args)
    return run_mteb(
        encoder, name.partition(":")[2], args.tasks, mode=args.mode, model_name=model, command=command
    )
