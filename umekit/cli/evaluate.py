"""``umekit evaluate``: scores of a model, as a table, a result file and a block of a README; two results compared."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from .common import UsageError, add_model_arguments, load_encoder, positive, print_json, print_table
from .evaluate_thoughts import BENCHMARK as THOUGHTS
from .evaluate_thoughts import OPTIONS, measure_thoughts

if TYPE_CHECKING:
    from ..evaluation.report import Report

BENCHMARKS = ("digit-world", "thoughts")
MODEL_OPTIONS = ("model", "preset", "device", "dtype", "attention", "compile")
WORLD_OPTIONS = ("tasks", "queries", "size", "kinds", "seed", "split", "blind", "mode", "max_new_tokens")
RUN_OPTIONS = (*WORLD_OPTIONS, "num_samples", "pass_at", "oracle")
RUN_ONLY = MODEL_OPTIONS + RUN_OPTIONS + ("rows",)


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser(
        "evaluate",
        help="score a model on DigitWorld; write the result file and the README's table; compare two results",
        description="digit-world: recall@1 of every DigitWorld task, against what guessing gives. thoughts: how "
        "much vectors and scores change when a query has another's thought, a filler, an empty one or none. "
        "--readme rewrites the block between <!-- digit-world:start --> and <!-- digit-world:end --> of a file; with "
        "--from, from a result file of any benchmark and without running anything.",
    )
    parser.add_argument(
        "benchmark", nargs="?", metavar="BENCHMARK", help=f"what to run: {', '.join(BENCHMARKS)}"
    )
    parser.add_argument("--out", type=Path, metavar="FILE.json", help="the result file to write")
    parser.add_argument(
        "--from", dest="source", type=Path, metavar="FILE.json", help="take this result file, run nothing"
    )
    parser.add_argument(
        "--diff",
        nargs=2,
        type=Path,
        metavar=("BEFORE", "AFTER"),
        help="compare two result files, run nothing",
    )
    parser.add_argument("--readme", type=Path, metavar="FILE.md", help="rewrite the table in this file")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    group = parser.add_argument_group("run")
    group.add_argument(
        "--tasks", nargs="+", metavar="TASK", help="only these (no mean of what is incomplete)"
    )
    group.add_argument("--queries", type=int, metavar="N", help="queries a task, at least (default 2000)")
    group.add_argument("--size", type=int, metavar="N", help="candidates of a retrieval pool (default 400)")
    group.add_argument("--kinds", nargs="+", choices=("random", "hard"), help="pools (default: both)")
    group.add_argument("--seed", type=int, metavar="N", help="of the world (default 0)")
    group.add_argument("--split", choices=("test", "validation", "train"), help="handwriting (default test)")
    group.add_argument(
        "--blind", action="store_true", default=None, help="also the question alone and the media alone"
    )
    group.add_argument(
        "--num-samples", type=positive, metavar="N", help="thoughts drawn for each query, for pass@k"
    )
    group.add_argument(
        "--pass-at", nargs="+", type=positive, metavar="K", help="the k of pass@k (default 1, 2, 4 ... N)"
    )
    group.add_argument(
        "--oracle", action="store_true", default=None, help="also: right at once, or after a thought"
    )
    group.add_argument(
        "--rows", type=Path, metavar="FILE", help="thoughts: your own rows (query, positive), not DigitWorld"
    )
    parser.add_argument("checkpoint", nargs="?", metavar="CHECKPOINT", help="the same as --model")
    add_model_arguments(parser)


def run(args: argparse.Namespace) -> int:
    from ..encoding.storage.atomic import write_atomically
    from ..encoding.storage.ownership import check_own, json_of
    from ..evaluation.report import KIND
    from ..evaluation.results import save_report
    from ..evaluation.tables import markdown_table, replace_block

    _check(args)
    if args.diff:
        return _diff(args)
    if args.out:
        check_own(args.out, json_of(KIND), "give another --out")
    readme = args.readme.read_text(encoding="utf-8") if args.readme else None
    if readme is not None:
        _marked(args.readme, readme)  # before hours are spent
    report = _read(args, args.source) if args.source else _measure(args)
    if args.out:
        save_report(report, args.out)
    if readme is not None:
        # the file is read again: it may have been edited while the model ran
        text = replace_block(args.readme.read_text(encoding="utf-8"), markdown_table(report))
        write_atomically(args.readme.resolve(), text.encode())
    if args.json:
        print_json(report.to_dict())
    else:
        _show(report)
    return 0


def _check(args: argparse.Namespace) -> None:
    if args.checkpoint is not None and args.model is not None:
        raise UsageError("give the checkpoint once: as CHECKPOINT or as --model")
    args.model = args.model or args.checkpoint
    files = {"--from": [args.source] if args.source else [], "--diff": args.diff or []}
    if len(reading := [name for name, paths in files.items() if paths]) > 1:
        raise UsageError("--from and --diff can't be given together")
    for name in reading:
        options = RUN_ONLY + (("out", "readme") if name == "--diff" else ())
        if given := [f"--{option}" for option in options if getattr(args, option) is not None]:
            raise UsageError(f"{name} runs nothing, so {', '.join(given)} can't be given with it")
        for path in files[name]:
            if not path.is_file():
                raise UsageError(f"{name}: there is no file {path}")
    if not reading and args.benchmark not in BENCHMARKS:
        raise UsageError(f"{args.benchmark or 'nothing'} can't be run; there is {', '.join(BENCHMARKS)}")
    if args.out and not args.out.absolute().parent.is_dir():
        raise UsageError(f"--out: there is no folder {args.out.parent}")
    if args.readme and not args.readme.is_file():
        raise UsageError(f"--readme: there is no file {args.readme}")


def _marked(path: Path, text: str) -> None:
    from ..evaluation.tables import MarkerError, replace_block

    try:
        replace_block(text, "")
    except MarkerError as error:
        raise UsageError(f"{path}: {error}") from None


def _read(args: argparse.Namespace, path: Path) -> Report:
    from ..evaluation.results import load_report

    report = load_report(path)
    if args.benchmark not in (None, report.benchmark):
        raise UsageError(f"{path} is of {report.benchmark}, not of {args.benchmark}")
    return report


def _measure(args: argparse.Namespace) -> Report:
    if args.benchmark == THOUGHTS:
        _refuse(args, [name for name in RUN_OPTIONS if name not in OPTIONS])
        return measure_thoughts(args, _model_name(args.model), _command(args))
    _refuse(args, ["rows"])
    from ..evaluation.digit_world import TASKS
    from ..evaluation.digit_world.evaluate import score_digit_world

    if unknown := [name for name in args.tasks or () if name not in TASKS]:
        raise UsageError(f"--tasks: no {', '.join(unknown)}; there are {', '.join(TASKS)}")
    options = {name: value for name in RUN_OPTIONS if (value := getattr(args, name)) is not None}
    return score_digit_world(
        load_encoder(args),
        **options,
        progress=not args.quiet,
        model=_model_name(args.model),
        command=_command(args),
    )


def _refuse(args: argparse.Namespace, names: Sequence[str]) -> None:
    """Options that this benchmark has not."""
    if given := [f"--{name.replace('_', '-')}" for name in names if getattr(args, name) is not None]:
        raise UsageError(f"{args.benchmark} has no {', '.join(given)}")


def _model_name(model: str | None) -> str:
    """A Hub id as it is; of a folder its name, since where it lies says nothing to a reader."""
    if model is None:
        return "ume-tiny"
    return Path(model).resolve().name if Path(model).is_dir() else model


def _command(args: argparse.Namespace) -> str:
    """The call that gives these numbers: options that decide nothing about them are left out."""
    words = ["umekit", "evaluate", args.benchmark]
    for name in RUN_ONLY:
        value = _model_name(args.model) if name == "model" and args.model else getattr(args, name)
        if value is None:
            continue
        words.append(f"--{name.replace('_', '-')}")
        if value is not True:
            words += [str(part) for part in value] if isinstance(value, list) else [str(value)]
    return shlex.join(words)


def _show(report: Report) -> None:
    from ..evaluation.tables import mean_rows, score_rows

    print_table(*score_rows(report))
    print()
    if report.family_means():
        print_table(*mean_rows(report))
    _tell(report)


def _tell(report: Report, name: str = "") -> None:
    """What a reader must know, on stderr."""
    if missing := report.missing():
        print(f"{name}not run, hence in no mean: {', '.join(missing)}", file=sys.stderr)
    for alarm in report.alarms:
        print(f"{name}alarm: {alarm}", file=sys.stderr)


def _diff(args: argparse.Namespace) -> int:
    from ..evaluation.compare import compare

    before, after = (_read(args, path) for path in args.diff)
    found = compare(before, after)
    if args.json:
        print_json(found.to_dict())
        return 0
    for name, (old, new) in found.conditions.items():
        print(f"{name}: {_short(old)} before, {_short(new)} after")
    headers = ("difference", "95% low", "high", "before", "after", "metric", "pool", "task")
    rows = [
        (one.difference, *(one.interval or ("-", "-")), one.before, one.after, one.metric, one.kind, one.task)
        for one in (*found.changes, *(replace(mean, task=f"mean of {mean.task}") for mean in found.means))
    ]
    print_table(headers, rows)
    for side, names in (("before", found.only_before), ("after", found.only_after)):
        if names:
            print(f"only {side}, not compared: {', '.join(names)}", file=sys.stderr)
    for path, report in zip(args.diff, (before, after), strict=True):
        _tell(report, f"{path}: ")
    return 0


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 60 else text[:57] + "..."
