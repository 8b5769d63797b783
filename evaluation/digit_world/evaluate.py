"""Score an encoder on DigitWorld: every task, in every kind of pool, against what guessing would give.

Notable: an encoder is anything with `encode` and `fingerprint`; queries go in as queries with the instruction
that they carry, candidates as documents.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from time import perf_counter
from typing import Any, Protocol

import numpy as np
from tqdm import tqdm

from ..benchmarks.prompting import processor_facts
from ..benchmarks.wording import prompt_hash
from ..conditions import Conditions
from ..costs import Cost, Measured
from ..fusing import Fusing
from .glyphs import Split
from .pools import PoolKind
from .report import BENCHMARK, DigitWorldReport, DigitWorldScore
from .rows import Item, Task
from .scoring import Drawn, Vectors, score_task, with_oracle
from .world import TASKS, DigitWorld

KINDS: tuple[PoolKind, ...] = ("random", "hard")


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
        score, lines, cost = score_task(TASKS[name], kind, pools, embed, blind, drawn, rerank)
        pairs += cost
        if oracle:
            bare = dict.fromkeys(measured, Measured(encoder, detailed=own))
            score = with_oracle(score, pools, partial(_embed, bare, {}), max_new_tokens)
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
            | {"arithmetic": getattr(encoder, "arithmetic", None), "processor": processor_facts(encoder)}
            | {"prompt_sha256": prompt_hash({"instruction": TASKS[name].instruction} for name in chosen)}
            | (
                {"num_samples": drawn.samples, "sampled_side": "query", "temperature": 1}
                if drawn.samples
                else {}
            )
            | ({} if rerank is None else {"rerank": rerank.conditions()}),
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
