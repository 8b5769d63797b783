"""Batches sent ahead: the same vectors, made in another thread, and nothing held when memory runs out."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import BatchFeature

import umekit
from umekit.encoding import encoder as encoder_module
from umekit.encoding.prefetching import Prefetcher, mover_for
from umekit.modeling import encode_loop


class RecordingMover:
    """Moves nothing, and remembers who called."""

    error: Exception = torch.cuda.OutOfMemoryError("CUDA out of memory")

    def __init__(self, fail_on: int | None = None) -> None:
        self.sent: list[str] = []
        self.received = 0
        self.fail_on = fail_on
        self.began = threading.Event()
        self.placed: set[int] = set()
        self.dtypes: set[torch.dtype] = set()

    def send(self, collate: Callable[[Callable[[torch.Tensor], torch.Tensor]], BatchFeature]) -> BatchFeature:
        self.sent.append(threading.current_thread().name)
        self.began.set()
        if len(self.sent) == self.fail_on:
            raise self.error
        batch = collate(self.place)
        unmoved = [name for name, tensor in batch.items() if id(tensor) not in self.placed]
        assert all(
            name.startswith("pixel_values") for name in unmoved
        )  # which are made of bytes that were moved
        return batch

    def place(self, tensor: torch.Tensor) -> torch.Tensor:
        self.placed.add(id(tensor))
        self.dtypes.add(tensor.dtype)
        return tensor

    def receive(self, sent: BatchFeature) -> BatchFeature:
        assert threading.current_thread() is threading.main_thread()
        self.received += 1
        return sent


@pytest.fixture
def encoder(tiny_checkpoint: Callable[..., Path]) -> umekit.Encoder:
    loaded: umekit.Encoder = umekit.load(tiny_checkpoint("qwen2_vl"), device="cpu")
    loaded.batch_tokens = 64
    return loaded


def with_mover(monkeypatch: pytest.MonkeyPatch, mover: Any) -> None:
    monkeypatch.setattr(encoder_module, "mover_for", lambda device: mover)


def test_vectors_are_the_same(
    encoder: umekit.Encoder, mixed_items: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    items = [*mixed_items, *(f"text {'and more ' * n}" for n in range(12))]
    expected = encoder.encode(items)
    mover = RecordingMover()
    with_mover(monkeypatch, mover)
    np.testing.assert_array_equal(encoder.encode(items), expected)
    assert mover.received == len(mover.sent) > 3
    assert all(name.startswith("umekit-prefetch") for name in mover.sent)
    assert torch.uint8 in mover.dtypes
    assert torch.float32 not in mover.dtypes


def test_thoughts_are_the_same(tiny_checkpoint: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = umekit.load(tiny_checkpoint("qwen2_vl", role="generative"), device="cpu")
    items = [f"text {'and more ' * n}" for n in range(8)]
    expected = encoder.encode(items, mode="both", max_new_tokens=3, batch_tokens=64)
    mover = RecordingMover()
    with_mover(monkeypatch, mover)
    found = encoder.encode(items, mode="both", max_new_tokens=3, batch_tokens=64)
    assert mover.received > 0
    for part, vectors in expected.items():
        np.testing.assert_array_equal(found[part], vectors)


def test_shared_media_have_no_head_start(
    encoder: umekit.Encoder, pictures: list[Image.Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    mover = RecordingMover()
    with_mover(monkeypatch, mover)
    encoder.encode([{"image": pictures[0], "text": word * 20} for word in "abcd"])
    assert mover.sent == []


def test_a_batch_without_room_beside_another_waits_its_turn_and_is_the_last_to_be_sent(
    encoder: umekit.Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    items = [f"text {'and more ' * n}" for n in range(24)]
    expected = encoder.encode(items)
    mover = RecordingMover(fail_on=2)
    with_mover(monkeypatch, mover)
    np.testing.assert_array_equal(encoder.encode(items), expected)
    assert mover.received in (1, 2)  # the third was under way when the second was asked for, or was not
    assert len(mover.sent) == mover.received + 1


def test_another_error_of_sending_is_an_error(
    encoder: umekit.Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    mover = RecordingMover(fail_on=2)
    mover.error = RuntimeError("pinning is not allowed here")
    with_mover(monkeypatch, mover)
    with pytest.raises(RuntimeError, match="pinning is not allowed"):
        encoder.encode([f"text {'and more ' * n}" for n in range(24)])


def test_want_of_memory_ends_the_sending_before_it_costs_the_budget(
    encoder: umekit.Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A batch that does not fit beside a sent one is tried alone; no later one is held up by another."""
    items = [f"text {'and more ' * n}" for n in range(24)]
    expected = encoder.encode(items)
    mover = RecordingMover()
    with_mover(monkeypatch, mover)
    real = encode_loop.encode_batch

    def crowded(model: Any, rows: Any, options: Any, prefetcher: Prefetcher) -> Any:
        done = real(model, rows, options, prefetcher)
        if prefetcher._ahead:
            [sent] = prefetcher._ahead.values()
            sent.result()
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return done

    monkeypatch.setattr(encode_loop, "encode_batch", crowded)
    details = encoder.encode(items, return_details=True)
    np.testing.assert_array_equal(details.embeddings, expected)
    assert details.batch_tokens == encoder.batch_tokens
    assert len(mover.sent) == 1


def test_release_lets_go_of_what_was_sent(encoder: umekit.Encoder) -> None:
    rows = encoder.processor.prepare_all(["one", "two"])
    mover = RecordingMover()
    with Prefetcher(encoder.model, encoder.processor, mover) as prefetcher:
        assert not prefetcher.release()
        prefetcher.prefetch(rows, "right")
        assert mover.began.wait(10)  # so that it cannot be taken back
        assert prefetcher.release()
        assert not prefetcher.release()
        assert torch.equal(
            prefetcher.collate(rows, "right")["input_ids"], encoder.processor.collate(rows)["input_ids"]
        )
    assert mover.received == 0


def test_nothing_is_sent_ahead_on_a_cpu() -> None:
    assert mover_for(torch.device("cpu")) is None
