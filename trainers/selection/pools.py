"""The pool of a side of a row: thoughts that are there already, and those of workers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ...processing.thoughts import thought_and_answer
from ..thoughts import COLUMNS

POOLS = {"query": "query_thoughts", "positive": "positive_thoughts"}
COLUMN = "column"  # the worker of thoughts that name none


@dataclass(frozen=True)
class Candidate:
    """A thought of a pool: who wrote it, what it says, and how many tokens that is."""

    worker: str
    thought: str
    answer: str
    tokens: int

    @property
    def is_empty(self) -> bool:
        """Whether there is no word in it."""
        return not (self.thought.strip() or self.answer.strip())


@dataclass
class Pools:
    """Pools of rows.

    Args:
        count_tokens: text -> tokens.
        columns: whether a row's own ``query_thought`` and ``positive_thought`` are candidates too.
        written: by worker, side -> number of a row -> what it wrote there, in the form of a model's thoughts.

    Attributes:
        malformed: by worker, thoughts of another form, which are left out.
    """

    count_tokens: Callable[[str], int]
    columns: bool = False
    written: Mapping[str, Mapping[str, Callable[[int], Sequence[str]]]] = field(default_factory=dict)
    malformed: dict[str, int] = field(default_factory=dict)

    def of(self, row: Mapping[str, Any], number: int, side: str) -> list[Candidate]:
        """The candidates of a side, in the order of columns and workers; equal ones once, empty ones not at all.

        Raises:
            ValueError, TypeError: a column of another form.
        """
        found = [self._candidate(*one) for one in self._listed(row, side)]
        for worker, sides in self.written.items():
            for text in sides[side](number) if side in sides else ():
                try:
                    found.append(self._candidate(worker, *thought_and_answer(text)))
                except ValueError:  # cut, or not as it was asked to be
                    self.malformed[worker] = self.malformed.get(worker, 0) + 1
        different = {(one.thought, one.answer): one for one in reversed(found) if not one.is_empty}
        return list(reversed(different.values()))

    def _listed(self, row: Mapping[str, Any], side: str) -> list[tuple[str, str, str]]:
        """Worker, thought and answer of what the columns hold."""
        name, (thought, answer) = POOLS[side], COLUMNS[side]
        found = []
        if self.columns and row.get(thought) is not None:
            found.append((COLUMN, *thought_and_answer(row[thought], row.get(answer))))
        listed = row.get(name)
        if listed is None:
            return found
        if isinstance(listed, (str, bytes, Mapping)) or not isinstance(listed, Sequence):
            raise TypeError(f"{name} is a list of thoughts, not a {type(listed).__name__}")
        for place, one in enumerate(listed):
            if isinstance(one, str):
                one = {"thought": one}
            if not isinstance(one, Mapping) or one.get("thought") is None:
                raise TypeError(f"{name}[{place}] is a text, or an object with worker, thought and answer")
            worker = one.get("worker") or COLUMN
            found.append((str(worker), *thought_and_answer(one["thought"], one.get("answer"))))
        return found

    def _candidate(self, worker: str, thought: str, answer: str) -> Candidate:
        return Candidate(worker, thought, answer, self.count_tokens(f"{thought}\n{answer}"))
