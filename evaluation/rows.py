"""What the metric modules of ``evaluate`` compute: a row a query, of scores and gains, or of answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .metrics import pass_at_k
from .ranked import per_query
from .ranking import ORDERS, rank_scores

try:
    from datasets import Sequence as SequenceFeature
    from datasets import Value
except ImportError as missing:
    raise ImportError("metric modules need evaluate and datasets: pip install umekit[eval]") from missing

INPUTS = """predictions: scores of a query's candidates. references: their gains, above 0 where relevant.
ties: 'pessimistic' (default), 'optimistic', or 'official', which gives equal scores to the first."""
RANKED = {"predictions": SequenceFeature(Value("float32")), "references": SequenceFeature(Value("float32"))}
SAMPLES = {"predictions": SequenceFeature(Value("string")), "references": Value("string")}


def ranked(kind: str, k: int, predictions: Any, references: Any, ties: str) -> float:
    """The mean over queries. Raises ValueError: no queries, rows of different lengths, nothing relevant, a gain
    that is not finite, or no such order."""
    if ties not in ORDERS:
        raise ValueError(f"ties is {ties!r}; use one of {', '.join(ORDERS)}")
    scores = [np.asarray(row, dtype=np.float32) for row in predictions]
    relevant = []
    for number, (row, gains) in enumerate(zip(scores, references, strict=True)):
        if not np.isfinite(gains).all():
            raise ValueError(f"query {number}: a gain is not finite")
        right = {place: float(gain) for place, gain in enumerate(gains) if gain > 0}
        if len(row) != len(gains) or not right:
            raise ValueError(
                f"query {number}: {len(row)} scores, {len(gains)} gains, {len(right)} of them above 0"
            )
        relevant.append(right)
    if not relevant:
        raise ValueError("no queries, no score")
    ranks = rank_scores(scores, relevant)
    return float(per_query(f"{kind}@{k}", *ranks.of(ties)).mean())


def pass_at(k: int, predictions: Sequence[Sequence[str]], references: Sequence[str]) -> float:
    """Unbiased pass@k. Raises ValueError: queries with different numbers of samples, or fewer than k."""
    counts = {len(row) for row in predictions}
    if len(counts) != 1:
        raise ValueError(f"queries have {sorted(counts)} samples; each needs as many")
    right = [sum(one == answer for one in row) for row, answer in zip(predictions, references, strict=True)]
    return float(pass_at_k(right, counts.pop(), k).mean())


def any_right(predictions: Sequence[Sequence[str]], references: Sequence[str]) -> float:
    """Share of queries with a right answer among theirs."""
    found = [answer in row for row, answer in zip(predictions, references, strict=True)]
    if not found:
        raise ValueError("no queries, no score")
    return float(np.mean(found))
