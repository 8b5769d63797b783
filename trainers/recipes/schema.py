"""What a recipe file may say. Every entry is checked before anything runs; an unknown one is an error.

A recipe is a list of steps. A step starts from the result of another one (or from the recipe's model) and leaves a
folder: a model, an adapter, mined rows.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError, model_validator

from .step_names import check_step_names
from .step_specs import MineStep, ModelSpec, ScoreStep, SelectStep, SoupStep, Step, Strict, TrainStep
from .yaml_text import MOST_CHARACTERS, YamlError, load_yaml

START = "start"  # the name by which steps refer to the recipe's own model


class RecipeError(ValueError):
    """A recipe cannot be used; the message says which entry and why."""


class Recipe(Strict):
    """A named training, step by step."""

    name: str
    source: str
    description: str = ""
    seed: int = 0
    model: ModelSpec = ModelSpec()
    steps: tuple[Step, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _references(self) -> Recipe:
        check_step_names([step.name for step in self.steps], taken=[START])
        known = {START: START}
        for step in self.steps:
            for name in _rows_of(step):
                if known.get(name) != "rows":
                    raise ValueError(
                        f"step {step.name!r} reads the rows of {name!r}, which is no mining, scoring or selecting step "
                        "before it"
                    )
            known[step.name] = _result(self, step, known)
        return self

    def start_of(self, step: TrainStep | MineStep | ScoreStep) -> str:
        """The step that this one starts from: the one it names, or the last model before it."""
        if step.start is not None:
            return step.start
        names = [START]
        for other in self.steps:
            if other.name == step.name:
                break
            if other.kind not in ("mine", "score", "select"):
                names.append(other.name)
        return names[-1]

    def shortened(self, steps: int) -> Recipe:
        """The same recipe with at most ``steps`` optimiser steps in every training."""
        raw = self.model_dump(mode="json")
        for step in raw["steps"]:
            if step["kind"] == "train":
                given = step["arguments"].get("max_steps") or steps
                step["arguments"]["max_steps"] = min(steps, given) if given > 0 else steps
        return Recipe.model_validate(raw)


def _result(recipe: Recipe, step: Any, known: dict[str, str]) -> str:
    """What a step leaves (``model``, ``adapter`` or ``rows``), after a look at what it starts from."""
    if isinstance(step, SoupStep):
        kinds = {known.get(name) for name in step.of}
        if kinds in ({"model"}, {"adapter"}):
            return "model"
        raise ValueError(
            f"step {step.name!r} averages {', '.join(step.of)}: they must all be adapters (keep: adapter), or all "
            "models, of steps before it"
        )
    if isinstance(step, SelectStep):
        for one in (step.evaluator, *step.workers):
            if one.step is not None and known.get(one.step) not in ("model", "adapter"):
                raise ValueError(f"step {step.name!r}: {one.step!r} is no training before it")
        return "rows"
    start = recipe.start_of(step)
    if known.get(start) not in (START, "model", "adapter"):
        raise ValueError(f"step {step.name!r} starts from {start!r}, which is no model before it")
    if isinstance(step, ScoreStep) and known.get(step.reranker) not in ("model", "adapter"):
        raise ValueError(f"step {step.name!r}: reranker: {step.reranker!r} is no training before it")
    if isinstance(step, MineStep | ScoreStep):
        return "rows"
    if known[start] == "adapter":
        raise ValueError(
            f"step {step.name!r} starts from the adapter of {start!r}: merge it there (keep: merged), or soup it"
        )
    if recipe.model.quantize is not None and step.lora is None:
        raise ValueError(f"step {step.name!r} trains quantised weights, which only a lora can")
    if step.objective_from is not None and known.get(step.objective_from) not in ("model", "adapter"):
        raise ValueError(f"objective_from: {step.objective_from!r} is no training before {step.name!r}")
    return "adapter" if step.keep == "adapter" else "model"


def _rows_of(step: Any) -> list[str]:
    data = [part for name in ("data", "eval_data") if (part := getattr(step, name, None)) is not None]
    return [source.step for part in data for source in part.sources if source.step is not None]


def read_recipe(path: str | Path, changes: dict[str, Any] | None = None) -> Recipe:
    """Read and check a YAML recipe.

    Args:
        path: the file.
        changes: entries to replace, by dotted path: ``{"steps.0.arguments.max_steps": 10}``. A step may be named
            instead of numbered.

    Raises:
        RecipeError: it is no YAML, or an entry is unknown, missing or of the wrong type.
    """
    try:
        raw = load_yaml(_text_of(Path(path)))
    except YamlError as error:
        raise RecipeError(f"{path} is not YAML that can be read: {error}") from None
    if not isinstance(raw, dict):
        raise RecipeError(f"{path} holds no recipe: name, source and steps are needed")
    for place, value in (changes or {}).items():
        _replace(raw, place, value)
    try:
        return Recipe.model_validate(raw)
    except ValidationError as error:
        found = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise RecipeError(f"{path}: {found}") from None


def _text_of(path: Path) -> str:
    """The beginning of a file, one character more than may be in it; a device or a huge file is not read whole."""
    try:
        with path.open(encoding="utf-8") as file:
            return file.read(MOST_CHARACTERS + 1)
    except UnicodeDecodeError as error:
        raise RecipeError(f"{path} is no text in UTF-8: {error}") from None


def _replace(raw: Any, place: str, value: Any) -> None:
    """Set one entry; the last key may be new, all others must be there."""
    *way, last = place.split(".")
    at = raw
    for key in way:
        at = _child(at, key, place)
    if isinstance(at, dict):
        at[last] = value
    elif isinstance(at, list) and last.isdigit() and int(last) < len(at):
        at[int(last)] = value
    else:
        raise RecipeError(f"the recipe has no entry {place!r}")


def _child(at: Any, key: str, place: str) -> Any:
    if isinstance(at, list):
        named = [part for part in at if isinstance(part, dict) and part.get("name") == key]
        if named:
            return named[0]
        if key.isdigit() and int(key) < len(at):
            return at[int(key)]
    elif isinstance(at, dict):
        return at.setdefault(key, {})
    raise RecipeError(f"the recipe has no entry {place!r} (at {key!r})")
