"""``umekit evaluate RERANKER --benchmark calibration [--rows FILE]``: how far scores of pairs are probabilities."""

from __future__ import annotations

import argparse
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from ...encoding.packaged import RERANKER
from ..common import UsageError, load_reranker

if TYPE_CHECKING:
    from ...evaluation.report import Report

NAMES = ("calibration",)
OPTIONS: tuple[str, ...] = ()
SHARED = ("rows", "queries")


def add_arguments(_: argparse.ArgumentParser) -> None:
    """It has none of its own."""


def check(args: argparse.Namespace) -> None:
    if args.rows is None:
        return
    if args.queries is not None:
        raise UsageError("--queries is of DigitWorld, and --rows are of your own")
    if not args.rows.exists():
        raise UsageError(f"--rows: there is no file or folder {args.rows}")
    if args.rows.is_dir() == (args.model is not None):
        raise UsageError(
            "rows of a file are scored by a reranker, so name one; the scores of a folder of `umekit score` are there "
            "already, so name none"
        )


def measure(args: argparse.Namespace, name: str, model: str, command: str) -> Report:
    """The calibration report of a reranker, on DigitWorld's pairs where there are no rows.

    Raises:
        UsageError: the checkpoint is no reranker, or the rows cannot be used.
    """
    from ...evaluation.calibration_report import CalibrationReport, calibration_scores
    from ...evaluation.conditions import Conditions

    began = perf_counter()
    try:
        if args.rows is None:
            labelled, fingerprint, encoder, data = _digit_world(args)
        elif args.rows.is_dir():
            labelled, fingerprint, encoder, data = _folder(args.rows)
        else:
            labelled, fingerprint, encoder, data = _file(args)
        scores = calibration_scores(labelled)
    except ValueError as error:
        raise UsageError(str(error)) from error
    if args.model is None:
        model = RERANKER if args.rows is None else f"the reranker of {args.rows.resolve().name}"
    return CalibrationReport(
        name,
        scores,
        dict(fingerprint),
        Conditions.of_run(
            began,
            model=model,
            settings={"mode": None, "encoder": encoder},
            data=data,
            command=command,
        ),
    )


def _digit_world(args: argparse.Namespace) -> tuple[Any, Any, str, dict[str, Any]]:
    from ...evaluation.calibration_report import labelled_by
    from ...evaluation.digit_world.evaluate import definitions_sha256
    from ...evaluation.digit_world.labelled import QUERIES, labelled_rows

    queries = args.queries or QUERIES
    reranker = load_reranker(args, args.model, args.preset)
    found = labelled_by(reranker, list(labelled_rows(queries)), False if args.quiet else None)
    data = {"name": "digit-world", "split": "test", "queries": queries, "revision": definitions_sha256()}
    return found, reranker.fingerprint(), repr(reranker), data


def _file(args: argparse.Namespace) -> tuple[Any, Any, str, dict[str, Any]]:
    from ...evaluation.calibration_report import labelled_by, rows_revision
    from ...trainers.formats.own import read_rows

    rows = read_rows(args.rows)
    reranker = load_reranker(args, args.model, args.preset)
    found = labelled_by(reranker, rows, False if args.quiet else None)
    return found, reranker.fingerprint(), repr(reranker), _own(args.rows, rows_revision(rows.names_only()))


def _folder(folder: Path) -> tuple[Any, Any, str, dict[str, Any]]:
    from ...encoding.inputs.records import open_records
    from ...encoding.storage.contents import file_sha256
    from ...evaluation.calibration_report import Labelled
    from ...evaluation.tuning_data import scored_cases
    from ...trainers.scoring.made import scored_by

    file, models = scored_by(folder)
    cases = scored_cases(open_records(file))
    found = (Labelled(case.task, case.rerank, case.relevant) for case in cases)
    return found, models["reranker"], "umekit score", _own(folder, file_sha256(file))


def _own(rows: Path, revision: str) -> dict[str, Any]:
    return {"name": rows.name, "split": "all", "revision": revision}
