"""What a recipe file may say. Every entry is checked before anything runs; an unknown one is an error.

A recipe is a list of steps. A step starts from the result of another one (or from the recipe's model) and leaves a
folder: a model, an adapter, mined rows.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ..registry import TRAINERS
from .step_names import check_step_names
from .yaml_text import MOST_CHARACTERS, YamlError, load_yaml

START = "start"  # the name by which steps refer to the recipe's own model


class RecipeError(ValueError):
    """A recipe cannot be used; the message says which entry and why."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ModelSpec(_Strict):
    """The checkpoint that a recipe begins with.

    ``path``: folder or Hub id; None is the packaged ume-tiny. ``preset``: a published system, for plain backbones.
    ``role``: what to load it as, where that is not its own: an embedder that is to learn to think.
    ``quantize``: bitsandbytes weights under a LoRA (QLoRA).
    """

    path: str | None = None
    preset: str | None = None
    role: Literal["discriminative", "generative", "adaptive", "reranker"] | None = None
    revision: str | None = None
    dtype: Literal["float32", "bfloat16", "float16", "auto"] = "float32"
    quantize: Literal["4bit", "8bit"] | None = None
    attn_implementation: str | None = None


class PromptSpec(_Strict):
    """How items are rendered and read: a training prompt by name, and changes of the model's settings."""

    name: str | None = None
    attention: Literal["causal", "bidirectional"] | None = None
    positions: Literal["mrope", "1d"] | None = None
    deepstack: bool | None = None


class LoraSpec(_Strict):
    """A LoRA on the linear layers of some parts of the backbone."""

    rank: int = Field(gt=0)
    alpha: int = Field(gt=0)
    dropout: float = Field(default=0.0, ge=0, lt=1)
    parts: tuple[Literal["language", "vision", "merger"], ...] = ("language",)
    dora: bool = False


class SourceSpec(_Strict):
    """One data set: rows with ``query``, ``positive`` and perhaps ``negatives`` or ``candidates``.

    ``format`` is the name of a reader, ``options`` go to it. ``group``: sets of one group are batched as one
    (RzenEmbed's classification sets). ``cap``: most rows of an epoch. ``fraction``: of the rows, drawn by the
    recipe's seed, the same ones in every step that reads as many. ``step``: rows that a mining, scoring or selecting
    step wrote. ``filter_thoughts``: leave out rows with bad thoughts, by
    :func:`umekit.trainers.thought_filters.filter_thoughts`,
    whose options these are; ``{}`` for its defaults.
    """

    name: str
    format: str = "rows"
    path: str | None = None
    step: str | None = None
    options: dict[str, Any] = Field(default_factory=dict)
    weight: float = Field(default=1.0, gt=0)
    cap: int | None = Field(default=None, gt=0)
    fraction: float = Field(default=1.0, gt=0, le=1)
    filter_thoughts: dict[str, Any] | None = None
    task: str | None = None
    group: str | None = None


class DataSpec(_Strict):
    """Data sets and how batches are made of them."""

    sources: tuple[SourceSpec, ...] = Field(min_length=1)
    batches: Literal["single_dataset", "single_task", "mixed"] = "mixed"
    interleave: int | None = Field(default=None, gt=0)
    no_duplicate_targets: bool = False

    @model_validator(mode="after")
    def _names(self) -> DataSpec:
        names = [source.name for source in self.sources]
        if len(set(names)) != len(names):
            raise ValueError(f"sources need different names, got {names}")
        return self


class LearningRateRule(_Strict):
    """``learning_rate`` holds for ``batch`` rows; at another global batch it is scaled by the ratio to ``power``.

    U-MARVEL table 4: (480, 1e-4), (1920, 2e-4), (3840, 4e-4), so roughly the square root.
    """

    batch: int = Field(gt=0)
    power: float = 0.5


class TrainStep(_Strict):
    """Training. ``trainer``: a name of ``trainers.registry``. ``arguments``: those of its arguments' class, by name."""

    kind: Literal["train"]
    name: str
    trainer: str = "contrastive"
    source: str
    start: str | None = None
    prompt: PromptSpec | None = None
    lora: LoraSpec | None = None
    keep: Literal["merged", "adapter"] = "merged"
    data: DataSpec
    eval_data: DataSpec | None = None
    arguments: dict[str, Any] = Field(default_factory=dict)
    learning_rate_rule: LearningRateRule | None = None
    objective_from: str | None = None

    @model_validator(mode="after")
    def _adapter(self) -> TrainStep:
        if self.trainer not in TRAINERS:
            raise ValueError(f"there is no trainer {self.trainer!r}; known are {', '.join(sorted(TRAINERS))}")
        if self.keep == "adapter" and self.lora is None:
            raise ValueError("keep: adapter needs a lora")
        return self


class MineStep(_Strict):
    """Hard negatives for rows, found by the model of another step. ``options`` go to :func:`umekit.trainers.mine`."""

    kind: Literal["mine"]
    name: str
    source: str
    start: str | None = None
    data: DataSpec
    options: dict[str, Any] = Field(default_factory=dict)


class ScoreStep(_Strict):
    """A teacher's scores for rows with lists of candidates. ``start``: the embedder; ``reranker``: the step that left
    the teacher. ``options`` go to :func:`umekit.trainers.scoring.score`."""

    kind: Literal["score"]
    name: str
    source: str
    start: str
    reranker: str
    data: DataSpec
    options: dict[str, Any] = Field(default_factory=dict)


class OpenedSpec(_Strict):
    """A model beside the one that is trained: what an earlier ``step`` left, or a folder or Hub id."""

    step: str | None = None
    path: str | None = None
    preset: str | None = None
    revision: str | None = None

    @model_validator(mode="after")
    def _one(self) -> OpenedSpec:
        if (self.step is None) == (self.path is None):
            raise ValueError("name a step or a path")
        return self


class WorkerSpec(OpenedSpec):
    """A model that writes candidate thoughts; see :class:`umekit.trainers.selection.Worker`."""

    name: str
    temperature: float | None = Field(default=None, ge=0)
    samples: int = Field(default=1, gt=0)
    top_p: float | None = Field(default=None, gt=0, le=1)
    max_new_tokens: int | None = Field(default=None, gt=0)
    sides: tuple[Literal["query", "positive"], ...] = ("query", "positive")


class SelectStep(_Strict):
    """Thoughts chosen from pools of candidates. ``settings`` are those of
    :class:`umekit.trainers.selection.SelectionSettings`, ``options`` go to :func:`umekit.trainers.selection.select`."""

    kind: Literal["select"]
    name: str
    source: str
    evaluator: OpenedSpec
    workers: tuple[WorkerSpec, ...] = ()
    data: DataSpec
    settings: dict[str, Any] = Field(default_factory=dict)
    options: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _unfiltered(self) -> SelectStep:
        if any(source.filter_thoughts is not None for source in self.data.sources):
            raise ValueError("filter_thoughts is for the rows of a training, after thoughts are chosen")
        return self


class SoupStep(_Strict):
    """The average of what several steps left: adapters of one start, or whole models."""

    kind: Literal["soup"]
    name: str
    source: str
    of: tuple[str, ...] = Field(min_length=2)
    weights: tuple[float, ...] | None = None


Step = Annotated[TrainStep | MineStep | ScoreStep | SelectStep | SoupStep, Field(discriminator="kind")]


class Recipe(_Strict):
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
