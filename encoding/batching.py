"""Plan batches by tokens, visual ones counted, and prepare items in threads ahead of the model."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..processing.collating import Prepared

WINDOW_TOKENS = 131_072  # about 300 MB of uint8 patches
TOKENS_OF_A_BATCH = 64  # what a forward costs beside its tokens, in tokens
FIRST_WINDOW = 64  # items: the model need not wait for more than these to be prepared


def plan_batches(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Indices in batches of similar length whose padded size is at most ``budget`` tokens.

    Of all ways to cut the sorted lengths, the one with the fewest padded tokens, where each batch counts
    ``TOKENS_OF_A_BATCH`` more: without them every length would be a batch of its own, and with the largest batches
    that the budget allows a fifth of a mix of texts would be padding. An item longer than the budget is a batch of
    its own. The longest batch comes first, so that a lack of memory shows at once.

    >>> plan_batches([300, 900, 310, 2], budget=900)
    [[1], [2, 0], [3]]
    """
    if budget < 1:
        raise ValueError(f"a budget of {budget} tokens holds nothing")
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    # least[i]: cost of the items from place i on; end[i]: where the batch that begins there ends.
    least = np.zeros(len(order) + 1, dtype=np.int64)
    end = [0] * len(order)
    for first in reversed(range(len(order))):
        longest = lengths[order[first]]  # sorted downwards
        rows = np.arange(1, min(max(budget // max(longest, 1), 1), len(order) - first) + 1)
        costs = rows * longest + least[first + 1 : first + 1 + len(rows)]
        best = int(costs.argmin())
        least[first] = costs[best] + TOKENS_OF_A_BATCH
        end[first] = first + best + 1
    batches: list[list[int]] = []
    place = 0
    while place < len(order):
        batches.append(order[place : end[place]])
        place = end[place]
    return batches


def prepare_ahead(
    items: Sequence[Any], prepare: Callable[[int], Prepared], window: int, workers: int
) -> Iterator[list[tuple[int, Prepared | Exception]]]:
    """Prepare items window by window; while the caller works on one, threads prepare the next.

    The first two windows are small, and each later one may be twice as large as the one before, up to ``window``: so
    the model begins early, and finds the next window prepared. What is held at a time is bounded by tokens and not
    only by items, since a picture can be megabytes: a window closes at ``WINDOW_TOKENS``, and the next ones grow no
    further.

    Args:
        items: only their number counts here.
        prepare: index of an item to the prepared item; may raise.
        window: most items of a window. Sorting by length happens within one.
        workers: threads; 0 prepares in the caller's.

    Yields:
        For each window, ``(index, prepared item or the exception that its preparation raised)``.
    """
    first = min(FIRST_WINDOW, window)
    size, room = first, _Room(first)
    found: list[tuple[int, Prepared | Exception]] = []
    tokens = 0
    for index, outcome in _in_order(len(items), prepare, workers, room):
        found.append((index, outcome))
        tokens += outcome.length if isinstance(outcome, Prepared) else 0
        full = tokens >= WINDOW_TOKENS
        if len(found) == size or full:
            yield found
            size, room.items = room.items, max(first, len(found)) if full else min(2 * room.items, window)
            found, tokens = [], 0
    if found:
        yield found


@dataclass
class _Room:
    """How many items may wait beyond a window: those of the next one."""

    items: int


def _in_order(
    count: int, prepare: Callable[[int], Prepared], workers: int, room: _Room
) -> Iterator[tuple[int, Prepared | Exception]]:
    if workers == 0:
        for index in range(count):
            yield index, _caught(prepare, index)
        return
    with ThreadPoolExecutor(workers, thread_name_prefix="umekit-prepare") as pool:
        waiting: deque[Future[Prepared | Exception]] = deque()
        try:
            for index in range(count):
                while index + len(waiting) < count and len(waiting) <= room.items:
                    waiting.append(pool.submit(_caught, prepare, index + len(waiting)))
                yield index, waiting.popleft().result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _caught(prepare: Callable[[int], Prepared], index: int) -> Prepared | Exception:
    try:
        return prepare(index)
    except Exception as error:  # handed to the caller, who raises or records it
        return error
