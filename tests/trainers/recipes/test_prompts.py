"""Training prompts: rendered as their sources say, pooled where they say, and kept by save and load."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import umekit
from umekit.trainers.recipes import PROMPTS, get_prompt

ITEM = {"image": Image.new("RGB", (84, 84), (200, 30, 30)), "text": "hello", "instruction": "Find it"}


@pytest.fixture(scope="module")
def tiny() -> Any:
    return umekit.load(device="cpu")


@pytest.mark.parametrize("name", sorted(PROMPTS))
def test_saved_and_loaded_gives_the_same_vectors(tiny: Any, name: str, tmp_path: Path) -> None:
    model, processor = get_prompt(name).put_on(tiny.model, tiny.processor)
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    if model.kind == "reranker":
        scores = model.rerank(ITEM, ["hello", "bye"], processor=processor).numpy()
        np.testing.assert_allclose(umekit.load(tmp_path).rerank(ITEM, ["hello", "bye"]), scores, atol=1e-5)
        return
    before = model.encode([ITEM, "hello"], processor=processor).numpy()
    np.testing.assert_allclose(umekit.load(tmp_path).encode([ITEM, "hello"]), before, atol=1e-5)


def rendered(tiny: Any, name: str, item: Any) -> str:
    _, processor = get_prompt(name).put_on(tiny.model, tiny.processor)
    text: str = processor.explain(item)["text"]
    return text


def test_rzenembed_words_follow_the_modality(tiny: Any) -> None:
    picture, text = rendered(tiny, "rzenembed", ITEM), rendered(tiny, "rzenembed", "hello")
    assert "Find it hello\nRepresent the given image in one word." in picture
    assert "hello\nRepresent the given text in one word." in text
    assert text.startswith("<|im_start|>system\nGiven an image, summarize")
    assert text.endswith("<|im_start|>assistant\n<|endoftext|>")
    assert "Represent" not in rendered(tiny, "rzenembed-plain", ITEM)


def test_u_marvel_leaves_the_instruction_out_of_the_mean(tiny: Any) -> None:
    counts = {}
    for name in ("u-marvel", "u-marvel-unmasked"):
        _, processor = get_prompt(name).put_on(tiny.model, tiny.processor)
        row = processor.prepare(ITEM)
        counts[name] = int((row.slots == 1).sum())
        assert row.length >= counts[name]
    assert counts["u-marvel"] < counts["u-marvel-unmasked"]
    assert "in one word" in rendered(tiny, "u-marvel-compression", ITEM)
    assert "in one word" not in rendered(tiny, "u-marvel", ITEM)


def test_a_tokenizer_without_the_tokens_is_refused(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(tiny.processor.tokenizer), "get_added_vocab", lambda self: {"<emb>": 1})
    with pytest.raises(ValueError, match="instruction_start"):
        get_prompt("u-marvel").put_on(tiny.model, tiny.processor)
    with pytest.raises(ValueError, match="known are"):
        get_prompt("nothing")
