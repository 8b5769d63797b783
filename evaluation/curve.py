"""Measure the cost-quality curve: every query at once and after a thought, and what each strategy would have chosen."""

from __future__ import annotations

from collections.abc import Sequence
from time import perf_counter
from typing import Any

import numpy as np
from tqdm import tqdm

from ..encoding.probe_fitting import fit_probe, read_items
from ..modeling.strategies import Margin, Probe
from .conditions import Conditions
from .costs import Cost
from .curve_report import ALL, ALWAYS, BENCHMARK, IDEAL, METRIC, NEVER, CurveReport
from .curves import Floats, Outcomes
from .metrics import ranks, similarity
from .score import Score
from .thought_sensitivity import Questions


class Measured:
    """One task: outcomes of its queries, and the scores of each strategy.

    Attributes:
        outcomes: at once and after a thought.
        scores: strategy -> float64 ``[n]``.
        read: what they are decided on.
        costs: never, always, adaptive -> what encoding the queries took, one run each.
        adaptive_hits: with what the checkpoint itself decides; None where it was not asked.
    """

    def __init__(self, encoder: Any, one: Questions, options: dict[str, Any], own: bool) -> None:
        common = {"show_progress": False, "return_details": True}
        queries = list(one.queries)
        documents = encoder.encode(list(one.candidates), role="document", **options, **common).embeddings
        strategy = encoder.model.strategy_of() if own else None
        limits = {name: value for name, value in options.items() if name == "max_new_tokens"}
        self.read = read_items(encoder, queries, strategy, role="query", **limits)
        runs: dict[str, dict[str, Any]] = {
            NEVER: {"mode": "discriminative"},
            ALWAYS: {"mode": "generative", **limits},
        }
        if own:
            runs["adaptive"] = {"mode": "adaptive", **limits}
        found = {name: encoder.encode(queries, role="query", **common, **how) for name, how in runs.items()}
        hits = {name: self._hits(run.embeddings, documents, one) for name, run in found.items()}
        self.outcomes = Outcomes(
            hits[NEVER], hits[ALWAYS], np.asarray(found[ALWAYS].thought_tokens, dtype=np.float64)
        )
        margin = Margin(documents)
        self.scores: dict[str, Floats] = {"margin": margin.scores(None, self.read.prompts()).double().numpy()}
        if own:
            self.scores[encoder.model.settings.strategy] = self.read.scores
        self.costs = {
            name: Cost(len(queries), run.seconds, *_thoughts(run.thought_tokens))
            for name, run in found.items()
        }
        self.adaptive_hits = hits.get("adaptive")

    @staticmethod
    def _hits(vectors: Any, documents: Any, one: Questions) -> Floats:
        return np.asarray(ranks(similarity(vectors, documents), one.positives) == 1, dtype=np.float64)

    def add_probe(self, probe: Probe) -> None:
        self.scores["probe"] = probe.scores(None, self.read.prompts()).double().numpy()


def fit_on(
    encoder: Any, questions: Sequence[Questions], options: dict[str, Any], penalty: float = 1.0
) -> Probe:
    """A probe of where thoughts turn misses into hits, on these questions; ``options`` are the candidates'.

    Raises:
        ValueError: they do so everywhere or nowhere.
    """
    known = [Measured(encoder, one, options, own=False) for one in questions]
    states = np.concatenate([one.read.states for one in known])
    return fit_probe(states, np.concatenate([one.outcomes.helps() for one in known]), penalty=penalty)


def measure_curve(
    encoder: Any,
    questions: Sequence[Questions],
    data: dict[str, Any],
    *,
    fitted_on: Sequence[Questions] = (),
    document_mode: str = "adaptive",
    max_new_tokens: int | None = None,
    progress: bool = True,
    model: str = "a model",
    command: str = "measure_curve(...)",
) -> CurveReport:
    """Score queries at once, after a thought and by the checkpoint's own decisions, and sweep every threshold.

    Args:
        encoder: an :class:`umekit.Encoder` of an adaptive checkpoint.
        questions: what is asked.
        data: ``name``, ``split`` and ``revision``, for the report.
        fitted_on: other questions, of another split, that a probe is fitted on to stand beside the policy; none
            without.
        document_mode: how candidates are embedded, once, whatever the queries' side does.
        max_new_tokens: of a thought; the checkpoint's when None.
        progress: a bar.
        model, command: for the report.

    Raises:
        ValueError: the checkpoint does not decide; or a probe finds nothing to tell apart.
    """
    began = perf_counter()
    if "adaptive" not in encoder.model.modes:
        raise ValueError(f"this checkpoint is {encoder.model.settings.kind}: it decides nothing")
    options: dict[str, Any] = {"mode": document_mode}
    if max_new_tokens is not None and document_mode != "discriminative":
        options["max_new_tokens"] = max_new_tokens
    notes: list[str] = []
    probe = None
    if fitted_on:
        try:
            probe = fit_on(encoder, fitted_on, options)
        except ValueError as error:
            notes.append(f"no probe: {error}")
    tasks: dict[str, Measured] = {}
    for one in tqdm(questions, desc="curve", unit="task", disable=not progress):
        tasks[one.task] = Measured(encoder, one, options, own=True)
        if probe is not None:
            tasks[one.task].add_probe(probe)
    scores = [
        Score.of_queries(
            one.task,
            METRIC,
            hits,
            family=one.family,
            kind=kind,
            candidates=len(one.candidates),
            chance=1 / len(one.candidates),
        )
        for one in questions
        for kind, hits in _fixed(tasks[one.task]).items()
    ]
    curves = {name: _curves([task]) for name, task in tasks.items()}
    settings: dict[str, Any] = {"mode": "adaptive", "changed_side": "query", "document_mode": document_mode}
    settings |= {"max_new_tokens": max_new_tokens, "kappa": encoder.model.settings.kappa}
    complete: Any = {
        one.task: {"family": one.family, "kinds": ["adaptive", NEVER, ALWAYS, IDEAL], "metric": METRIC}
        for one in questions
    }
    costs = {
        f"queries, {name}": sum((task.costs[name] for task in tasks.values()), Cost()).to_dict()
        for name in (NEVER, ALWAYS, "adaptive")
    }
    return CurveReport(
        BENCHMARK,
        scores,
        encoder.fingerprint(),
        Conditions.of_run(
            began, model=model, settings=settings | {"encoder": repr(encoder)}, data=data, command=command
        ),
        complete=complete,
        notes=notes,
        costs=costs,
        curves={ALL: _curves([*tasks.values()]), **(curves if len(curves) > 1 else {})},
    )


def _fixed(task: Measured) -> dict[str, Floats]:
    """Hits without a threshold to choose."""
    found = task.outcomes
    assert task.adaptive_hits is not None, "measured with its own strategy"
    best = np.maximum(found.at_once, found.reasoned)
    return {"adaptive": task.adaptive_hits, NEVER: found.at_once, ALWAYS: found.reasoned, IDEAL: best}


def _curves(tasks: Sequence[Measured]) -> dict[str, list[dict[str, Any]]]:
    """Of tasks together, each query counted once, and one threshold for all."""
    names = ("at_once", "reasoned", "tokens")
    whole = Outcomes(*(np.concatenate([getattr(task.outcomes, name) for task in tasks]) for name in names))
    found = {NEVER: [whole.never()], ALWAYS: [whole.always()], IDEAL: [whole.ideal()]}
    for name in tasks[0].scores:
        found[name] = whole.sweep(np.concatenate([task.scores[name] for task in tasks]))
    return found


def _thoughts(tokens: Sequence[int]) -> tuple[int, int]:
    """How many thoughts, and their tokens."""
    return sum(1 for count in tokens if count), int(sum(tokens))
