"""The share of the recall score in a cascade, and its depth, chosen on queries whose right answers are known."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..encoding.cascade_folder import Fusion
from ..encoding.index.two_stage import DEPTH, FUSION, fuse
from .fusing import levels_of
from .metrics import candidate_ranks
from .ranked import parse_metric, per_query

ALPHAS = tuple(round(share, 2) for share in np.linspace(0, 1, 21).tolist())
MIN_QUERIES = 50
METRIC = "hit@1"
_NOWHERE = 1 << 62  # rank of what was not recalled
_SAME = 1e-12  # of two means


@dataclass(frozen=True)
class Judged:
    """A query's candidates with both scores, and which of them are right.

    Attributes:
        task: the query's; None where tasks are not told apart.
        recall, rerank: float32 ``[c]``.
        relevant: bool ``[c]``.
        positives: how many candidates are right in all; those that are not among the ``c`` count as missed.
    """

    task: str | None
    recall: NDArray[np.float32]
    rerank: NDArray[np.float32]
    relevant: NDArray[np.bool_]
    positives: int

    def __post_init__(self) -> None:
        shape = (len(self.recall),)
        if not self.recall.shape == self.rerank.shape == self.relevant.shape == shape or not shape[0]:
            raise ValueError("both scores and relevance of every candidate are needed")
        if not (np.isfinite(self.recall).all() and np.isfinite(self.rerank).all()):
            raise ValueError("a score is not finite")
        if self.positives < max(1, int(self.relevant.sum())):
            raise ValueError(
                f"{self.positives} positives, and {int(self.relevant.sum())} among the candidates"
            )


@dataclass(frozen=True)
class Tuning:
    """The metric of every task at every depth and share, and what was chosen.

    Attributes:
        metric: as in :mod:`umekit.evaluation.ranked`.
        alphas: shares of the recall score that were tried. depths: candidates that are scored again.
        queries: task -> how many.
        curves: task -> the metric's mean over its queries, ``[depths][alphas]``.
        depth: the smallest one that is as good as the best.
        alpha: the share of all, by the plain mean over tasks; for tasks that have none of their own.
        tasks: task -> its own share, where there are queries enough.
    """

    metric: str
    alphas: list[float]
    depths: list[int]
    queries: dict[str, int]
    curves: dict[str, list[list[float]]]
    depth: int
    alpha: float
    tasks: dict[str, float]

    @property
    def fusion(self) -> Fusion:
        return Fusion(self.alpha, self.tasks, self.depth)

    def value(self, task: str, alpha: float) -> float:
        """The metric of a task at the depth that was chosen."""
        return self.curves[task][self.depths.index(self.depth)][self.alphas.index(alpha)]

    def rows(self) -> tuple[list[str], list[list[Any]]]:
        """Headers and rows of a table: a task, its share, and the metric there, without one of the models, and half and
        half."""
        alone = {"recall alone": 1.0, "reranker alone": 0.0, f"alpha {FUSION}": FUSION}
        shown = {name: share for name, share in alone.items() if share in self.alphas}
        rows = []
        for task, count in self.queries.items():
            share = self.tasks.get(task, self.alpha)
            values = [self.value(task, one) for one in (share, *shown.values())]
            rows.append([task or "-", count, share, "own" if task in self.tasks else "of all", *values])
        return ["task", "queries", "alpha", "whose", self.metric, *shown], rows


def tune(
    cases: Iterable[Judged],
    *,
    metric: str = METRIC,
    alphas: Sequence[float] = ALPHAS,
    depths: Sequence[int] = (DEPTH,),
    min_queries: int = MIN_QUERIES,
    depth_slack: float = 0.0,
) -> Tuning:
    """Choose alpha for each task and for all, and the depth.

    At every depth and alpha the first candidates by recall are ranked by ``alpha * recall + (1 - alpha) * rerank``, and
    the others keep their places behind them; ties count against the cascade. Of alphas that are equally good the one
    nearest to :data:`FUSION` is taken.

    Args:
        cases: of the validation queries; they are read once and not kept.
        metric: ``hit@k``, ``mrr@k``, ``map@k``, and of ``umekit[eval]`` ``recall@k`` and ``ndcg_linear@k``.
        alphas: to try, in 0..1. depths: to try, 1 or more.
        min_queries: a task with fewer has no alpha of its own.
        depth_slack: how much of the metric (the mean over tasks, each at its best alpha) may be given up for a smaller
            depth.

    Raises:
        ValueError: no queries, none whose candidates hold a positive, or settings that cannot be.
    """
    parse_metric(metric)
    shares, reaches = sorted(set(map(float, alphas))), sorted(set(depths))
    Fusion(tasks={str(share): share for share in shares})
    if not shares or not reaches or reaches[0] < 1 or min_queries < 1 or not 0 <= depth_slack < 1:
        raise ValueError("give alphas, depths and min_queries of 1 or more, and a depth_slack in 0..1")
    sums: dict[str, NDArray[np.float64]] = {}
    queries: dict[str, int] = {}
    recalled = False
    for case in cases:
        task = case.task or ""
        recalled |= bool(case.relevant.any())
        values = [
            per_query(metric, _ranks(case, shares, depth), [np.ones(case.positives)] * len(shares))
            for depth in reaches
        ]
        sums[task] = sums.get(task, np.zeros((len(reaches), len(shares)))) + np.stack(values)
        queries[task] = queries.get(task, 0) + 1
    if not recalled:
        told = "among the candidates of any query: do their ids match?" if queries else "without queries"
        raise ValueError(f"no positive {told}")
    curves = {task: total / queries[task] for task, total in sums.items()}
    best = np.mean([curve.max(axis=1) for curve in curves.values()], axis=0)
    place = int(np.argmax(best >= best.max() - depth_slack - _SAME))
    own = {
        task: _best(shares, curve[place])
        for task, curve in curves.items()
        if task and queries[task] >= min_queries
    }
    return Tuning(
        metric,
        shares,
        reaches,
        queries,
        {task: curve.tolist() for task, curve in curves.items()},
        reaches[place],
        _best(shares, np.mean([curve[place] for curve in curves.values()], axis=0)),
        own,
    )


def _best(shares: Sequence[float], values: NDArray[np.float64]) -> float:
    good = [share for share, value in zip(shares, values, strict=True) if value >= values.max() - _SAME]
    return min(good, key=lambda share: (abs(share - FUSION), share))


def _ranks(case: Judged, shares: Sequence[float], depth: int) -> list[NDArray[np.int64]]:
    """Sorted ranks of the positives at each share, int64 [positives] each."""
    if not case.relevant.any():
        return [np.full(case.positives, _NOWHERE)] * len(shares)
    reach = np.argsort(-case.recall, kind="stable")[:depth]
    levels = np.stack(
        [levels_of(case.recall, reach, fuse(case.recall[reach], case.rerank[reach], one)) for one in shares]
    )
    every = candidate_ranks(levels, np.tile(case.relevant, (len(shares), 1)))
    missed = np.full(case.positives - int(case.relevant.sum()), _NOWHERE)
    return [np.concatenate([np.sort(row[case.relevant]), missed]) for row in every]
