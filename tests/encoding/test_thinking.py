"""Thinking through the encoder: modes, details, and the forms of prompts that a thought may follow."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import umekit
from umekit.modeling.discriminative import UmeForDiscriminativeEmbedding
from umekit.modeling.generative import UmeForGenerativeEmbedding
from umekit.modeling.settings import UmeSettings
from umekit.processing.prompts import PromptSettings


def test_encoder(tiny_checkpoint: Callable[..., Path], mixed_items: list[Any]) -> None:
    encoder = umekit.load(tiny_checkpoint("qwen2_vl", role="generative"))
    assert encoder.model.kind == "generative"
    direct = encoder.model.encode(mixed_items, processor=encoder.processor, mode="both")
    both = encoder.encode(mixed_items, mode="both")
    for part, vectors in both.items():
        assert vectors.dtype == np.float32
        np.testing.assert_allclose(vectors, direct[part].numpy(), atol=1e-5)
        np.testing.assert_allclose(
            encoder.encode(mixed_items, mode=part, batch_tokens=300), vectors, atol=1e-5
        )
    details = encoder.encode([*mixed_items, {"image": "nowhere.png"}], on_error="skip", return_details=True)
    assert details.modes == ["generative"] * 8
    assert [index for index, _ in details.errors] == [7]
    assert np.isnan(details.embeddings[7]).all()
    np.testing.assert_allclose(details.embeddings[:7], both["generative"], atol=1e-5)
    assert all(isinstance(thought, str) for thought in details.thoughts[:7])
    assert details.thoughts[7] is None
    assert max(details.thought_tokens) == 12
    assert details.forced[:7] == [length == 12 for length in details.thought_tokens[:7]]
    several = encoder.encode(mixed_items, num_samples=2, reduce=None, seed=5, return_details=True)
    assert several.embeddings.shape == (7, 2, encoder.dim)
    assert [len(thoughts) for thoughts in several.thoughts] == [2] * 7
    with pytest.raises(ValueError, match="needs a mode that thinks"):
        encoder.encode(mixed_items, mode="discriminative", max_new_tokens=3)
    with pytest.raises(ValueError, match="this one is generative"):
        encoder.encode(mixed_items, mode="adaptive")


def test_the_direct_vector_is_the_discriminative_class_own(
    tiny_checkpoint: Callable[..., Path], mixed_items: list[Any]
) -> None:
    folder = tiny_checkpoint("qwen2_vl", role="generative")
    encoder = umekit.load(folder, role="discriminative")
    assert type(encoder.model) is UmeForDiscriminativeEmbedding
    direct = umekit.load(folder).encode(mixed_items, mode="discriminative")
    np.testing.assert_allclose(encoder.encode(mixed_items), direct, atol=1e-6)


def test_a_thought_may_follow_the_direct_embedding(
    tiny_checkpoint: Callable[..., Path], mixed_items: list[Any]
) -> None:
    """ume-tiny's form: the prompt ends with <disc_emb> and is the same in every mode."""
    encoder = umekit.load(tiny_checkpoint("qwen2_vl"), role="discriminative")
    prompt = PromptSettings(assistant="<disc_emb>")
    processor = encoder.processor.with_settings(prompt=prompt)
    ids = processor.tokenizer.convert_tokens_to_ids
    settings = UmeSettings(kind="generative", tokens={"gen_emb": ids("<gen_emb>")}, max_new_tokens=4)
    model = UmeForGenerativeEmbedding(encoder.model.config, encoder.model.backbone, settings)
    for item in mixed_items:
        direct, generative = (processor.prepare(item, mode=mode) for mode in ("discriminative", "generative"))
        assert direct.input_ids.tolist() == generative.input_ids.tolist()
        assert np.flatnonzero(direct.slots).tolist() == [direct.length - 1]
    both = model.encode(mixed_items, processor=processor, mode="both")
    for mode, vectors in both.items():
        alone = model.encode(mixed_items, processor=processor, mode=mode, batch_size=1)
        np.testing.assert_allclose(alone.numpy(), vectors.numpy(), atol=1e-5)
