"""The generative role: a thought's vector is the state of its <gen_emb>, whatever the batch around it."""

from __future__ import annotations

import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from favouring import favour
from torch import Tensor
from transformers import AutoModel, AutoProcessor

import umekit
from umekit.modeling.decoding import CachedRows, Decoding
from umekit.modeling.generative import UmeForGenerativeEmbedding, streams_of
from umekit.modeling.settings import UmeSettings, UmeSettingsError
from umekit.processing.processor import UmeProcessor

Open = Callable[..., tuple[UmeForGenerativeEmbedding, UmeProcessor]]


@pytest.fixture
def opened(tiny_checkpoint: Callable[..., Path]) -> Open:
    def open_(family: str = "qwen2_vl", **settings: Any) -> tuple[UmeForGenerativeEmbedding, UmeProcessor]:
        folder = tiny_checkpoint(family, role="generative", **settings)
        return UmeForGenerativeEmbedding.from_pretrained(folder), UmeProcessor.from_pretrained(folder)

    return open_


def _close(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=0)


def _embed(model: Any, processor: Any, items: list[Any], mode: str = "both", **options: Any) -> Any:
    rows = processor.prepare_all(items, mode=mode)
    options = {"vocabulary": len(processor.tokenizer), **options}
    return model.embed(processor.collate(rows, padding_side="left"), mode, **options)


def _tokens(found: Any) -> list[list[int]]:
    return [rollout.tokens for row in found.rollouts for rollout in row]


def test_alone_batched_and_both_modes(family: str, opened: Open, mixed_items: list[Any]) -> None:
    model, processor = opened(family)
    gen_emb = model.thought_tokens.gen_emb
    favour(model, {gen_emb: 0.35})
    together = _embed(model, processor, mixed_items)
    lengths = {len(tokens) for tokens in _tokens(together)}
    assert len(lengths) > 1  # rows do stop at different steps
    for place, item in enumerate(mixed_items):
        alone = _embed(model, processor, [item])
        assert _tokens(alone) == _tokens(together)[place : place + 1]
        _close(alone.direct, together.direct[place : place + 1])
        _close(alone.generated, together.generated[place : place + 1])
    _close(_embed(model, processor, mixed_items, "generative").generated, together.generated)
    direct = _embed(model, processor, mixed_items, "discriminative")
    assert not direct.rollouts
    _close(direct.direct, together.direct)  # the request to think stands after <disc_emb>
    assert float((together.direct - together.generated).abs().max()) > 1e-2


def test_the_vector_is_the_state_of_gen_emb(family: str, opened: Open, mixed_items: list[Any]) -> None:
    """One forward over prompt, thought and <gen_emb> gives the vectors of the step by step way."""
    model, processor = opened(family)
    favour(model, {model.thought_tokens.gen_emb: 0.35})
    rows = processor.prepare_all(mixed_items, mode="both")
    stepwise = _embed(model, processor, mixed_items)
    whole = [
        row.continued([*rollouts[0].thought, model.thought_tokens.gen_emb], 2)
        for row, rollouts in zip(rows, stepwise.rollouts, strict=True)
    ]
    for side in ("left", "right"):
        with torch.no_grad():
            forced = model(**processor.collate(whole, padding_side=side))
        _close(forced.generated_embeddings, stepwise.generated)
        _close(forced.embeddings, stepwise.direct)


def test_media_tokens_are_never_written(opened: Open, mixed_items: list[Any]) -> None:
    model, processor = opened()
    tokenizer = processor.tokenizer
    names = ("<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>", "<disc_emb>")
    banned = {tokenizer.convert_tokens_to_ids(name) for name in names}
    spare = set(range(len(tokenizer), model.config.get_text_config().vocab_size))
    assert spare
    favour(model, dict.fromkeys(banned | spare, 50.0))
    for temperature in (None, 1.0):
        found = _embed(model, processor, mixed_items, decoding=Decoding(12, temperature))
        written = {token for tokens in _tokens(found) for token in tokens}
        assert written
        assert not written & (banned | spare)
    details = model.encode(mixed_items[:2], processor=processor, return_details=True)
    assert not any(name in thought for name in names for thought in details.thoughts)


def test_more_tokens_can_be_forbidden(opened: Open) -> None:
    model, processor = opened()
    tokens = {**model.settings.tokens, "never": [17, 18]}
    settings = UmeSettings(kind="generative", pooling="token", tokens=tokens)
    model = UmeForGenerativeEmbedding(model.config, model.backbone, settings)
    favour(model, {17: 60.0, 18: 50.0, 19: 40.0})
    found = _embed(model, processor, ["a text"], decoding=Decoding(3))
    assert _tokens(found) == [[19, 19, 19]]


def test_forced_flag_and_last_token_allowed(opened: Open) -> None:
    model, processor = opened()
    gen_emb, items = model.thought_tokens.gen_emb, ["a text", "another text of more words"]
    favour(model, {gen_emb: -50.0})
    found = _embed(model, processor, items, decoding=Decoding(5))
    assert [rollout.forced for row in found.rollouts for rollout in row] == [True, True]
    assert [len(tokens) for tokens in _tokens(found)] == [5, 5]
    details = model.encode(items, processor=processor, max_new_tokens=5, return_details=True)
    assert details.forced == [True, True]
    assert details.thought_tokens == [5, 5]
    _close(details.embeddings, found.generated)
    # Written as the very last token allowed, <gen_emb> is still read, and nothing was forced.
    favour(model, {gen_emb: 50.0})
    found = _embed(model, processor, items, decoding=Decoding(1))
    assert _tokens(found) == [[gen_emb], [gen_emb]]
    assert not any(rollout.forced for row in found.rollouts for rollout in row)
    longer = _embed(model, processor, items, decoding=Decoding(9))
    _close(found.generated, longer.generated)


def test_a_turn_that_ends_without_gen_emb_is_forced(opened: Open) -> None:
    model, processor = opened()
    favour(model, {processor.tokenizer.convert_tokens_to_ids("<|im_end|>"): 50.0})
    found = _embed(model, processor, ["a text"])
    assert found.rollouts[0][0].forced
    assert found.rollouts[0][0].tokens == []


def test_rows_leave_as_they_finish(opened: Open, mixed_items: list[Any], monkeypatch: Any) -> None:
    model, processor = opened()
    favour(model, {model.thought_tokens.gen_emb: 0.35})
    sizes = []
    step = CachedRows.step
    monkeypatch.setattr(
        CachedRows, "step", lambda self, tokens: (sizes.append(len(tokens)), step(self, tokens))
    )
    found = _embed(model, processor, mixed_items)
    lengths = [len(tokens) + rollout.forced for (rollout,) in found.rollouts for tokens in [rollout.tokens]]
    assert sizes == [sum(length > number for length in lengths) for number in range(max(lengths))]
    assert sizes[-1] < sizes[0]


@pytest.mark.parametrize("decoding", [Decoding(12), Decoding(12, 0.8, 0.9)])
def test_samples_share_a_prefill(
    family: str, decoding: Decoding, opened: Open, mixed_items: list[Any], monkeypatch: Any
) -> None:
    model, processor = opened(family)
    favour(model, {model.thought_tokens.gen_emb: 0.35})
    read = []
    base = model.backbone.base_model
    hook = base.register_forward_pre_hook(
        lambda _, args, kwargs: read.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    n, k = len(mixed_items), 3
    branched = _embed(
        model,
        processor,
        mixed_items,
        decoding=decoding,
        num_samples=k,
        reduce=None,
        streams=streams_of(4, range(n), k),
    )
    assert [shape[0] for shape in read if shape[1] > 1] == [n]
    hook.remove()
    repeated = _embed(
        model,
        processor,
        [item for item in mixed_items for _ in range(k)],
        decoding=decoding,
        streams=streams_of(4, range(n), k),
    )
    assert _tokens(branched) == _tokens(repeated)
    assert branched.generated.shape == (n, k, model.dim)
    _close(branched.generated.flatten(0, 1), repeated.generated)
    _close(branched.direct, repeated.direct[::k])
    greedy = not decoding.temperature
    assert (len({tuple(tokens) for tokens in _tokens(branched)[:k]}) == 1) is greedy


def test_reductions(opened: Open) -> None:
    model, processor = opened()
    items = ["a text", "another text"]

    def encode(**options: Any) -> Tensor:
        found = model.encode(items, processor=processor, num_samples=4, seed=3, **options)
        assert isinstance(found, Tensor)
        return found

    every = encode(reduce=None)
    assert every.shape == (2, 4, model.dim)
    assert float((every[:, 0] - every[:, 1]).abs().max()) > 1e-3  # several samples are drawn, not repeated
    _close(encode(reduce="first"), every[:, 0])
    _close(encode(), torch.nn.functional.normalize(every.mean(dim=1), dim=-1))
    short = encode(dim=16)
    assert short.shape == (2, 16)
    _close(short.norm(dim=-1), torch.ones(2))


def test_drawn_thoughts_belong_to_seed_and_item(opened: Open, mixed_items: list[Any]) -> None:
    model, processor = opened()

    def thoughts(seed: int | None, **options: Any) -> list[str]:
        options = {"temperature": 1.0, "top_p": 0.95, "seed": seed, **options}
        return model.encode(mixed_items, processor=processor, return_details=True, **options).thoughts

    first = thoughts(1)
    assert thoughts(1) == first
    assert thoughts(1, batch_size=1) == first
    assert thoughts(2) != first
    torch.manual_seed(7)
    free = thoughts(None)
    assert free != thoughts(None)
    torch.manual_seed(7)
    assert thoughts(None) == free
    assert thoughts(1, temperature=None, top_p=None) == thoughts(2, temperature=0.0)  # greedy


def test_only_the_wanted_states_are_kept(opened: Open, mixed_items: list[Any], monkeypatch: Any) -> None:
    """Numbers in activations of the hidden size that are alive between steps: as many after 3 steps as after 40."""
    model, processor = opened()
    favour(model, {model.thought_tokens.gen_emb: -50.0})
    width = model.config.get_text_config().hidden_size
    alive = []
    step = CachedRows.step

    def watched(self: CachedRows, tokens: Tensor) -> None:
        step(self, tokens)
        if len(alive) not in (3, 39):
            alive.append(0)
            return
        gc.collect()
        held = [
            one
            for one in gc.get_objects()
            if type(one)
            is Tensor  # no parameter, and none of the symbolic tensors that compiling leaves alive
            and one.dim() > 1
            and one.shape[-1] == width
        ]
        alive.append(sum(one.untyped_storage().nbytes() for one in held))

    monkeypatch.setattr(CachedRows, "step", watched)
    _embed(model, processor, mixed_items, decoding=Decoding(40))
    assert alive[3] == alive[39]
    assert alive[39] <= 3 * len(mixed_items) * width * 4 + width * 4096


def test_refusals(opened: Open, tiny_backbone: Callable[[str], Path]) -> None:
    model, processor = opened()
    rows = processor.prepare_all(["a text", "another text of more words"], mode="generative")
    with pytest.raises(ValueError, match="padded on the left"):
        model.embed(processor.collate(rows, padding_side="right"))
    with pytest.raises(ValueError, match="is not one of"):
        model.embed(processor.collate(rows, padding_side="left"), "adaptive")
    for options in ({"max_new_tokens": 0}, {"temperature": -1.0}, {"top_p": 0.0}, {"num_samples": 0}):
        with pytest.raises(ValueError, match=next(iter(options))):
            model.encode(["a text"], processor=processor, **options)
    source = tiny_backbone("qwen2_vl")
    with pytest.raises(UmeSettingsError, match="gen_emb"):
        UmeForGenerativeEmbedding.from_pretrained(source, settings=UmeSettings(kind="generative"))
    settings = UmeSettings(kind="generative", attention="bidirectional", tokens={"gen_emb": 3})
    with pytest.raises(UmeSettingsError, match="causal"):
        UmeForGenerativeEmbedding.from_pretrained(source, settings=settings)


def test_through_remote_code(
    tiny_checkpoint: Callable[..., Path], tmp_path: Path, mixed_items: list[Any]
) -> None:
    folder = tiny_checkpoint("qwen2_5_vl", role="generative")
    expected = umekit.load(folder).encode(mixed_items)
    for _ in range(2):  # as saved by the installed classes, and as saved by the checkpoint's own code
        model = AutoModel.from_pretrained(folder, trust_remote_code=True)
        processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
        assert type(model).__module__.endswith(".modeling_ume")
        vectors = model.encode(mixed_items, processor=processor)
        np.testing.assert_allclose(vectors.numpy(), expected, atol=1e-5)
        folder = tmp_path / "again"
        model.save_pretrained(folder)
        processor.save_pretrained(folder)
