"""What an embedder recalls of the hard pools, and what a reranker makes of its best candidates.

Hits at 1 of every query are kept, in the order of the pools, so that arms can be compared query by query.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from findings_table.store import pack
from numpy.typing import NDArray

from umekit.encoding.calibration import calibration
from umekit.encoding.encoder import Encoder
from umekit.encoding.index.two_stage import fuse
from umekit.encoding.inputs.records import open_records
from umekit.encoding.reranker import Reranker
from umekit.evaluation.digit_world import DigitWorld
from umekit.evaluation.digit_world.glyphs import Split
from umekit.evaluation.digit_world.pools import Pool
from umekit.evaluation.metrics import ranks, similarity
from umekit.evaluation.tuning import Judged, Tuning, tune
from umekit.trainers.scoring import score

from .records import DEPTH, POOL, TASKS

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Recalled:
    """The best candidates of a pool's queries.

    Attributes:
        pool: whose.
        best: int ``[queries, DEPTH]``, candidates by their number. scores: their cosines, float32.
        relevant: bool, which of them is right.
        ranks: of the right ones among all candidates, int ``[queries]``; ties count against the model.
    """

    pool: Pool
    best: NDArray[np.int64]
    scores: Floats
    relevant: NDArray[np.bool_]
    ranks: NDArray[np.int64]


def recall(encoder: Encoder, pool: Pool) -> Recalled:
    """A pool, searched by an embedder."""
    asked = encoder.encode(pool.queries, role="query", show_progress=False)
    scores = similarity(asked, encoder.encode(pool.candidates, role="document", show_progress=False))
    own = np.array(pool.positives)
    best = np.argsort(-scores, axis=1, kind="stable")[:, :DEPTH]
    return Recalled(
        pool, best, np.take_along_axis(scores, best, axis=1), best == own[:, None], ranks(scores, own)
    )


def hard_pools(task: str, split: Split, queries: int) -> Iterator[Pool]:
    """Pools of unseen handwriting, the same ones for every arm, until so many queries stand in them."""
    world = DigitWorld(split)
    for index, first in enumerate(range(0, queries, POOL)):
        yield world.pool(task, min(POOL, queries - first), POOL, "hard", index=index)


def embedder_hits(encoder: Encoder, split: Split, queries: int) -> dict[str, dict[str, NDArray[np.uint8]]]:
    """By task, whether the right candidate is the first (``hits``), and among the first ``DEPTH`` (``recalled``)."""
    found: dict[str, dict[str, NDArray[np.uint8]]] = {"hits": {}, "recalled": {}}
    for task in TASKS:
        places = np.concatenate([recall(encoder, pool).ranks for pool in hard_pools(task, split, queries)])
        found["hits"][task] = (places == 1).astype(np.uint8)
        found["recalled"][task] = (places <= DEPTH).astype(np.uint8)
    return found


def rescore(reranker: Reranker, found: Recalled) -> Floats:
    """P(yes) of the recalled candidates, float32 ``[queries, DEPTH]``."""
    lists = [[found.pool.candidates[one] for one in row] for row in found.best.tolist()]
    return np.array(reranker.rerank_many(found.pool.queries, lists, show_progress=False), dtype=np.float32)


def first_is_right(found: Recalled, values: Floats) -> NDArray[np.uint8]:
    """Whether the best by ``values`` is relevant; a tie counts against the model."""
    order = np.lexsort((found.relevant, -values), axis=1)[:, 0]
    return found.relevant[np.arange(len(order)), order].astype(np.uint8)


def tuned(encoder: Encoder, reranker: Reranker, queries: int) -> Tuning:
    """alpha of each task and of all, on the validation handwriting."""

    def cases() -> Iterator[Judged]:
        for task in TASKS:
            for pool in hard_pools(task, "validation", queries):
                found = recall(encoder, pool)
                yes = rescore(reranker, found)
                for row in range(len(pool)):
                    yield Judged(task, found.scores[row], yes[row], found.relevant[row], 1)

    return tune(cases(), depths=(DEPTH,))


def cascade_hits(encoder: Encoder, reranker: Reranker, queries: int, tuning: Tuning) -> dict[str, Any]:
    """By task: hits of the reranker alone and of the fusion, packed, hits at every alpha, and how P(yes) is
    calibrated."""
    found: dict[str, Any] = {"reranked": {}, "fused": {}, "calibration": {}, "curve": {}}
    fusion = tuning.fusion
    for task in TASKS:
        parts: list[tuple[Recalled, Floats]] = []
        for pool in hard_pools(task, "test", queries):
            recalled = recall(encoder, pool)
            parts.append((recalled, rescore(reranker, recalled)))
        alphas = {"reranked": 0.0, "fused": fusion.alpha_of(task)}
        hits = {
            alpha: np.concatenate([first_is_right(one, fuse(one.scores, yes, alpha)) for one, yes in parts])
            for alpha in {*alphas.values(), *tuning.alphas}
        }
        for name, alpha in alphas.items():
            found[name][task] = pack(hits[alpha])
        found["curve"][task] = [round(float(hits[alpha].mean()), 4) for alpha in tuning.alphas]
        scores, right = (
            np.concatenate([yes.ravel() for _, yes in parts]),
            np.concatenate([one.relevant.ravel() for one, _ in parts]),
        )
        report = calibration(scores, right)
        found["calibration"][task] = {
            "auc": round(report.auc, 4),
            "brier": round(report.brier, 4),
            "error": round(report.error, 4),
        }
    return found


def scored_rows(
    encoder: Any, reranker: Any, pools: Iterable[Pool], alpha_of: Callable[[str], float], out: Path
) -> list[Mapping[str, Any]]:
    """What an embedder recalls of pools of training rows, with the teacher's scores, as ``umekit score`` writes them.

    Positives are not forced into the lists. A run that was killed goes on.

    Args:
        alpha_of: the share of the cosine, by task.
    """
    found: list[Mapping[str, Any]] = []
    for pool in pools:
        best = recall(encoder, pool).best
        rows = [
            {
                "query": pool.queries[row],
                "positive": pool.candidates[pool.positives[row]],
                "positive_id": pool.candidate_ids[pool.positives[row]],
                "task": pool.task,
                "candidates": [pool.candidates[one] for one in best[row]],
                "candidate_ids": [pool.candidate_ids[one] for one in best[row]],
            }
            for row in range(len(pool))
        ]
        alpha = alpha_of(pool.task)
        report = score(encoder, reranker, rows, out=out / pool.task, alpha=alpha, show_progress=False)
        assert report is not None
        records = open_records(Path(report.file))
        found += [records[number] for number in range(len(records))]
    return found
