"""Candidate pools: queries, candidates, and which candidate is right.

Notable: in a retrieval pool every candidate is the positive of one query, no two candidates mean the same,
and a hard pool consists of families of eight near-duplicates, so that reading the colours alone does not
suffice.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from .rows import Draw, Item, Row, Task

PoolKind = Literal["random", "hard"]
FAMILY = 8  # a positive and its seven near-duplicates
TRIES = 200  # draws per family before a pool is called impossible


@dataclass
class Pool:
    """One candidate set. `positives[i]` is the index of query i's only right candidate.

    `rows` are those whose queries are asked; `steps`, `thoughts` and `answers` go with them, for results per hop and
    for the gold-thought control. `families[j]` numbers candidate j's family of near-duplicates (every candidate its
    own in a random pool).
    """

    name: str
    task: str
    kind: str
    rows: list[Row]
    candidates: list[Item]
    candidate_ids: list[str]
    positives: list[int]
    families: list[int]

    def __post_init__(self) -> None:
        self.queries: list[Item] = [row["query"] for row in self.rows]
        self.steps: list[int] = [row["steps"] for row in self.rows]
        self.thoughts: list[str] = [row["query_thought"] for row in self.rows]
        self.answers: list[str] = [row["answer"] for row in self.rows]

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def baseline(self) -> float:
        """Recall@1 of the best blind guess: the most frequent answer's share, or 1 / candidates."""
        if self.kind == "labels":
            return max(Counter(self.positives).values()) / len(self.positives)
        return 1 / len(self.candidates)

    def with_negatives(self, query: int, near: int, far: int, rng: np.random.Generator) -> Row:
        """A training row of a query: `near` candidates of its positive's family and `far` of others as negatives."""
        families = np.array(self.families)
        right = self.positives[query]
        own = families == families[right]
        others = np.flatnonzero(~own)
        own[right] = False
        wrong = [
            *rng.choice(np.flatnonzero(own), near, replace=False),
            *rng.choice(others, far, replace=False),
        ]
        return self.row(query, wrong)

    def row(self, query: int, wrong: Sequence[int]) -> Row:
        """A training row of a query with these candidates as negatives."""
        right = self.positives[query]
        return {
            "query": self.queries[query],
            "positive": self.candidates[right],
            "positive_id": self.candidate_ids[right],
            "negatives": [self.candidates[one] for one in wrong],
            "task": self.task,
        }


def label_pool(name: str, task: Task, rows: list[Row]) -> Pool:
    """All labels of the task as candidates; there is one kind of it."""
    labels = list(task.labels)
    positives = [labels.index(row["positive_id"]) for row in rows]
    candidates: list[Item] = [{"text": label} for label in labels]
    return Pool(name, task.name, "labels", rows, candidates, labels, positives, list(range(len(labels))))


def retrieval_pool(
    name: str, task: Task, kind: PoolKind, queries: int, size: int, draw: Callable[[int], Draw]
) -> Pool:
    """`size` candidates (or as many as `task.fill` has), the first `queries` of which are asked for."""
    rows, families = _rows(task, kind, size, draw)
    asked = rows[:queries]
    candidates, ids = [row["positive"] for row in rows], [row["positive_id"] for row in rows]
    return Pool(name, task.name, kind, asked, candidates, ids, list(range(len(asked))), families)


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
