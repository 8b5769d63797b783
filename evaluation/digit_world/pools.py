"""Candidate pools: queries, candidates, and which candidate is right.

Notable: in a retrieval pool every candidate is the positive of one query, no two candidates mean the same,
and a hard pool consists of families of eight near-duplicates, so that reading the colours alone does not
suffice.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from .rows import Draw, Item, Row, Task

PoolKind = Literal["random", "hard"]
FAMILY = 8  # a positive and its seven near-duplicates
TRIES = 200  # draws per family before a pool is called impossible


@dataclass
class Pool:
    """One candidate set. `positives[i]` is the index of query i's only right candidate.

    `baseline` is the recall@1 of the best blind guess: the most frequent answer's share, or 1 / candidates.
    `steps`, `thoughts` and `answers` go with the queries, for results per hop and for the gold-thought
    control. `families[j]` numbers candidate j's family of near-duplicates (every candidate its own in a
    random pool).
    """

    name: str
    task: str
    kind: str
    queries: list[Item]
    candidates: list[Item]
    positives: list[int]
    baseline: float
    candidate_ids: list[str]
    steps: list[int]
    thoughts: list[str]
    answers: list[str]
    families: list[int] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.queries)


def label_pool(name: str, task: Task, rows: list[Row]) -> Pool:
    """All labels of the task as candidates; there is one kind of it."""
    places = {label: place for place, label in enumerate(task.labels)}
    positives = [places[row["positive_id"]] for row in rows]
    baseline = max(Counter(positives).values()) / len(positives)
    return Pool(
        name=name,
        task=task.name,
        kind="labels",
        queries=[row["query"] for row in rows],
        candidates=[{"text": label} for label in task.labels],
        positives=positives,
        baseline=baseline,
        candidate_ids=list(task.labels),
        steps=[row["steps"] for row in rows],
        thoughts=[row["query_thought"] for row in rows],
        answers=[row["answer"] for row in rows],
        families=list(range(len(task.labels))),
    )


def retrieval_pool(
    name: str, task: Task, kind: PoolKind, queries: int, size: int, draw: Callable[[int], Draw]
) -> Pool:
    """`size` candidates (or as many as `task.fill` has), the first `queries` of which are asked for."""
    rows, families = _rows(task, kind, size, draw)
    asked = rows[:queries]
    return Pool(
        name=name,
        task=task.name,
        kind=kind,
        queries=[row["query"] for row in asked],
        candidates=[row["positive"] for row in rows],
        positives=list(range(len(asked))),
        baseline=1 / len(rows),
        candidate_ids=[row["positive_id"] for row in rows],
        steps=[row["steps"] for row in asked],
        thoughts=[row["query_thought"] for row in asked],
        answers=[row["answer"] for row in asked],
        families=families,
    )


def _rows(task: Task, kind: PoolKind, size: int, draw: Callable[[int], Draw]) -> tuple[list[Row], list[int]]:
    """`size` rows of distinct meaning and the family number of each."""
    if task.fill is not None:
        source = draw(0)
        filled = [task.row(subject, source) for subject in task.fill(source)][:size]
        return filled, list(range(len(filled)))
    subjects: list[Any] = []
    rows: list[Row] = []
    families: list[int] = []
    taken: set[str] = set()
    number, attempt = 0, 0
    while len(rows) < size:
        source = draw(attempt)
        attempt += 1
        if attempt > TRIES * size:
            raise RuntimeError(f"{task.name}: no {size} candidates of distinct meaning found")
        members = family(task, source) if kind == "hard" else task.group(task.subject(source))
        members = members[: size - len(rows)]
        made = [task.row(member, source) for member in members]
        meanings = {row["positive_id"] for row in made}
        if len(meanings) < len(made) or meanings & taken or _clash(task, subjects, members):
            continue
        taken |= meanings
        subjects += members
        rows += made
        families += [number if kind == "hard" else len(families) + place for place in range(len(made))]
        number += 1
    return rows, families


def family(task: Task, draw: Draw) -> list[Any]:
    """A subject and its near-duplicates, each of which differs from the first in one thing; eight in all."""
    if task.near is None:
        raise ValueError(f"{task.name} has no near-duplicates, hence no hard pool")
    base = task.subject(draw)
    members = task.group(base)
    meanings = {_meaning(task, member, draw) for member in members}
    for turn in range(TRIES):
        if len(members) >= FAMILY:
            return members[:FAMILY]
        fresh = task.group(task.near(base, turn, draw))
        found = {_meaning(task, member, draw) for member in fresh}
        if not found & meanings and not _clash(task, members, fresh):
            members += fresh
            meanings |= found
    raise RuntimeError(f"{task.name}: fewer than {FAMILY} near-duplicates found")


def _meaning(task: Task, subject: Any, draw: Draw) -> str:
    return task.make(subject, draw).meaning


def _clash(task: Task, subjects: list[Any], fresh: list[Any]) -> bool:
    """True where a fresh candidate answers an old query or the other way round."""
    if task.clashes is None:
        return False
    return any(task.clashes(old, new) or task.clashes(new, old) for old in subjects for new in fresh)
