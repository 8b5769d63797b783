"""Score an encoder on DigitWorld: every task, in every kind of pool, against what guessing would give.

Notable: an encoder is anything with `encode` and `fingerprint`; queries go in as queries with the instruction
that they carry, candidates as documents. The blind controls ask the same model without the
picture and without the question.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import sys
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from ...encoding.manifest import library_versions, now
from ..metrics import Ints, ranks, similarity, warn_of_ties
from ..results import DigitWorldReport, Score, Share, pack_hits
from .glyphs import Split
from .pools import Pool, PoolKind
from .rows import Item, Task
from .world import TASKS, DigitWorld

MEDIA = ("image", "video")
KINDS: tuple[PoolKind, ...] = ("random", "hard")
Vectors = NDArray[np.float32]


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
        model, command: for the report.

    Raises:
        ValueError: an unknown task or kind, or the encoder's vectors are not finite unit rows.
    """
    began = perf_counter()
    if strange := set(kinds) - set(KINDS):
        raise ValueError(f"unknown kinds of pools {sorted(strange)}; there are {KINDS}")
    if unknown := set(tasks or ()) - set(TASKS):
        raise ValueError(f"unknown tasks {sorted(unknown)}; there are {', '.join(TASKS)}")
    if queries < 1 or size < 2:
        raise ValueError(f"queries={queries}, size={size}: give at least 1 query and 2 candidates")
    world = DigitWorld(split, seed)
    chosen = [name for name in TASKS if tasks is None or name in tasks]
    jobs = [(name, kind) for name in chosen for kind in kinds_of(TASKS[name]) if kind in (*kinds, "labels")]
    if not jobs:
        raise ValueError("nothing to score: these tasks have no pools of these kinds")
    side = _Sides(encoder, {"mode": mode} if mode else {})
    scores: list[Score] = []
    alarms: list[str] = []
    bar = tqdm(jobs, desc="DigitWorld", unit="task", disable=not progress)
    for name, kind in bar:
        bar.set_postfix_str(f"{name} {kind}")
        pools = world.pools(name, queries, size, "hard" if kind == "hard" else "random")
        score, lines = _score(TASKS[name], kind, pools, side, blind)
        scores.append(score)
        alarms += lines
    return DigitWorldReport(
        scores=scores,
        complete={name: {"family": task.family, "kinds": kinds_of(task)} for name, task in TASKS.items()},
        model=model,
        fingerprint=encoder.fingerprint(),
        settings={"queries": queries, "size": size, "kinds": list(kinds), "tasks": chosen, "blind": blind}
        | {"mode": mode, "encoder": repr(encoder)},
        data={"name": "digit-world", "split": split, "seed": seed, "definitions": definitions_sha256()},
        versions=library_versions(),
        machine=machine_line(),
        seconds=round(perf_counter() - began, 1),
        command=command,
        created=now(),
        alarms=alarms,
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


def machine_line() -> str:
    """CPU model and cores, and the GPU if torch is in use and sees one."""
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        lines = [
            line for line in info.read_text(encoding="utf-8").splitlines() if line.startswith("model name")
        ]
        name = lines[0].split(":", 1)[1].strip() if lines else name
    line = f"{name}, {os.cpu_count()} cores"
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        line += f", {torch.cuda.get_device_name()}"
    return line


class _Sides:
    """Queries and candidates through the encoder, with a check of what comes back."""

    def __init__(self, encoder: Encoder, options: dict[str, Any]) -> None:
        self._encoder = encoder
        self._options = options

    def queries(self, items: Sequence[Item]) -> Vectors:
        return self._encode(items, "query")

    def documents(self, items: Sequence[Item]) -> Vectors:
        return self._encode(items, "document")

    def _encode(self, items: Sequence[Item], role: str) -> Vectors:
        """Items -> float32 [n, d]."""
        made = self._encoder.encode(list(items), role=role, show_progress=False, **self._options)
        vectors = np.asarray(made, dtype=np.float32)
        if vectors.ndim != 2 or len(vectors) != len(items):
            raise ValueError(f"{len(items)} items gave vectors of shape {vectors.shape}")
        lengths = np.linalg.norm(vectors.astype(np.float64), axis=1)
        if not (np.abs(lengths - 1) < 1e-3).all():  # NaN fails the comparison too
            raise ValueError("the encoder gave rows that are not finite and of length 1")
        return vectors


def _score(
    task: Task, kind: str, pools: Sequence[Pool], side: _Sides, blind: bool
) -> tuple[Score, list[str]]:
    """One task in its pools; and the alarms about it."""
    documents = [side.documents(pool.candidates) for pool in pools]
    vectors = [side.queries(pool.queries) for pool in pools]
    low, high = (_ranks(pools, vectors, documents, optimistic) for optimistic in (False, True))
    hits = low == 1
    both = blind and all("text" in pool.queries[0] and _has_media(pool.queries[0]) for pool in pools)
    controls: dict[str, Share] = {}
    if both:
        texts = [[_without_media(item) for item in pool.queries] for pool in pools]
        asked = [_encode_distinct(items, side) for items in texts]
        controls["question_only"] = _share(_ranks(pools, asked, documents) == 1)
        shown = [side.queries([_without_text(item) for item in pool.queries]) for pool in pools]
        controls["media_only"] = _share(_ranks(pools, shown, documents) == 1)
    score = Score(
        task=task.name,
        family=task.family,
        kind=kind,
        queries=len(hits),
        candidates=len(pools[0].candidates),
        pools=len(pools),
        correct=int(hits.sum()),
        optimistic=int((high == 1).sum()),
        chance=1 / len(pools[0].candidates),
        majority=max(pool.baseline for pool in pools),
        by_steps=_by_steps(pools, hits),
        hits=pack_hits(hits),
        pools_sha256=_pools_sha256(pools),
        **controls,
    )
    return score, _alarms(score, low, high)


def _ranks(
    pools: Sequence[Pool], queries: Sequence[Vectors], documents: Sequence[Vectors], optimistic: bool = False
) -> Ints:
    """Ranks of the positives in all pools, int [queries]."""
    ties: Any = "optimistic" if optimistic else "pessimistic"
    sides = zip(pools, queries, documents, strict=True)
    return np.concatenate(
        [ranks(similarity(left, right), pool.positives, ties) for pool, left, right in sides]
    )


def _alarms(score: Score, low: Ints, high: Ints) -> list[str]:
    name = f"{score.task} ({score.kind})"
    lines = [line] if (line := warn_of_ties(low, high, name)) else []
    if score.at_chance:
        lines.append(
            f"at chance: {name} has R@1 {score.recall_at_1:.3f} (99 % lower bound {score.lower_bound:.3f}), "
            f"guessing has {score.baseline:.3f}"
        )
    return lines


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


def _encode_distinct(items: Sequence[Item], side: _Sides) -> Vectors:
    """Texts without media repeat themselves ("sum of the red digits"): each is encoded once."""
    keys = [json.dumps(item, sort_keys=True) for item in items]
    places = {key: place for place, key in enumerate(dict.fromkeys(keys))}
    vectors = side.queries([json.loads(key) for key in places])
    return vectors[[places[key] for key in keys]]


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
