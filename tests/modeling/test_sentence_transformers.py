"""sentence-transformers: stock modules where the settings allow it, ours elsewhere; same vectors as model.encode."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from datasets import Image as ImageFeature
from PIL import Image
from sentence_transformers import (
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)
from sentence_transformers.base.losses.gradcache import _create_minibatch
from sentence_transformers.sentence_transformer.losses import CachedMultipleNegativesRankingLoss
from transformers import AutoModelForImageTextToText

from umekit.modeling.discriminative import UmeForDiscriminativeEmbedding
from umekit.processing.processor import UmeProcessor
from umekit.testing import FAMILIES, save_tiny_checkpoint

# Settings that stock modules express, and settings that only our module does.
STOCK: dict[str, Any] = {}
OURS: dict[str, Any] = {"positions": "1d", "pooling": "mean"}
PATHS = {"stock": STOCK, "ours": OURS, "bidirectional": {"attention": "bidirectional"}}


def _load(folder: Path) -> SentenceTransformer:
    return SentenceTransformer(str(folder), trust_remote_code=True, device="cpu")


def _ours(folder: Path) -> tuple[UmeForDiscriminativeEmbedding, UmeProcessor]:
    return UmeForDiscriminativeEmbedding.from_pretrained(folder), UmeProcessor.from_pretrained(folder)


def _close(actual: Any, expected: torch.Tensor, tolerance: float = 1e-5) -> None:
    torch.testing.assert_close(torch.as_tensor(actual), expected, atol=tolerance, rtol=0)


def _items(pictures: list[Image.Image]) -> list[Any]:
    return [
        "a short text",
        pictures[0],
        {"image": pictures[1]},
        {"text": "before a picture", "image": pictures[2]},
        {"image": pictures[2], "text": "before a picture"},
        {"video": pictures[:2] + pictures[:2], "text": "what happens?"},
        "a longer text " * 5,
    ]


@pytest.mark.parametrize("kind", PATHS)
@pytest.mark.parametrize("family", FAMILIES)
def test_vectors_equal_model_encode(
    family: str, kind: str, tiny_checkpoint: Callable[..., Path], pictures: list[Image.Image]
) -> None:
    if family == "qwen3_5" and kind == "bidirectional":
        pytest.skip("refused: its linear-attention layers stay causal")
    folder = tiny_checkpoint(family, **PATHS[kind])
    st = _load(folder)
    assert type(st[0]).__name__ == ("UmeTransformer" if kind == "ours" else "Transformer")
    model, processor = _ours(folder)
    items = _items(pictures)
    _close(st.encode(items), model.encode(items, processor=processor))
    _close(st.encode(items[3]), model.encode(items[3], processor=processor)[0])
    several = {"image": [pictures[0], pictures[1]], "text": "compare"}
    expected = model.encode([{"images": pictures[:2], "text": "compare"}], processor=processor)
    _close(st.encode([several]), expected)
    assert st.get_embedding_dimension() == model.dim


@pytest.mark.parametrize("kind", ["stock", "ours"])
def test_prompts_are_instructions(
    kind: str, tmp_path: Path, tiny_backbone: Callable[[str], Path], pictures: list[Image.Image]
) -> None:
    folder = save_tiny_checkpoint(tmp_path / "c", tiny_backbone("qwen2_vl"), **PATHS[kind])
    processor = UmeProcessor.from_pretrained(folder)
    prompt = replace(processor.settings.prompt, instructions={"query": "find the page", "document": "a page"})
    processor.with_settings(prompt=prompt).save_pretrained(folder)
    model, processor = _ours(folder)
    st = _load(folder)
    items = ["two cats", {"text": "a dog", "image": pictures[0]}]
    for role, encode in (("query", st.encode_query), ("document", st.encode_document)):
        _close(encode(items), model.encode(items, processor=processor, role=role))
    _close(st.encode(items), model.encode(items, processor=processor))
    _close(st.encode(items, prompt="x"), model.encode(items, processor=processor, instruction="x"))
    _close(
        st.encode(items, prompt_name="query"),
        model.encode(items, processor=processor, instruction="find the page"),
    )
    short = st.encode(items, truncate_dim=16, normalize_embeddings=True)
    _close(short, model.encode(items, processor=processor, dim=16))
    vectors = torch.tensor(st.encode(items))
    _close(st.similarity(vectors, vectors), vectors @ vectors.T)


@pytest.mark.parametrize("kind", ["stock", "ours"])
def test_chats_and_texts_in_one_batch(
    kind: str, tiny_checkpoint: Callable[..., Path], pictures: list[Image.Image]
) -> None:
    folder = tiny_checkpoint("qwen2_vl", **PATHS[kind])
    model, processor = _ours(folder)
    st = _load(folder)
    chat = [
        {"role": "system", "content": "find it"},
        {
            "role": "user",
            "content": [{"type": "text", "text": "cat"}, {"type": "image", "image": pictures[0]}],
        },
    ]
    plain = [{"role": "user", "content": "a cat"}]
    inputs = [chat, "a cat", plain, {"text": "cat", "image": pictures[1]}]
    items = [
        {"text": "cat", "image": pictures[0], "instruction": "find it"},
        "a cat",
        "a cat",
        {"text": "cat", "image": pictures[1]},
    ]
    expected = model.encode(items, processor=processor)
    _close(st.encode(inputs), expected)
    _close(st.encode([chat]), expected[:1])
    # A chat's own system message wins over the prompt, the others take it.
    expected = model.encode(items, processor=processor, instruction="a prompt")
    _close(st.encode(inputs, prompt="a prompt"), expected)


@pytest.mark.parametrize("kind", ["stock", "ours"])
def test_a_str_is_what_sentence_transformers_takes_it_for(
    kind: str, tiny_checkpoint: Callable[..., Path], tmp_path: Path, pictures: list[Image.Image]
) -> None:
    folder = tiny_checkpoint("qwen2_vl", **PATHS[kind])
    model, processor = _ours(folder)
    st = _load(folder)
    path = tmp_path / "a cat.PNG"
    pictures[0].save(path)
    missing, other = str(tmp_path / "missing.png"), str(tmp_path / "notes.txt")
    Path(other).write_text("a note", encoding="utf-8")
    texts = [missing, other, "cat.png", "see https://example.org/cat.png for more", "sound.mp3"]
    _close(st.encode([str(path)]), model.encode([{"image": path}], processor=processor))
    _close(st.encode(str(path)), model.encode([{"image": path}], processor=processor)[0])
    _close(
        st.encode([str(path), "a cat", *texts]),
        model.encode([{"image": path}, "a cat", *texts], processor=processor),
    )
    uri = "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()
    same = model.encode([{"image": path}], processor=processor).expand(2, -1)
    _close(st.encode([uri, np.array(pictures[0])]), same)
    _close(st.encode([{"text": str(path)}]), model.encode([str(path)], processor=processor))
    chat = [{"role": "user", "content": str(path)}]
    _close(st.encode([chat]), model.encode([str(path)], processor=processor))


def test_our_module_says_what_it_takes(tiny_checkpoint: Callable[..., Path]) -> None:
    folder = tiny_checkpoint("qwen2_vl", **OURS)
    told = json.loads((folder / "sentence_bert_config.json").read_text(encoding="utf-8"))
    assert [*told["modality_config"]] == _load(folder).modalities == ["text", "image", "video", "message"]


def test_our_module_checks_its_arguments(tiny_checkpoint: Callable[..., Path]) -> None:
    st = _load(tiny_checkpoint("qwen2_vl", **OURS))
    model, processor = _ours(tiny_checkpoint("qwen2_vl", **OURS))
    _close(
        st.encode(["a"], instruction="find", mode="discriminative"),
        model.encode(["a"], processor=processor, instruction="find"),
    )
    with pytest.raises(ValueError, match="mode='generative'"):
        st.encode(["a"], mode="generative")
    with pytest.raises(ValueError, match="max_new_tokens"):
        st.encode(["a"], max_new_tokens=4)
    with pytest.raises(ValueError, match="temperature"):
        st.encode(["a"], temperature=1.0)
    with pytest.raises(TypeError, match="item 1"):
        st.encode(["a", {"sound": b""}])
    with pytest.raises(ValueError, match="one turn"):
        st.encode([[{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]])


@pytest.mark.parametrize("kind", ["stock", "ours"])
def test_max_seq_length_cuts_text_and_nothing_else(kind: str, tiny_checkpoint: Callable[..., Path]) -> None:
    folder = tiny_checkpoint("qwen2_vl", **PATHS[kind])
    model, processor = _ours(folder)
    st = _load(folder)
    st.max_seq_length = 40
    long = "words and more words " * 40
    expected = model.encode([long], processor=processor.with_max_length(40))
    _close(st.encode([long]), expected)


def _complete(folder: Path) -> None:
    code = {"modeling_ume.py", "processing_ume.py", "pdfium_ume.py"}
    if "sentence_transformer_ume" in (folder / "modules.json").read_text():
        code.add("sentence_transformer_ume.py")
    assert {path.name for path in folder.glob("*.py")} == code
    for name in (
        "modules.json",
        "chat_template.jinja",
        "tokenizer.json",
        "config_sentence_transformers.json",
    ):
        assert (folder / name).is_file(), name
    config = json.loads((folder / "config.json").read_text())
    assert config["architectures"] == ["Qwen2VLForConditionalGeneration"]
    assert config["model_type"] == "qwen2_vl"
    assert config["auto_map"] == {"AutoModel": "modeling_ume.UmeForDiscriminativeEmbedding"}
    assert config["ume"]["schema"] == 1
    stored = json.loads((folder / "processor_config.json").read_text())
    assert stored["processor_class"] == "Qwen2VLProcessor"
    assert stored["auto_map"]["AutoProcessor"] == "processing_ume.UmeProcessor"
    settings = json.loads((folder / "config_sentence_transformers.json").read_text())
    assert settings["requirements"]["sentence-transformers"] == ">=6.2"


@pytest.mark.parametrize("kind", ["stock", "ours"])
def test_saving_through_sentence_transformers_is_complete(
    kind: str, tmp_path: Path, tiny_checkpoint: Callable[..., Path], pictures: list[Image.Image]
) -> None:
    st = _load(tiny_checkpoint("qwen2_vl", **PATHS[kind]))
    items = _items(pictures)
    expected = torch.tensor(st.encode(items))
    st.prompts["query"] = "a new prompt"
    st.prompts["captions"] = "find the caption"
    st.save_pretrained(str(tmp_path / "a"))
    _complete(tmp_path / "a")
    again = _load(tmp_path / "a")
    assert again.prompts == {"query": "a new prompt", "document": "", "captions": "find the caption"}
    _close(again.encode(items), expected, 1e-6)
    again.save_pretrained(str(tmp_path / "b"))  # and once more, from the copy of the copy
    _complete(tmp_path / "b")
    model, processor = _ours(tmp_path / "b")
    _close(model.encode(items, processor=processor), expected, 1e-6)
    _, info = AutoModelForImageTextToText.from_pretrained(tmp_path / "b", output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    # Our own save writes the prompts that the processor has: of sentence-transformers', those that are a role's.
    processor.save_pretrained(tmp_path / "b")
    assert _load(tmp_path / "b").prompts == {"query": "a new prompt", "document": ""}


def _pairs(pictures: list[Image.Image]) -> Dataset:
    rows = {"anchor": pictures[:4], "positive": [f"a caption of picture {i}" for i in range(4)]}
    return Dataset.from_dict(rows).cast_column("anchor", ImageFeature())


@pytest.mark.parametrize(
    ("family", "kind"), [("qwen2_vl", "stock"), ("qwen2_vl", "ours"), ("qwen3_vl", "ours")]
)
def test_finetunes_with_cached_negatives(
    family: str,
    kind: str,
    tmp_path: Path,
    tiny_checkpoint: Callable[..., Path],
    pictures: list[Image.Image],
) -> None:
    st = _load(tiny_checkpoint(family, **PATHS[kind]))
    before = {name: value.clone() for name, value in st.named_parameters()}
    arguments = SentenceTransformerTrainingArguments(
        output_dir=str(tmp_path / "run"),
        max_steps=3,
        per_device_train_batch_size=4,
        learning_rate=1e-3,
        report_to=[],
        save_strategy="steps",
        save_steps=3,
        use_cpu=True,
        disable_tqdm=True,
    )
    loss = CachedMultipleNegativesRankingLoss(st, mini_batch_size=2)
    trainer = SentenceTransformerTrainer(model=st, args=arguments, train_dataset=_pairs(pictures), loss=loss)
    trainer.train()
    moved = {name for name, value in st.named_parameters() if not torch.equal(value, before[name])}
    assert any("visual" in name for name in moved)
    assert any("layers.0" in name for name in moved)
    items = _items(pictures)
    expected = torch.tensor(st.encode(items))
    model, processor = _ours(tmp_path / "run" / "checkpoint-3")
    _close(model.encode(items, processor=processor), expected)
    _close(_load(tmp_path / "run" / "checkpoint-3").encode(items), expected)
    with torch.no_grad():  # resuming and load_best_model_at_end read a checkpoint into the living model
        for parameter in st.parameters():
            parameter.add_(0.1)
    trainer._load_from_checkpoint(str(tmp_path / "run" / "checkpoint-3"))
    _close(st.encode(items), expected)


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen2_5_vl"])
def test_our_features_can_be_split_by_rows(
    family: str, tiny_checkpoint: Callable[..., Path], pictures: list[Image.Image]
) -> None:
    """Losses with gradient caching cut a batch into rows; media must stay with theirs."""
    st = _load(tiny_checkpoint(family, **OURS)).eval()
    film = pictures[:2] + pictures[:2]
    items = ["a", {"images": pictures[:3]}, {"video": film}, "b", {"image": pictures[3], "video": film[:2]}]
    features = st.preprocess(items)
    with torch.no_grad():
        whole = st(dict(features))["sentence_embedding"]
        parts = [
            st(_create_minibatch(dict(features), start, start + 2))["sentence_embedding"]
            for start in range(0, 5, 2)
        ]
    _close(torch.cat(parts), whole)


def test_a_mismatched_environment_fails_before_weights_are_read(tmp_path: Path) -> None:
    (tmp_path / "modules.json").write_text("[]")
    block = {"model_type": "SentenceTransformer", "requirements": {"sentence-transformers": ">=99"}}
    (tmp_path / "config_sentence_transformers.json").write_text(json.dumps(block))
    with pytest.raises(ImportError, match="sentence-transformers>=99"):
        SentenceTransformer(str(tmp_path))


def test_our_module_needs_trust(tiny_checkpoint: Callable[..., Path]) -> None:
    with pytest.raises(ValueError, match="trust_remote_code"):
        SentenceTransformer(str(tiny_checkpoint("qwen2_vl", **OURS)), device="cpu")
