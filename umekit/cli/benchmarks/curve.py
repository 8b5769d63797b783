"""``umekit evaluate [CHECKPOINT --benchmark] curve``: what thinking where it pays costs and scores, for every kappa."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..common import UsageError, load_encoder

if TYPE_CHECKING:
    from ...evaluation.report import Report

NAMES = ("curve",)
OPTIONS = ("fit_probe", "documents", "draw")
SHARED = ("tasks", "queries", "size", "seed", "split", "max_new_tokens", "rows")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("curve")
    group.add_argument(
        "--fit-probe",
        action="store_true",
        default=None,
        help="also a linear probe, fitted on the validation split of DigitWorld",
    )
    group.add_argument(
        "--documents",
        choices=("adaptive", "generative", "discriminative"),
        help="how candidates are embedded (default: adaptive)",
    )
    group.add_argument("--draw", type=Path, metavar="FILE.png", help="the curve as a picture")


def check(args: argparse.Namespace) -> None:
    if args.fit_probe and args.rows is not None:
        raise UsageError("--fit-probe takes DigitWorld's validation split, so it can't be given with --rows")
    if args.fit_probe and args.split not in (None, "test"):
        raise UsageError("--fit-probe fits on the validation split, so --split must be test")
    if args.draw is not None and not args.draw.absolute().parent.is_dir():
        raise UsageError(f"--draw: there is no folder {args.draw.parent}")


def measure(args: argparse.Namespace, _name: str, model: str, command: str) -> Report:
    """The report of the model of the command line; draws it where that is asked for.

    Raises:
        UsageError: the checkpoint decides nothing; tasks or rows that can't be scored.
    """
    from ...evaluation.curve import measure_curve
    from ...evaluation.curve_report import draw_curve
    from ...evaluation.thought_sensitivity import digit_world_questions
    from .thoughts import asked_questions

    try:
        questions, data = asked_questions(args)
        fitted: Any = ()
        if args.fit_probe:
            names = ("tasks", "queries", "size", "seed")
            given = {name: value for name in names if (value := getattr(args, name)) is not None}
            fitted, _ = digit_world_questions(**given, split="validation")
        report = measure_curve(
            load_encoder(args),
            questions,
            data,
            fitted_on=fitted,
            document_mode=args.documents or "adaptive",
            max_new_tokens=args.max_new_tokens,
            progress=not args.quiet,
            model=model,
            command=command,
        )
    except ValueError as error:
        raise UsageError(str(error)) from error
    if args.draw is not None:
        draw_curve(report, args.draw)
    return report
