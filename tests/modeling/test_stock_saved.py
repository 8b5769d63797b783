"""A model that stock classes save and our processor beside it: a folder that opens by every door."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoModel, AutoModelForImageTextToText, AutoProcessor

import umekit
from umekit.processing.processor import UmeProcessor
from umekit.testing import save_tiny_reranker

library = pytest.importorskip("sentence_transformers")
peft = pytest.importorskip("peft")


def _merged(folder: Path) -> Any:
    """What PEFT's merge of a LoRA on the stock class gives."""
    stock = AutoModelForImageTextToText.from_pretrained(folder)
    torch.manual_seed(0)
    config = peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    return peft.get_peft_model(stock, config).merge_and_unload()


def _save(model: Any, processor: Any, folder: Path, order: str) -> None:
    for one in (model, processor) if order == "model first" else (processor, model):
        one.save_pretrained(folder)


@pytest.mark.parametrize("order", ["model first", "processor first"])
@pytest.mark.parametrize("door", ["installed", "remote"])
@pytest.mark.parametrize("settings", [{}, {"positions": "1d", "pooling": "mean"}], ids=["stock", "ours"])
def test_an_embedder(
    settings: dict[str, Any],
    door: str,
    order: str,
    tiny_checkpoint: Callable[..., Path],
    tmp_path: Path,
    pictures: list[Image.Image],
) -> None:
    source = tiny_checkpoint("qwen2_vl", **settings)
    if door == "installed":
        processor = UmeProcessor.from_pretrained(source)
    else:
        processor = AutoProcessor.from_pretrained(source, trust_remote_code=True)
    folder = tmp_path / "merged"
    _save(_merged(source), processor, folder, order)

    items = ["a text", {"image": pictures[0], "text": "with a picture"}]
    vectors = umekit.load(folder).encode(items)
    assert np.abs(vectors - umekit.load(source).encode(items)).max() > 1e-3
    model = AutoModel.from_pretrained(folder, trust_remote_code=True)
    reader = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
    np.testing.assert_allclose(model.encode(items, processor=reader), vectors, atol=1e-5)
    st = library.SentenceTransformer(str(folder), trust_remote_code=True, device="cpu")
    np.testing.assert_allclose(st.encode(items), vectors, atol=1e-5)
    assert type(st[0]).__name__ == ("UmeTransformer" if settings else "Transformer")
    model.save_pretrained(tmp_path / "again")  # the folder has all code that a save needs


@pytest.mark.parametrize("order", ["model first", "processor first"])
def test_a_reranker(order: str, tiny_backbone: Callable[[str], Path], tmp_path: Path) -> None:
    source = save_tiny_reranker(tmp_path / "source", tiny_backbone("qwen3_vl"))
    folder = tmp_path / "merged"
    _save(_merged(source), UmeProcessor.from_pretrained(source), folder, order)
    scores = umekit.load(folder).rerank("a cat", ["a dog", "a kitten"])
    model = AutoModel.from_pretrained(folder, trust_remote_code=True)
    reader = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
    np.testing.assert_allclose(
        model.rerank("a cat", ["a dog", "a kitten"], processor=reader), scores, atol=1e-5
    )
    encoder = library.CrossEncoder(str(folder), trust_remote_code=True, device="cpu")
    np.testing.assert_allclose(
        encoder.predict([("a cat", "a dog"), ("a cat", "a kitten")]), scores, atol=1e-5
    )


def test_what_our_own_classes_wrote_stays(tiny_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    ours = tiny_checkpoint("qwen2_vl", positions="1d", pooling="mean")
    umekit.load(ours).model.save_pretrained(tmp_path)
    before = (tmp_path / "modules.json").read_bytes()
    UmeProcessor.from_pretrained(tiny_checkpoint("qwen2_vl")).save_pretrained(tmp_path)
    assert (tmp_path / "modules.json").read_bytes() == before
    assert not (tmp_path / "1_Pooling").exists()
