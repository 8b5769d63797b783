"""How much a vector depends on its thought: one item with its own, another's, a filler, an empty and no thought.

A generated vector may look past the thought that stands before it, and then the thought only costs. The queries' side
is changed here, the documents keep their own thoughts, so that every condition is scored against the same candidates.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from .conditions import Conditions
from .digit_world.evaluate import definitions_sha256, kinds_of
from .digit_world.world import TASKS, DigitWorld
from .metrics import ranks, similarity
from .thought_report import (
    BENCHMARK,
    CONDITIONS,
    EMPTY,
    FILLER,
    METRIC,
    NONE,
    OTHER,
    OWN,
    ThoughtReport,
    ThoughtScore,
)

DEFAULT_TASKS = ("walk", "until_gold", "sum", "qa_what")
Ids = list[int]


@dataclass(frozen=True)
class Questions:
    """Queries of one task and their candidates, of which one is right: ``positives`` has its place for each."""

    task: str
    queries: Sequence[Any]
    candidates: Sequence[Any]
    positives: Sequence[int]
    family: str = ""


def digit_world_questions(
    tasks: Sequence[str] = DEFAULT_TASKS,
    queries: int = 500,
    size: int = 400,
    seed: int = 0,
    split: Any = "test",
) -> tuple[list[Questions], dict[str, Any]]:
    """Pools of DigitWorld tasks (the hard ones, where there are), and what data they are.

    Raises:
        ValueError: an unknown task.
    """
    if unknown := [name for name in tasks if name not in TASKS]:
        raise ValueError(f"unknown tasks {', '.join(unknown)}; there are {', '.join(TASKS)}")
    world = DigitWorld(split, seed)
    found = []
    for name in tasks:
        kind = "hard" if "hard" in kinds_of(TASKS[name]) else "random"
        pool = world.pools(name, queries, size, kind)[0]  # type: ignore[arg-type]
        found.append(Questions(name, pool.queries, pool.candidates, pool.positives, TASKS[name].family))
    facts = {"name": "DigitWorld", "split": split, "seed": seed, "revision": definitions_sha256()}
    return found, facts


def row_questions(rows: Sequence[Mapping[str, Any]], name: str) -> list[Questions]:
    """Rows of a user by their ``task``: the positives of a task, each once, are its candidates.

    Equal are positives of one ``positive_id``, or where there is none those that are equal as JSON.

    Raises:
        ValueError: a task has fewer than two rows or two candidates, so that there is nothing to compare.
    """
    by_task: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        by_task.setdefault(str(row.get("task") or name), []).append(row)
    found = []
    for task, members in by_task.items():
        keys = [
            str(row.get("positive_id") or json.dumps(row["positive"], sort_keys=True, default=repr))
            for row in members
        ]
        candidates = {key: row["positive"] for key, row in zip(keys, members, strict=True)}
        if len(members) < 2 or len(candidates) < 2:
            raise ValueError(
                f"task {task!r} has {len(members)} rows and {len(candidates)} positives; need two of each"
            )
        places = {key: place for place, key in enumerate(candidates)}
        positives = [places[key] for key in keys]
        found.append(Questions(task, [row["query"] for row in members], [*candidates.values()], positives))
    return found


def rows_sha256(questions: Sequence[Questions]) -> str:
    """Of what rows ask for, as JSON."""
    facts = [[one.task, list(one.queries), list(one.candidates), list(one.positives)] for one in questions]
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=repr).encode()).hexdigest()


def score_thoughts(
    encoder: Any,
    questions: Sequence[Questions],
    data: dict[str, Any],
    *,
    max_new_tokens: int | None = None,
    progress: bool = True,
    model: str = "a model",
    command: str = "score_thoughts(...)",
) -> ThoughtReport:
    """Recall@1 of queries with each kind of thought, and the cosines of their vectors with that of their own.

    Args:
        encoder: an :class:`umekit.Encoder` of a generative checkpoint.
        questions: what is asked; of each at least two queries.
        data: ``name``, ``split`` and ``revision``, for the report.
        max_new_tokens: of a thought; the checkpoint's when None.
        progress: a bar.
        model, command: for the report.

    Raises:
        ValueError: the model does not think; or there is nothing to compare.
    """
    began = perf_counter()
    if "generative" not in encoder.model.modes:
        raise ValueError(f"this checkpoint is {encoder.model.settings.kind}: it writes no thoughts")
    options = {
        "mode": "generative",
        "max_new_tokens": max_new_tokens,
        "show_progress": False,
        "return_details": True,
    }
    scores: list[ThoughtScore] = []
    notes: list[str] = []
    for one in tqdm(questions, desc="thoughts", unit="task", disable=not progress):
        documents = encoder.encode(list(one.candidates), role="document", **options).embeddings
        own = encoder.encode(list(one.queries), role="query", **options)
        given = thoughts_of(encoder.processor.prompt_tokenizer, own.thought_ids)
        if all(other == mine for other, mine in zip(given[OTHER], own.thought_ids, strict=True)):
            notes.append(f"{one.task}: all thoughts are the same, so that another's is its own")
        if forced := sum(own.forced):
            notes.append(f"{one.task}: {forced} of {len(own.forced)} thoughts did not end within their limit")
        for kind in CONDITIONS:
            vectors, ids = own.embeddings, own.thought_ids
            if kind != OWN:
                ids = given[kind]
                longest = max(max(map(len, ids)), max_new_tokens or 1)
                found = encoder.encode(
                    list(one.queries), role="query", thoughts=ids, **{**options, "max_new_tokens": longest}
                )
                vectors = found.embeddings
            hits = ranks(similarity(vectors, documents), one.positives) == 1
            scores.append(
                ThoughtScore.of(
                    one.task,
                    hits,
                    _cosines(vectors, own.embeddings),
                    [len(thought) for thought in ids],
                    family=one.family,
                    kind=kind,
                    candidates=len(one.candidates),
                    chance=1 / len(one.candidates),
                )
            )
    settings = {"mode": "generative", "changed_side": "query", "max_new_tokens": max_new_tokens}
    complete: Any = {
        one.task: {"family": one.family, "kinds": [*CONDITIONS], "metric": METRIC} for one in questions
    }
    return ThoughtReport(
        BENCHMARK,
        scores,
        encoder.fingerprint(),
        Conditions.of_run(
            began, model=model, settings=settings | {"encoder": repr(encoder)}, data=data, command=command
        ),
        complete=complete,
        notes=notes,
    )


def thoughts_of(tokenizer: Any, own: Sequence[Ids]) -> dict[str, list[Ids]]:
    """Ids of the thoughts of every condition, for items whose own are these.

    Another's is that of the next item, in a circle, that has written something else. A filler is as long as the own
    thought, but where that is shorter than the tags alone.
    """
    opening, closing = (_ids(tokenizer, tags) for tags in ("<think>", "</think><answer>"))
    [dot, *more] = _ids(tokenizer, " .")
    if more:
        [dot, *_] = _ids(tokenizer, ".")
    frame = len(opening) + len(closing)
    return {
        OTHER: [_another(own, place) for place in range(len(own))],
        FILLER: [[*opening, *[dot] * max(len(ids) - frame, 0), *closing] for ids in own],
        EMPTY: [[*opening, *closing] for _ in own],
        NONE: [[] for _ in own],
    }


def _another(own: Sequence[Ids], place: int) -> Ids:
    following = [*own[place + 1 :], *own[:place]]
    return next((ids for ids in following if ids != own[place]), own[place])


def _ids(tokenizer: Any, text: str) -> Ids:
    found: Ids = tokenizer.encode(tokenizer.pieces(text))
    return found


def _cosines(left: NDArray[Any], right: NDArray[Any]) -> NDArray[np.float64]:
    """Of rows with rows, [n, d] and [n, d] -> float64 [n]."""
    one, other = left.astype(np.float64), right.astype(np.float64)
    lengths = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    return np.einsum("nd,nd->n", one, other) / lengths
