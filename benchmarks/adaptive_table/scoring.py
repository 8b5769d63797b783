"""A checkpoint is asked the mix: every query at once and after a thought, and what each strategy would have chosen.

Decisions change and vectors do not, so both hits of a query and the order in which strategies would think of the
queries are all that any kappa, and any budget of tokens, needs. All of it is kept, so that arms are compared query by
query. Candidates are words, which nobody thinks of: they are embedded at once, the same ones for every reading.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from findings_table.store import pack
from measuring import rounds
from numpy.typing import NDArray

import umekit
from umekit.encoding.encoder import Encoder
from umekit.encoding.probe_fitting import ReadItems, fit_probe, read_items
from umekit.evaluation.curves import Floats, Outcomes
from umekit.evaluation.metrics import ranks, similarity
from umekit.modeling.strategies import Margin, Policy, Strategy

from .rows import Asked, asked

BUDGETS = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)  # of the tokens of thinking always
# Of them, what kappa may spend on validation handwriting: the test takes a little more or less, and 0.6 is claimed.
SHARE = 0.55
TIMED, REPEATS = 320, 3  # queries, and times that they are encoded in each mode


@dataclass(frozen=True)
class Met:
    """A part of the mix, asked. ``scores``: of each query by strategy."""

    asked: Asked
    outcomes: Outcomes
    scores: dict[str, Floats]
    read: ReadItems


def meet(encoder: Encoder, one: Asked) -> Met:
    """Ask the queries of a part."""
    own = one.questions
    labels = encoder.encode([*own.candidates], role="document", mode="discriminative", show_progress=False)
    read = read_items(encoder, own.queries, Policy(), role="query")
    found = encoder.encode(
        [*own.queries], role="query", mode="generative", return_details=True, show_progress=False
    )
    at_once, reasoned = (
        np.asarray(ranks(similarity(vectors, labels), own.positives) == 1, dtype=np.float64)
        for vectors in (read.direct, found.embeddings)
    )
    tokens = np.asarray(found.thought_tokens, dtype=np.float64)
    scores = {"policy": read.scores, "margin": _scores(Margin(labels), read)}
    return Met(one, Outcomes(at_once, reasoned, tokens), scores, read)


def _scores(strategy: Strategy, read: ReadItems) -> Floats:
    found: Floats = strategy.scores(None, read.prompts()).double().numpy()
    return found


def together(met: Sequence[Met]) -> Outcomes:
    """Of all parts."""
    names = ("at_once", "reasoned", "tokens")
    return Outcomes(*(np.concatenate([getattr(one.outcomes, name) for one in met]) for name in names))


def all_scores(met: Sequence[Met]) -> dict[str, Floats]:
    """Of all parts, by strategy."""
    return {name: np.concatenate([one.scores[name] for one in met]) for name in met[0].scores}


def levels(scores: Floats, tokens: Floats) -> NDArray[np.uint8]:
    """The smallest of ``BUDGETS`` under which each query is thought about; their number where it is under none.

    Thoughts are spent on the highest scores first, of equal ones in an order that is drawn.
    """
    drawn = np.random.default_rng(0).permutation(len(scores))
    order = np.lexsort((drawn, -scores))
    spent = np.cumsum(tokens[order]) / max(tokens.sum(), 1)
    found = np.empty(len(scores), dtype=np.uint8)
    found[order] = np.searchsorted(BUDGETS, spent)
    return found


def at_budgets(level: NDArray[np.uint8], at_once: Floats, reasoned: Floats) -> Floats:
    """Hits of every query under each budget: ``[budgets, queries]``."""
    return np.stack([np.where(level <= place, reasoned, at_once) for place in range(len(BUDGETS))])


def best_kappa(outcomes: Outcomes, scores: Floats) -> float:
    """The threshold that scores most with at most ``SHARE`` of all thoughts' tokens; of equal ones the cheapest."""
    limit = SHARE * outcomes.always()["tokens_per_item"]
    points = [one for one in outcomes.sweep(scores) if one["tokens_per_item"] <= limit]
    best = max(points, key=lambda one: (one["score"], -one["tokens_per_item"]))
    return float(min(max(best["kappa"], 0.0), 1.0))


def score(checkpoint: Path, queries: int, validation: int) -> dict[str, Any]:
    """Everything that the table asks of an arm."""
    encoder: Encoder = umekit.load(checkpoint, role="adaptive", device="cpu", dtype=torch.float32)
    known = [meet(encoder, one) for one in asked("validation", validation)]
    outcomes, scores = together(known), all_scores(known)
    kappa = best_kappa(outcomes, scores["policy"])
    mix = asked("test", queries)
    met = [meet(encoder, one) for one in mix]
    try:
        probe = fit_probe(np.concatenate([one.read.states for one in known]), outcomes.helps())
    except ValueError:  # a thought helps nowhere there, so nothing could be told apart
        probe = None
    if probe is not None:
        for one in (*known, *met):
            one.scores["probe"] = _scores(probe, one.read)
    curve = {
        name: _means(levels(found, outcomes.tokens), outcomes) for name, found in all_scores(known).items()
    }
    return {
        "kappa": kappa,
        "helps": round(float(outcomes.helps().mean()), 4),
        "validation_curve": curve,
        **_facts(met, kappa),
        "seconds": seconds(encoder, mix, kappa),
    }


def _means(level: NDArray[np.uint8], outcomes: Outcomes) -> list[float]:
    """Share of hits under each budget."""
    hits = at_budgets(level, outcomes.at_once, outcomes.reasoned)
    return [round(float(one), 4) for one in hits.mean(axis=1)]


def _facts(met: Sequence[Met], kappa: float) -> dict[str, Any]:
    outcomes, scores = together(met), all_scores(met)
    thinks = scores["policy"] > kappa
    names = [one.asked.part.name for one in met]
    sizes = [len(one.outcomes.tokens) for one in met]
    ends = np.cumsum(sizes)[:-1]
    parts = zip(names, sizes, *(np.split(one, ends) for one in (outcomes.tokens, thinks)), strict=True)
    return {
        "parts": {
            name: {
                "queries": size,
                "thinks": round(float(chosen.mean()), 4),
                "tokens": round(float((tokens * chosen).mean()), 2),
                "always_tokens": round(float(tokens.mean()), 2),
            }
            for name, size, tokens, chosen in parts
        },
        "hops": pack(np.concatenate([one.asked.hops for one in met]).astype(np.uint8)),
        "never": pack(outcomes.at_once.astype(np.uint8)),
        "always": pack(outcomes.reasoned.astype(np.uint8)),
        "thinks": pack(thinks.astype(np.uint8)),
        "levels": {name: pack(levels(found, outcomes.tokens)) for name, found in scores.items()},
        "tokens": {
            "always": outcomes.always()["tokens_per_item"],
            "adaptive": outcomes.point(thinks)["tokens_per_item"],
            "ideal": outcomes.ideal()["tokens_per_item"],
        },
    }


def seconds(encoder: Encoder, mix: Sequence[Asked], kappa: float) -> dict[str, float]:
    """Median seconds an item of encoding a part of the mix in each mode, in turns, at the encoder's own batch sizes."""
    total = sum(len(one.questions.queries) for one in mix)
    items = [
        query
        for one in mix
        for query in one.questions.queries[: -(-TIMED * len(one.questions.queries) // total)]
    ]
    ways: dict[str, dict[str, Any]] = {
        "never": {"mode": "discriminative"},
        "adaptive": {"mode": "adaptive", "strategy": "policy", "kappa": kappa},
        "always": {"mode": "generative"},
    }

    def encode(how: dict[str, Any]) -> Any:
        return encoder.encode(items, role="query", show_progress=False, **how)

    encode({"mode": "discriminative"})  # so that nothing is made for the first time
    found = rounds({name: lambda how=how: encode(how) for name, how in ways.items()}, REPEATS)  # type: ignore[misc]
    return {name: round(float(np.median(times)) / len(items), 6) for name, times in found.items()}
