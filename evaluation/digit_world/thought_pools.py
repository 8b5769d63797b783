"""Pools of candidate thoughts, whose quality is known: a third right, a third wrong, a third that says nothing.

Each is a function of one side of its row, as whoever selects among them expects of a worker: the *careful* one reads
its item, the *confused* one another item of the task, and the *generic* one none at all. All three are fluent.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .rows import Row

CAREFUL, CONFUSED, GENERIC = WORKERS = ("careful", "confused", "generic")
SIDES = {"query": ("query_thought", "answer"), "positive": ("positive_thought", "positive_answer")}
POOLS = {side: f"{side}_thoughts" for side in SIDES}
NOTHING = (  # thoughts and answers in DigitWorld's words that any item could have
    ("read the scene and find what the question is about", "what the question is about"),
    ("the answer is in the scene and the digits do move to the end", "the answer at the end"),
    ("first find the cell and then the digit and the colour", "the digit and the colour"),
)
DRAWS = 64  # of another row, which has to mean something else


def with_pools(row: Row, other: Callable[[int], Row], rng: np.random.Generator) -> Row:
    """A row with ``query_thoughts`` and ``positive_thoughts`` in place of its own thoughts, in an order that is drawn.

    Args:
        row: with thoughts. A side that has none, such as a text, has no pool either.
        other: number -> another row of the task.
        rng: the row's own.

    Raises:
        ValueError: no other row means anything else.
    """
    made = {name: value for name, value in row.items() if name not in sum(SIDES.values(), ())}
    for side, (thought, answer) in SIDES.items():
        made[POOLS[side]] = []
        if not row[thought]:
            continue
        wrong = _another(row, thought, other, rng)
        said = {
            CAREFUL: (row[thought], row[answer]),
            CONFUSED: (wrong[thought], wrong[answer]),
            GENERIC: NOTHING[int(rng.integers(len(NOTHING)))],
        }
        made[POOLS[side]] = [
            {"worker": name, "thought": said[name][0], "answer": said[name][1]}
            for name in (WORKERS[place] for place in rng.permutation(len(WORKERS)))
        ]
    return made


def _another(row: Row, thought: str, other: Callable[[int], Row], rng: np.random.Generator) -> Row:
    """A row that means something else and is thought of otherwise."""
    for number in rng.integers(1_000_000, size=DRAWS).tolist():
        found = other(number)
        if found["positive_id"] != row["positive_id"] and found[thought] not in ("", row[thought]):
            return found
    raise ValueError(f"no other row of {row['task']} means anything else than {row['positive_id']!r}")
