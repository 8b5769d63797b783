"""Patches as matrix products: the numbers and gradients of the convolution, under its name and with its weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoModelForImageTextToText

from umekit.modeling.discriminative import UmeForDiscriminativeEmbedding
from umekit.modeling.patches import PatchProjection, multiply_patches
from umekit.processing.processor import UmeProcessor

FAMILIES = ["qwen2_vl", "qwen2_5_vl", "qwen3_vl"]


def projections(model: nn.Module) -> list[nn.Module]:
    return [module for module in model.modules() if isinstance(module, nn.Conv3d)]


@pytest.mark.parametrize("family", FAMILIES)
def test_features_and_gradients_are_the_stock_tower_s(
    family: str, tiny_checkpoint: Callable[..., Path], mixed_items: list[Any]
) -> None:
    folder = tiny_checkpoint(family)
    ours = UmeForDiscriminativeEmbedding.from_pretrained(folder).backbone
    stock = AutoModelForImageTextToText.from_pretrained(folder).eval()
    processor = UmeProcessor.from_pretrained(folder)
    batch = processor.collate(processor.prepare_all(mixed_items))
    assert [type(module) for module in projections(ours)] == [PatchProjection]
    assert [type(module) for module in projections(stock)] == [nn.Conv3d]
    features, gradients = [], []
    for model in (ours, stock):
        found = model.base_model.get_image_features(
            batch["pixel_values"], batch["image_grid_thw"], return_dict=True
        )
        pooled = torch.cat(list(found.pooler_output))
        pooled.square().sum().backward()
        features.append(pooled.detach())
        (projection,) = projections(model)
        gradients.append(projection.weight.grad)
    torch.testing.assert_close(*features, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(*gradients, atol=1e-4, rtol=1e-3)


def test_a_larger_input_is_convolved() -> None:
    """Whatever is no single patch goes to the kernel that it was written for."""
    tower = nn.ModuleDict({"projection": nn.Conv3d(3, 8, kernel_size=(2, 4, 4), stride=(2, 4, 4))})
    picture = torch.randn(2, 3, 2, 12, 8)
    before = tower["projection"](picture)
    multiply_patches(tower)
    assert type(tower["projection"]) is PatchProjection
    torch.testing.assert_close(tower["projection"](picture), before)
    patch = picture[..., :4, :4]
    torch.testing.assert_close(tower["projection"](patch), before[..., :1, :1])


def test_other_convolutions_are_left_alone() -> None:
    """A padded one computes more than its input, a dilated one less."""
    tower = nn.ModuleList([nn.Conv3d(3, 8, 2, padding=1), nn.Conv3d(3, 8, 2, dilation=2)])
    multiply_patches(tower)
    assert [type(module) for module in tower] == [nn.Conv3d, nn.Conv3d]
