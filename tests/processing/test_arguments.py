"""Arguments that pipelines and loaders hand to a processor: taken, ignored or warned of as the stock class does."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from transformers import AutoModel, AutoProcessor, pipeline

from umekit.processing.processor import UmeProcessor
from umekit.processing.settings import ProcessorSettings, with_arguments
from umekit.processing.vision import PixelBudget
from umekit.testing import save_tiny_checkpoint

SQUARE = 28 * 28


def tokens(processor: UmeProcessor, picture: Image.Image) -> int:
    return processor.prepare({"image": picture}).images[0].values.shape[0] // 4


def test_pixels_and_length(tiny_checkpoint: Callable[..., Path]) -> None:
    folder = tiny_checkpoint("qwen2_vl")
    picture = Image.new("RGB", (224, 224))
    assert tokens(UmeProcessor.from_pretrained(folder), picture) == 64
    for arguments in (
        {"min_pixels": 4 * SQUARE, "max_pixels": 16 * SQUARE},
        {"max_pixels": 16 * SQUARE},
        {"size": {"shortest_edge": 4 * SQUARE, "longest_edge": 16 * SQUARE}},
    ):
        processor = UmeProcessor.from_pretrained(folder, **arguments)
        assert tokens(processor, picture) == 16
        assert processor.settings.budget.frame[1] == 16 * SQUARE  # stock video processors take them, too
    larger = UmeProcessor.from_pretrained(folder, min_pixels=100 * SQUARE, max_pixels=200 * SQUARE)
    assert tokens(larger, picture) == 100
    assert "UmeProcessor" in repr(larger)
    short = UmeProcessor.from_pretrained(folder, model_max_length=32)
    assert short.prepare("a long text " * 50).length <= 32
    clip = UmeProcessor.from_pretrained(folder, fps=1.0, min_frames=2, max_frames=6).settings.sampling
    assert (clip.fps, clip.min_frames, clip.max_frames) == (1.0, 2, 6)
    for wrong in ({"size": {"height": 3, "width": 3}}, {"min_pixels": 16 * SQUARE, "max_pixels": SQUARE}):
        with pytest.raises(ValueError, match=r"size is|pixel budget"):
            UmeProcessor.from_pretrained(folder, **wrong)


def test_videos_by_volume_have_the_limits_of_stock_video_processors() -> None:
    budget = PixelBudget(image=(1, 9), frame=(1, 9), video=(1, 90), rule="volume")
    changed = with_arguments(ProcessorSettings(budget=budget), {"min_pixels": 2, "max_pixels": 8}).budget
    assert (changed.image, changed.frame, changed.video) == ((2, 8), (1, 9), (2, 8))


def test_a_call_has_pixels_of_its_own(tiny_checkpoint: Callable[..., Path]) -> None:
    processor = UmeProcessor.from_pretrained(tiny_checkpoint("qwen2_vl"))
    picture = Image.new("RGB", (224, 224))
    chat = [{"role": "user", "content": [{"type": "image", "image": picture}]}]
    text = processor.apply_chat_template(chat)
    size = {"shortest_edge": 4 * SQUARE, "longest_edge": 16 * SQUARE}
    for batch in (
        processor(text=[text], images=[picture], return_tensors="pt", padding=True, max_pixels=16 * SQUARE),
        processor(text=[text], images=[picture], images_kwargs={"size": size}),
        processor.apply_chat_template(chat, tokenize=True, return_dict=True, max_pixels=16 * SQUARE),
        processor.apply_chat_template(
            chat, tokenize=True, processor_kwargs={"images_kwargs": {"size": size}}
        ),
    ):
        assert batch["pixel_values"].shape[0] == 64
    assert processor(text=text, images=picture)["pixel_values"].shape[0] == 256


def test_padding_side_is_that_of_native_calls(tiny_checkpoint: Callable[..., Path]) -> None:
    for side in ("left", "right"):
        processor = UmeProcessor.from_pretrained(tiny_checkpoint("qwen2_vl"), padding_side=side)
        mask = processor(text=["a", "a much longer text"])["attention_mask"]
        assert bool(mask[0, -1]) == (side == "left")


def test_arguments_of_models_are_ignored_and_others_warned_of(tiny_checkpoint: Callable[..., Path]) -> None:
    folder = str(tiny_checkpoint("qwen2_vl"))
    ignored: dict[str, Any] = {
        "dtype": "auto",
        "torch_dtype": torch.float32,
        "device_map": "auto",
        "attn_implementation": "sdpa",
        "use_fast": False,
        "_from_pipeline": "feature-extraction",
    }
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        UmeProcessor.from_pretrained(folder, **ignored)
    with pytest.warns(UserWarning, match="max_pixelz"):
        AutoProcessor.from_pretrained(folder, trust_remote_code=True, max_pixelz=3)


def test_a_template_of_the_caller(tiny_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    template = "{{ messages[0]['content'][0]['text'] }}!<|endoftext|>"
    processor = UmeProcessor.from_pretrained(tiny_checkpoint("qwen2_vl"), chat_template=template)
    assert processor.prepare("a cat").rendered == "a cat!<|endoftext|>"
    processor.save_pretrained(tmp_path)
    assert UmeProcessor.from_pretrained(tmp_path).prepare("a cat").rendered == "a cat!<|endoftext|>"


def test_pipelines(tmp_path: Path, tiny_backbone: Callable[[str], Path], pictures: list[Image.Image]) -> None:
    folder = str(save_tiny_checkpoint(tmp_path / "c", tiny_backbone("qwen2_vl")))
    features = pipeline("feature-extraction", model=folder, trust_remote_code=True, dtype=torch.float32)
    found = features("a cat", return_tensors=True)
    model = AutoModel.from_pretrained(folder, trust_remote_code=True)
    expected = model(**features.tokenizer("a cat", return_tensors="pt")).last_hidden_state
    torch.testing.assert_close(found, expected.detach())
    writer = pipeline(
        "image-text-to-text",
        model=folder,
        trust_remote_code=True,
        model_kwargs={"attn_implementation": "eager"},
    )
    content = [{"type": "image", "image": pictures[0]}, {"type": "text", "text": "what is it?"}]
    written = writer(text=[{"role": "user", "content": content}], max_new_tokens=2, return_full_text=False)
    assert isinstance(written[0]["generated_text"], str)


def test_a_pipeline_of_pictures_alone_says_what_to_do(
    tmp_path: Path, tiny_backbone: Callable[[str], Path], pictures: list[Image.Image]
) -> None:
    folder = str(save_tiny_checkpoint(tmp_path / "c", tiny_backbone("qwen2_vl")))
    features = pipeline("image-feature-extraction", model=folder, trust_remote_code=True)
    with pytest.raises(ValueError, match=r"needs input_ids.*model.encode\(\[\{\"image\": picture\}\]"):
        features(pictures[0])


def test_chats_with_slots_are_vectors(
    tiny_checkpoint: Callable[..., Path], pictures: list[Image.Image]
) -> None:
    folder = str(tiny_checkpoint("qwen2_vl"))
    model = AutoModel.from_pretrained(folder, trust_remote_code=True)
    processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
    content = [{"type": "image", "image": pictures[0]}, {"type": "text", "text": "a cat"}]
    chats = [
        [{"role": "user", "content": content}],
        [{"role": "user", "content": "a longer text about a dog"}],
    ]
    inputs = processor.apply_chat_template(chats, tokenize=True, return_dict=True, return_slots=True)
    items = [{"image": pictures[0], "text": "a cat"}, "a longer text about a dog"]
    found = model(**inputs).embeddings.detach()
    torch.testing.assert_close(found, model.encode(items, processor=processor), atol=1e-5, rtol=0)
    plain = processor.apply_chat_template(chats, tokenize=True, return_dict=True)
    assert model(**plain).embeddings is None


def test_txtai(tiny_checkpoint: Callable[..., Path]) -> None:
    txtai = pytest.importorskip("txtai")
    folder = str(tiny_checkpoint("qwen2_vl"))
    store = txtai.Embeddings(path=folder, method="sentence-transformers", vectors={"trust_remote_code": True})
    store.index(["a cat", "a dog"])
    assert store.search("a cat", 1)[0][0] == 0
