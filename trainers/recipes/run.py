"""Runs a recipe: every step in its own folder, finished steps skipped, a killed one gone on with."""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ..dry_run import dry_run
from .row_steps import mine_step, score_step, select_step, selection_settings
from .schema import Recipe, RecipeError
from .sources import Opener
from .step_names import check_inside
from .step_specs import MineStep, ScoreStep, SelectStep, SoupStep, Step, TrainStep
from .steps import StepContext, build_trainer, soup_step, train_step, training_arguments

DONE = "done.json"
RECIPE_FILE = "recipe.json"
POLL_SECONDS = 2.0


@dataclass(frozen=True)
class StepResult:
    """What one step left: its folder (model, adapter or rows), its numbers, and whether it ran in this call."""

    name: str
    kind: str
    folder: Path
    metrics: dict[str, Any]
    ran: bool


def run_recipe(
    recipe: Recipe,
    out: str | os.PathLike[str],
    *,
    formats: Mapping[str, Opener],
    resume: bool = False,
    on_step: Callable[[StepResult], None] | None = None,
) -> list[StepResult]:
    """Run the steps in order; under a launcher (torchrun) every process calls this.

    Args:
        recipe: from :func:`read_recipe`.
        out: folder of the run: ``out/<step>/`` each, with ``done.json`` when it is finished.
        formats: readers of data by name; see :func:`umekit.trainers.recipes.sources.FORMATS`.
        resume: go on with a run of the same recipe: finished steps are skipped, an unfinished training goes on from
            its last complete checkpoint.
        on_step: called after each step.

    Raises:
        RecipeError: ``out`` holds another recipe's run, or a run and ``resume`` is not set.
    """
    root = Path(out).resolve()  # adapters name their base by it
    _check(recipe, root, formats)
    _open_run(root, recipe, resume)
    results = []
    for step in recipe.steps:
        folder = root / step.name
        _check_inside(root, folder)
        done = folder / DONE
        ran = not done.is_file()
        if ran:
            started = time.monotonic()
            metrics = _run_step(step, StepContext(recipe, root, folder, formats, resume))
            if _is_main():
                _write_json(done, {**metrics, "seconds": round(time.monotonic() - started, 1)})
            else:
                _wait_for(done)
        found = json.loads(done.read_text(encoding="utf-8"))
        results.append(StepResult(step.name, step.kind, folder / found["result"], found, ran))
        if on_step is not None:
            on_step(results[-1])
    return results


def dry_run_recipe(recipe: Recipe, *, formats: Mapping[str, Opener]) -> dict[str, Any]:
    """The longest batch of the recipe's first training, tried; see :func:`umekit.trainers.dry_run.dry_run`.

    Raises:
        RecipeError: the recipe trains nothing.
    """
    step = next((step for step in recipe.steps if isinstance(step, TrainStep)), None)
    if step is None:
        raise RecipeError("the recipe has no training to try")
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        trainer = build_trainer(step, StepContext(recipe, root, root / step.name, formats, False))
        return {"step": step.name, **asdict(dry_run(trainer))}


def _run_step(step: Step, context: StepContext) -> dict[str, Any]:
    context.folder.mkdir(parents=True, exist_ok=True)
    if isinstance(step, TrainStep):
        return train_step(step, context)
    if not _is_main():  # these run in one process; the others wait for its mark, which no timeout cuts off
        return {}
    if isinstance(step, MineStep):
        return mine_step(step, context)
    if isinstance(step, SelectStep):
        return select_step(step, context)
    return score_step(step, context) if isinstance(step, ScoreStep) else soup_step(step, context)


def _check(recipe: Recipe, root: Path, formats: Mapping[str, Opener]) -> None:
    """Whatever can be known to be wrong before hours are spent on the first step."""
    for step in recipe.steps:
        if isinstance(step, SoupStep):
            continue
        parts = (
            [step.data]
            if isinstance(step, MineStep | ScoreStep | SelectStep) or step.eval_data is None
            else [step.data, step.eval_data]
        )
        for source in (source for part in parts for source in part.sources if source.step is None):
            if source.format not in formats:
                raise RecipeError(
                    f"source {source.name!r}: no format {source.format!r}; known are {', '.join(formats)}"
                )
        if isinstance(step, SelectStep):
            selection_settings(step)
        if isinstance(step, TrainStep):
            training_arguments(step, StepContext(recipe, root, root / step.name, formats, False))


def _check_inside(root: Path, folder: Path) -> None:
    try:
        check_inside(root, folder)
    except ValueError as error:
        raise RecipeError(str(error)) from None


def _open_run(root: Path, recipe: Recipe, resume: bool) -> None:
    """Keep the recipe beside its results, and refuse to mix two."""
    file = root / RECIPE_FILE
    if not _is_main():
        _wait_for(file)
    elif not file.is_file():
        if root.exists() and any(path.name != _partial(file).name for path in root.iterdir()):
            raise RecipeError(f"{root} is not empty and holds no run; name another folder")
        root.mkdir(parents=True, exist_ok=True)
        _write_json(file, recipe.model_dump(mode="json"))
    elif not resume and any((root / step.name).exists() for step in recipe.steps):
        raise RecipeError(f"{root} holds a run of a recipe: --resume goes on with it, or name another folder")
    try:
        same = Recipe.model_validate_json(file.read_text(encoding="utf-8")) == recipe
    except ValidationError:
        same = False
    if not same:
        raise RecipeError(
            f"{root} holds the run of another recipe, or of this one before a change: name another folder"
        )


def _is_main() -> bool:
    return os.environ.get("RANK", "0") == "0"


def _wait_for(file: Path) -> None:
    while not file.is_file():
        time.sleep(POLL_SECONDS)


def _write_json(file: Path, value: Any) -> None:
    """Whole or not at all."""
    partial = _partial(file)
    partial.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
    partial.replace(file)


def _partial(file: Path) -> Path:
    return file.with_suffix(".partial")
