"""A benchmark's task ranked again by a reranker; the pairs' scores are kept, so that a stopped run goes on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from ...encoding.storage.atomic import write_atomically
from ...encoding.storage.contents import read_object
from ..costs import Cost
from ..fusing import Fusing
from ..metrics import similarity
from ..ranking import Ranks, rank_scores, top
from .scoring import Left

KEEP_EVERY = 64  # queries


def reranked(
    left: Left, how: Fusing, style: str, kept: Path | None = None, key: str = ""
) -> tuple[Ranks, Cost]:
    """Ranks after reranking, and what it cost: an item is a pair.

    Args:
        left: problem and vectors.
        style: of the words, as they were encoded.
        kept: a file of the pairs' scores; those of another ``key`` do not count.
    """
    problem = left.problem
    reach, _ = top(left.queries, left.candidates, how.depth, problem.pools)
    key = hashlib.sha256(repr((key, how.settings(), [one.tolist() for one in reach])).encode()).hexdigest()
    scores, before = _kept(kept, key)
    began = perf_counter()
    for number in range(len(scores), len(reach)):
        pool = [problem.candidates[int(one)].item(style) for one in reach[number]]
        scores.append(how.scores(problem.queries[number].item(style), pool))
        if kept is not None and (number + 1) % KEEP_EVERY == 0:
            _keep(kept, key, scores, before + perf_counter() - began)
    seconds = before + perf_counter() - began
    if kept is not None:
        _keep(kept, key, scores, seconds)
    ranks = rank_scores(_levels(left, how, reach, scores), _places(left))
    return ranks, Cost(sum(map(len, scores)), seconds)


def _levels(
    left: Left, how: Fusing, reach: list[NDArray[np.int64]], scores: list[list[float]]
) -> Iterator[NDArray[np.float32]]:
    for number, (mine, own) in enumerate(zip(reach, scores, strict=True)):
        pool = None if left.problem.pools is None else left.problem.pools[number]
        others = left.candidates if pool is None else left.candidates[pool]
        cosines = similarity(left.queries[number : number + 1], others)[0]
        places = mine if pool is None else np.array([int(np.flatnonzero(pool == one)[0]) for one in mine])
        yield how.levels(cosines, places, own)


def _places(left: Left) -> list[dict[int, float]]:
    """What is relevant, by its place in the query's pool."""
    if left.problem.pools is None:
        return left.problem.relevant
    found = []
    for pool, right in zip(left.problem.pools, left.problem.relevant, strict=True):
        places = {int(one): at for at, one in enumerate(pool)}
        found.append({places[one]: gain for one, gain in right.items()})
    return found


def _kept(path: Path | None, key: str) -> tuple[list[list[float]], float]:
    """Scores of an earlier run of the same, and its seconds."""
    if path is None or not path.is_file():
        return [], 0.0
    block = read_object(path, ValueError)
    if not isinstance(block, dict) or block.get("key") != key:
        return [], 0.0
    return [[float(one) for one in row] for row in block["scores"]], float(block["seconds"])


def _keep(path: Path, key: str, scores: list[list[float]], seconds: float) -> None:
    write_atomically(path, json.dumps({"key": key, "scores": scores, "seconds": seconds}).encode())
