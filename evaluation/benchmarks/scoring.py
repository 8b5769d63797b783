"""Vectors of a task to its score."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..ranked import chance, parse_metric, per_query
from ..ranking import ORDERS, Order, Ranks, rank, tie_line, top
from .problem import Problem
from .report import BenchmarkScore

Vectors = NDArray[np.float32]
NAMED = 3  # failures in a note


@dataclass(frozen=True)
class Left:
    """A problem without what could not be encoded; ``asked`` says which queries are left, and can be right.

    ``lost`` has for each of these the gains of what is relevant and could not be encoded.
    """

    problem: Problem
    asked: list[int]
    queries: Vectors
    candidates: Vectors
    lost: list[list[float]]

    def per_query(self, ranks: Ranks, order: Order) -> NDArray[np.float64]:
        """The task's metric of what is left, [n]; what is lost stands behind everything."""
        places, gains = ranks.of(order)
        behind = max(parse_metric(self.problem.task.metric)[1], len(self.problem.candidates)) + 1
        return per_query(
            self.problem.task.metric,
            [
                np.concatenate([own, behind + np.arange(len(lost))])
                for own, lost in zip(places, self.lost, strict=True)
            ],
            [np.concatenate([own, lost]) for own, lost in zip(gains, self.lost, strict=True)],
        )


def without_failures(problem: Problem, queries: Vectors, candidates: Vectors) -> Left | None:
    """What is left of a problem; None where no query can be right any more."""
    good, ready = _whole(candidates), _whole(queries)
    if good.all() and ready.all():
        return Left(problem, list(range(len(queries))), queries, candidates, [[] for _ in queries])
    place = np.cumsum(good) - 1
    relevant = [
        {int(place[one]): gain for one, gain in right.items() if good[one]} for right in problem.relevant
    ]
    asked = [number for number, right in enumerate(relevant) if right and ready[number]]
    if not asked:
        return None
    pools = None
    if problem.pools is not None:
        pools = [place[problem.pools[number]][good[problem.pools[number]]] for number in asked]
    modalities = (
        [kind for kind, there in zip(problem.modalities, good, strict=True) if there]
        if problem.modalities
        else []
    )
    left = Problem(
        problem.task,
        [problem.queries[number] for number in asked],
        [entry for entry, there in zip(problem.candidates, good, strict=True) if there],
        [relevant[number] for number in asked],
        pools,
        problem.wanted,
        modalities,
        problem.notes,
    )
    lost = [[gain for one, gain in problem.relevant[number].items() if not good[one]] for number in asked]
    return Left(left, asked, queries[asked], candidates[good], lost)


def score_problem(
    problem: Problem,
    queries: Vectors,
    candidates: Vectors,
    *,
    kind: str = "",
    revision: str = "",
    ranks: Ranks | None = None,
    first: Sequence[NDArray[np.int64]] | None = None,
) -> tuple[BenchmarkScore, list[str]]:
    """The score of a task, and what its reader must know.

    Args:
        queries, candidates: [n, d] and [c, d]; NaN where an item could not be encoded.
        kind: of the pool, where the benchmark has several.
        ranks: those of a reranker, of the queries that ``without_failures`` leaves; by the vectors when None.
        first: the candidates that it has sorted, of the same queries.
    """
    task = problem.task
    failed = int((~np.isfinite(queries).all(axis=1)).sum() + (~np.isfinite(candidates).all(axis=1)).sum())
    left = without_failures(problem, queries, candidates)
    values = {order: np.zeros(len(queries)) for order in ORDERS}
    wrong = None
    notes = [*problem.notes, *problem.counts()]
    if left is not None:
        if ranks is None:
            ranks = rank(left.queries, left.candidates, left.problem.relevant, left.problem.pools)
        for order in ORDERS:
            values[order][left.asked] = left.per_query(ranks, order)
        wrong = _wrong_modality(left, first)
        if constant(left.queries) or constant(left.candidates):
            notes.append(f"{task.name}: all queries, or all candidates, have one and the same vector")
    gains = [np.array(list(right.values())) for right in problem.relevant]
    found = BenchmarkScore.of_queries(
        task.name,
        task.metric,
        values["pessimistic"],
        family=task.family,
        kind=kind,
        candidates=int(problem.pool_sizes().max()),
        chance=chance(task.metric, problem.pool_sizes(), gains),
        revision=revision,
        optimistic=float(values["optimistic"].mean()),
        official=float(values["official"].mean()),
        wrong_modality=wrong,
        failed=failed,
    )
    if ranks is not None:
        means = {order: float(values[order].mean()) for order in ORDERS}
        if line := tie_line(ranks, means, found.label, task.metric):
            notes.append(line)
    return found, notes


def failures_line(name: str, reasons: Sequence[tuple[str, str]]) -> str:
    """Of what could not be encoded."""
    shown = "; ".join(f"{who}: {why}" for who, why in reasons[:NAMED])
    more = f" and {len(reasons) - NAMED} more" if len(reasons) > NAMED else ""
    return f"{name}: {len(reasons)} items could not be encoded and count as wrong ({shown}{more})"


def _whole(vectors: Vectors) -> NDArray[np.bool_]:
    """Rows that are there, [n]."""
    return np.asarray(np.isfinite(vectors).all(axis=1))


def constant(vectors: Vectors) -> bool:
    """Whether several vectors are all equal."""
    return len(vectors) > 1 and bool((vectors == vectors[0]).all())


def _wrong_modality(left: Left, first: Sequence[NDArray[np.int64]] | None) -> float | None:
    problem, k = left.problem, parse_metric(left.problem.task.metric)[1]
    if not problem.wanted or len(set(problem.modalities)) < 2:
        return None
    found, _ = top(left.queries, left.candidates, k, problem.pools)
    if first is not None:
        found = [
            np.concatenate([own, rest[~np.isin(rest, own)]])[:k]
            for own, rest in zip(first, found, strict=True)
        ]
    right = np.array([kind == problem.wanted for kind in problem.modalities])
    return float(1 - np.mean([right[one].mean() for one in found]))
