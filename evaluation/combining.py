"""What several results of one benchmark would score together: an oracle over modes, and pass@k over samples."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .metrics import pass_at_k
from .report import Report
from .score import Score, pack

Floats = NDArray[np.float64]


def oracle(values: ArrayLike) -> Floats:
    """Each query as the best of several modes has it (UME-R1: right in either mode; of nDCG the larger).

    Args:
        values: [modes, n].

    >>> oracle([[1, 0, 0], [0, 0, 1]]).tolist()
    [1.0, 0.0, 1.0]
    """
    found = _samples(values)
    return np.asarray(found.max(axis=0), dtype=np.float64)


def passed(values: ArrayLike, k: int) -> Floats:
    """pass@k of every query from its samples, 0 or 1 each: [samples, n] -> [n].

    >>> passed([[1, 0], [0, 0], [0, 1]], 2).round(3).tolist()
    [0.667, 0.667]
    """
    found = _samples(values)
    if not np.isin(found, (0, 1)).all():
        raise ValueError("pass@k is of what is right or wrong, hit@k for instance, and not of graded values")
    return pass_at_k(found.sum(axis=0).astype(np.int64), len(found), k)


def oracle_report(reports: Sequence[Report]) -> Report:
    """Raises ValueError: one report, reports of two benchmarks, or of other queries."""
    return _combined(reports, oracle, "oracle over " + ", ".join(_mode(one) for one in reports))


def pass_at_k_report(reports: Sequence[Report], k: int) -> Report:
    """Of one model's reports that differ in their seeds; it says whose thoughts they draw. Raises ValueError, also
    where two have one seed, or do not draw those of the same side."""
    if any(one.fingerprint != reports[0].fingerprint for one in reports):
        raise ValueError("samples must be drawn by one model, and these results are of several")
    seeds = [one.conditions.settings.get("seed") for one in reports]
    if len(set(seeds)) < len(seeds):
        raise ValueError(f"samples must be drawn with different seeds, and these have {seeds}")
    sides = {str(one.conditions.settings.get("sampled_side")) for one in reports}
    if len(sides) > 1 or sides == {"None"}:
        raise ValueError(
            f"samples must be drawn on one and the same side, and these say {', '.join(sorted(sides))}"
        )
    words = f"pass@{k} of {len(reports)} samples, drawn on the {sides.pop()} side"
    return _combined(reports, lambda values: passed(values, k), words)


def _combined(reports: Sequence[Report], of: Callable[[ArrayLike], Floats], words: str) -> Report:
    first = reports[0]
    if len(reports) < 2:
        raise ValueError("several results are combined: give at least two")
    if len({one.benchmark for one in reports}) > 1:
        raise ValueError(
            f"results of {', '.join(sorted({one.benchmark for one in reports}))} can't be combined"
        )
    scores: list[Score] = []
    for score in first.scores:
        every = [one.score(score.task, score.kind, score.metric) for one in reports]
        there = [one for one in every if one is not None and one.per_query]
        if len(there) < len(reports) or len({(one.n, one.revision) for one in there}) > 1:
            raise ValueError(f"{score.label}: not in all results with values of the same queries")
        values = of(np.stack([one.query_values() for one in there]))
        plain = {
            name: getattr(score, name) for name in ("task", "metric", "n", "family", "kind", "candidates")
        }
        scores.append(
            Score(**plain, value=float(values.mean()), per_query=pack(values), revision=score.revision)
        )
    models = ", ".join(dict.fromkeys(one.conditions.model for one in reports))
    settings = {**first.conditions.settings, "mode": words, "seed": None}
    conditions = replace(first.conditions, model=models, settings=settings)
    return Report(
        first.benchmark,
        scores,
        first.fingerprint,
        conditions,
        first.complete,
        [f"{words}: no model scores this"],
    )


def _mode(report: Report) -> str:
    return str(report.conditions.settings.get("mode") or "the default mode")


def _samples(values: ArrayLike) -> Floats:
    found = np.asarray(values, dtype=np.float64)
    if found.ndim != 2 or not found.size:
        raise ValueError(f"values are [samples, queries], not {found.shape}")
    return found
