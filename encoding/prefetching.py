"""Work ahead of the model: items are prepared in threads, and on a GPU the next batch is collated and copied.

On a CPU only items are prepared ahead: collation would take the cores that the model runs on.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from operator import methodcaller
from typing import TYPE_CHECKING, Any, Protocol

import torch
from transformers import BatchFeature

from ..modeling.batching import Collator, out_of_memory
from ..processing.collating import Prepared
from .shared_features import SharedFeatures

if TYPE_CHECKING:
    from ..modeling.composed import UmePreTrainedModel
    from ..processing.collating import Place
    from ..processing.processor import UmeProcessor

WINDOW_TOKENS = 131_072  # about 300 MB of uint8 patches
FIRST_WINDOW = 64  # items: the model need not wait for more than these to be prepared


def prepare_ahead(
    indices: Sequence[int], prepare: Callable[[int], Prepared], window: int, workers: int
) -> Iterator[list[tuple[int, Prepared | Exception]]]:
    """Prepare items window by window; while the caller works on one, threads prepare the next.

    The first two windows are small, and each later one may be twice as large as the one before, up to ``window``: so
    the model begins early, and finds the next window prepared. What is held at a time is bounded by tokens and not
    only by items, since a picture can be megabytes: a window closes at ``WINDOW_TOKENS``, and the next ones grow no
    further.

    Args:
        indices: of the items.
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
    for index, outcome in _in_order(indices, prepare, workers if len(indices) > 1 else 0, room):
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
    indices: Sequence[int], prepare: Callable[[int], Prepared], workers: int, room: _Room
) -> Iterator[tuple[int, Prepared | Exception]]:
    if workers == 0:
        for index in indices:
            yield index, _caught(prepare, index)
        return
    with ThreadPoolExecutor(workers, thread_name_prefix="umekit-prepare") as pool:
        waiting: deque[Future[Prepared | Exception]] = deque()
        try:
            for place, index in enumerate(indices):
                while place + len(waiting) < len(indices) and len(waiting) <= room.items:
                    waiting.append(pool.submit(_caught, prepare, indices[place + len(waiting)]))
                yield index, waiting.popleft().result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _caught(prepare: Callable[[int], Prepared], index: int) -> Prepared | Exception:
    try:
        return prepare(index)
    except Exception as error:  # handed to the caller, who raises or records it
        return error


class Mover(Protocol):
    """Takes a batch to where the model is, in two halves."""

    def send(self, collate: Callable[[Place], BatchFeature]) -> Any:
        """Collate a batch, its tensors placed; called in a thread of its own."""

    def receive(self, sent: Any) -> BatchFeature:
        """The batch, safe to compute with; called in the model's thread."""


class CudaMover:
    """Copies from pinned memory on a stream of its own, beside the kernels of the model's stream.

    Pixels are copied as bytes and normalised there.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.stream = torch.cuda.Stream(device)

    def send(self, collate: Callable[[Place], BatchFeature]) -> tuple[BatchFeature, torch.cuda.Event]:
        with torch.cuda.device(self.device), torch.cuda.stream(self.stream):
            # The allocator of pinned memory keeps a block until the copies from it are done.
            batch = collate(lambda tensor: tensor.pin_memory().to(self.device, non_blocking=True))
            return batch, self.stream.record_event()

    def receive(self, sent: tuple[BatchFeature, torch.cuda.Event]) -> BatchFeature:
        batch, arrived = sent
        current = torch.cuda.current_stream(self.device)
        current.wait_event(arrived)
        for value in batch.values():
            value.record_stream(current)  # else the copy stream could reuse its memory too early
        return batch


@cache  # memory is kept per stream, so a device has one for all calls
def mover_for(device: torch.device) -> Mover | None:
    """How batches get to a device ahead of time; None where that gains nothing."""
    return CudaMover(device) if device.type == "cuda" else None


class Prefetcher(Collator):
    """Collates batches, the next one ahead of its turn, with the features of media that several items show.

    Args:
        model: whose vision tower makes the features.
        processor: the checkpoint's.
        mover: of the model's device; None collates every batch when it is asked for.
    """

    def __init__(self, model: UmePreTrainedModel, processor: UmeProcessor, mover: Mover | None) -> None:
        super().__init__(processor, model.device)
        self.model, self.mover = model, mover
        self._place = methodcaller("to", self.device)
        self.features: SharedFeatures | None = None  # from the first window on that shows several media
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="umekit-prefetch") if mover else None
        self._ahead: dict[tuple[Any, ...], Future[Any]] = {}
        self._room = True  # for a batch beside the one that is computed

    def __enter__(self) -> Prefetcher:
        return self

    def __exit__(self, *_: object) -> None:
        self._drop()
        if self._pool is not None:
            self._pool.shutdown()

    def begin_window(self, rows: Sequence[Prepared]) -> None:
        """These are the rows of the batches to come."""
        if self.features is None and sum(len(row.images) + len(row.videos) for row in rows) > 1:
            self.features = SharedFeatures(self.model, self.processor)
        if self.features is not None:
            self.features.begin_window(rows)

    def prefetch(self, rows: Sequence[Prepared], padding_side: str) -> None:
        """Begin with a batch that will be asked for soon; not once memory has run out.

        Batches with shared features need the model, and have no head start.
        """
        if self._pool is not None and self._room and not self._shared(rows):
            self._ahead[_name(rows, padding_side)] = self._pool.submit(self._send, list(rows), padding_side)

    def collate(self, rows: Sequence[Prepared], padding_side: str) -> BatchFeature:
        """A padded batch on the model's device; see :meth:`SharedFeatures.collate`."""
        sent = self._ahead.pop(_name(rows, padding_side), None)
        if sent is not None and self.mover is not None:
            error = sent.exception()
            if error is None:
                return self.mover.receive(sent.result())
            if not out_of_memory(error):
                raise error
            del sent, error  # and with them what was on the device already
            self._room = False
        if self.features is not None and self._shared(rows):
            return self.features.collate(rows, padding_side)
        batch: BatchFeature = self.processor.collate(rows, padding_side, place=self._place)
        return batch

    def release(self) -> bool:
        """Let go of what is held for later batches, for want of memory; whether that was anything."""
        dropped = self._drop()
        self._room = self._room and not dropped
        return (self.features is not None and self.features.release()) or dropped

    def _shared(self, rows: Sequence[Prepared]) -> bool:
        return self.features is not None and self.features.shared_among(rows)

    def _send(self, rows: list[Prepared], padding_side: str) -> Any:
        assert self.mover is not None
        return self.mover.send(lambda place: self.processor.collate(rows, padding_side, place=place))

    def _drop(self) -> bool:
        ahead, self._ahead = self._ahead, {}
        begun = [sent for sent in ahead.values() if not sent.cancel()]
        for sent in begun:
            sent.exception()  # waits: what it copies must not outlive this call
        return bool(begun)


def _name(rows: Sequence[Prepared], padding_side: str) -> tuple[Any, ...]:
    """Of a batch among those of one window, whose items live as long as it does."""
    return (padding_side, *(id(row) for row in rows))
