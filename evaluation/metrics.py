"""Ranking metrics, and how sure one may be of them.

Notable: equal scores are ties, and a tie counts *against* the model. A constant embedder, which a stable sort
would rank first everywhere, scores nothing here. The optimistic reading can be computed beside it, and
`warn_of_ties` speaks up where the two differ.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from math import sqrt
from statistics import NormalDist
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

Ties = Literal["pessimistic", "optimistic"]
Ints = NDArray[np.int64]
_CHUNK = 4096  # queries, and resamples of the bootstrap times 1,000, at a time


class TieWarning(UserWarning):
    """Ties decide a part of the score: the vectors are too coarse, or many of them are equal."""


def similarity(queries: ArrayLike, candidates: ArrayLike) -> NDArray[np.float32]:
    """Dot products [n, d] x [c, d] -> float32 [n, c].

    Summed in float64, so that equal vectors get equal scores wherever they stand in the matrix.
    """
    left, right = np.asarray(queries, dtype=np.float32), np.asarray(candidates, dtype=np.float32)
    turned = right.T.astype(np.float64)
    scores = np.empty((len(left), len(right)), dtype=np.float32)
    for start in range(0, len(left), _CHUNK):
        scores[start : start + _CHUNK] = left[start : start + _CHUNK].astype(np.float64) @ turned
    return scores


def ranks(scores: ArrayLike, positives: ArrayLike, ties: Ties = "pessimistic") -> Ints:
    """Rank of the only right candidate of each query, from 1.

    Args:
        scores: [n, c], compared as float32.
        positives: int [n], a column each.
        ties: which way equal scores count.

    >>> ranks([[0.5, 0.5, 0.1]], [0]).tolist(), ranks([[0.5, 0.5, 0.1]], [0], "optimistic").tolist()
    ([2], [1])
    """
    table = _finite(scores)
    places = np.asarray(positives, dtype=np.int64)
    if places.shape != table.shape[:1] or (
        len(places) and not 0 <= places.min() <= places.max() < table.shape[1]
    ):
        raise ValueError(f"positives {places.shape} are no column each of scores {table.shape}")
    own = table[np.arange(len(table)), places][:, None]
    if ties == "optimistic":
        return 1 + (table > own).sum(axis=1, dtype=np.int64)
    return (table >= own).sum(axis=1, dtype=np.int64)  # the positive itself is the 1


def candidate_ranks(scores: ArrayLike, relevance: ArrayLike, ties: Ties = "pessimistic") -> Ints:
    """Rank of *every* candidate, from 1, int [n, c]: for queries with several or graded positives.

    Among equal scores the less relevant come first (pessimistic) or last (optimistic).
    """
    table, gains = _finite(scores), _gains(relevance)
    if table.shape != gains.shape:
        raise ValueError(f"scores {table.shape} and relevance {gains.shape} differ in shape")
    order = np.lexsort((gains if ties == "pessimistic" else -gains, -table), axis=1)
    found = np.empty(order.shape, dtype=np.int64)
    np.put_along_axis(found, order, np.arange(1, order.shape[1] + 1)[None], axis=1)
    return found


def first_ranks(every: Ints, relevance: ArrayLike) -> Ints:
    """Rank of the best positive: [n, c] of `candidate_ranks` -> [n]."""
    return np.where(_gains(relevance) > 0, every, every.shape[1] + 1).min(axis=1)


def hit_at_k(positions: ArrayLike, k: int = 1) -> float:
    """Share of queries whose (best) positive, at rank `positions` [n], is among the first `k`.

    With one positive a query this is recall@k; M-BEIR's recall is this one, whatever the number of positives.
    """
    return float((_filled(positions) <= k).mean())


def recall_at_k(every: Ints, relevance: ArrayLike, k: int) -> float:
    """Mean share of a query's positives among the first `k`; `every` from `candidate_ranks`."""
    right = _gains(relevance) > 0
    return float((((every <= k) & right).sum(axis=1) / right.sum(axis=1)).mean())


def mrr(positions: ArrayLike, k: int | None = None) -> float:
    """Mean reciprocal rank of the (best) positive, [n] -> mean; 0 beyond rank `k`."""
    found = _filled(positions)
    return float(np.where(found <= (k or found.max()), 1 / found, 0.0).mean())


def ndcg_at_k(scores: ArrayLike, relevance: ArrayLike, k: int, ties: Ties = "pessimistic") -> float:
    """Mean nDCG@k with linear gain (gain = relevance), MMEB-V2's metric for documents. Needs scikit-learn."""
    try:
        from sklearn.metrics import ndcg_score
    except ImportError as error:
        raise ImportError("nDCG is scikit-learn's: pip install umekit[eval]") from error
    every = candidate_ranks(scores, relevance, ties)
    return float(ndcg_score(_gains(relevance), -every, k=k, ignore_ties=True))


def pass_at_k(right: ArrayLike, samples: int, k: int) -> NDArray[np.float64]:
    """The chance that of ``k`` samples at least one is right, [n] of counts -> float64 [n], unbiased.

    1 - C(samples - right, k) / C(samples, k) (Chen et al. 2021, arXiv 2107.03374, equation 1): drawn without
    replacement from ``samples`` of which ``right`` are right. To take the best of the first ``k`` would be noisier, and
    1 - (1 - right / samples)^k too small.

    >>> pass_at_k([0, 1, 4], samples=4, k=2).tolist()
    [0.0, 0.5, 1.0]
    """
    counts = np.asarray(right, dtype=np.int64)
    if not 1 <= k <= samples or (len(counts) and not 0 <= counts.min() <= counts.max() <= samples):
        raise ValueError(f"pass@{k} of {samples} samples: need 1 <= k <= samples, and as many right at most")
    factors = 1 - k / np.arange(1, samples + 1, dtype=np.float64)  # C(m - 1, k) / C(m, k) by m
    below = np.arange(1, samples + 1)[None] > samples - counts[:, None]
    return 1 - np.where(below, factors[None], 1.0).prod(axis=1)


def warn_of_ties(pessimistic: Ints, optimistic: Ints, what: str, k: int = 1) -> str | None:
    """Warn, and return the line, where ties move hit@k."""
    low, high = hit_at_k(pessimistic, k), hit_at_k(optimistic, k)
    if low == high:
        return None
    line = f"{what}: ties decide hit@{k}: {low:.4f} if they count against the model, {high:.4f} if for it"
    warnings.warn(line, TieWarning, stacklevel=2)
    return line


def wilson_lower_bound(correct: float, n: int, confidence: float = 0.99) -> float:
    """One-sided lower bound of a share (Wilson's score interval): true in `confidence` of all experiments.

    >>> round(wilson_lower_bound(98, 100), 3)
    0.915
    """
    if not 0 <= correct <= n or n < 1:
        raise ValueError(f"{correct} of {n} is no share")
    z, share = NormalDist().inv_cdf(confidence), correct / n
    centre = share + z * z / (2 * n)
    spread = z * sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return max(0.0, (centre - spread) / (1 + z * z / n))


@dataclass(frozen=True)
class Interval:
    """A difference of means and its two-sided interval."""

    difference: float
    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        return self.low > 0 or self.high < 0


def paired_bootstrap(
    ours: ArrayLike, theirs: ArrayLike, confidence: float = 0.95, resamples: int = 10_000, seed: int = 0
) -> Interval:
    """Percentile interval of mean(ours - theirs) over the same queries: hits, reciprocal ranks, [n] each."""
    left, right = np.asarray(ours, dtype=np.float64), np.asarray(theirs, dtype=np.float64)
    if left.shape != right.shape or left.ndim != 1 or not len(left):
        raise ValueError(f"need two results of the same queries, got {left.shape} and {right.shape}")
    gaps = left - right
    rng = np.random.default_rng(seed)
    step = max(1, _CHUNK * 1000 // len(gaps))
    means = np.concatenate(
        [
            gaps[rng.integers(0, len(gaps), (min(step, resamples - done), len(gaps)))].mean(axis=1)
            for done in range(0, resamples, step)
        ]
    )
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(float(gaps.mean()), float(low), float(high))


def _finite(scores: ArrayLike) -> NDArray[np.float32]:
    table = np.asarray(scores, dtype=np.float32)
    if table.ndim != 2 or not table.shape[1]:
        raise ValueError(f"scores must be [queries, candidates], got {table.shape}")
    if not np.isfinite(table).all():
        raise ValueError("a score is not finite")
    return table


def _gains(relevance: ArrayLike) -> NDArray[np.float64]:
    gains = np.asarray(relevance, dtype=np.float64)
    if gains.ndim != 2 or not (gains.max(axis=1, initial=0) > 0).all():
        raise ValueError(
            "every query needs a positive: relevance [queries, candidates] has a row without one"
        )
    return gains


def _filled(positions: ArrayLike) -> Ints:
    found = np.asarray(positions, dtype=np.int64)
    if not len(found):
        raise ValueError("no queries, no score")
    return found
