"""Metrics of ranks, a value for each query; and what guessing would score.

nDCG is scikit-learn's (gain = relevance, the "linear" of MMEB-V2; trec_eval takes whole gains alone, and memory for
each up to the highest), recall trec_eval's; hit and reciprocal rank follow from one rank. mAP@k is CIRCO's, which
divides by min(relevant, k) where trec_eval divides by all that is relevant.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from math import comb

import numpy as np
from numpy.typing import NDArray

_METRIC = re.compile(r"(hit|recall|ndcg_linear|map|mrr)@(\d+)")
Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


def parse_metric(name: str) -> tuple[str, int]:
    """``ndcg_linear@5`` -> its kind and k. Raises ValueError."""
    found = _METRIC.fullmatch(name)
    if found is None or not int(found[2]):
        raise ValueError(f"no metric {name!r}; there are hit@k, recall@k, ndcg_linear@k, map@k and mrr@k")
    return found[1], int(found[2])


def per_query(metric: str, ranks: Sequence[Ints], gains: Sequence[Floats]) -> Floats:
    """A value in 0..1 for each query, [n].

    Args:
        metric: its name.
        ranks: of everything that is relevant for a query, sorted.
        gains: of the same.
    """
    kind, k = parse_metric(metric)
    first = np.array([int(one[0]) for one in ranks], dtype=np.int64)
    if kind == "hit":
        return (first <= k).astype(np.float64)
    if kind == "mrr":
        return np.where(first <= k, 1 / first, 0.0)
    if kind == "map":
        return np.array([_average_precision(one, k) for one in ranks])
    return _recall(k, ranks) if kind == "recall" else _ndcg(k, ranks, gains)


def chance(metric: str, sizes: Ints, gains: Sequence[Floats]) -> float:
    """The mean over queries of what a random order scores; ``sizes`` of the pools, [n]."""
    kind, k = parse_metric(metric)
    return float(np.mean([_guess(kind, k, int(size), one) for size, one in zip(sizes, gains, strict=True)]))


def _average_precision(ranks: Ints, k: int) -> float:
    hits = ranks[ranks <= k]
    return float((np.arange(1, len(hits) + 1) / hits).sum() / min(len(ranks), k))


def _recall(k: int, ranks: Sequence[Ints]) -> Floats:
    """trec_eval reads a run: what is relevant stands at its rank, nobody in particular at the others up to k.

    Raises:
        ImportError: without pytrec_eval.
    """
    try:
        import pytrec_eval
    except ImportError as error:
        raise ImportError("recall is pytrec_eval's: pip install umekit[eval]") from error
    qrels, run = {}, {}
    for number, places in enumerate(ranks):
        qrels[str(number)] = {f"r{at}": 1 for at in range(len(places))}
        order = {int(place): f"r{at}" for at, place in enumerate(places) if place <= k}
        run[str(number)] = {order.get(place, f"n{place}"): float(-place) for place in range(1, k + 1)}
    found = pytrec_eval.RelevanceEvaluator(qrels, {f"recall.{k}"}).evaluate(run)
    return np.array([found[str(number)][f"recall_{k}"] for number in range(len(ranks))], dtype=np.float64)


def _ndcg(k: int, ranks: Sequence[Ints], gains: Sequence[Floats]) -> Floats:
    """scikit-learn sorts columns: what is relevant by its rank, and one that is not at each rank before the last.

    Raises:
        ImportError: without scikit-learn.
    """
    try:
        from sklearn.metrics import ndcg_score
    except ImportError as error:
        raise ImportError("nDCG is scikit-learn's: pip install umekit[eval]") from error
    found = np.empty(len(ranks))
    for number, (places, values) in enumerate(zip(ranks, gains, strict=True)):
        last = int(places.max())
        others = np.setdiff1d(np.arange(1, min(k, last) + 1), places)
        columns = np.concatenate([places, others, [last + 1]])
        truth = np.concatenate([values, np.zeros(len(others) + 1)])
        found[number] = ndcg_score(truth[None], -columns[None], k=k, ignore_ties=True)
    return found


def _guess(kind: str, k: int, size: int, gains: Floats) -> float:
    right = len(gains)
    if kind == "hit":
        return 1 - comb(size - right, k) / comb(size, k) if k < size else 1.0
    if kind == "recall":
        return min(k, size) / size
    places = np.arange(1, min(k, size) + 1)
    if kind == "ndcg_linear":
        ideal = np.sort(gains)[::-1][:k]
        best = float((ideal / np.log2(np.arange(2, len(ideal) + 2))).sum())
        return float(gains.sum() / size * (1 / np.log2(places + 1)).sum() / best)
    if kind == "map":
        others = (right - 1) / (size - 1) if size > 1 else 0.0
        return float((right / size * (1 + (places - 1) * others) / places).sum() / min(right, k))
    # the first of `right` stands at place p with comb(size - p, right - 1) / comb(size, right)
    return float(sum(comb(size - int(p), right - 1) / comb(size, right) / int(p) for p in places))
