"""Packed rows: no layer computes padding, what the kernel is told is right, and gradients are those of padded rows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AttentionInterface

from umekit.modeling import packing_ume
from umekit.modeling.modeling_ume import UmeForDiscriminativeEmbedding
from umekit.modeling.packing_ume import PACKED_SDPA, packed_sdpa
from umekit.processing.processing_ume import UmeProcessor

PACKABLE = ["qwen2_vl", "qwen2_5_vl", "qwen3_vl"]
BOTH_WAYS: dict[str, Any] = {"attention": "bidirectional", "pooling": "mean"}


def open_packed(folder: Path) -> tuple[Any, Any]:
    model = UmeForDiscriminativeEmbedding.from_pretrained(folder, attn_implementation=PACKED_SDPA)
    return model, UmeProcessor.from_pretrained(folder)


def language_calls(model: Any, batch: Any, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What the attention of the language model is called with during a forward."""
    calls: list[dict[str, Any]] = []

    def spy(module: Any, query: Any, key: Any, value: Any, attention_mask: Any, **kwargs: Any) -> Any:
        if kwargs.get("cu_seq_lens_q") is not None:
            calls.append({"shape": query.shape, "mask": attention_mask, **kwargs})
        return packed_sdpa(module, query, key, value, attention_mask, **kwargs)

    monkeypatch.setitem(AttentionInterface._global_mapping, PACKED_SDPA, spy)
    with torch.no_grad():
        model(**batch)
    return calls


@pytest.mark.parametrize("settings", [{}, BOTH_WAYS], ids=["causal", "bidirectional"])
@pytest.mark.parametrize("family", PACKABLE)
def test_every_layer_sees_the_real_tokens_alone(
    family: str,
    settings: dict[str, Any],
    tiny_checkpoint: Callable[..., Path],
    mixed_items: list[Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, processor = open_packed(tiny_checkpoint(family, **settings))
    rows = processor.prepare_all(mixed_items)
    calls = language_calls(model, processor.collate(rows), monkeypatch)
    lengths = [row.length for row in rows]
    assert len(calls) == model.config.get_text_config().num_hidden_layers
    for call in calls:
        assert call["shape"][0] == 1
        assert call["shape"][2] == sum(lengths)
        assert call["mask"] is None
        # These are what flash attention is called with, too.
        assert call["cu_seq_lens_q"].dtype == torch.int32
        assert call["cu_seq_lens_q"].diff().tolist() == lengths
        assert torch.equal(call["cu_seq_lens_k"], call["cu_seq_lens_q"])
        assert call["max_length_q"] == call["max_length_k"] == max(lengths)
        assert (call.get("is_causal") is False) == bool(settings)


@pytest.mark.parametrize("family", PACKABLE)
def test_gradients_are_those_of_padded_rows(
    family: str, tiny_checkpoint: Callable[..., Path], mixed_items: list[Any]
) -> None:
    found = []
    for kernel in ("sdpa", PACKED_SDPA):
        folder = tiny_checkpoint(family)
        model = UmeForDiscriminativeEmbedding.from_pretrained(folder, attn_implementation=kernel)
        batch = UmeProcessor.from_pretrained(folder).encode_items(mixed_items)
        vectors = model(**batch).embeddings
        torch.manual_seed(0)
        (vectors * torch.randn_like(vectors)).sum().backward()
        found.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    expected, packed = found
    assert packed.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(packed[name], gradient, atol=1e-5, rtol=1e-4, msg=name)


def test_a_family_with_linear_attention_is_not_packed(
    tiny_checkpoint: Callable[..., Path], mixed_items: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, processor = open_packed(tiny_checkpoint("qwen3_5"))
    assert language_calls(model, processor.encode_items(mixed_items), monkeypatch) == []


def test_what_would_be_left_out_is_refused() -> None:
    heads = torch.randn(1, 2, 5, 4)
    ends = torch.tensor([0, 2, 5], dtype=torch.int32)
    module: Any = torch.nn.Module()
    for wrong in ({"attention_mask": torch.ones(1, 1, 5, 5)}, {"attention_mask": None, "sliding_window": 2}):
        with pytest.raises(ValueError, match="neither masks nor sliding windows"):
            packed_sdpa(module, heads, heads, heads, cu_seq_lens_q=ends, is_causal=True, **wrong)


def test_flash_attention_is_packed() -> None:
    class Text:
        layer_types = ("full_attention",)
        _attn_implementation = "flash_attention_2"

    class Config:
        def get_text_config(self) -> Any:
            return Text()

    assert packing_ume.packs(Config())
