"""``umekit evaluate``: scores of a model, as a table, a result file and a README's block; results beside each other."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from . import benchmarks
from .benchmarks.digit_world import model_name
from .cascades import add_rerank_arguments
from .common import UsageError, add_model_arguments, positive, print_json, print_table
from .kept_results import combined, files_of, read_result, show_diff, show_table, tell

if TYPE_CHECKING:
    from ..evaluation.report import Report

MODEL_OPTIONS = ("model", "preset", "device", "dtype", "attention", "compile")
COMMON = ("tasks", "mode", "num_samples", "max_new_tokens", "rerank", "rerank_preset", "depth", "alpha")
CALIBRATION = "calibration"
READING = ("source", "diff", "table", "oracle_of", "pass_of")
NOT_IN_COMMAND = ("work", "data", "resume", "draw")  # where things lie decides nothing


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser(
        "evaluate",
        help="score a model on a benchmark; write the result file and a README's table; compare results",
        description="umekit evaluate CHECKPOINT --benchmark NAME, or umekit evaluate NAME for ume-tiny. Benchmarks: "
        f"{', '.join(benchmarks.NAMES)} (mteb:NAME for a task or benchmark of mteb). --readme rewrites the block "
        "between <!-- digit-world:start --> and <!-- digit-world:end --> of a file; with --from, from a result file "
        "of any benchmark and without running anything. Several machines or GPUs: torchrun --no-python "
        "--nproc-per-node N umekit evaluate ...",
    )
    parser.add_argument(
        "what", nargs="?", metavar="CHECKPOINT", help="folder or Hub id, or a benchmark's name"
    )
    parser.add_argument("checkpoint", nargs="?", metavar="", help="after a benchmark: the same as --model")
    parser.add_argument("--benchmark", metavar="NAME", help=f"one of {', '.join(benchmarks.NAMES)}")
    parser.add_argument("--out", type=Path, metavar="FILE.json", help="the result file to write")
    parser.add_argument("--readme", type=Path, metavar="FILE.md", help="rewrite the table in this file")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    results = parser.add_argument_group("results that are there", "nothing is run")
    results.add_argument(
        "--from", dest="source", type=Path, metavar="FILE.json", help="take this result file"
    )
    results.add_argument(
        "--diff", nargs=2, type=Path, metavar=("BEFORE", "AFTER"), help="compare two result files"
    )
    results.add_argument(
        "--table", nargs="+", type=Path, metavar="FILE.json", help="several in one table, cost beside quality"
    )
    results.add_argument(
        "--picture", type=Path, metavar="FILE.png", help="of --table; of calibration: the reliability curve"
    )
    results.add_argument(
        "--oracle-of",
        nargs="+",
        type=Path,
        metavar="FILE.json",
        help="each query as the best of these has it",
    )
    results.add_argument(
        "--pass-of",
        nargs="+",
        metavar=("K", "FILE.json"),
        help="of samples: one of K is right, unbiased, from results of as many seeds",
    )
    group = parser.add_argument_group("run")
    group.add_argument(
        "--tasks",
        nargs="+",
        metavar="TASK",
        help="only these, or families of them (no mean of what is incomplete)",
    )
    group.add_argument(
        "--num-samples",
        type=positive,
        metavar="N",
        help="thoughts of an item, averaged; of digit-world: drawn for each query, for pass@k",
    )
    add_rerank_arguments(group, "rank the first candidates of each query again")
    group.add_argument(
        "--depth",
        type=positive,
        metavar="N",
        help="candidates that are ranked again (default: the cascade's, or 50)",
    )
    group.add_argument(
        "--alpha",
        type=float,
        metavar="A",
        help="weight of the cosine, 0 to 1 (default: the cascade's, or 0.5)",
    )
    group.add_argument("--resume", action="store_true", help="go on with a run that was stopped")
    for module in benchmarks.MODULES:
        module.add_arguments(parser)
    add_model_arguments(parser)


def run(args: argparse.Namespace) -> int:
    from ..encoding.storage.atomic import write_atomically
    from ..encoding.storage.ownership import check_own, json_of
    from ..evaluation.report import KIND
    from ..evaluation.results import save_report
    from ..evaluation.tables import markdown_table, replace_block

    _settle(args)
    _check(args)
    if args.diff:
        return show_diff(args)
    if args.table:
        return show_table(args)
    if args.out:
        check_own(args.out, json_of(KIND), "give another --out")
    readme = args.readme.read_text(encoding="utf-8") if args.readme else None
    if readme is not None:
        _marked(args.readme, readme)  # before hours are spent
    report = combined(args) or (read_result(args, args.source) if args.source else _measure(args))
    if report is None:
        return 0
    if args.picture:
        _draw(report, args.picture)
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


def _settle(args: argparse.Namespace) -> None:
    """Which is the checkpoint and which the benchmark: without --benchmark, the first word is the benchmark."""
    if args.benchmark is None:
        args.benchmark, named = args.what, args.checkpoint
    else:
        named = args.what
        if args.checkpoint is not None:
            raise UsageError(
                f"{args.checkpoint}: the checkpoint is {args.what}, the benchmark {args.benchmark}"
            )
    if named is not None:
        if args.model is not None:
            raise UsageError("give the checkpoint once: as CHECKPOINT or as --model")
        args.model = named


def _check(args: argparse.Namespace) -> None:
    reading = [name for name in READING if getattr(args, name)]
    if len(reading) > 1:
        raise UsageError(f"{' and '.join(map(_flag, reading))} can't be given together")
    for path in files_of(args):
        if not path.is_file():
            raise UsageError(f"{_flag(reading[0])}: there is no file {path}")
    if args.picture and not (args.table or args.source or args.benchmark == CALIBRATION):
        raise UsageError(f"--picture is of --table, or of {CALIBRATION}")
    every = {name for module in benchmarks.MODULES for name in module.OPTIONS}
    run_only = [*MODEL_OPTIONS, *COMMON, *sorted(every)]
    if reading:
        own = run_only + (["out", "readme"] if reading[0] in ("diff", "table") else [])
        if given := [_flag(name) for name in own if getattr(args, name) is not None]:
            raise UsageError(
                f"{_flag(reading[0])} runs nothing, so {', '.join(given)} can't be given with it"
            )
    else:
        module = benchmarks.module_of(args.benchmark or "")
        if module is None:
            raise UsageError(
                f"{args.benchmark or 'nothing'} can't be run; there is {', '.join(benchmarks.NAMES)}"
            )
        strange = (every | set(COMMON) - {"rerank_preset"}) - {*module.OPTIONS, *module.SHARED}
        if given := [_flag(name) for name in sorted(strange) if getattr(args, name) is not None]:
            raise UsageError(f"{args.benchmark} has no {', '.join(given)}")
        if args.resume and "resume" not in module.SHARED:
            raise UsageError(f"{args.benchmark} has no --resume: it runs whole")
        if args.rerank is None and (
            given := [n for n in ("rerank_preset", "depth", "alpha") if getattr(args, n) is not None]
        ):
            raise UsageError(f"{', '.join(map(_flag, given))} without --rerank")
        module.check(args)
    for name in ("out", "picture"):
        path = getattr(args, name)
        if path and not path.absolute().parent.is_dir():
            raise UsageError(f"--{name}: there is no folder {path.parent}")
    if args.readme and not args.readme.is_file():
        raise UsageError(f"--readme: there is no file {args.readme}")


def _flag(name: str) -> str:
    return {"source": "--from"}.get(name, f"--{name.replace('_', '-')}")


def _marked(path: Path, text: str) -> None:
    from ..evaluation.tables import MarkerError, replace_block

    try:
        replace_block(text, "")
    except MarkerError as error:
        raise UsageError(f"{path}: {error}") from None


def _measure(args: argparse.Namespace) -> Report | None:
    module = benchmarks.module_of(args.benchmark)
    assert module is not None, "checked"
    found: Report | None = module.measure(args, args.benchmark, model_name(args.model), _command(args))
    return found


def _command(args: argparse.Namespace) -> str:
    """The call that gives these numbers: options that decide nothing about them are left out."""
    module = benchmarks.module_of(args.benchmark)
    words = ["umekit", "evaluate", args.benchmark]
    own = () if module is None else (*module.OPTIONS, *module.SHARED)
    for name in dict.fromkeys((*MODEL_OPTIONS, *COMMON, *own)):
        value = model_name(args.model) if name == "model" and args.model else getattr(args, name)
        if value is None or name in NOT_IN_COMMAND:
            continue
        words.append(_flag(name))
        if value is not True:
            words += [str(part) for part in value] if isinstance(value, list) else [str(value)]
    return shlex.join(words)


def _draw(report: Report, path: Path) -> None:
    from ..evaluation.calibration_report import CalibrationReport, draw_reliability

    if not isinstance(report, CalibrationReport):
        raise UsageError(f"--picture is of --table, or of {CALIBRATION}, and this is of {report.benchmark}")
    draw_reliability(report, path)


def _show(report: Report) -> None:
    from ..evaluation.tables import cost_rows, mean_rows, score_rows

    print_table(*score_rows(report))
    print()
    if report.family_means():
        print_table(*mean_rows(report))
        print()
    if report.costs:
        print_table(*cost_rows(report))
    tell(report)
