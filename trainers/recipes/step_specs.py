"""The steps of a recipe and what they are made of; an unknown entry, or one of a wrong type, is an error."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from ..registry import TRAINERS


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ModelSpec(Strict):
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


class PromptSpec(Strict):
    """How items are rendered and read: a training prompt by name, and changes of the model's settings."""

    name: str | None = None
    attention: Literal["causal", "bidirectional"] | None = None
    positions: Literal["mrope", "1d"] | None = None
    deepstack: bool | None = None


class LoraSpec(Strict):
    """A LoRA on the linear layers of some parts of the backbone."""

    rank: int = Field(gt=0)
    alpha: int = Field(gt=0)
    dropout: float = Field(default=0.0, ge=0, lt=1)
    parts: tuple[Literal["language", "vision", "merger"], ...] = ("language",)
    dora: bool = False


class SourceSpec(Strict):
    """One data set: rows with ``query``, ``positive`` and perhaps ``negatives`` or ``candidates``.

    ``format`` is the name of a reader, ``options`` go to it. ``group``: sets of one group are batched as one
    (RzenEmbed's classification sets). ``cap``: most rows of an epoch. ``fraction``: of the rows of every task, drawn by
    the recipe's seed, the same ones in every step that reads as many. ``step``: rows that a mining, scoring or
    selecting step wrote. ``filter_thoughts``: leave out rows with bad thoughts, by
    :func:`umekit.trainers.thought_filters.filter_thoughts`, whose options these are; ``{}`` for its defaults.
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


class DataSpec(Strict):
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


class LearningRateRule(Strict):
    """``learning_rate`` holds for ``batch`` rows; at another global batch it is scaled by the ratio to ``power``.

    U-MARVEL table 4: (480, 1e-4), (1920, 2e-4), (3840, 4e-4), so roughly the square root.
    """

    batch: int = Field(gt=0)
    power: float = 0.5


class TrainStep(Strict):
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


class MineStep(Strict):
    """Hard negatives for rows, found by the model of another step. ``options`` go to :func:`umekit.trainers.mine`."""

    kind: Literal["mine"]
    name: str
    source: str
    start: str | None = None
    data: DataSpec
    options: dict[str, Any] = Field(default_factory=dict)


class ScoreStep(Strict):
    """A teacher's scores for rows with lists of candidates. ``start``: the embedder; ``reranker``: the step that left
    the teacher. ``options`` go to :func:`umekit.trainers.scoring.score`."""

    kind: Literal["score"]
    name: str
    source: str
    start: str
    reranker: str
    data: DataSpec
    options: dict[str, Any] = Field(default_factory=dict)


class OpenedSpec(Strict):
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


class SelectStep(Strict):
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


class SoupStep(Strict):
    """The average of what several steps left: adapters of one start, or whole models."""

    kind: Literal["soup"]
    name: str
    source: str
    of: tuple[str, ...] = Field(min_length=2)
    weights: tuple[float, ...] | None = None


Step = Annotated[TrainStep | MineStep | ScoreStep | SelectStep | SoupStep, Field(discriminator="kind")]
