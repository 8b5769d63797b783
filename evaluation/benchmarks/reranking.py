"""A benchmark's task ranked again by a reranker; the pairs' scores are kept, so that a stopped run goes on.

Notable: what a reranker reaches is decided against the model, too. Of candidates that are equal at the border, those
that are relevant come last: in MMEB the gold stands first, and a constant embedder would hand it to every reranker.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from ...encoding.inputs.sample import ContentHash, Row
from ...encoding.storage.atomic import write_atomically
from ...encoding.storage.contents import read_object
from ..costs import Cost
from ..fusing import Fusing
from ..metrics import similarity
from ..ranking import CANDIDATES, Ranks, behind, rank, rank_scores, top
from .scoring import Left

KEEP_EVERY = 64  # queries
CLOSE = 1e-6  # cosines that sums in another order may make equal, or no longer


@dataclass(frozen=True)
class Reranked:
    """A task after reranking.

    Attributes:
        ranks: of what is relevant.
        first: of each query the candidates that were scored again, best first.
        cost: an item is a pair.
        tied: queries of which something relevant was not scored, though it is as good as the last that was.
    """

    ranks: Ranks
    first: list[NDArray[np.int64]]
    cost: Cost
    tied: int = 0


def reranked(left: Left, how: Fusing, style: str, kept: Path | None = None, key: str = "") -> Reranked:
    """Rank the first candidates of each query again; the others stay behind, as the vectors have them.

    Args:
        left: problem and vectors.
        style: of the words, as they were encoded.
        kept: a file of the pairs' scores; those of another ``key``, or of queries and candidates that hold something
            else by now, do not count.
    """
    problem = left.problem
    reach, cosines, tied = _reach(left, how.depth)
    key = hashlib.sha256(repr((key, [one.tolist() for one in reach])).encode()).hexdigest()
    if kept is not None:
        key += _contents(left, style, reach)
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
    levels = [how.levels(own, np.arange(len(own)), again) for own, again in zip(cosines, scores, strict=True)]
    first = [own[np.argsort(-level, kind="stable")] for own, level in zip(reach, levels, strict=True)]
    return Reranked(_ranks(left, reach, levels), first, Cost(sum(map(len, scores)), seconds), tied)


Reach = list[NDArray[np.int64]]
Cosines = list[NDArray[np.float32]]


def _reach(left: Left, depth: int) -> tuple[Reach, Cosines, int]:
    """The ``depth`` first candidates of each query, and their cosines; and in how many ties decided it."""
    reach, cosines = top(left.queries, left.candidates, depth, left.problem.pools)
    tied = 0
    for number, right in enumerate(left.problem.relevant):
        if len(reach[number]) < depth or not _at_border(left, number, float(cosines[number][-1])):
            continue
        pool, scores = _pool(left, number)
        order = np.lexsort((np.isin(pool, list(right)), -scores))
        reach[number], cosines[number] = pool[order[:depth]], scores[order[:depth]]
        rest = order[depth:]
        tied += bool(np.isin(pool[rest[scores[rest] == scores[order[depth - 1]]]], list(right)).any())
    return reach, cosines, tied


def _ranks(left: Left, reach: Reach, levels: list[NDArray[np.float32]]) -> Ranks:
    """What was scored again by its level, the others behind by their cosines."""
    problem = left.problem
    inside: list[dict[int, float]] = []
    outside: list[dict[int, float]] = []
    for own, right in zip(reach, problem.relevant, strict=True):
        places = {int(one): at for at, one in enumerate(own)}
        inside.append({places[one]: gain for one, gain in right.items() if one in places})
        outside.append({one: gain for one, gain in right.items() if one not in places})
    others = rank(left.queries, left.candidates, outside, problem.pools)
    return behind(rank_scores(levels, inside), others, [len(own) for own in reach])


def _pool(left: Left, number: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """A query's candidates and their cosines."""
    pools = left.problem.pools
    pool = np.arange(len(left.candidates)) if pools is None else pools[number]
    blocks = [pool[start : start + CANDIDATES] for start in range(0, len(pool), CANDIDATES)]
    query = left.queries[number : number + 1]
    return pool, np.concatenate([similarity(query, left.candidates[block])[0] for block in blocks])


def _at_border(left: Left, number: int, border: float) -> bool:
    """Whether something relevant is as good as the last that is reached."""
    right = left.candidates[list(left.problem.relevant[number])]
    own = similarity(left.queries[number : number + 1], right)[0]
    return bool((np.abs(own - border) <= CLOSE).any())


def _contents(left: Left, style: str, reach: Reach) -> str:
    """sha256 of what the pairs hold, down to their files."""
    digest, problem = ContentHash(), left.problem
    shown = sorted({int(one) for own in reach for one in own})
    for entry in (*problem.queries, *(problem.candidates[one] for one in shown)):
        digest.add(Row(entry.name, entry.item(style)))
    return digest.hexdigest()


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
