"""The re-derived MMEmb-R1 on a stock Qwen3-VL: its tokens, its prompt, and that nothing is taken for it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import umekit
from umekit.encoding.presets import PRESETS, VARIANTS, get_preset


def test_a_stock_backbone_gets_the_tokens_of_actions(tiny_backbone: Callable[[str], Path]) -> None:
    encoder = umekit.load(tiny_backbone("qwen3_vl"), preset="mmemb-r1", device="cpu")
    tokens = encoder.model.settings.tokens
    known = encoder.processor.tokenizer.get_added_vocab()
    assert (tokens["direct"], tokens["reason"]) == (known["<direct>"], known["<reason>"])
    assert tokens["direct"] != tokens["reason"]
    vectors = encoder.encode(["a picture", "a text"], mode="both", max_new_tokens=4)
    assert all(np.isfinite(one).all() for one in vectors.values())
    assert encoder.model.settings.kind == "adaptive"
    for kappa, mode in ((0.0, "generative"), (1.0, "discriminative")):  # to think always, and never
        found = encoder.encode(
            ["a text"], mode="adaptive", kappa=kappa, max_new_tokens=4, return_details=True
        )
        assert found.modes == [mode]
    prompt = encoder.processor.prepare("a text", mode="generative").rendered
    assert "a text\n<disc_emb>\n" in prompt
    assert prompt.endswith("<|im_start|>assistant\n")  # where the choice is read


def test_no_checkpoint_is_taken_for_it() -> None:
    preset = get_preset("mmemb-r1")
    assert preset.name in VARIANTS
    assert preset.name not in PRESETS
    assert not preset.repos
    assert all(said.startswith("ours") for said in preset.sources.values())


def test_another_family_is_refused(tiny_backbone: Callable[[str], Path]) -> None:
    with pytest.raises(ValueError, match="mmemb-r1 is for qwen3_vl"):
        umekit.load(tiny_backbone("qwen2_vl"), preset="mmemb-r1", device="cpu")
