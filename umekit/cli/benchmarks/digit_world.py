"""``umekit evaluate [CHECKPOINT --benchmark] digit-world``."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from ..cascades import fusing_of
from ..common import UsageError, load_encoder, positive

if TYPE_CHECKING:
    from ...evaluation.report import Report

NAMES = ("digit-world",)
OPTIONS = ("queries", "size", "kinds", "seed", "split", "blind", "pass_at", "oracle")
SHARED = ("tasks", "mode", "rerank", "depth", "alpha", "num_samples", "max_new_tokens")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("digit-world, thoughts")
    group.add_argument("--queries", type=int, metavar="N", help="queries a task, at least (default 2000)")
    group.add_argument("--size", type=int, metavar="N", help="candidates of a retrieval pool (default 400)")
    group.add_argument("--kinds", nargs="+", choices=("random", "hard"), help="pools (default: both)")
    group.add_argument("--seed", type=int, metavar="N", help="of the world, or of drawn thoughts (default 0)")
    group.add_argument("--split", choices=("test", "validation", "train"), help="handwriting (default test)")
    group.add_argument(
        "--blind", action="store_true", default=None, help="also the question alone and the media alone"
    )
    group.add_argument(
        "--pass-at", nargs="+", type=positive, metavar="K", help="the k of pass@k (default 1, 2, 4 ... N)"
    )
    group.add_argument(
        "--oracle", action="store_true", default=None, help="also: right at once, or after a thought"
    )


def check(args: argparse.Namespace) -> None:
    from ...evaluation.digit_world import TASKS

    if unknown := [name for name in args.tasks or () if name not in TASKS]:
        raise UsageError(f"--tasks: no {', '.join(unknown)}; there are {', '.join(TASKS)}")


def measure(args: argparse.Namespace, _name: str, model: str, command: str) -> Report | None:
    from ...evaluation.digit_world.evaluate import score_digit_world

    names = ("tasks", "mode", "max_new_tokens", "num_samples", *OPTIONS)
    options = {name: value for name in names if (value := getattr(args, name)) is not None}
    encoder = load_encoder(args)
    return score_digit_world(
        encoder,
        **options,
        progress=not args.quiet,
        rerank=fusing_of(args, encoder),
        model=model,
        command=command,
    )


def model_name(model: str | None) -> str:
    """A Hub id as it is; of a folder its name, since where it lies says nothing to a reader."""
    from pathlib import Path

    if model is None:
        return "ume-tiny"
    return Path(model).resolve().name if Path(model).is_dir() else model
