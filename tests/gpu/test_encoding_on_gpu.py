"""Vectors on a GPU: as on the CPU, with every attention kernel, in bfloat16 and in 4 bits."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import BitsAndBytesConfig
from transformers.utils import is_bitsandbytes_available, is_flash_attn_2_available

import umekit
from umekit.encoding.prefetching import CudaMover, Prefetcher
from umekit.modeling.backbone import UNQUANTISED_MODULES
from umekit.modeling.packing import PACKED_SDPA

CLOSE_IN_BF16 = (
    0.99  # cosine; random weights make the states of tiny models worse conditioned than trained ones
)


def cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return (a * b).sum(axis=1)


def test_float32_equals_the_cpu(
    family: str, tiny_checkpoint: Callable[..., Path], mixed_items: list[Any]
) -> None:
    folder = tiny_checkpoint(family)
    expected = umekit.load(folder, device="cpu").encode(mixed_items)
    found = umekit.load(folder, device="cuda", dtype="float32").encode(mixed_items)
    np.testing.assert_allclose(found, expected, atol=2e-3)  # TF32 may be on


@pytest.mark.parametrize("attention", ["causal", "bidirectional"])
def test_bfloat16_is_near_float32(
    attention: str, tiny_checkpoint: Callable[..., Path], mixed_items: list[Any]
) -> None:
    folder = tiny_checkpoint("qwen2_vl", attention=attention)
    expected = umekit.load(folder, device="cuda", dtype="float32").encode(mixed_items)
    found = umekit.load(folder, device="cuda", dtype="bfloat16").encode(mixed_items)
    assert cosines(found, expected).min() > CLOSE_IN_BF16


@pytest.mark.parametrize("kernel", ["flash_attention_2", PACKED_SDPA])
@pytest.mark.parametrize("attention", ["causal", "bidirectional"])
def test_packed_rows_equal_padded_ones(
    attention: str, kernel: str, tiny_checkpoint: Callable[..., Path], mixed_items: list[Any]
) -> None:
    if kernel == "flash_attention_2" and not is_flash_attn_2_available():
        pytest.skip("needs flash-attn 2")
    folder = tiny_checkpoint("qwen2_vl", attention=attention)
    padded, packed = (
        umekit.load(folder, device="cuda", dtype="bfloat16", attn_implementation=name).encode(mixed_items)
        for name in ("sdpa", kernel)
    )
    assert cosines(padded, packed).min() > CLOSE_IN_BF16


def test_batches_sent_ahead_are_the_same(
    tiny_checkpoint: Callable[..., Path], mixed_items: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    received = []
    real = CudaMover.receive
    monkeypatch.setattr(CudaMover, "receive", lambda self, sent: received.append(1) or real(self, sent))
    items = [*mixed_items, *(f"text {'and more ' * n}" for n in range(64))]
    encoder = umekit.load(tiny_checkpoint("qwen2_vl"), device="cuda", dtype="float32")
    found = encoder.encode(items, batch_tokens=128)
    assert len(received) > 10
    alone = []
    with torch.inference_mode(), Prefetcher(encoder.model, encoder.processor, mover=None) as prefetcher:
        for row in encoder.processor.prepare_all(items):
            alone.append(encoder.model(**prefetcher.collate([row], "right")).embeddings.cpu().numpy())
    np.testing.assert_allclose(found, np.concatenate(alone), atol=2e-3)


def test_alone_equals_batched(
    family: str, tiny_checkpoint: Callable[..., Path], mixed_items: list[Any]
) -> None:
    encoder = umekit.load(tiny_checkpoint(family), device="cuda", dtype="float32")
    alone = np.concatenate([encoder.encode([item]) for item in mixed_items])
    np.testing.assert_allclose(encoder.encode(mixed_items), alone, atol=2e-3)


@pytest.mark.skipif(not is_bitsandbytes_available(), reason="needs bitsandbytes")
def test_four_bits(tiny_checkpoint: Callable[..., Path], mixed_items: list[Any]) -> None:
    quantisation = BitsAndBytesConfig(load_in_4bit=True, llm_int8_skip_modules=list(UNQUANTISED_MODULES))
    encoder = umekit.load(tiny_checkpoint("qwen2_vl"), device="cuda", quantization_config=quantisation)
    found = encoder.encode(mixed_items)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(encoder.encode(mixed_items[:2]), found[:2], atol=0.05)
