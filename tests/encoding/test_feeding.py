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
from umekit.encoding.feeding import Feed, mover_for
from umekit.encoding.shared_features import SharedFeatures


class RecordingMover:
    """Moves nothing, and remembers who called."""

    def __init__(self, fail_on: int | None = None) -> None:
        self.sent: list[str] = []
        self.received = 0
        self.fail_on = fail_on

    def send(self, batch: BatchFeature) -> BatchFeature:
        self.sent.append(threading.current_thread().name)
        if len(self.sent) == self.fail_on:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return batch

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
    assert all(name.startswith("umekit-feed") for name in mover.sent)


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


def test_what_could_not_be_sent_is_collated_in_its_turn(
    encoder: umekit.Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    items = [f"text {'and more ' * n}" for n in range(12)]
    expected = encoder.encode(items)
    mover = RecordingMover(fail_on=2)
    with_mover(monkeypatch, mover)
    np.testing.assert_array_equal(encoder.encode(items), expected)
    assert mover.received == len(mover.sent) - 1 > 1


def test_release_lets_go_of_what_was_sent(encoder: umekit.Encoder) -> None:
    rows = encoder.processor.prepare_all(["one", "two"])
    mover = RecordingMover()
    with Feed(SharedFeatures(encoder.model, encoder.processor), mover) as feed:
        assert not feed.release()
        feed.announce(rows)
        while not mover.sent:  # begun, so that it cannot be taken back
            pass
        assert feed.release()
        assert not feed.release()
        assert torch.equal(feed.collate(rows)["input_ids"], encoder.processor.collate(rows)["input_ids"])
    assert mover.received == 0


def test_nothing_is_sent_ahead_on_a_cpu() -> None:
    assert mover_for(torch.device("cpu")) is None
