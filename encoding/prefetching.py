"""Batches on their way to a GPU: the next one is collated and copied while the model works on this one.

On a CPU there is nothing to overlap: collation would take the cores that the model runs on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from typing import TYPE_CHECKING, Any, Protocol

import torch
from transformers import BatchFeature

from .passes import out_of_memory

if TYPE_CHECKING:
    from ..processing.collating import Place, Prepared
    from .shared_features import SharedFeatures


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


class Feed:
    """Collates batches, an announced one ahead of its turn.

    Args:
        features: collates batches with media that several items show, which need the model and have no head start.
        mover: of the model's device; None collates every batch when it is asked for.
    """

    def __init__(self, features: SharedFeatures, mover: Mover | None) -> None:
        self.features = features
        self.mover = mover
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="umekit-feed") if mover is not None else None
        self._ahead: dict[tuple[Any, ...], Future[Any]] = {}
        self._room = True  # for a batch beside the one that is computed

    def __enter__(self) -> Feed:
        return self

    def __exit__(self, *_: object) -> None:
        self._drop()
        if self._pool is not None:
            self._pool.shutdown()

    @property
    def processor(self) -> Any:
        """That of the features."""
        return self.features.processor

    def announce(self, rows: Sequence[Prepared], padding_side: str = "right") -> None:
        """Begin with a batch that will be asked for soon; not once memory has run out."""
        if self._pool is not None and self._room and not self.features.shared_among(rows):
            self._ahead[_name(rows, padding_side)] = self._pool.submit(self._send, list(rows), padding_side)

    def collate(self, rows: Sequence[Prepared], padding_side: str = "right") -> BatchFeature:
        """A padded batch on the model's device; see :meth:`SharedFeatures.collate`."""
        sent = self._ahead.pop(_name(rows, padding_side), None)
        if sent is None or self.mover is None:
            return self.features.collate(rows, padding_side)
        error = sent.exception()
        if error is None:
            return self.mover.receive(sent.result())
        if not out_of_memory(error):
            raise error
        del sent, error  # and with them what was on the device already
        self._room = False
        return self.features.collate(rows, padding_side)

    def release(self) -> bool:
        """Let go of what is held for later batches, for want of memory; whether that was anything."""
        dropped = self._drop()
        self._room = self._room and not dropped
        return self.features.release() or dropped

    def _send(self, rows: list[Prepared], padding_side: str) -> Any:
        assert self.mover is not None
        collate = self.features.processor.collate
        return self.mover.send(lambda place: collate(rows, padding_side, place=place))

    def _drop(self) -> bool:
        ahead, self._ahead = self._ahead, {}
        begun = [sent for sent in ahead.values() if not sent.cancel()]
        for sent in begun:
            sent.exception()  # waits: what it copies must not outlive this call
        return bool(begun)


def _name(rows: Sequence[Prepared], padding_side: str) -> tuple[Any, ...]:
    """Of a batch among those of one window, whose items live as long as it does."""
    return (padding_side, *(id(row) for row in rows))
