"""A model that is spread over devices leaves its states on the last one; they have to come back to their inputs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.hooks import ModelHook, add_hook_to_module
from torch import Tensor, nn
from torch.utils._pytree import tree_map
from transformers import AutoModelForImageTextToText

from umekit.modeling.backbone import states_of
from umekit.modeling.decoding import prefill
from umekit.modeling.discriminative import UmeForDiscriminativeEmbedding
from umekit.modeling.packing import PACKED_SDPA
from umekit.modeling.patches import PatchProjection, multiply_patches
from umekit.processing.processor import UmeProcessor


class Elsewhere(Tensor):
    """A tensor of another device: it can be moved and cut, and computes with none of this one."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        def plain(value: Any) -> Any:
            return value.as_subclass(Tensor) if isinstance(value, Elsewhere) else value

        found = func(*tree_map(plain, args), **tree_map(plain, kwargs or {}))
        if func is Tensor.to:
            return found
        if func in (Tensor.__getitem__, Tensor.squeeze):
            return found.as_subclass(Elsewhere)
        if getattr(func, "__name__", "") == "__get__":
            return found
        raise RuntimeError(f"{func} on tensors of two devices")


@pytest.fixture
def spread(tiny_checkpoint: Callable[..., Path], mixed_items: list[Any]) -> Callable[[str, str], Any]:
    """Opens a model whose final norm stands elsewhere, and collates a batch for it."""

    def open_(kernel: str, padding_side: str) -> Any:
        folder = tiny_checkpoint("qwen2_vl")
        model = UmeForDiscriminativeEmbedding.from_pretrained(folder, attn_implementation=kernel)
        processor = UmeProcessor.from_pretrained(folder)
        batch = processor.collate(processor.prepare_all(mixed_items), padding_side=padding_side)
        norm = model.backbone.base_model.language_model.norm
        norm.register_forward_hook(lambda module, inputs, output: output.as_subclass(Elsewhere))
        return model, batch

    return open_


@pytest.mark.parametrize("kernel", ["sdpa", PACKED_SDPA])
@torch.no_grad()
def test_states_come_back(spread: Callable[[str, str], Any], kernel: str) -> None:
    model, batch = spread(kernel, "right")
    states = states_of(model.backbone, dict(batch), model.settings)
    assert type(states) is Tensor
    assert model(**batch).embeddings.isfinite().all()


@torch.no_grad()
def test_a_cache_goes_on(spread: Callable[[str, str], Any]) -> None:
    model, batch = spread("sdpa", "left")
    rows, states = prefill(model.backbone, dict(batch), model.settings)
    assert type(states) is Tensor
    rows.step(torch.zeros(len(rows), dtype=torch.long))
    rows.take([0])
    assert type(rows.state) is Tensor


def test_a_hook_of_a_device_map_multiplies_too(tiny_checkpoint: Callable[..., Path]) -> None:
    """accelerate keeps the forward that it found, which would go on convolving."""
    backbone = AutoModelForImageTextToText.from_pretrained(tiny_checkpoint("qwen2_vl"))
    projection = next(module for module in backbone.modules() if isinstance(module, nn.Conv3d))
    add_hook_to_module(projection, ModelHook())
    patches = torch.randn(3, 3, *projection.kernel_size)
    before = projection(patches)
    multiply_patches(backbone)
    assert projection._old_forward.__func__ is PatchProjection.forward
    torch.testing.assert_close(projection(patches), before, atol=1e-5, rtol=1e-4)
