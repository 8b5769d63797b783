"""A recipe on DigitWorld at full length, and what each model of it finds in hard pools of unseen handwriting.

    python benchmarks/recipe.py rzenembed-digit-world --out benchmarks/results/rzenembed-digit-world.json

Steps lie in ``--runs`` and finished ones are not run again; a model is in the file as soon as it is scored. So a run
that was stopped goes on by the same command. ``start`` is what the recipe begins with; every model reads items under
the prompt that it was trained with.
"""

from __future__ import annotations

import argparse
import sys
from functools import partial
from pathlib import Path
from typing import Any

import torch
from measuring import machine, measure_parts

import umekit
from umekit.cli.train import recipe_path
from umekit.encoding.storage.contents import file_sha256
from umekit.evaluation.digit_world.dataset import open_digit_world
from umekit.evaluation.digit_world.evaluate import score_digit_world
from umekit.evaluation.digit_world.labelled import hard_tasks
from umekit.trainers.recipes import FORMATS, read_recipe, run_recipe
from umekit.trainers.recipes.schema import START

POOL = 400
NUMBERS = (
    "seconds",
    "steps",
    "temperature",
    "rows",
    "pairs",
    "negatives",
    "filled",
)  # of a step, beside eval_...


def recall(folder: Path | None, tasks: list[str], queries: int) -> dict[str, Any]:
    """recall@1 of a model in hard pools, by task, and their mean."""
    encoder = umekit.load(folder, device="cpu", dtype=torch.float32)
    report = score_digit_world(encoder, tasks, queries, POOL, kinds=("hard",), progress=False)
    found = {score.task: round(score.value, 4) for score in report.scores}
    mean = round(sum(found.values()) / len(found), 4)
    return {"recall@1": found, "mean": mean, "fingerprint": encoder.fingerprint()["model"]}


def told(metrics: dict[str, Any]) -> dict[str, Any]:
    """The numbers of a finished step that say something."""
    return {name: value for name, value in metrics.items() if name in NUMBERS or name.startswith("eval_")}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("recipe", help="a YAML file, or the name of a packaged recipe")
    parser.add_argument("--runs", type=Path, help="folder of the steps (default: runs/RECIPE)")
    parser.add_argument("--max-steps", type=int, help="at most so many of each training: does it run?")
    parser.add_argument("--tasks", nargs="+", choices=hard_tasks(), default=hard_tasks())
    parser.add_argument("--queries", type=int, default=400, help="of a task")
    parser.add_argument("--out", type=Path, metavar="FILE.json", help="where to write the result")
    args = parser.parse_args()
    file = recipe_path(args.recipe)
    recipe = read_recipe(file)
    if args.max_steps is not None:
        recipe = recipe.shortened(args.max_steps)
    formats = {**FORMATS, "digit-world": open_digit_world}
    steps = run_recipe(
        recipe,
        args.runs or Path("runs") / recipe.name,
        formats=formats,
        resume=True,
        on_step=lambda step: print(f"{step.name}: {step.metrics['seconds']} s", flush=True),
    )
    head = {
        "benchmark": "recipe",
        "command": "python " + " ".join(sys.argv),
        "recipe": {"name": recipe.name, "sha256": file_sha256(file), "max_steps": args.max_steps},
        "machine": machine(),
        "pools": {
            "kind": "hard",
            "split": "test",
            "queries": args.queries,
            "size": POOL,
            "tasks": args.tasks,
        },
        "steps": {step.name: {"kind": step.kind, **told(step.metrics)} for step in steps},
    }
    rerankers = [step.name for step in recipe.steps if getattr(step, "trainer", "") == "reranker"]
    models: dict[str, Path | None] = {START: Path(recipe.model.path) if recipe.model.path else None}
    models |= {
        step.name: step.folder
        for step in steps
        if step.kind in ("train", "soup") and step.name not in rerankers
    }
    jobs = {name: partial(recall, folder, args.tasks, args.queries) for name, folder in models.items()}
    measure_parts(args.out, head, "models", jobs)
    return 0


if __name__ == "__main__":
    sys.exit(main())
