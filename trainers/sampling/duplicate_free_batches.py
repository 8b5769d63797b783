"""Rows -> batches of one size in which no key appears twice: as many as there can be, all rows equally likely.

Sorted by key and handed out in turn to m batches, equal keys lie side by side and never meet, if none has more than
m rows. Random pairs of batches are then mixed in the same way, so that a key does not keep the same company.
Everything is a few NumPy calls; no Python object per row.
"""

from __future__ import annotations

import math

import numpy as np


def duplicate_free_batches(codes: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    """Batches of rows with different codes.

    Args:
        codes: int64 [n].
        size: rows of a batch, at least 1.
        rng: the result is a function of its state.

    Returns:
        int64 [m, size], indices into ``codes``, each at most once. m is the largest possible number of batches,
        the largest with ``sum(min(count_of_code, m)) >= m * size``.
    """
    if size < 1:
        raise ValueError(f"a batch needs at least one row, got {size}")
    dense, counts = np.unique(codes, return_inverse=True, return_counts=True)[1:]
    dense = dense.reshape(-1)
    m = _most_batches(counts, size)
    if m == 0:
        return np.empty((0, size), dtype=np.int64)
    rows = rng.permutation(len(codes))
    if counts.max() == 1:
        return rows[: m * size].reshape(m, size)
    rows = rows[_rank(dense[rows], counts) < m]  # at most m rows of a code, chosen at random
    rows = rows[: m * size]  # the order is random, so is what is left over
    label = rng.permutation(len(counts))
    rows = rows[np.argsort(label[dense[rows]], kind="stable")]
    return _mix(rows.reshape(size, m).T.copy(), dense, len(counts), rng)


def _most_batches(counts: np.ndarray, size: int) -> int:
    """``sum(min(counts, m)) / m`` falls with m, so that bisection finds the largest m."""
    ordered = np.sort(counts)
    total = np.concatenate([[0], np.cumsum(ordered)])
    low, high = 0, int(total[-1]) // size
    while low < high:
        m = (low + high + 1) // 2
        below = int(np.searchsorted(ordered, m))
        if int(total[below]) + (len(ordered) - below) * m >= m * size:
            low = m
        else:
            high = m - 1
    return low


def _rank(codes: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """How many rows of the same code stand before each row."""
    order = np.argsort(codes, kind="stable")
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
    ranks = np.empty(len(codes), dtype=np.int64)
    ranks[order] = np.arange(len(codes)) - starts[codes[order]]
    return ranks


def _mix(batches: np.ndarray, dense: np.ndarray, codes: int, rng: np.random.Generator) -> np.ndarray:
    """Mix random pairs of batches, often enough for any two rows to have had the chance to meet."""
    count, size = batches.shape
    rounds = 0 if count < 2 else math.ceil(math.log2(count)) + 4
    for _ in range(rounds):
        pairs = rng.permutation(count)[: count - count % 2]
        both = batches[pairs].reshape(-1, 2 * size)
        label = rng.permutation(codes)
        order = np.argsort(label[dense[both]], axis=1, kind="stable")
        both = np.take_along_axis(both, order, axis=1)
        # [pairs, size, 2] -> [pairs, 2, size]: neighbours, and with them equal keys, go to different batches
        batches[pairs] = both.reshape(-1, size, 2).transpose(0, 2, 1).reshape(-1, size)
    return batches


def is_repeated(codes: np.ndarray) -> np.ndarray:
    """bool [m, size]: entries of ``codes`` int64 [m, size] that an earlier one of the same line equals."""
    order = np.argsort(codes, axis=1, kind="stable")
    ordered = np.take_along_axis(codes, order, axis=1)
    again = np.zeros(codes.shape, dtype=bool)
    np.put_along_axis(again, order[:, 1:], ordered[:, 1:] == ordered[:, :-1], axis=1)
    return again


def swap_repeats(
    codes: np.ndarray, owner: np.ndarray, rng: np.random.Generator, tries: int = 64
) -> np.ndarray:
    """Swap rows of one owner between batches until no batch holds a code twice.

    Batches put together from sub-batches need it: each sub-batch is free of duplicates, their union is not.

    Args:
        codes: int64 [m, size], the codes of the rows of each batch.
        owner: int64 [m, size]; rows change places with rows of the same owner only.
        rng: the result is a function of its state.
        tries: swaps tried for each duplicate.

    Returns:
        int64 [m, size]: flat positions, so that ``x.ravel()[result]`` are the rows in their new places. Duplicates
        for which no swap was found remain.
    """
    size = codes.shape[1]
    flat, places, owners = codes.ravel().copy(), np.arange(codes.size), owner.ravel()
    of_owner: dict[int, np.ndarray] = {}
    for place in np.flatnonzero(is_repeated(codes).ravel()):
        own = int(owners[place])
        if own not in of_owner:
            of_owner[own] = np.flatnonzero(owners == own)
        here = flat[place // size * size :][:size]
        if np.count_nonzero(here == flat[place]) < 2:
            continue  # an earlier swap has moved the other one
        for other in of_owner[own][rng.integers(len(of_owner[own]), size=tries)]:
            there = flat[other // size * size :][:size]
            if other // size == place // size or flat[other] in here or flat[place] in there:
                continue
            flat[[place, other]] = flat[[other, place]]
            places[[place, other]] = places[[other, place]]
            break
    return places.reshape(codes.shape)
