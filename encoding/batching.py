"""Plan batches by tokens, visual ones counted, and prepare items in threads ahead of the model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from ..processing.collating_ume import Prepared


def plan_batches(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Indices in batches of similar length whose padded size is at most ``budget`` tokens.

    An item longer than the budget is a batch of its own. The longest batch comes first, so that a lack of memory
    shows at once.

    >>> plan_batches([3, 9, 4, 2], budget=9)
    [[1], [2, 0], [3]]
    """
    if budget < 1:
        raise ValueError(f"a budget of {budget} tokens holds nothing")
    batches: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        # Sorted downwards, the first of a batch is its longest.
        if batches and (len(batches[-1]) + 1) * lengths[batches[-1][0]] <= budget:
            batches[-1].append(index)
        else:
            batches.append([index])
    return batches


def prepare_ahead(
    items: Sequence[Any], prepare: Callable[[int], Prepared], window: int, workers: int
) -> Iterator[list[tuple[int, Prepared | Exception]]]:
    """Prepare items window by window; while the caller works on one, threads prepare the next.

    Args:
        items: only their number counts here.
        prepare: index of an item to the prepared item; may raise.
        window: items per window. Sorting by length happens within one, and two are held at a time.
        workers: threads; 0 prepares in the caller's.

    Yields:
        For each window, ``(index, prepared item or the exception that its preparation raised)``.
    """
    spans = [range(start, min(start + window, len(items))) for start in range(0, len(items), window)]
    if workers == 0:
        for span in spans:
            yield [(index, _caught(prepare, index)) for index in span]
        return
    with ThreadPoolExecutor(workers, thread_name_prefix="umekit-prepare") as pool:
        try:
            running: list[list[Future[Prepared | Exception]]] = []
            for number, span in enumerate(spans):
                while len(running) < min(number + 2, len(spans)):
                    ahead = spans[len(running)]
                    running.append([pool.submit(_caught, prepare, index) for index in ahead])
                done = [(index, future.result()) for index, future in zip(span, running[number], strict=True)]
                running[number] = []
                yield done
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _caught(prepare: Callable[[int], Prepared], index: int) -> Prepared | Exception:
    try:
        return prepare(index)
    except Exception as error:  # handed to the caller, who raises or records it
        return error
