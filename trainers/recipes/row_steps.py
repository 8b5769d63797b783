"""The steps that leave rows: mining, scoring, selecting thoughts."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any

import torch

from ...encoding.encoder import Encoder
from ...encoding.loading import load
from ..mining import mine
from ..scoring import score
from ..selection import SelectionSettings, Worker, select
from ..selection.workers import open_thinker
from .schema import RecipeError
from .sources import eval_rows, open_sources
from .step_specs import MineStep, OpenedSpec, ScoreStep, SelectStep
from .steps import StepContext, model_options, sources_of, start_of_step


def mine_step(step: MineStep, context: StepContext) -> dict[str, Any]:
    """Find hard negatives for the rows of all sources together."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model, processor = start_of_step(context, context.recipe.start_of(step), device)
    rows: Any = eval_rows(sources_of(step.data, context, processor))
    encoder: Any = Encoder(model, processor)
    report = mine(encoder, rows, out=context.folder / "rows", **step.options)
    return {"result": "rows", **dataclasses.asdict(report)}


def score_step(step: ScoreStep, context: StepContext) -> dict[str, Any]:
    """Score the candidates of all sources' rows by the embedder and by the teacher."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    embedder: Any = Encoder(*start_of_step(context, step.start, device))
    teacher: Any = load(
        context.result_of(step.reranker), device=device, **model_options(context.recipe.model)
    )
    if not hasattr(teacher, "rerank"):
        raise RecipeError(f"step {step.name}: what {step.reranker!r} left scores no pairs")
    rows: Any = eval_rows(sources_of(step.data, context, embedder.processor))
    report = score(embedder, teacher, rows, out=context.folder / "rows", **step.options)
    assert report is not None
    return {"result": "rows", **dataclasses.asdict(report)}


def select_step(step: SelectStep, context: StepContext) -> dict[str, Any]:
    """Choose among the candidate thoughts of all sources' rows."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    settings, options = selection_settings(step), model_options(context.recipe.model)

    def found(spec: OpenedSpec) -> dict[str, Any]:
        where = spec.path if spec.step is None else context.result_of(spec.step)
        return {"path": where, "preset": spec.preset, "revision": spec.revision, "device": device}

    def evaluator() -> Any:
        judge: Any = load(**found(step.evaluator), **options)
        if not hasattr(judge, "rerank_many"):
            raise RecipeError(f"step {step.name}: the evaluator answers no pairs with yes or no")
        return judge

    workers = []
    for one in step.workers:
        drawn = one.model_dump(include={"name", "temperature", "samples", "top_p", "max_new_tokens", "sides"})
        workers.append(Worker(model=partial(open_thinker, **found(one), **options), **drawn))
    sources = open_sources(step.data, context.formats, context.result_of, None, context.recipe.seed)
    rows: Any = eval_rows(sources)
    report = select(
        evaluator, rows, out=context.folder / "rows", settings=settings, workers=workers, **step.options
    )
    assert report is not None
    return {"result": "rows", **dataclasses.asdict(report)}


def selection_settings(step: SelectStep) -> SelectionSettings:
    """The settings of a step.

    Raises:
        RecipeError: there is no such setting, or it cannot have this value.
    """
    try:
        given: dict[str, Any] = {
            name: tuple(one) if name == "sides" else one for name, one in step.settings.items()
        }
        return SelectionSettings(**given)
    except (ValueError, TypeError) as error:
        raise RecipeError(f"step {step.name}: settings: {error}") from None
