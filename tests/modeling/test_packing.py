"""Packed rows: no layer computes padding, what the kernel is told is right, and gradients are those of padded rows."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flash_stand_in
import pytest
import torch
from transformers import AttentionInterface

import umekit
from umekit.modeling import packing as packing_module
from umekit.modeling.discriminative import UmeForDiscriminativeEmbedding
from umekit.modeling.packing import PACKED_ON_CPU, PACKED_SDPA, packed_sdpa, packs
from umekit.processing.processor import UmeProcessor

PACKABLE = ["qwen2_vl", "qwen2_5_vl", "qwen3_vl"]
BOTH_WAYS: dict[str, Any] = {"attention": "bidirectional", "pooling": "mean"}
IF_PADDED: dict[str, Any] = {"attention": "bidirectional_if_padded"}


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


@pytest.mark.parametrize("settings", [{}, BOTH_WAYS, IF_PADDED], ids=["causal", "bidirectional", "if-padded"])
@pytest.mark.parametrize("family", PACKABLE)
def test_flash_attention_reads_packed_rows(
    family: str,
    settings: dict[str, Any],
    tiny_checkpoint: Callable[..., Path],
    mixed_items: list[Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    flash_stand_in.install(monkeypatch)
    folder = tiny_checkpoint(family, **settings)
    processor = UmeProcessor.from_pretrained(folder)
    model = UmeForDiscriminativeEmbedding.from_pretrained(folder, attn_implementation="sdpa")
    lengths: list[list[int]] = []
    real = flash_stand_in.varlen

    def spy(*args: Any, **kwargs: Any) -> torch.Tensor:
        lengths.append(kwargs["cu_seqlens_q"].diff().tolist())
        return real(*args, **kwargs)

    monkeypatch.setattr(flash_stand_in, "varlen", spy)
    flash_stand_in.install(monkeypatch)
    rows = processor.prepare_all(mixed_items)
    batch = processor.collate(rows)
    with torch.no_grad():
        expected = model(**batch).embeddings
        model.config._attn_implementation = flash_stand_in.NAME
        found = model(**batch).embeddings
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    layers = model.config.get_text_config().num_hidden_layers
    assert lengths[-layers:] == [[row.length for row in rows]] * layers


def test_a_row_of_padding_alone_has_no_states(tiny_checkpoint: Callable[..., Path]) -> None:
    model, processor = open_packed(tiny_checkpoint("qwen2_vl"))
    batch = processor.encode_items(["one", "two words"])
    with torch.no_grad():
        expected = model(**batch).last_hidden_state[1]
        batch["attention_mask"][0] = 0
        del batch["pooling_slots"]
        states = model(**batch).last_hidden_state
    assert not states[0].any()
    torch.testing.assert_close(states[1], expected, atol=1e-5, rtol=0)


def test_with_gradient_checkpointing(tiny_checkpoint: Callable[..., Path], mixed_items: list[Any]) -> None:
    found = []
    for checkpointing in (False, True):
        model, processor = open_packed(tiny_checkpoint("qwen2_vl"))
        if checkpointing:
            model.backbone.gradient_checkpointing_enable({"use_reentrant": False})
        model.train()
        vectors = model(**processor.encode_items(mixed_items)).embeddings
        (vectors[:, :3] ** 2).sum().backward()
        found.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    assert found[0].keys() == found[1].keys()
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient, atol=1e-6, rtol=1e-4, msg=name)


def test_the_default_on_a_cpu_does_not_leave_it(tiny_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    encoder = umekit.load(tiny_checkpoint("qwen2_vl"), device="cpu")
    config = encoder.model.config
    assert config.get_text_config()._attn_implementation == PACKED_ON_CPU
    assert packs(config, torch.device("cpu"))
    assert not packs(config, torch.device("cuda"))
    encoder.model.save_pretrained(tmp_path)
    assert "packed" not in (tmp_path / "config.json").read_text()
    chosen = umekit.load(tiny_checkpoint("qwen2_vl"), device="cpu", attn_implementation="sdpa")
    assert not packs(chosen.model.config, torch.device("cpu"))
    other = umekit.load(tiny_checkpoint("qwen3_5"), device="cpu")
    assert other.model.config.get_text_config()._attn_implementation == "sdpa"


def test_code_of_a_checkpoint_does_not_replace_the_kernel() -> None:
    spec = importlib.util.spec_from_file_location("packing_of_a_checkpoint", packing_module.__file__)
    assert spec is not None
    assert spec.loader is not None
    spec.loader.exec_module(importlib.util.module_from_spec(spec))
    assert AttentionInterface()[packing_module.PACKED_SDPA] is packing_module.packed_sdpa
