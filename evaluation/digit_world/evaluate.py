"""Score an encoder on DigitWorld: every task, in every kind of pool, against what guessing would give.

Notable: an encoder is anything with `encode` and `fingerprint`; queries go in as queries with the instruction
that they carry, candidates as documents. The blind controls ask the same model without the
picture and without the question.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from time import perf_counter
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from ..conditions import Conditions
from ..costs import Cost, Measured
from ..fusing import Fusing
from ..metrics import Ints, Ties, pass_at_k, ranks, similarity, warn_of_ties
from ..score import pack
from .glyphs import Split
from .pools import Pool, PoolKind
from .report import BENCHMARK, METRIC, DigitWorldReport, DigitWorldScore, Share
from .rows import Item, Task
from .world import TASKS, DigitWorld

MEDIA = ("image", "video")
KINDS: tuple[PoolKind, ...] = ("random", "hard")
Vectors = NDArray[np.float32]
Embed = Callable[..., Vectors]  # items, role, options of encode


class Encoder(Protocol):
    """What is asked of a model."""

    @property
    def encode(self) -> Callable[..., Any]:
        """`encode(items, role=None | "query" | "document", show_progress=False)` -> float32 [n, d], unit."""

    def fingerprint(self) -> dict[str, Any]:
        """What identifies model and processor."""


def score_digit_world(
    encoder: Encoder,
    tasks: Sequence[str] | None = None,
    queries: int = 2000,
    size: int = 400,
    kinds: Sequence[PoolKind] = KINDS,
    seed: int = 0,
    split: Split = "test",
    progress: bool = True,
    *,
    blind: bool = False,
    mode: str | None = None,
    max_new_tokens: int | None = None,
    num_samples: int = 0,
    pass_at: Sequence[int] | None = None,
    oracle: bool = False,
    rerank: Fusing | None = None,
    model: str = "a model",
    command: str = "score_digit_world(...)",
) -> DigitWorldReport:
    """Recall@1 of every task in pools of every kind.

    Args:
        encoder: the model.
        tasks: names; all of them if None. Means over what is incomplete are refused later.
        queries: at least so many a task and kind; label tasks get exactly so many.
        size: candidates of a retrieval pool. Label tasks have all labels as candidates and are scored once.
        kinds: kinds of retrieval pools.
        seed, split: of the world.
        blind: also measure "question only" and "media only" where a query has both.
        mode: how to embed, where the encoder has a choice.
        max_new_tokens: most tokens of a thought; the checkpoint's when None.
        num_samples: thoughts drawn for each *query*, at temperature 1 and from the world's seed, beside the likeliest
            one that the score is of; 0 for none. Documents have their likeliest.
        pass_at: the k of pass@k; 1, 2, 4 ... up to ``num_samples`` when None.
        oracle: also measure how many queries are right in at least one of both modes.
        rerank: rank the first candidates of each query again, by a reranker.
        model, command: for the report.

    Raises:
        ValueError: an unknown task or kind, more samples wanted than drawn, or the encoder's vectors are not finite
            unit rows.
    """
    began = perf_counter()
    if strange := set(kinds) - set(KINDS):
        raise ValueError(f"unknown kinds of pools {sorted(strange)}; there are {KINDS}")
    if unknown := set(tasks or ()) - set(TASKS):
        raise ValueError(f"unknown tasks {sorted(unknown)}; there are {', '.join(TASKS)}")
    if queries < 1 or size < 2:
        raise ValueError(f"queries={queries}, size={size}: give at least 1 query and 2 candidates")
    drawn = Drawn.of(num_samples, pass_at, seed)
    world = DigitWorld(split, seed)
    chosen = [name for name in TASKS if tasks is None or name in tasks]
    jobs = [(name, kind) for name in chosen for kind in kinds_of(TASKS[name]) if kind in (*kinds, "labels")]
    if not jobs:
        raise ValueError("nothing to score: these tasks have no pools of these kinds")
    own = hasattr(encoder, "arithmetic")  # umekit's, which tells of thoughts
    measured = {role: Measured(encoder, detailed=own) for role in ("query", "document")}
    embed = partial(_embed, measured, {"mode": mode, "max_new_tokens": max_new_tokens})
    pairs = Cost()
    scores: list[DigitWorldScore] = []
    notes: list[str] = []
    bar = tqdm(jobs, desc="DigitWorld", unit="task", disable=not progress)
    for name, kind in bar:
        bar.set_postfix_str(f"{name} {kind}")
        pools = world.pools(name, queries, size, "hard" if kind == "hard" else "random")
        score, lines, cost = _score(TASKS[name], kind, pools, embed, blind, drawn, rerank)
        pairs += cost
        if oracle:
            bare = dict.fromkeys(measured, Measured(encoder, detailed=own))
            score = _with_oracle(score, pools, partial(_embed, bare, {}), max_new_tokens)
        scores.append(score)
        notes += lines
    return DigitWorldReport(
        BENCHMARK,
        scores,
        encoder.fingerprint(),
        Conditions.of_run(
            began,
            model=model,
            settings={"queries": queries, "size": size, "kinds": list(kinds), "tasks": chosen, "blind": blind}
            | {"mode": mode, "max_new_tokens": max_new_tokens, "encoder": repr(encoder)}
            | (
                {"num_samples": drawn.samples, "sampled_side": "query", "temperature": 1}
                if drawn.samples
                else {}
            )
            | ({} if rerank is None else {"rerank": rerank.settings()}),
            data={"name": BENCHMARK, "split": split, "seed": seed, "definitions": definitions_sha256()},
            command=command,
        ),
        complete={name: {"family": task.family, "kinds": kinds_of(task)} for name, task in TASKS.items()},
        notes=notes,
        costs={
            name: cost.to_dict()
            for name, cost in (
                ("all queries", measured["query"].cost),
                ("all documents", measured["document"].cost),
                ("all pairs", pairs),
            )
            if cost.items
        },
    )


def kinds_of(task: Task) -> list[str]:
    """Kinds of pools of a task: `labels`, or `random` and, where it has near-duplicates, `hard`."""
    return ["labels"] if task.labels else ["random", "hard"] if task.near else ["random"]


def definitions_sha256() -> str:
    """Of what every task asks for: wording, modalities, labels, strata, and one example of each in words."""
    world = DigitWorld("test", seed=0)
    facts = []
    for task in TASKS.values():
        row = world.row(task.name, 0)
        example = [row["query"].get("text"), row["positive_id"], row["query_thought"], row["steps"]]
        shape = [task.family, task.query, task.positive, task.labels, task.strata(None), kinds_of(task)]
        facts.append([task.name, task.instruction, *shape, *example])
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


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


def _with_oracle(
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


def _embed(
    encoders: Mapping[str, Measured],
    general: dict[str, Any],
    items: Sequence[Item],
    role: str,
    **options: Any,
) -> Vectors:
    """Items -> float32 [n, d], or [n, k, d] of k samples, and a check that they are unit rows."""
    given = {
        name: value for name, value in (general | options).items() if value is not None or name == "reduce"
    }
    vectors = np.asarray(
        encoders[role].encode(list(items), role=role, show_progress=False, **given), dtype=np.float32
    )
    if vectors.ndim != (3 if "reduce" in given else 2) or len(vectors) != len(items):
        raise ValueError(f"{len(items)} items gave vectors of shape {vectors.shape}")
    lengths = np.linalg.norm(vectors.astype(np.float64), axis=-1)
    if not (np.abs(lengths - 1) < 1e-3).all():  # NaN fails the comparison too
        raise ValueError("the encoder gave rows that are not finite and of length 1")
    return vectors


def _score(
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
