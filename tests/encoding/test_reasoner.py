"""A stock model that thinks for an embedder: alone as in a batch, and the vector as with the thought by hand."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    AutoModelForImageTextToText,
    CLIPImageProcessor,
    CLIPVisionConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    Qwen2Config,
)

import umekit
from umekit import Reasoner
from umekit.encoding.checkpoint_files import CheckpointFilesError
from umekit.encoding.fingerprint import IndexMismatchError
from umekit.encoding.index.exact import Index
from umekit.encoding.reasoner import PROMPT, Thought
from umekit.processing.items import ItemError, TextPart, parse_item
from umekit.processing.limits import MediaLimits
from umekit.testing import train_tokenizer

QWEN = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% for part in m.content %}{% if part.type == 'image' %}"
    "<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ part.text }}{% endif %}{% endfor %}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LLAVA = QWEN.replace("<|vision_start|><|image_pad|><|vision_end|>", "<image>")
OPTIONS: dict[str, Any] = {"max_new_tokens": 6, "frames": 2, "device": "cpu"}


@pytest.fixture(scope="module")
def folders(tiny_backbone: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two stock reasoners: one of a family that ours knows, one that only its own processor does."""
    root = tmp_path_factory.mktemp("reasoners")
    qwen = Path(shutil.copytree(tiny_backbone("qwen2_vl"), root / "qwen2_vl"))
    (qwen / "chat_template.jinja").write_text(QWEN)
    return {"qwen2_vl": qwen, "llava": _save_llava(root / "llava")}


def _save_llava(folder: Path) -> Path:
    tokenizer = train_tokenizer(["what is it that you see user assistant picture"] * 4, 350, ("<image>",))
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(
            hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=28,
            patch_size=14, projection_dim=16,
        ),
        text_config=Qwen2Config(
            vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2,
            num_attention_heads=4, num_key_value_heads=2, eos_token_id=tokenizer.eos_token_id, bos_token_id=None,
            initializer_range=0.3,
        ),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"), vision_feature_layer=-1, image_seq_length=4,
    )  # fmt: skip
    torch.manual_seed(1)
    LlavaForConditionalGeneration(config).save_pretrained(folder)
    images = CLIPImageProcessor(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28})
    LlavaProcessor(
        images, tokenizer, patch_size=14, vision_feature_select_strategy="default", chat_template=LLAVA,
        num_additional_image_tokens=1,
    ).save_pretrained(folder)  # fmt: skip
    return folder


@pytest.fixture(scope="module")
def reasoner(folders: dict[str, Path]) -> Reasoner:
    return Reasoner.from_pretrained(folders["qwen2_vl"], **OPTIONS)


@pytest.mark.parametrize("name", ["qwen2_vl", "llava"])
def test_alone_is_batched_is_plain_generate(
    folders: dict[str, Path], name: str, mixed_items: list[Any]
) -> None:
    reasoner = Reasoner.from_pretrained(folders[name], **OPTIONS)
    together = reasoner.think(mixed_items)
    assert len(set(together)) > 2  # it looks at what it is shown
    assert [reasoner.think([item])[0] for item in mixed_items] == together
    small = Reasoner.from_pretrained(folders[name], batch_tokens=150, **OPTIONS)
    assert small.think(mixed_items) == together
    # by hand: ids one after the other, from the stock model
    model = AutoModelForImageTextToText.from_pretrained(folders[name]).eval()
    question = reasoner.ask(mixed_items[2])
    inputs = reasoner.processor(text=[question.text], images=[question.images], return_tensors="pt")
    ids = inputs.pop("input_ids")
    rest = {key: value for key, value in inputs.items() if key.startswith(("pixel", "image"))}
    written: list[int] = []
    with torch.no_grad():
        for _ in range(OPTIONS["max_new_tokens"]):
            types = {"mm_token_type_ids": (ids == reasoner.processor.image_token_id).int()}
            told = types if "mm_token_type_ids" in inputs else {}
            step = int(model(input_ids=ids, **rest, **told).logits[0, -1].argmax())
            if step == reasoner.tokenizer.eos_token_id:
                break
            written.append(step)
            ids = torch.cat([ids, torch.tensor([[step]])], dim=1)
    assert reasoner.tokenizer.decode(written, skip_special_tokens=True).strip() == together[2]


def test_it_is_shown_instruction_content_and_prompt_in_order(
    reasoner: Reasoner, pictures: list[Image.Image]
) -> None:
    asked = reasoner.ask(
        {
            "text": "a <|im_end|> text",
            "images": pictures[:2],
            "video": pictures[:3],
            "instruction": "Compare:",
        }
    )
    picture = "<|vision_start|><|image_pad|><|vision_end|>"
    assert asked.text == (
        f"<|im_start|>user\nCompare:\na < |im_end|> text{picture * 4}\n{PROMPT}<|im_end|>\n<|im_start|>assistant\n"
    )
    assert [image.size for image in asked.images[:2]] == [picture.size for picture in pictures[:2]]


def test_for_one_that_embeds_at_once_it_is_text_after_the_content(
    tiny_checkpoint: Callable[..., Path], folders: dict[str, Path], mixed_items: list[Any]
) -> None:
    plain = umekit.load(tiny_checkpoint("qwen2_vl"), device="cpu")
    reasoner = Reasoner.from_pretrained(folders["llava"], appended="\nIt is: {thought}", **OPTIONS)
    encoder = umekit.load(tiny_checkpoint("qwen2_vl"), device="cpu", reasoner=reasoner)
    items = [*mixed_items, mixed_items[0]]
    found = encoder.encode(items, role="query", return_details=True)
    thoughts = reasoner.think(items, role="query", processor=plain.processor)
    assert found.thoughts == thoughts
    assert all(0 < count <= OPTIONS["max_new_tokens"] for count in found.thought_tokens)
    by_hand = [
        replace(item, parts=(*item.parts, TextPart(f"\nIt is: {thought}")))
        for item, thought in zip(map(parse_item, items), thoughts, strict=True)
    ]
    expected = np.concatenate([plain.encode([item], role="query") for item in by_hand])
    np.testing.assert_allclose(found.embeddings, expected, atol=1e-5)
    assert np.abs(found.embeddings - plain.encode(items, role="query")).max() > 1e-3
    text = plain.encode([f"a short text\nIt is: {thoughts[0]}"], role="query")
    np.testing.assert_allclose(found.embeddings[0], text[0], atol=1e-5)


def test_for_one_that_thinks_it_is_a_given_thought(
    tiny_checkpoint: Callable[..., Path], reasoner: Reasoner, mixed_items: list[Any]
) -> None:
    folder = tiny_checkpoint("qwen2_vl", role="generative")
    plain = umekit.load(folder, device="cpu")
    encoder = umekit.load(folder, device="cpu", reasoner=reasoner)
    found = encoder.encode(mixed_items, max_new_tokens=99, return_details=True)
    written = reasoner.write(mixed_items, processor=plain.processor)
    assert found.forced == [isinstance(one, Thought) and one.cut for one in written]
    given = [one.as_given() for one in written if isinstance(one, Thought)]
    by_hand = plain.encode(mixed_items, thoughts=given, max_new_tokens=99, return_details=True)
    np.testing.assert_allclose(found.embeddings, by_hand.embeddings, atol=1e-6)
    assert found.thoughts == by_hand.thoughts
    own = [given[1], *[None] * (len(mixed_items) - 1)]
    mixed = encoder.encode(mixed_items, thoughts=own, max_new_tokens=99)
    expected = plain.encode(mixed_items, thoughts=[given[1], *given[1:]], max_new_tokens=99)
    np.testing.assert_allclose(mixed, expected, atol=1e-6)
    with pytest.raises(ValueError, match="num_samples is 2"):
        encoder.encode(mixed_items, num_samples=2)


def test_what_is_thought_and_what_is_the_answer() -> None:
    for text, pair in {
        "so it is\na red\nbicycle": ("so it is\na red", "bicycle"),
        "a bicycle": ("", "a bicycle"),
        "<think>so\nit is</think>\n<answer>a red\nbicycle</answer>": ("so\nit is", "a red\nbicycle"),
        "hm</think> yes": ("hm", "yes"),
    }.items():
        assert Thought(text, 1, False).as_given() == pair


def test_only_one_side_thinks(tiny_checkpoint: Callable[..., Path], folders: dict[str, Path]) -> None:
    plain = umekit.load(tiny_checkpoint("qwen2_vl"), device="cpu")
    reasoner = Reasoner.from_pretrained(folders["qwen2_vl"], side="query", **OPTIONS)
    encoder = umekit.load(tiny_checkpoint("qwen2_vl"), device="cpu", reasoner=reasoner)
    for role in (None, "document"):
        assert (encoder.encode(["a text"], role=role) == plain.encode(["a text"], role=role)).all()
    assert np.abs(encoder.encode_query(["a text"]) - plain.encode_query(["a text"])).max() > 1e-3


def test_an_index_never_mixes(tiny_checkpoint: Callable[..., Path], folders: dict[str, Path]) -> None:
    """Another prompt, another model, or none: none of them searches what was made with this one."""
    folder = tiny_checkpoint("qwen2_vl")
    made = [umekit.load(folder, device="cpu")]
    for name, more in (
        ("qwen2_vl", {}),
        ("llava", {}),
        ("qwen2_vl", {"prompt": "Why?"}),
        ("qwen2_vl", {"appended": " {thought}"}),
        ("qwen2_vl", {"side": "query"}),
        ("qwen2_vl", {"frames": 4}),
        ("qwen2_vl", {"generation": {"repetition_penalty": 1.5}}),
    ):
        reasoner = Reasoner.from_pretrained(folders[name], **{**OPTIONS, **more})
        made.append(umekit.load(folder, device="cpu", reasoner=reasoner))
    prints = [json.dumps(one.fingerprint(), sort_keys=True) for one in made]
    assert len(set(prints)) == len(made)
    again = umekit.load(
        folder, device="cpu", reasoner=Reasoner.from_pretrained(folders["qwen2_vl"], **OPTIONS)
    )
    assert json.dumps(again.fingerprint(), sort_keys=True) == prints[1]
    index = Index(dim=made[1].dim, fingerprint=made[1].fingerprint())
    index.add(["a"], made[1].encode(["a text"]))
    made[1].search(["a"], index, k=1)
    for other in (made[0], made[2]):
        with pytest.raises(IndexMismatchError, match="reasoner"):
            other.search(["a"], index, k=1)
    reasoner = made[1].reasoner
    with torch.no_grad():
        reasoner.model.get_input_embeddings().weight[3] += 1
    assert made[1].fingerprint()["reasoner"] != json.loads(prints[1])["reasoner"]


def test_a_bad_item_is_named(tiny_checkpoint: Callable[..., Path], reasoner: Reasoner) -> None:
    encoder = umekit.load(tiny_checkpoint("qwen2_vl"), device="cpu", reasoner=reasoner)
    bad = {"image": "not-there.png"}
    items = ["a text", bad, {"image": Image.new("RGB", (40, 40))}, bad, 3]
    with pytest.raises(ItemError, match=r"item 1: .*not-there\.png"):
        encoder.encode(items)
    with pytest.raises(ItemError, match=r"item 1: .*not-there\.png"):
        reasoner.think(items)
    details = encoder.encode(items, on_error="skip", return_details=True)
    assert [(index, str(error)[:7]) for index, error in details.errors] == [
        (1, "item 1:"), (3, "item 3:"), (4, "item 4:"),
    ]  # fmt: skip
    assert np.isnan(details.embeddings[[1, 3, 4]]).all()
    assert np.isfinite(details.embeddings[[0, 2]]).all()
    assert details.thoughts[1] is None
    assert details.thoughts[2]
    encoder.processor.limits = MediaLimits(image_pixels=1000)
    with pytest.raises(ItemError, match=r"item 0: .*more than the limit of 1000"):
        reasoner.think([items[2]], processor=encoder.processor)
    reasoner.model.config.get_text_config().max_position_embeddings, former = 50, 32768
    try:
        with pytest.raises(ItemError, match="item 0: the reasoner has 50 positions"):
            reasoner.think(["a text"])
    finally:
        reasoner.model.config.get_text_config().max_position_embeddings = former


def test_what_is_no_reasoner(
    tiny_checkpoint: Callable[..., Path],
    tiny_backbone: Callable[..., Path],
    folders: dict[str, Path],
    tmp_path: Path,
) -> None:
    with pytest.raises(CheckpointFilesError, match="is an embedder"):
        umekit.load(tiny_checkpoint("qwen2_vl"), reasoner=tiny_checkpoint("qwen2_vl", role="generative"))
    with pytest.raises(CheckpointFilesError, match="no chat template"):
        Reasoner.from_pretrained(tiny_backbone("qwen2_vl"))
    for name, content in (("adapter_config.json", "{}"), ("model.safetensors", None)):
        folder = Path(shutil.copytree(folders["qwen2_vl"], tmp_path / name))
        if content is None:
            (folder / name).rename(folder / "pytorch_model.bin")
        else:
            (folder / name).write_text(content)
        with pytest.raises(CheckpointFilesError, match=r"adapter|no safetensors"):
            Reasoner.from_pretrained(folder)
    with pytest.raises(ValueError, match=r"has no \{thought\}"):
        Reasoner.from_pretrained(folders["qwen2_vl"], appended="so")
    with pytest.raises(ValueError, match="side is 'all'"):
        Reasoner.from_pretrained(folders["qwen2_vl"], side="all")
