"""umekit.trainers.memory: the estimate against parameters counted by hand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig, AutoModelForImageTextToText

from umekit.trainers.memory import FOUR_BIT, GIB, estimate_memory, patch_cost

# The tiny Qwen2-VL: 2 text layers of width 64 (4 heads of 16, 2 of them for keys), inner width 128; 2 vision layers of
# width 32, inner width 64; patches of 3 x 2 x 14 x 14; 2 x 2 patches merged.
LANGUAGE_LINEAR = 2 * (2 * 64 * 64 + 2 * 64 * 32 + 3 * 64 * 128)
LANGUAGE_REST = 2 * (64 + 2 * 32 + 2 * 64) + 64  # biases of q, k and v, two norms a layer, the last norm
VISION_LINEAR = 2 * (32 * 96 + 32 * 32 + 2 * 32 * 64)
VISION_REST = (
    2 * (96 + 32 + 64 + 32 + 4 * 32) + 32 * 3 * 2 * 14 * 14
)  # biases, two norms with bias; the patches
MERGER = 2 * 32 + 128 * 128 + 128 + 128 * 64 + 64
# A and B of every linear layer, a rank: inputs + outputs of q and o, k and v, gate and up, down.
LORA_LANGUAGE = 2 * (2 * (64 + 64) + 2 * (64 + 32) + 3 * (64 + 128))
LORA_VISION = 2 * (32 + 96 + 32 + 32 + 2 * (32 + 64))


@pytest.fixture(scope="module")
def config(tiny_backbone: Callable[[str], Path]) -> Any:
    return AutoConfig.from_pretrained(tiny_backbone("qwen2_vl"))


@pytest.fixture(scope="module")
def total(config: Any) -> int:
    """Embedding and output matrix are untied."""
    matrices = 2 * config.get_text_config().vocab_size * 64
    return matrices + LANGUAGE_LINEAR + LANGUAGE_REST + VISION_LINEAR + VISION_REST + MERGER


def test_the_hand_counted_parameters_are_the_models(config: Any, total: int) -> None:
    assert sum(p.numel() for p in AutoModelForImageTextToText.from_config(config).parameters()) == total


def test_four_bits_and_a_float32_constant_for_every_64() -> None:
    assert FOUR_BIT == (64 * 4 / 8 + 4) / 64 == 0.5625


@pytest.mark.parametrize(
    ("parts", "adapted", "extra"),
    [
        (("language",), LANGUAGE_LINEAR, LORA_LANGUAGE),
        (("language", "vision"), LANGUAGE_LINEAR + VISION_LINEAR, LORA_LANGUAGE + LORA_VISION),
    ],
)
def test_lora_and_qlora(config: Any, total: int, parts: tuple[str, ...], adapted: int, extra: int) -> None:
    plain = estimate_memory(config, method="lora", rank=8, parts=parts)
    assert plain.weights * GIB == pytest.approx(2 * total, rel=1e-12)
    quantised = estimate_memory(config, method="qlora", rank=8, parts=parts)
    assert quantised.weights * GIB == pytest.approx(2 * (total - adapted) + 0.5625 * adapted, rel=1e-12)
    for found in (plain, quantised):
        assert found.adapter * GIB == pytest.approx(4 * 8 * extra, rel=1e-12)
        assert found.gradients == found.adapter
        assert found.optimiser == 2 * found.adapter


def test_full_training_and_activations(config: Any, total: int) -> None:
    found = estimate_memory(config, method="full", chunk_tokens=100)
    assert found.adapter == 0
    assert found.weights * GIB == pytest.approx(2 * total, rel=1e-12)
    assert found.gradients * GIB == pytest.approx(4 * total, rel=1e-12)
    assert found.optimiser * GIB == pytest.approx(8 * total, rel=1e-12)
    # bfloat16: a hidden state a layer, and one layer's inner states (three of 128, eight of 64)
    assert found.activations * GIB == pytest.approx(100 * 2 * (2 * 64 + 3 * 128 + 8 * 64), rel=1e-12)
    assert found.total == pytest.approx(found.weights + found.gradients + found.optimiser + found.activations)


def test_what_a_patch_costs(tiny_backbone: Callable[[str], Path], family: str) -> None:
    """All tiny families have two layers of 64 in the language model and two of 32 in the vision tower."""
    config = AutoConfig.from_pretrained(tiny_backbone(family))
    tower = config.vision_config
    assert tower.depth == 2
    assert patch_cost(config) == pytest.approx(
        2 * 32 / (config.get_text_config().num_hidden_layers * config.get_text_config().hidden_size)
    )
    assert patch_cost(config.get_text_config()) == 0
