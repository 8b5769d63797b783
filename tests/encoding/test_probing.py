"""The probe takes the fastest setting, in turns, and changes nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import umekit
from umekit.encoding.probing import probe

Seconds = Callable[[int, int, int], float]


class Timed:
    """An encoder on whose clock a call takes ``seconds(threads, tokens, calls before)``; memory holds ``room``."""

    def __init__(self, seconds: Seconds, room: int = 10**9) -> None:
        self.model = SimpleNamespace(device=torch.device("cpu"))
        self.batch_tokens = 1000
        self.seconds, self.room, self.now = seconds, room, 0.0
        self.calls: list[tuple[int, int]] = []

    def encode(self, items: Any, *, batch_tokens: int, **options: Any) -> Any:
        assert options["on_error"] == "skip"
        threads = torch.get_num_threads()
        self.now += self.seconds(threads, batch_tokens, len(self.calls))
        self.calls.append((threads, batch_tokens))
        bad = [(place, ValueError("it is bad")) for place, item in enumerate(items) if item == "bad"]
        return SimpleNamespace(errors=bad, batch_tokens=min(batch_tokens, self.room))

    def probe(self, items: Any = ("a", "b"), **options: Any) -> Any:
        return probe(self, items, clock=lambda: self.now, **options)  # type: ignore[arg-type]


def test_the_fastest_is_taken() -> None:
    encoder = Timed(lambda threads, tokens, _: 10 / threads + abs(tokens - 2000) / 1000)
    before = torch.get_num_threads()
    found = encoder.probe(threads=[1, 2, 4])
    assert (found.threads, found.batch_tokens) == (4, 2000)
    assert found.seconds[1, 1000] == pytest.approx(11)
    assert "4 threads, batches of 2000 tokens: 4.40 times as fast" in str(found)
    assert torch.get_num_threads() == before


def test_a_slow_moment_is_not_a_slow_setting() -> None:
    def seconds(threads: int, tokens: int, calls: int) -> float:
        return 5 / threads + (4 if calls in (2, 5, 6) else 0)

    assert Timed(seconds).probe(threads=[1, 2], budgets=[1000]).threads == 2


def test_hopeless_settings_are_timed_once() -> None:
    encoder = Timed(lambda threads, tokens, _: 100 if threads == 4 else 1)
    encoder.probe(threads=[1, 2, 4], budgets=[1000])
    assert encoder.calls.count((4, 1000)) == 1
    assert encoder.calls.count((2, 1000)) == 3


def test_the_default_stays_for_a_few_percent() -> None:
    found = Timed(lambda threads, tokens, _: 1.0 if tokens == 1000 else 0.97).probe(threads=[1])
    assert (found.threads, found.batch_tokens) == (1, 1000)


def test_what_memory_does_not_hold_is_not_taken() -> None:
    found = Timed(lambda threads, tokens, _: 1000 / tokens, room=2000).probe(threads=[1])
    assert found.batch_tokens == 2000
    assert (1, 4000) not in found.seconds


def test_bad_items() -> None:
    steady = Timed(lambda *_: 1.0)
    assert steady.probe(["a", "bad"], threads=[1]).batch_tokens == 1000
    with pytest.raises(ValueError, match="none of the 2 items to probe with can be encoded: it is bad"):
        steady.probe(["bad", "bad"])
    with pytest.raises(ValueError, match="there are no items"):
        steady.probe([])


def test_a_real_encoder(tiny_checkpoint: Callable[..., Path], mixed_items: list[Any]) -> None:
    encoder = umekit.load(tiny_checkpoint("qwen2_vl"), device="cpu")
    found = probe(encoder, mixed_items, threads=[1], rounds=1, role="query")
    assert found.threads == 1
    assert found.batch_tokens in (1024, 2048, 4096, 8192)
    assert set(found.seconds) == {(1, tokens) for tokens in (1024, 2048, 4096, 8192)}
    assert encoder.batch_tokens == 2048
