"""Which data set fills the next batch."""

from __future__ import annotations

import numpy as np

_CHUNK = 1 << 14


def draw_units(
    weights: np.ndarray, blocks: np.ndarray, stop: str | int, multiple: int, rng: np.random.Generator
) -> np.ndarray:
    """Units in the order in which they fill (sub-)batches, drawn with probability proportional to their weight.

    VLM2Vec-V2's sampler (``interleave_datasets`` of the library ``datasets``).

    Args:
        weights: float [units].
        blocks: int64 [units], (sub-)batches of one pass over each unit.
        stop: ``all_exhausted``: until every unit was read once, others meanwhile begin anew; ``first_exhausted``:
            until the first would begin anew; or the number of draws.
        multiple: the number of draws is a multiple of this: the sub-batches of a batch.

    Returns:
        int64 [draws].

    Raises:
        ValueError: no draw is possible.
    """
    share = weights / weights.sum()
    drawn = np.empty(0, dtype=np.int64)
    while True:
        drawn = np.concatenate([drawn, rng.choice(len(share), size=_CHUNK, p=share)])
        if isinstance(stop, int):
            end = stop if len(drawn) >= stop else None
        else:
            ends = [_nth(drawn == unit, int(count)) for unit, count in enumerate(blocks)]
            if stop == "first_exhausted":
                reached = [end for end in ends if end is not None]
                end = min(reached) // multiple * multiple if reached else None
            else:
                complete = [end for end in ends if end is not None]
                end = -(-max(complete) // multiple) * multiple if len(complete) == len(ends) else None
        if end is not None and end <= len(drawn):
            break
    if end == 0:
        raise ValueError(
            "the first source is exhausted before one batch is full; give it more rows or less weight"
        )
    return drawn[:end]


def _nth(mask: np.ndarray, count: int) -> int | None:
    """The number of draws after which the mask was true ``count`` times; None if it is not."""
    found = np.flatnonzero(mask)
    return int(found[count - 1]) + 1 if len(found) >= count else None
