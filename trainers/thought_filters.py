"""Leave out rows with bad thoughts: in another form, too long, or caught in a loop. Every row left out is named."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..processing.thoughts import thought_and_answer
from .filters import Dropped, Filtered
from .thoughts import COLUMNS

MOST_TOKENS = 8192  # of UME-R1's thoughts
FORMAT = (ValueError, TypeError)  # what readers and the collator raise for another form


def filter_thoughts(
    rows: Any,
    tokenizer: Any,
    *,
    max_tokens: int = MOST_TOKENS,
    repeats: int = 16,
    period: int = 32,
    empty: bool = False,
    sides: Sequence[str] = tuple(COLUMNS),
) -> Filtered:
    """Look at the thoughts of every row, as :class:`ThoughtCollator` reads them.

    UME-R1 left out "long runs of repeated tokens", thoughts of more than 8,192 tokens and those in another form; how
    long a run is, is not published.

    Args:
        rows: map-style data set of rows.
        tokenizer: whose tokens are counted.
        max_tokens: of a thought and its answer.
        repeats: copies of the same 1 to ``period`` tokens, one after the other, that are too many.
        period: longest piece that is looked for.
        empty: whether a thought or an answer without a word is let pass.
        sides: of ``query`` and ``positive``; each needs a thought.

    Returns:
        Rows kept, and those dropped as ``format`` (what cannot be read, too), ``long`` or ``repetition``.
    """
    kept: list[int] = []
    dropped: list[Dropped] = []
    for index in range(len(rows)):
        fault = None
        try:
            row = rows[index]
            for side in sides:
                fault = fault or _fault(row, side, tokenizer, max_tokens, repeats, period, empty)
        except FORMAT as error:
            fault = ("format", " ".join(str(error).split()))
        if fault is None:
            kept.append(index)
        else:
            dropped.append(Dropped(index, *fault))
    return Filtered(np.array(kept, dtype=np.int64), dropped)


def _fault(
    row: Mapping[str, Any], side: str, tokenizer: Any, max_tokens: int, repeats: int, period: int, empty: bool
) -> tuple[str, str] | None:
    """Reason and detail; ValueError for another form."""
    column, summary = COLUMNS[side]
    if row.get(column) is None:
        raise ValueError(f"no {column!r}")
    thought, answer = thought_and_answer(row[column], row.get(summary))
    if not empty and not (thought.strip() and answer.strip()):
        raise ValueError(f"{side}: no word in the {'answer' if thought.strip() else 'thought'}")
    ids = np.array(tokenizer(f"{thought}\n{answer}", add_special_tokens=False).input_ids)
    if len(ids) > max_tokens:
        return "long", f"{side}: {len(ids)} tokens; at most {max_tokens} are wanted"
    copies, size = most_repeated(ids, period)
    if copies >= repeats:
        return "repetition", f"{side}: {copies} times the same {size} token{'s' * (size > 1)}"
    return None


def most_repeated(ids: np.ndarray, period: int) -> tuple[int, int]:
    """The most whole copies of a piece of at most ``period`` tokens that follow each other, and the piece's length.

    >>> most_repeated(np.array([7, 1, 2, 1, 2, 1, 2, 9]), 4)
    (3, 2)
    """
    best = (min(len(ids), 1), min(len(ids), 1))
    for size in range(1, min(period, len(ids) // 2) + 1):
        same = np.concatenate([[False], ids[size:] == ids[:-size], [False]])
        edges = np.flatnonzero(same[1:] != same[:-1])
        longest = int((edges[1::2] - edges[::2]).max(initial=0))
        best = max(best, ((longest + size) // size, size), key=lambda found: found[0])
    return best
