"""What sentence-transformers saves into a folder of ours counts at every door: prompts, length, dimension."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import AutoModel, AutoProcessor

import umekit
from umekit.modeling.settings import UmeSettingsError

library = pytest.importorskip("sentence_transformers")

ITEMS = ["a text", "the picture and the video of a page " * 20]
FOLDERS: dict[str, dict[str, Any]] = {
    "stock modules": {},
    "our module": {"positions": "1d"},
    "generative": {"role": "generative"},
}
SAVED: dict[str, tuple[dict[str, Any], int | None]] = {
    "nothing": ({}, None),
    "truncate_dim": ({"truncate_dim": 16}, None),
    "query and document": ({"prompts": {"query": "find: ", "document": "a page: "}}, None),
    "an empty one": ({"prompts": {"query": "", "document": "", "x": "y "}, "default_prompt_name": "x"}, None),
    "passage": ({"prompts": {"query": "q: ", "passage": "p: ", "corpus": "c: "}}, None),
    "a default for all": ({"prompts": {"x": "y "}, "default_prompt_name": "x"}, 40),
    "a query's as default": ({"prompts": {"query": "q: "}, "default_prompt_name": "query"}, 40),
    "a length": ({}, 30),
}


@pytest.mark.parametrize("saved", SAVED)
@pytest.mark.parametrize("kind", FOLDERS)
def test_the_same_vectors(
    kind: str, saved: str, tiny_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    options, length = SAVED[saved]
    source = tiny_checkpoint("qwen3_vl", **FOLDERS[kind])
    model = library.SentenceTransformer(str(source), trust_remote_code=True, device="cpu", **options)
    if length is not None:
        model.max_seq_length = length
    model.save_pretrained(str(tmp_path / "saved"), create_model_card=False)
    again = library.SentenceTransformer(str(tmp_path / "saved"), trust_remote_code=True, device="cpu")
    encoder = umekit.load(tmp_path / "saved", device="cpu")
    mode = {"mode": "discriminative"} if kind == "generative" else {}
    for call in ("encode", "encode_query", "encode_document"):
        wanted = getattr(again, call)(ITEMS, normalize_embeddings=True, **mode)
        np.testing.assert_allclose(getattr(encoder, call)(ITEMS, **mode), wanted, atol=1e-6)
    if saved != "truncate_dim" and kind == "our module":  # the dimension is that door's alone
        direct = AutoModel.from_pretrained(tmp_path / "saved", trust_remote_code=True)
        processor = AutoProcessor.from_pretrained(tmp_path / "saved", trust_remote_code=True)
        vectors = direct.encode(ITEMS, processor=processor, role="document")
        np.testing.assert_allclose(vectors.numpy(), again.encode_document(ITEMS), atol=1e-6)


def test_they_survive_a_save_of_ours(tiny_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    source = tiny_checkpoint("qwen3_vl")
    options: dict[str, Any] = {"prompts": {"x": "y ", "query": "q: "}, "default_prompt_name": "x"}
    model = library.SentenceTransformer(str(source), trust_remote_code=True, truncate_dim=16, **options)
    model.save_pretrained(str(tmp_path / "saved"), create_model_card=False)
    first = umekit.load(tmp_path / "saved", device="cpu")
    umekit.export(tmp_path / "saved", tmp_path / "exported", golden=False)
    second = umekit.load(tmp_path / "exported", device="cpu")
    for call in ("encode", "encode_query", "encode_document"):
        wanted = getattr(first, call)(ITEMS)
        assert wanted.shape == (2, 16)
        np.testing.assert_allclose(getattr(second, call)(ITEMS), wanted, atol=1e-6)


@pytest.mark.parametrize("value", [0, -1, True, 1.5, "16", 65])
def test_an_impossible_truncate_dim(value: Any, tiny_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_checkpoint("qwen3_vl"), folder)
    path = folder / "config_sentence_transformers.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "truncate_dim": value}))
    with pytest.raises(UmeSettingsError, match=r"config_sentence_transformers.json: truncate_dim is"):
        umekit.load(folder)


@pytest.mark.parametrize(
    "entries",
    [
        {"prompts": ["q"]},
        {"prompts": {"query": 3}},
        {"default_prompt_name": "x", "prompts": {}},
        {"default_prompt_name": []},
    ],
)
def test_impossible_prompts(
    entries: dict[str, Any], tiny_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_checkpoint("qwen3_vl"), folder)
    path = folder / "config_sentence_transformers.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **entries}))
    with pytest.raises(ValueError, match=r"config_sentence_transformers.json: (prompts|default_prompt_name)"):
        umekit.load(folder)


@pytest.mark.parametrize("dim", [0, -1, True, False, 1.5, "16", 65])
def test_an_impossible_dim(dim: Any, tiny_checkpoint: Callable[..., Path]) -> None:
    for settings in ({}, {"role": "generative"}):
        encoder = umekit.load(tiny_checkpoint("qwen3_vl", **settings))
        for items in (["a"], []):
            with pytest.raises(
                ValueError, match=r"dim is .*; use a whole number from 1 to 64, or None for all"
            ):
                encoder.encode(items, dim=dim)
            with pytest.raises(
                ValueError, match=r"dim is .*; use a whole number from 1 to 64, or None for all"
            ):
                encoder.model.encode(items, processor=encoder.processor, dim=dim)
    assert encoder.encode(["a"], dim=np.int64(8), mode="discriminative").shape == (1, 8)
