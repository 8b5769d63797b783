"""``umekit evaluate [CHECKPOINT --benchmark] thoughts``: how much a checkpoint's vectors depend on what it thinks."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..common import UsageError, load_encoder

if TYPE_CHECKING:
    from ...evaluation.report import Report
    from ...evaluation.thought_sensitivity import Questions

NAMES = ("thoughts",)
OPTIONS = ("rows",)
SHARED = ("tasks", "queries", "size", "seed", "split", "max_new_tokens")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("thoughts")
    group.add_argument(
        "--rows",
        type=Path,
        metavar="FILE",
        help="your own rows (query, positive), not DigitWorld's; of calibration: with negatives, or a folder of "
        "`umekit score`",
    )


def check(_: argparse.Namespace) -> None:
    """Nothing can be said before the rows are read."""


def asked_questions(args: argparse.Namespace) -> tuple[list[Questions], dict[str, Any]]:
    """DigitWorld's questions, or the caller's own rows, and what data they are.

    Raises:
        ValueError: tasks or rows that can't be scored.
    """
    from ...evaluation.thought_sensitivity import digit_world_questions, row_questions, rows_sha256

    if args.rows is None:
        names = ("tasks", "queries", "size", "seed", "split")
        given = {name: value for name in names if (value := getattr(args, name)) is not None}
        return digit_world_questions(**given)
    from ...trainers.formats.own import read_rows

    found = read_rows(args.rows)
    rows = [found[index] for index in range(min(len(found), args.queries or len(found)))]
    questions = row_questions(rows, args.rows.name)
    return questions, {"name": args.rows.name, "split": "all", "revision": rows_sha256(questions)}


def measure(args: argparse.Namespace, _name: str, model: str, command: str) -> Report:
    """The thought-sensitivity report of the model of the command line.

    Raises:
        UsageError: the checkpoint writes no thoughts; tasks or rows that can't be scored.
    """
    from ...evaluation.thought_sensitivity import score_thoughts

    try:
        questions, data = asked_questions(args)
        encoder = load_encoder(args)
        return score_thoughts(
            encoder,
            questions,
            data,
            max_new_tokens=args.max_new_tokens,
            progress=not args.quiet,
            model=model,
            command=command,
        )
    except ValueError as error:
        raise UsageError(str(error)) from error
