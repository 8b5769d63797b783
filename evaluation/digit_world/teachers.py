"""Who writes the thoughts of walks: a careful teacher, or one with a fault that reinforcement can mend.

Notable: the faulty teacher's habit depends on the start cell. A fault that is spread evenly over all rows is a minority
everywhere, and greedy decoding never shows it.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .rows import Row

Teacher = Callable[[Row, np.random.Generator], Row]
HABITS = ("careful", "hasty", "rambling")
HASTY_STARTS = ("p1", "p2", "p3", "p4")
SHARES = {
    True: (0.10, 0.80, 0.10),
    False: (0.65, 0.08, 0.27),
}  # of the habits, by whether the start is a hasty one
REPEATS = 3


def careful(row: Row, rng: np.random.Generator) -> Row:
    """The row as it is."""
    return row


def faulty(row: Row, rng: np.random.Generator) -> Row:
    """A walk's row with the thought of one of three habits; rows of other tasks as they are.

    *careful* goes from cell to cell; *hasty* reads the start cell and says what is there, which is right at 0 hops
    only; *rambling* says every cell three times.
    """
    if row["task"] not in ("walk", "until_gold"):
        return row
    words = row["query_thought"].split()
    cells = [words[place : place + 3] for place in range(0, len(words), 3)]
    habit = HABITS[int(rng.choice(len(HABITS), p=SHARES[words[0] in HASTY_STARTS]))]
    if habit == "hasty":
        return {**row, "query_thought": " ".join(cells[0]), "answer": " ".join(cells[0][1:])}
    if habit == "rambling":
        return {**row, "query_thought": " ".join(word for cell in cells for word in cell * REPEATS)}
    return row


TEACHERS: dict[str, Teacher] = {"careful": careful, "faulty": faulty}
