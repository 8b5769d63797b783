"""Results that are there: read, combined, beside each other, compared. Nothing is run."""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .common import UsageError, print_json, print_table

if TYPE_CHECKING:
    from ..evaluation.report import Report


def files_of(args: argparse.Namespace) -> list[Path]:
    """Result files that are named. Raises UsageError for a --pass-of without K."""
    if args.pass_of:
        if len(args.pass_of) < 2 or not args.pass_of[0].isdigit():
            raise UsageError("--pass-of takes K and result files of as many seeds")
        return [Path(one) for one in args.pass_of[1:]]
    return (
        [args.source] if args.source else [*(args.diff or []), *(args.table or []), *(args.oracle_of or [])]
    )


def read_result(args: argparse.Namespace, path: Path) -> Report:
    """Raises ResultFormatError; UsageError where it is of another benchmark than the one that was named."""
    from ..evaluation.results import load_report

    report = load_report(path)
    if args.benchmark not in (None, report.benchmark):
        raise UsageError(f"{path} is of {report.benchmark}, not of {args.benchmark}")
    return report


def combined(args: argparse.Namespace) -> Report | None:
    """--oracle-of and --pass-of; None without them. Raises UsageError where the results are of other queries."""
    from ..evaluation.combining import oracle_report, pass_at_k_report

    reports = [read_result(args, path) for path in files_of(args)] if args.oracle_of or args.pass_of else []
    if not reports:
        return None
    try:
        return oracle_report(reports) if args.oracle_of else pass_at_k_report(reports, int(args.pass_of[0]))
    except ValueError as error:
        raise UsageError(str(error)) from None


def show_table(args: argparse.Namespace) -> int:
    """--table, and its picture; what differs on stderr."""
    from ..evaluation.beside import beside_rows, draw_beside, said

    stems = [path.stem for path in args.table]
    names = stems if len(set(stems)) == len(stems) else [str(path) for path in args.table]
    reports = {name: read_result(args, path) for name, path in zip(names, args.table, strict=True)}
    try:
        headers, rows = beside_rows(reports)
        lines = said(reports)
        if args.picture:
            draw_beside(reports, args.picture)
    except ValueError as error:
        raise UsageError(str(error)) from None
    if args.json:
        print_json([dict(zip(headers, row, strict=True)) for row in rows])
    else:
        print_table(headers, rows)
    for line in lines:
        print(line, file=sys.stderr)
    return 0


def show_diff(args: argparse.Namespace) -> int:
    """--diff: conditions that differ, then how far each score moved."""
    from ..evaluation.compare import compare

    before, after = (read_result(args, path) for path in args.diff)
    found = compare(before, after)
    if args.json:
        print_json(found.to_dict())
        return 0
    for name, (old, new) in found.conditions.items():
        print(f"{name}: {_short(old)} before, {_short(new)} after")
    headers = ("difference", "95% low", "high", "before", "after", "metric", "pool", "task")
    rows: list[tuple[Any, ...]] = [
        (one.difference, *(one.interval or ("-", "-")), one.before, one.after, one.metric, one.kind, one.task)
        for one in (*found.changes, *(replace(mean, task=f"mean of {mean.task}") for mean in found.means))
    ]
    print_table(headers, rows)
    for side, names in (("before", found.only_before), ("after", found.only_after)):
        if names:
            print(f"only {side}, not compared: {', '.join(names)}", file=sys.stderr)
    for path, report in zip(args.diff, (before, after), strict=True):
        tell(report, f"{path}: ")
    return 0


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 60 else text[:57] + "..."


def tell(report: Report, name: str = "") -> None:
    """What a reader must know, on stderr."""
    if missing := report.missing():
        print(f"{name}not run, hence in no mean: {', '.join(missing)}", file=sys.stderr)
    for alarm in report.alarms:
        print(f"{name}alarm: {alarm}", file=sys.stderr)
