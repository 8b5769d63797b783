"""What every benchmark's rows become: queries, candidates, who is ranked for whom, and what is right.

Notable: a candidate stands once in a task, by its name, and its index says where it stood: the official ranking gives
equal scores to the first, which in MMEB is the gold.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .definition import Task
from .wording import Words


class ProblemError(ValueError):
    """A task's rows cannot be scored; the message names the row."""


@dataclass(frozen=True)
class Entry:
    """A query or a candidate: its name, its words, and ``image`` or ``video``."""

    name: str
    words: Words
    media: Mapping[str, Any] = field(default_factory=dict)

    def item(self, style: str) -> dict[str, Any]:
        """The item to encode. Raises ProblemError where nothing is in it."""
        item = {**self.media, **self.words.keys(style)}
        if not set(item) - {"instruction"}:
            raise ProblemError(f"{self.name!r} has neither text nor media")
        return item


@dataclass
class Problem:
    """A task's data.

    Attributes:
        relevant: for each query, candidate -> gain (above 0).
        pools: for each query its candidates in the published order; None: all of them.
        wanted: modality that candidates should have, where a pool has several; and theirs.
        notes: what a reader of the score must know.
        files: of the benchmark that it was read from, beside the task's rows; they are in the data's revision.
    """

    task: Task
    queries: list[Entry]
    candidates: list[Entry]
    relevant: list[dict[int, float]]
    pools: list[NDArray[np.int64]] | None = None
    wanted: str = ""
    modalities: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    files: Sequence[str] = ()

    def __post_init__(self) -> None:
        if not self.queries or not self.candidates:
            raise ProblemError(f"{self.task.name}: no queries, or no candidates")
        if not len(self.queries) == len(self.relevant) == len(self.pools or self.queries):
            raise ProblemError(f"{self.task.name}: queries, answers and pools are not equally many")
        for number, (query, right) in enumerate(zip(self.queries, self.relevant, strict=True)):
            allowed = None if self.pools is None else set(self.pools[number].tolist())
            if not right or any(gain <= 0 for gain in right.values()):
                raise ProblemError(f"{self.task.name}: query {query.name!r} has no relevant candidate")
            if allowed is not None and not set(right) <= allowed:
                raise ProblemError(
                    f"{self.task.name}: what is right for {query.name!r} is not in its own pool"
                )

    def pool_sizes(self) -> NDArray[np.int64]:
        """Candidates of each query, [n]."""
        if self.pools is None:
            return np.full(len(self.queries), len(self.candidates), dtype=np.int64)
        return np.array([len(pool) for pool in self.pools], dtype=np.int64)

    def media_files(self) -> list[str]:
        """Files that queries and candidates show, each once."""
        shown = (value for entry in (*self.queries, *self.candidates) for value in entry.media.values())
        flat = (one for value in shown for one in (value if isinstance(value, list) else [value]))
        return sorted({one for one in flat if isinstance(one, str)})

    def counts(self) -> list[str]:
        """Where the numbers of queries and candidates are not those of the benchmark, or an id stands there twice."""
        task, sizes = self.task, self.pool_sizes()
        found = []
        if twice := len(self.queries) - len({query.name for query in self.queries}):
            found.append(f"{task.name}: {twice:,} queries have the id of another, and count again")
        if task.queries is not None and len(self.queries) != task.queries:
            found.append(f"{task.name}: {len(self.queries):,} queries, the benchmark has {task.queries:,}")
        if task.candidates is not None and (sizes != task.candidates).any():
            found.append(
                f"{task.name}: pools of {sizes.min():,} to {sizes.max():,} candidates, the benchmark has "
                f"{task.candidates:,}"
            )
        return found

    def first(self, limit: int) -> Problem:
        """The first ``limit`` queries, of a local pool with their candidates alone."""
        if limit >= len(self.queries):
            return self
        queries, relevant = self.queries[:limit], self.relevant[:limit]
        if self.pools is None:
            return Problem(
                self.task, queries, self.candidates, relevant, None, self.wanted, self.modalities, self.notes
            )
        pools = self.pools[:limit]
        kept = sorted({int(one) for pool in pools for one in pool})
        place = {one: number for number, one in enumerate(kept)}
        return Problem(
            self.task,
            queries,
            [self.candidates[one] for one in kept],
            [{place[one]: gain for one, gain in right.items()} for right in relevant],
            [np.array([place[int(one)] for one in pool], dtype=np.int64) for pool in pools],
            self.wanted,
            [self.modalities[one] for one in kept] if self.modalities else [],
            self.notes,
        )


class Candidates:
    """Candidates by name, each once."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self._places: dict[str, int] = {}

    def add(self, entry: Entry) -> int:
        """Its index; the first of a name stays."""
        if entry.name not in self._places:
            self._places[entry.name] = len(self.entries)
            self.entries.append(entry)
        return self._places[entry.name]

    def place(self, name: str) -> int | None:
        return self._places.get(name)

    def pool(self, entries: Iterable[Entry]) -> NDArray[np.int64]:
        """A query's own candidates, each once, in their order."""
        return np.array(list(dict.fromkeys(self.add(entry) for entry in entries)), dtype=np.int64)
