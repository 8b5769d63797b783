"""The command line that the tables of arms share: which arms and seeds, where they lie, and how they are run."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

from .arms import ArmTable
from .schedule import processes

BENCHMARKS = Path(__file__).parents[1]
UME_TINY = BENCHMARKS.parent / "examples" / "ume-tiny"
RunSeed = Callable[..., None]  # a table, names of arms, a seed


def table_parser(doc: str | None, name: str, arms: Iterable[str], *, quick: str) -> argparse.ArgumentParser:
    """The arguments of a table of arms; a table adds where its arms begin.

    doc: of the script. name: of the table, and of its folders. quick: what a quick table is.
    """
    kept = BENCHMARKS / "results" / name
    parser = argparse.ArgumentParser(description=(doc or "").splitlines()[0])
    parser.add_argument("--arms", nargs="+", choices=tuple(arms), default=list(arms))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--runs", type=Path, default=Path("runs") / name, help="folder of checkpoints")
    parser.add_argument(
        "--results", type=Path, help=f"folder of results (default: {kept}; of a quick table: in --runs)"
    )
    parser.add_argument("--jobs", type=int, default=2, help="seeds that run at the same time")
    parser.add_argument("--quick", action="store_true", help=quick)
    parser.add_argument("--report-only", action="store_true")
    return parser


def folders(args: argparse.Namespace, name: str) -> tuple[Path, Path]:
    """Where the checkpoints and the results of a table lie; a quick one's apart."""
    if args.quick:
        return args.runs / "quick-runs", args.results or args.runs / "quick"
    return args.runs, args.results or BENCHMARKS / "results" / name


def run_seeds(run_seed: RunSeed, table: ArmTable, args: argparse.Namespace) -> None:
    """All seeds that are asked for, ``--jobs`` of them at the same time."""
    with processes(args.jobs) as pool:
        list(pool.map(partial(run_seed, table, args.arms), args.seeds))
