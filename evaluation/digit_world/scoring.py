"""A task of DigitWorld in its pools: its score, blind controls, what several thoughts and both modes could have.

Notable: the blind controls ask the same model without the picture and without the question.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from ..costs import Cost
from ..fusing import Fusing
from ..metrics import Ints, Ties, pass_at_k, ranks, similarity, warn_of_ties
from ..score import pack
from .pools import Pool
from .report import METRIC, DigitWorldScore, Share
from .rows import Item, Task

MEDIA = ("image", "video")
Vectors = NDArray[np.float32]
Embed = Callable[..., Vectors]  # items, role, options of encode


@dataclass(frozen=True)
class Drawn:
    """Thoughts drawn for each query, and the k of pass@k."""

    samples: int
    ks: tuple[int, ...]
    seed: int

    @classmethod
    def of(cls, samples: int, ks: Sequence[int] | None, seed: int) -> Drawn:
        """Raises ValueError for a k that there are not enough samples for."""
        if ks is None:
            ks = [2**power for power in range(samples.bit_length())]
        if wrong := [k for k in ks if not 1 <= k <= samples]:
            raise ValueError(f"pass@{wrong[0]} needs 1 to num_samples={samples} samples")
        return cls(samples, tuple(ks), seed)


def score_task(
    task: Task,
    kind: str,
    pools: Sequence[Pool],
    embed: Embed,
    blind: bool,
    drawn: Drawn,
    rerank: Fusing | None,
) -> tuple[DigitWorldScore, list[str], Cost]:
    """One task in its pools; a line about ties where they matter; and what reranking cost."""
    documents = [embed(pool.candidates, "document") for pool in pools]
    asked = [embed(pool.queries, "query") for pool in pools]
    tables, cost = _tables(asked, documents), Cost()
    if rerank is not None:
        began = perf_counter()
        how = rerank.of_task(task.name)
        tables = [_reranked(pool, table, how) for pool, table in zip(pools, tables, strict=True)]
        scored = sum(len(one) * min(rerank.depth, one.shape[1]) for one in tables)
        cost = Cost(scored, perf_counter() - began)
    low, high = _ranks(pools, tables), _ranks(pools, tables, "optimistic")
    hits = low == 1
    controls: dict[str, Share] = {}
    if blind and all("text" in pool.queries[0] and _has_media(pool.queries[0]) for pool in pools):
        bare = [_encode_distinct([_without_media(item) for item in pool.queries], embed) for pool in pools]
        controls["question_only"] = _share(_ranks(pools, _tables(bare, documents)) == 1)
        shown = [embed([_without_text(item) for item in pool.queries], "query") for pool in pools]
        controls["media_only"] = _share(_ranks(pools, _tables(shown, documents)) == 1)
    score = DigitWorldScore(
        task.name,
        METRIC,
        float(hits.mean()),
        len(hits),
        task.family,
        kind,
        len(pools[0].candidates),
        1 / len(pools[0].candidates),
        pack(hits),
        _pools_sha256(pools),
        pools=len(pools),
        optimistic=int((high == 1).sum()),
        majority=max(pool.baseline for pool in pools),
        by_steps=_by_steps(pools, hits),
        samples=drawn.samples,
        pass_at=_passed(pools, documents, embed, drawn),
        **controls,
    )
    ties = warn_of_ties(low, high, score.label)
    return score, [ties] if ties else [], cost


def _tables(queries: Sequence[Vectors], documents: Sequence[Vectors]) -> list[Vectors]:
    """Similarities of each pool, [queries, candidates]."""
    return [similarity(left, right) for left, right in zip(queries, documents, strict=True)]


def _reranked(pool: Pool, table: Vectors, rerank: Fusing) -> Vectors:
    """Whole numbers that sort a pool's candidates after reranking, [queries, candidates]."""
    rows = zip(pool.queries, table, strict=True)
    return np.stack([rerank.rerank(query, pool.candidates.__getitem__, row) for query, row in rows])


def _ranks(pools: Sequence[Pool], tables: Sequence[Vectors], ties: Ties = "pessimistic") -> Ints:
    """Ranks of the positives in all pools, int [queries]."""
    found = zip(pools, tables, strict=True)
    return np.concatenate([ranks(table, pool.positives, ties) for pool, table in found])


def _by_steps(pools: Sequence[Pool], hits: NDArray[np.bool_]) -> dict[str, Share]:
    """Hops or terms -> share right; empty where no query has steps."""
    found: dict[int, list[bool]] = defaultdict(list)
    steps = [number for pool in pools for number in pool.steps]
    for number, hit in zip(steps, hits.tolist(), strict=True):
        found[number].append(hit)
    if set(found) == {0}:
        return {}
    return {str(number): _share(np.array(found[number])) for number in sorted(found)}


def _share(hits: NDArray[np.bool_]) -> Share:
    return Share(int(hits.sum()), len(hits))


def _encode_distinct(items: Sequence[Item], embed: Embed) -> Vectors:
    """Texts without media repeat themselves ("sum of the red digits"): each is encoded once."""
    keys = [json.dumps(item, sort_keys=True) for item in items]
    places = {key: place for place, key in enumerate(dict.fromkeys(keys))}
    return embed([json.loads(key) for key in places], "query")[[places[key] for key in keys]]


def _has_media(item: Item) -> bool:
    return any(name in item for name in MEDIA)


def _without_media(item: Item) -> Item:
    return {name: value for name, value in item.items() if name not in MEDIA}


def _without_text(item: Item) -> Item:
    return {name: value for name, value in item.items() if name != "text"}


def _pools_sha256(pools: Sequence[Pool]) -> str:
    """Of meanings, questions and positives, in words; not of pixels."""
    facts = [
        [pool.candidate_ids, pool.positives, pool.thoughts, [item.get("text") for item in pool.queries]]
        for pool in pools
    ]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def _passed(
    pools: Sequence[Pool], documents: Sequence[Vectors], embed: Embed, drawn: Drawn
) -> dict[str, float]:
    """pass@k of thoughts that are drawn for the queries, by k."""
    right = []
    for number, (pool, candidates) in enumerate(zip(pools, documents, strict=True)):
        if not drawn.samples:
            return {}
        options = {
            "num_samples": drawn.samples,
            "reduce": None,
            "temperature": 1.0,
            "seed": drawn.seed + number,
        }
        vectors = embed(pool.queries, "query", **options).reshape(len(pool.queries) * drawn.samples, -1)
        positives = np.repeat(pool.positives, drawn.samples)
        hits = ranks(similarity(vectors, candidates), positives) == 1
        right.append(hits.reshape(-1, drawn.samples).sum(axis=1))
    counts = np.concatenate(right)
    return {str(k): float(pass_at_k(counts, drawn.samples, k).mean()) for k in drawn.ks}


def with_oracle(
    score: DigitWorldScore, pools: Sequence[Pool], embed: Embed, max_new_tokens: int | None
) -> DigitWorldScore:
    """The score with the share of queries that are right in one of both modes, each with its own documents."""
    found = []
    generative = {"mode": "generative", "max_new_tokens": max_new_tokens}
    for options in ({"mode": "discriminative"}, generative):
        documents = [embed(pool.candidates, "document", **options) for pool in pools]
        asked = [embed(pool.queries, "query", **options) for pool in pools]
        found.append(_ranks(pools, _tables(asked, documents)) == 1)
    return replace(score, oracle=_share(found[0] | found[1]))
