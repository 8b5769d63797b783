"""AutoModel's door and the Encoder's go through one loop: the same batches, the same care for memory and vectors."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import umekit
from umekit.modeling.encode_loop import EncodeOptions
from umekit.modeling.pooling import DegenerateVectorError


@pytest.fixture
def encoder(tiny_checkpoint: Callable[..., Path]) -> umekit.Encoder:
    return umekit.load(tiny_checkpoint("qwen2_vl"), device="cpu")


@pytest.mark.parametrize("settings", [{}, {"role": "generative", "max_new_tokens": 4}])
def test_both_doors_give_the_same_bits(
    tiny_checkpoint: Callable[..., Path], mixed_items: list[Any], settings: dict[str, Any]
) -> None:
    encoder = umekit.load(tiny_checkpoint("qwen2_vl", **settings), device="cpu")
    direct = encoder.model.encode(mixed_items, processor=encoder.processor, return_details=True)
    found = encoder.encode(mixed_items, return_details=True)
    np.testing.assert_array_equal(direct.embeddings.numpy(), found.embeddings)
    assert direct.thoughts == found.thoughts
    assert direct.batch_tokens == found.batch_tokens


def test_nothing_is_an_empty_tensor(encoder: umekit.Encoder) -> None:
    found = encoder.model.encode([], processor=encoder.processor, dim=16)
    assert found.shape == (0, 16)
    assert found.dtype == torch.float32


def short_of_memory(encoder: umekit.Encoder, most: int, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Forwards of more than ``most`` padded tokens find no memory; the sizes of the others."""
    sizes: list[int] = []
    forward = encoder.model.forward

    def limited(**batch: Any) -> Any:
        if batch["input_ids"].numel() > most:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        sizes.append(batch["input_ids"].numel())
        return forward(**batch)

    monkeypatch.setattr(encoder.model, "forward", limited)
    return sizes


def test_a_model_alone_halves_its_batches_too(
    encoder: umekit.Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = [f"text {'word ' * (number % 7)}" for number in range(12)]
    expected = encoder.model.encode(texts, processor=encoder.processor)
    sizes = short_of_memory(encoder, 100, monkeypatch)
    with pytest.warns(UserWarning, match="out of memory on cpu") as said:
        found = encoder.model.encode(texts, processor=encoder.processor)
    assert [warning.filename for warning in said] == [__file__]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    assert max(sizes) <= 100
    with pytest.raises(MemoryError, match=r"its \d+ tokens do not fit into the memory of cpu even alone"):
        encoder.model.encode(["a", "word " * 200], processor=encoder.processor)


def test_a_degenerate_vector_is_named_by_its_item(
    encoder: umekit.Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward = encoder.model.forward

    def broken(**batch: Any) -> Any:
        output = forward(**batch)
        output.embeddings[batch["attention_mask"].sum(dim=1) > 60] = 0
        return output

    monkeypatch.setattr(encoder.model, "forward", broken)
    with pytest.raises(DegenerateVectorError, match=r"item 2: its vector is zero, constant or not finite"):
        encoder.model.encode(["one", "two", "word " * 60], processor=encoder.processor)


def test_wishes_are_checked_against_the_model(encoder: umekit.Encoder) -> None:
    assert EncodeOptions.of(encoder.model) == EncodeOptions("discriminative")
    for wishes, said in (
        ({"mode": "both"}, "needs a generative checkpoint"),
        ({"mode": ""}, "mode is ''"),
        ({"temperature": 0.5}, "temperature needs a mode that thinks"),
        ({"reduce": "sum"}, "reduce"),
        ({"dim": 0}, "dim"),
    ):
        with pytest.raises(ValueError, match=said):
            EncodeOptions.of(encoder.model, **wishes)
        with pytest.raises(ValueError, match=said):
            encoder.model.encode(["a"], processor=encoder.processor, **wishes)
