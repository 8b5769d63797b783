"""``umekit train RECIPE``: run a recipe, step by step."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

from .common import UsageError, print_json, print_table


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser(
        "train",
        help="train by a recipe (YAML)",
        description="Run a recipe: each step leaves a folder under --out, a finished one is not run again. Under "
        "torchrun the same line trains on several devices (--print-launch prints it).",
    )
    parser.add_argument("recipe", metavar="RECIPE", help="YAML file, or the name of one in examples/recipes")
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder of the run (default: runs/<recipe>)")
    parser.add_argument("--resume", action="store_true", help="go on with a run that was broken off")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="ENTRY=VALUE",
        help="replace an entry, e.g. steps.stage1.arguments.max_steps=10 (YAML value; may be repeated)",
    )
    parser.add_argument(
        "--max-steps", type=int, metavar="N", help="at most N optimiser steps of every training"
    )
    parser.add_argument(
        "--print-launch", type=int, metavar="N", help="print the torchrun line for N processes"
    )
    parser.add_argument(
        "--nodes",
        type=int,
        metavar="M",
        help="with --print-launch: N processes on each of M nodes; every node runs the line, with MASTER set to "
        "the first one's address (default 1)",
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="try the longest batch of the first training and report memory"
    )
    parser.add_argument("--json", action="store_true", help="print the results as JSON")


def run(args: argparse.Namespace) -> int:
    path = recipe_path(args.recipe)
    out = args.out or Path("runs") / path.stem
    from umekit.trainers.recipes import RecipeError, read_recipe

    try:
        recipe = read_recipe(path, dict(parse_change(text) for text in args.set))
        if args.max_steps is not None and args.max_steps < 1:
            raise UsageError(f"--max-steps is {args.max_steps}; need at least 1")
        if args.max_steps is not None:
            recipe = recipe.shortened(args.max_steps)
        if args.print_launch is None and args.nodes is not None:
            raise UsageError("--nodes is of the line that --print-launch prints: give both")
        if args.print_launch is not None:
            return _print_launch(args, out)
        return _train(args, recipe, out)
    except RecipeError as error:
        raise UsageError(str(error)) from None


def _print_launch(args: argparse.Namespace, out: Path) -> int:
    from umekit.trainers.recipes import launch_line

    words = [args.recipe, "--out", str(out), "--resume"]
    for change in args.set:
        words += ["--set", change]
    if args.max_steps is not None:
        words += ["--max-steps", str(args.max_steps)]
    try:
        line = launch_line(words, args.print_launch, 1 if args.nodes is None else args.nodes)
    except ValueError as error:
        raise UsageError(str(error)) from None
    print(line)
    return 0


def _train(args: argparse.Namespace, recipe: Any, out: Path) -> int:
    from umekit.evaluation.digit_world.dataset import open_digit_world
    from umekit.trainers.recipes import FORMATS, dry_run_recipe, run_recipe

    formats = {**FORMATS, "digit-world": open_digit_world}
    if args.dry_run:
        report = dry_run_recipe(recipe, formats=formats)
        print_json(report) if args.json else print_table(
            ["what", "value"], [list(pair) for pair in report.items()]
        )
        return 0
    main = os.environ.get("RANK", "0") == "0"
    results = run_recipe(
        recipe,
        out,
        formats=formats,
        resume=args.resume,
        on_step=lambda result: _report(result) if main else None,
    )
    if not main:
        return 0
    if args.json:
        print_json(
            {"out": str(out), "steps": {r.name: {**r.metrics, "folder": str(r.folder)} for r in results}}
        )
    else:
        rows = [
            [r.name, r.kind, r.metrics.get("eval_recall@1", "-"), r.metrics["seconds"], str(r.folder)]
            for r in results
        ]
        print_table(["step", "kind", "recall@1", "seconds", "result"], rows)
    return 0


def _report(result: Any) -> None:
    state = f"{result.metrics['seconds']} s" if result.ran else "was finished"
    print(f"{result.name}: {state}", file=sys.stderr)


def recipe_path(name: str) -> Path:
    """A file, or a packaged recipe by its name.

    Raises:
        UsageError: there is neither; the known names are listed.
    """
    import umekit.examples

    if Path(name).is_file():
        return Path(name)
    folders = [Path(base) / "recipes" for base in umekit.examples.__path__]
    known = {file.stem: file for folder in folders for file in sorted(folder.glob("*.yaml"))}
    if name in known:
        return known[name]
    raise UsageError(
        f"{name}: there is no such file or recipe; packaged recipes are {', '.join(sorted(known))}"
    )


def parse_change(text: str) -> tuple[str, Any]:
    """``entry=value``, the value as YAML."""
    from umekit.trainers.recipes import YamlError, load_yaml

    place, sign, value = text.partition("=")
    if not sign or not place:
        raise UsageError(f"--set {text}: write ENTRY=VALUE")
    try:
        return place, load_yaml(value)
    except YamlError as error:
        raise UsageError(f"--set {place}: {error}") from None
