"""Ranks of what is right, among pools of any size, three ways where scores are equal.

Notable: nothing but the relevant candidates' scores is kept; the others are counted, a block of candidates at a time,
so that a pool of millions needs no more memory than one of thousands. *Pessimistic* ranks count every equal score
against the model, *optimistic* ones for it, and *official* ones give equal scores to whoever stands first, as
``np.argsort(-scores)`` does: in MMEB that is the gold.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .metrics import TieWarning, similarity

Order = Literal["pessimistic", "optimistic", "official"]
ORDERS: tuple[Order, ...] = ("pessimistic", "optimistic", "official")
CANDIDATES = 65_536  # of a block
QUERIES = 1024


@dataclass(frozen=True)
class Ranks:
    """For each query the ranks, from 1, of its relevant candidates.

    Attributes:
        pessimistic, optimistic, official: int64 arrays, each beside ``gains``.
        gains: float64, of the same candidates; each array is sorted by its own ranks, so gains come per order.
    """

    pessimistic: list[NDArray[np.int64]]
    optimistic: list[NDArray[np.int64]]
    official: list[NDArray[np.int64]]
    gains: dict[str, list[NDArray[np.float64]]]

    def of(self, order: Order) -> tuple[list[NDArray[np.int64]], list[NDArray[np.float64]]]:
        return getattr(self, order), self.gains[order]

    def __len__(self) -> int:
        return len(self.pessimistic)


def rank(
    queries: ArrayLike,
    candidates: ArrayLike,
    relevant: Sequence[Mapping[int, float]],
    pools: Sequence[NDArray[np.int64]] | None = None,
) -> Ranks:
    """Rank what is relevant by the dot product, in float32.

    Args:
        queries: [n, d]. candidates: [c, d].
        relevant: for each query, candidate -> gain.
        pools: for each query its candidates in their published order; None ranks all.

    Raises:
        ValueError: a vector is not finite.
    """
    left, right = _finite(queries), _finite(candidates)
    if pools is not None:
        rows = []
        for number, pool in enumerate(pools):
            scores = similarity(left[number : number + 1], right[pool])[0]
            places = {int(one): place for place, one in enumerate(pool)}
            own = np.array([places[one] for one in relevant[number]], dtype=np.int64)
            rows.append(_of_row(scores, own, list(relevant[number].values())))
        return _ranks(rows)
    rows = []
    for start in range(0, len(left), QUERIES):
        block = left[start : start + QUERIES]
        rows += _of_all(block, right, relevant[start : start + QUERIES])
    return _ranks(rows)


def rank_scores(scores: Iterable[NDArray[np.float32]], relevant: Sequence[Mapping[int, float]]) -> Ranks:
    """Of scores that are there already, a row [pool] for each query; ``relevant`` counts places in the row."""
    return _ranks(
        [
            _of_row(
                np.asarray(row, dtype=np.float32), np.array(list(right), dtype=np.int64), list(right.values())
            )
            for row, right in zip(scores, relevant, strict=True)
        ]
    )


def behind(first: Ranks, others: Ranks, sizes: Sequence[int]) -> Ranks:
    """Ranks where some candidates of each query, ``sizes`` of them, were sorted again and stay before all others.

    Args:
        first: of what is relevant among them. others: of what else is relevant, in the whole pool.
    """
    places: dict[Order, list[NDArray[np.int64]]] = {}
    gains: dict[str, list[NDArray[np.float64]]] = {}
    for order in ORDERS:
        (mine, own), (theirs, rest) = first.of(order), others.of(order)
        places[order] = [
            np.concatenate([one, np.maximum(other, size + 1 + np.arange(len(other)))])
            for one, other, size in zip(mine, theirs, sizes, strict=True)
        ]
        gains[order] = [np.concatenate(both) for both in zip(own, rest, strict=True)]
    return Ranks(places["pessimistic"], places["optimistic"], places["official"], gains)


def top(
    queries: ArrayLike, candidates: ArrayLike, k: int, pools: Sequence[NDArray[np.int64]] | None = None
) -> tuple[list[NDArray[np.int64]], list[NDArray[np.float32]]]:
    """The ``k`` best candidates of each query and their scores, best first; equal scores by their order."""
    left, right = _finite(queries), _finite(candidates)
    found: list[NDArray[np.int64]] = []
    values: list[NDArray[np.float32]] = []
    for number in range(len(left)):
        if pools is not None:
            scores = similarity(left[number : number + 1], right[pools[number]])[0]
            order = np.argsort(-scores, kind="stable")[:k]
            found.append(pools[number][order])
            values.append(scores[order])
    if pools is not None:
        return found, values
    for start in range(0, len(left), QUERIES):
        block = left[start : start + QUERIES]
        kept = np.zeros((len(block), 0), dtype=np.int64)
        best = np.zeros((len(block), 0), dtype=np.float32)
        for first in range(0, len(right), CANDIDATES):
            scores = similarity(block, right[first : first + CANDIDATES])
            ids = np.broadcast_to(np.arange(first, first + scores.shape[1]), scores.shape)
            best, kept = np.concatenate([best, scores], axis=1), np.concatenate([kept, ids], axis=1)
            order = np.argsort(-best, axis=1, kind="stable")[:, :k]
            best, kept = np.take_along_axis(best, order, 1), np.take_along_axis(kept, order, 1)
        found += list(kept)
        values += list(best)
    return found, values


def tie_line(ranks: Ranks, first: Mapping[Order, float], what: str, metric: str) -> str | None:
    """Warn, and return the line, where ties move a score; ``first`` has it in each order."""
    low, high, official = (first[order] for order in ORDERS)
    if low == high == official:
        return None
    line = (
        f"{what}: ties decide {metric} of {len(ranks):,} queries: {low:.4f} if they count against the model, "
        f"{high:.4f} if for it, {official:.4f} as the official code sorts"
    )
    warnings.warn(line, TieWarning, stacklevel=3)
    return line


def _of_all(
    block: NDArray[np.float32], candidates: NDArray[np.float32], relevant: Sequence[Mapping[int, float]]
) -> list[_Row]:
    """Rows of queries that share all candidates."""
    width = max(len(right) for right in relevant)
    places = np.full((len(block), width), -1, dtype=np.int64)
    own = np.full((len(block), width), np.nan, dtype=np.float32)
    for number, right in enumerate(relevant):
        places[number, : len(right)] = list(right)
        own[number, : len(right)] = similarity(block[number : number + 1], candidates[list(right)])[0]
    above = np.zeros((len(block), width), dtype=np.int64)
    equal, before = above.copy(), above.copy()
    for first in range(0, len(candidates), CANDIDATES):
        scores = similarity(block, candidates[first : first + CANDIDATES])
        index = np.arange(first, first + scores.shape[1])
        for column in range(width):
            mine, place = own[:, column, None], places[:, column, None]
            same = scores == mine  # NaN where there is no such column is equal to nothing
            above[:, column] += (scores > mine).sum(axis=1)
            equal[:, column] += same.sum(axis=1)
            before[:, column] += (same & (index < place)).sum(axis=1)
    return [
        _row(
            own[number, : len(right)],
            np.array(list(right.values()), dtype=np.float64),
            above[number, : len(right)],
            equal[number, : len(right)],
            before[number, : len(right)],
        )
        for number, right in enumerate(relevant)
    ]


@dataclass(frozen=True)
class _Row:
    ranks: dict[str, NDArray[np.int64]]
    gains: dict[str, NDArray[np.float64]]


def _of_row(scores: NDArray[np.float32], own: NDArray[np.int64], gains: Sequence[float]) -> _Row:
    if not np.isfinite(scores).all():
        raise ValueError("a score is not finite")
    mine = scores[own][:, None]
    same = scores[None] == mine
    before = same & (np.arange(len(scores))[None] < own[:, None])
    return _row(
        scores[own],
        np.array(gains, dtype=np.float64),
        (scores[None] > mine).sum(axis=1),
        same.sum(axis=1),
        before.sum(axis=1),
    )


def _row(
    own: NDArray[np.float32],
    gains: NDArray[np.float64],
    above: NDArray[np.int64],
    equal: NDArray[np.int64],
    before: NDArray[np.int64],
) -> _Row:
    """Ranks from counts over the whole pool, relevant ones included: strictly above, equal (self too), equal before."""
    ranks: dict[str, NDArray[np.int64]] = {"official": 1 + above + before}
    ranks["pessimistic"], ranks["optimistic"] = (np.empty(len(own), dtype=np.int64) for _ in range(2))
    for score in np.unique(own):
        tied = np.flatnonzero(own == score)
        # a sum in another block may differ in its last bit, and then a score is not even equal to itself
        start, size = int(above[tied[0]]), max(int(equal[tied[0]]), len(tied))
        worst = tied[np.argsort(gains[tied], kind="stable")]  # the less relevant first, and all of them last
        ranks["pessimistic"][worst] = start + size - len(tied) + 1 + np.arange(len(tied))
        ranks["optimistic"][worst[::-1]] = start + 1 + np.arange(len(tied))
    orders = {order: np.argsort(found, kind="stable") for order, found in ranks.items()}
    return _Row(
        {order: ranks[order][at] for order, at in orders.items()},
        {order: gains[at] for order, at in orders.items()},
    )


def _ranks(rows: Sequence[_Row]) -> Ranks:
    parts = {order: [row.ranks[order] for row in rows] for order in ORDERS}
    return Ranks(**parts, gains={order: [row.gains[order] for row in rows] for order in ORDERS})


def _finite(vectors: ArrayLike) -> NDArray[np.float32]:
    found = np.asarray(vectors, dtype=np.float32)
    if found.ndim != 2 or not np.isfinite(found).all():
        raise ValueError(f"vectors must be finite and [n, d], got {found.shape}")
    return found
