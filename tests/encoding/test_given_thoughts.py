"""Thoughts from elsewhere: embedded in one forward as if the model had written them, alone, batched and padded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer

import umekit
from umekit.encoding.encoder import Encoder
from umekit.modeling.decoding import CachedRows
from umekit.processing.items import ItemError

THOUGHTS = [
    "<think>it is a short text</think><answer>a text",
    ("the picture", "a <gen_emb> of <|image_pad|>"),
    "<think>text</think>\n<answer>compare</answer><gen_emb>",
    "<think>cut at its limit",
    [300, 301, 302],
    ["a much longer text and what comes after", "it"],
    "<think></think><answer>",
]


@pytest.fixture(scope="module")
def encoder(tiny_checkpoint: Callable[..., Path]) -> Encoder:
    found = umekit.load(tiny_checkpoint("qwen2_vl", role="generative"))
    assert isinstance(found, Encoder)
    return found


def _close(actual: Any, expected: Any) -> None:
    np.testing.assert_allclose(actual, expected, atol=1e-5)


def _encode(encoder: Encoder, items: Any, **options: Any) -> Any:
    return encoder.encode(items, max_new_tokens=64, **options)


def test_its_own_thoughts_give_its_own_vectors(
    family: str, tiny_checkpoint: Callable[..., Path], mixed_items: list[Any]
) -> None:
    encoder = umekit.load(tiny_checkpoint(family, role="generative"))
    for options in ({}, {"num_samples": 3, "reduce": None}, {"num_samples": 2}):
        own = encoder.encode(mixed_items, mode="both", seed=3, return_details=True, **options)
        again = encoder.encode(
            mixed_items, mode="both", return_details=True, thoughts=own.thought_ids, **options
        )
        for part in own.embeddings:
            _close(again.embeddings[part], own.embeddings[part])
        assert (again.thoughts, again.thought_ids) == (own.thoughts, own.thought_ids)
        assert again.thought_tokens == own.thought_tokens
    assert not any(any(flags) for flags in again.forced)


def test_alone_batched_padded_and_as_plain_numpy(encoder: Encoder, mixed_items: list[Any]) -> None:
    """Each vector is the last state, at <gen_emb>, of one plain forward over prompt and thought."""
    together = _encode(encoder, mixed_items, thoughts=THOUGHTS, return_details=True)
    _close(_encode(encoder, mixed_items, thoughts=THOUGHTS, batch_tokens=150), together.embeddings)
    model, processor = encoder.model, encoder.processor
    _close(
        model.encode(mixed_items, processor=processor, thoughts=THOUGHTS, max_new_tokens=64).numpy(),
        together.embeddings,
    )
    gen_emb = processor.tokenizer.convert_tokens_to_ids("<gen_emb>")
    for place, (item, thought) in enumerate(zip(mixed_items, THOUGHTS, strict=True)):
        _close(_encode(encoder, [item], thoughts=[thought])[0], together.embeddings[place])
        row = processor.prepare(item, mode="generative").continued([*together.thought_ids[place], gen_emb])
        batch = processor.collate([row])
        batch.pop("pooling_slots")
        with torch.no_grad():
            state = model(**batch).last_hidden_state[0, -1].double().numpy()
        _close(state / np.linalg.norm(state), together.embeddings[place])


def test_nothing_is_generated(encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CachedRows, "step", lambda *_: pytest.fail("a token was written"))
    forwards: list[int] = []
    hook = encoder.model.backbone.base_model.register_forward_pre_hook(lambda *_: forwards.append(1))
    _encode(encoder, ["a text", "the picture"], thoughts=THOUGHTS[:1] * 2, mode="both", batch_tokens=10**6)
    hook.remove()
    assert len(forwards) == 1


def test_an_item_without_one_thinks_itself(encoder: Encoder, mixed_items: list[Any]) -> None:
    own = _encode(encoder, mixed_items, return_details=True)
    given: list[Any] = [None, *THOUGHTS[1:6], None]
    found = _encode(encoder, mixed_items, thoughts=given, return_details=True)
    all_given = _encode(encoder, mixed_items, thoughts=THOUGHTS)
    for place, thought in enumerate(given):
        expected = own.embeddings if thought is None else all_given
        _close(found.embeddings[place], expected[place])
    assert found.thoughts[0] == own.thoughts[0]
    assert found.thoughts[1] == "<think>the picture</think><answer>a <gen_emb> of <|image_pad|>"


def test_equal_items_keep_their_own_thoughts(encoder: Encoder) -> None:
    thoughts = ["<think>a</think><answer>text", "<think>the</think><answer>video", None]
    found = _encode(encoder, ["a text"] * 3, thoughts=thoughts)
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert np.abs(found[one] - found[other]).max() > 1e-3
    _close(found[1], _encode(encoder, ["a text"], thoughts=thoughts[1:2])[0])


def test_tokens_in_a_thought_stay_text(encoder: Encoder) -> None:
    tokens = encoder.processor.prompt_tokenizer
    text = "a <gen_emb> and <|im_end|>"
    details = encoder.encode(
        ["a text"], thoughts=[(text, "<|image_pad|>")], max_new_tokens=99, return_details=True
    )
    assert not {tokens.id_of(t) for t in ("<gen_emb>", "<|im_end|>", "<|image_pad|>")} & set(
        details.thought_ids[0]
    )
    written = encoder.encode(
        ["a text"],
        thoughts=[f"<think>{text}</think><answer><|image_pad|>"],
        max_new_tokens=99,
        return_details=True,
    )
    assert written.thought_ids == details.thought_ids


@pytest.mark.parametrize(
    ("thought", "error"),
    [
        ("it is", "another form"),
        ("so: <think>it is</think><answer>a", "another form"),
        ("<think>it is</think> so", "another form"),
        ("<think>it is</think> so <answer>a", "another form"),
        (3, "a thought is a text"),
        ([1.5], "a thought is a text"),
        (("a", None), "a thought is a text"),
        ([10**6], "is no token"),
        ([-1], "is no token"),
        ("<think>" + "text " * 50, "at most 12 are let pass"),
    ],
)
def test_a_bad_thought_names_its_item(encoder: Encoder, thought: Any, error: str) -> None:
    with pytest.raises(ItemError, match=f"item 1.*{error}"):
        encoder.encode(["a", "b"], thoughts=[None, thought])
    details = encoder.encode(["a", "b"], thoughts=[None, thought], on_error="skip", return_details=True)
    assert [index for index, _ in details.errors] == [1]
    with pytest.raises(ValueError, match=f"item 1.*{error}"):
        encoder.model.encode(["a", "b"], processor=encoder.processor, thoughts=[None, thought])


def test_media_ids_and_wrong_lists(encoder: Encoder, tiny_checkpoint: Callable[..., Path]) -> None:
    with pytest.raises(ItemError, match="stands for media"):
        encoder.encode(["a"], thoughts=[[encoder.processor.image_token_id]])
    with pytest.raises(ValueError, match="2 thoughts for 1 items"):
        encoder.encode(["a"], thoughts=[None, None])
    with pytest.raises(TypeError, match="one for every item"):
        encoder.encode(["a"], thoughts="<think>a</think><answer>b")
    with pytest.raises(ItemError, match=r"item 0.*num_samples is 2.*list of 2"):
        encoder.encode(["a"], thoughts=["<think>a</think><answer>b"], num_samples=2)
    with pytest.raises(ValueError, match="thoughts needs a mode that thinks"):
        encoder.encode(["a"], thoughts=[None], mode="discriminative")
    with pytest.raises(ValueError, match="thoughts needs a mode that thinks"):
        umekit.load(tiny_checkpoint("qwen2_vl")).encode(["a"], thoughts=["<think>a</think><answer>b"])


def test_through_sentence_transformers(tiny_checkpoint: Callable[..., Path], encoder: Encoder) -> None:
    """An input is a dict with a ``thought`` beside what is embedded: its keyword arguments are those of all inputs."""
    model = SentenceTransformer(
        str(tiny_checkpoint("qwen2_vl", role="generative")), trust_remote_code=True, device="cpu"
    )
    texts = ["a text", "another text of more words"]
    inputs = [{"text": text, "thought": thought} for text, thought in zip(texts, THOUGHTS[:4:3], strict=True)]
    found = encoder.encode(texts, thoughts=THOUGHTS[:4:3], max_new_tokens=64, return_details=True)
    _close(model.encode(inputs, max_new_tokens=64), found.embeddings)
    assert model[0].cost.tokens_per_item == found.tokens_per_item > 0
    with pytest.raises(ValueError, match="a thought needs a mode that thinks always"):
        model.encode(inputs, mode="discriminative")
    with pytest.raises(ValueError, match="some inputs of a batch have a thought"):
        model.encode([*inputs, "a text"])
    chat = [{"role": "user", "content": texts[0], "thought": inputs[0]["thought"]}]
    for one in ([chat], chat[0]):
        _close(model.encode(one, max_new_tokens=64).reshape(1, -1), found.embeddings[:1])
    with pytest.raises(ValueError, match="2 of its messages"):
        model.encode([[{**chat[0], "role": "system"}, *chat]])


def test_sentence_transformers_sorts_and_an_error_shows_the_input(
    tiny_checkpoint: Callable[..., Path],
) -> None:
    model = SentenceTransformer(
        str(tiny_checkpoint("qwen2_vl", role="generative")), trust_remote_code=True, device="cpu"
    )
    with pytest.raises(ValueError, match=r"counted in one batch .*'txt': 1"):
        model.encode(["a text", "b", {"txt": 1}], batch_size=1)
