"""A vector belongs to its item: not to the batch, the padding, the order, the attention kernel or the wrapper."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor
from transformers import AutoModelForImageTextToText

from umekit.modeling.backbone import states_of
from umekit.modeling.discriminative import UmeForDiscriminativeEmbedding
from umekit.modeling.packing import PACKED_SDPA
from umekit.modeling.settings import UmeSettings, UmeSettingsError
from umekit.processing.processor import UmeProcessor
from umekit.testing import FAMILIES

CAUSAL: dict[str, Any] = {}
BOTH_WAYS: dict[str, Any] = {"attention": "bidirectional", "positions": "1d", "pooling": "mean"}
FLAT_MEAN: dict[str, Any] = {"positions": "1d", "pooling": "mean"}
VARIANTS = [(family, CAUSAL) for family in FAMILIES]
VARIANTS += [(family, BOTH_WAYS if family != "qwen3_5" else FLAT_MEAN) for family in FAMILIES]
KERNELS = ("sdpa", "eager", PACKED_SDPA)
NAMES = [
    f"{family}-{'-'.join(map(str, settings.values())) or 'causal-mrope-last'}"
    for family, settings in VARIANTS
]


def _open(folder: Path, **kwargs: Any) -> tuple[UmeForDiscriminativeEmbedding, UmeProcessor]:
    return UmeForDiscriminativeEmbedding.from_pretrained(folder, **kwargs), UmeProcessor.from_pretrained(
        folder
    )


def _close(actual: Tensor, expected: Tensor, tolerance: float = 1e-5) -> None:
    torch.testing.assert_close(actual, expected, atol=tolerance, rtol=0)


@torch.no_grad()
def _vectors(model: Any, batch: Any) -> Tensor:
    return model(**batch).embeddings


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize(("family", "settings"), VARIANTS, ids=NAMES)
def test_alone_batched_shuffled_padded(
    family: str,
    settings: dict[str, Any],
    kernel: str,
    tiny_checkpoint: Callable[..., Path],
    mixed_items: list[Any],
) -> None:
    model, processor = _open(tiny_checkpoint(family, **settings), attn_implementation=kernel)
    alone = torch.cat([_vectors(model, processor.encode_items([item])) for item in mixed_items])
    assert float((alone @ alone.T - torch.eye(len(alone))).abs().max()) > 1e-4  # they do differ
    for side in ("left", "right"):
        _close(_vectors(model, processor.encode_items(mixed_items, padding_side=side)), alone)
    order = [3, 0, 6, 5, 1, 4, 2]
    shuffled = _vectors(model, processor.encode_items([mixed_items[i] for i in order]))
    _close(shuffled, alone[order])
    _close(model.encode(mixed_items, processor=processor, batch_size=3), alone)


@pytest.mark.parametrize("family", FAMILIES)
def test_kernels_agree(family: str, tiny_checkpoint: Callable[..., Path], mixed_items: list[Any]) -> None:
    folder = tiny_checkpoint(family)
    one, processor = _open(folder, attn_implementation="sdpa")
    batch = processor.encode_items(mixed_items)
    for kernel in KERNELS[1:]:
        other, _ = _open(folder, attn_implementation=kernel)
        _close(_vectors(one, batch), _vectors(other, batch))


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("family", FAMILIES)
def test_who_sees_the_last_token(family: str, kernel: str, tiny_checkpoint: Callable[..., Path]) -> None:
    folder = tiny_checkpoint(family)
    model, processor = _open(folder, attn_implementation=kernel)
    batch = processor.encode_items(["one two three", "some other text"])
    changed = {**batch, "input_ids": batch["input_ids"].clone()}
    changed["input_ids"][0, batch["attention_mask"][0].sum() - 1] = 5

    def first_state_moves(settings: UmeSettings) -> float:
        states = [states_of(model.backbone, inputs, settings)[0, 0] for inputs in (batch, changed)]
        return float((states[0] - states[1]).abs().max())

    with torch.no_grad():
        assert first_state_moves(model.settings) == 0
        if family != "qwen3_5":
            assert first_state_moves(replace(model.settings, attention="bidirectional")) > 1e-3


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl"])
def test_bidirectional_without_any_padding(
    family: str, tiny_checkpoint: Callable[..., Path], pictures: list[Image.Image]
) -> None:
    """A batch of one length has no padding mask: a kernel could then silently fall back to causal."""
    model, processor = _open(tiny_checkpoint(family, **BOTH_WAYS))
    items = [{"image": pictures[0]}, {"image": pictures[0].transpose(Image.Transpose.FLIP_LEFT_RIGHT)}]
    equal = processor.encode_items(items)
    assert bool(equal["attention_mask"].all())
    vectors = _vectors(model, equal)
    alone = torch.cat([_vectors(model, processor.encode_items([item])) for item in items])
    padded = _vectors(model, processor.encode_items([*items, "a much longer text " * 12]))
    _close(alone, vectors)
    _close(padded[:2], vectors)


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl"])
def test_the_vision_tower_does_not_see_the_attention_setting(
    family: str, tiny_checkpoint: Callable[..., Path], pictures: list[Image.Image]
) -> None:
    causal, processor = _open(tiny_checkpoint(family))
    both, _ = _open(tiny_checkpoint(family, **BOTH_WAYS))
    batch = processor.encode_items([{"images": pictures[:2]}])
    features = [
        model.backbone.base_model.get_image_features(
            batch["pixel_values"], batch["image_grid_thw"], return_dict=True
        )
        for model in (causal, both)
    ]
    for left, right in zip(features[0].pooler_output, features[1].pooler_output, strict=True):
        assert torch.equal(left, right)


@pytest.mark.parametrize("family", FAMILIES)
def test_states_are_read_after_the_final_norm(
    family: str, tiny_checkpoint: Callable[..., Path], mixed_items: list[Any]
) -> None:
    model, processor = _open(tiny_checkpoint(family))
    seen: list[Tensor] = []
    norm = model.backbone.base_model.language_model.norm
    handle = norm.register_forward_hook(lambda module, args, output: seen.append(output))
    with torch.no_grad():
        output = model(**processor.encode_items(mixed_items[:3]))
    handle.remove()
    assert torch.equal(output.last_hidden_state, seen[-1])


@pytest.mark.parametrize("family", FAMILIES)
def test_equals_the_native_class(
    family: str, tiny_checkpoint: Callable[..., Path], mixed_items: list[Any]
) -> None:
    folder = tiny_checkpoint(family)
    model, processor = _open(folder)
    native, info = AutoModelForImageTextToText.from_pretrained(folder, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    batch = dict(processor.encode_items(mixed_items))
    slots = batch.pop("pooling_slots")
    with torch.no_grad():
        ours = model(**batch, pooling_slots=slots)
        theirs = native.eval().base_model(**batch).last_hidden_state
        real = batch["attention_mask"].bool()
        _close(ours.last_hidden_state[real], theirs[real], 2e-5)
        # One-dimensional positions: the native forward with explicit ones.
        flat = replace(model.settings, positions="1d")
        states = states_of(model.backbone, batch, flat)
        places = (batch["attention_mask"].cumsum(-1) - 1).clamp(min=0).expand(3, -1, -1)
        explicit = native.base_model(**batch, position_ids=places).last_hidden_state
        _close(states[real], explicit[real], 2e-5)
        assert float((states[real] - theirs[real]).abs().max()) > 1e-4


def test_deepstack_off_is_the_plain_tower(
    tiny_checkpoint: Callable[..., Path], pictures: list[Image.Image]
) -> None:
    folder = tiny_checkpoint("qwen3_vl")
    model, processor = _open(folder)
    off = UmeForDiscriminativeEmbedding.from_pretrained(folder, settings=UmeSettings(deepstack=False))
    batch = processor.encode_items([{"image": pictures[0], "text": "a cat"}])
    with torch.no_grad():
        on = model(**batch)
        without = off(**batch)
        base = off.backbone.base_model
        embedded = base.get_input_embeddings()(batch["input_ids"])
        image = base.get_image_features(batch["pixel_values"], batch["image_grid_thw"], return_dict=True)
        embedded[batch["mm_token_type_ids"] == 1] = torch.cat(list(image.pooler_output))
        places, _ = base.get_rope_index(
            input_ids=batch["input_ids"],
            mm_token_type_ids=batch["mm_token_type_ids"],
            image_grid_thw=batch["image_grid_thw"],
            attention_mask=batch["attention_mask"],
        )
        manual = base.language_model(inputs_embeds=embedded, position_ids=places, use_cache=False)
    _close(without.last_hidden_state, manual.last_hidden_state)
    assert float((on.embeddings - without.embeddings).abs().max()) > 1e-3


def test_linear_attention_cannot_be_bidirectional(tiny_backbone: Callable[[str], Path]) -> None:
    with pytest.raises(UmeSettingsError, match="linear-attention"):
        UmeForDiscriminativeEmbedding.from_pretrained(
            tiny_backbone("qwen3_5"), settings=UmeSettings(attention="bidirectional")
        )


def test_the_wrapper_does_not_mark_its_backbone(
    tiny_checkpoint: Callable[..., Path], mixed_items: list[Any]
) -> None:
    """Text after pictures: no state of the module (rope_deltas) may reach the next forward."""
    model, processor = _open(tiny_checkpoint("qwen2_vl"))
    fresh = model.encode(["a short text"], processor=processor)
    model.encode(mixed_items, processor=processor)
    assert torch.equal(model.encode(["a short text"], processor=processor), fresh)
