"""Adapters over a preset that adds tokens: the base's files lack their rows, and every door fills them alike."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoModelForImageTextToText, AutoProcessor

import umekit
from umekit.modeling.settings import UmeSettings, UmeSettingsError, filled_rows
from umekit.trainers.lora import add_lora
from umekit.trainers.lora.merging import merge, open_base
from umekit.trainers.lora.souping import soup

ADDED = ("<emb>", "<instruction_start>", "<instruction_end>")
ITEMS = [{"text": "the page of a video", "instruction": "compare"}, {"text": "a text", "instruction": "find"}]


@pytest.fixture(scope="module")
def base(tiny_backbone: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A published Qwen2-VL: its tokenizer has none of the tokens, its matrix has spare rows."""
    folder = tmp_path_factory.mktemp("published") / "base"
    shutil.copytree(tiny_backbone("qwen2_vl"), folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        content = json.loads((folder / name).read_text())
        for key in ("added_tokens", "extra_special_tokens", "additional_special_tokens"):
            if key in content:
                content[key] = [one for one in content[key] if _text(one) not in ADDED]
        for key, one in list(content.get("added_tokens_decoder", {}).items()):
            if _text(one) in ADDED:
                del content["added_tokens_decoder"][key]
        (folder / name).write_text(json.dumps(content))
    return folder


def _text(token: Any) -> str:
    return token["content"] if isinstance(token, dict) else token


def save_adapter(source: Path, folder: Path, seed: int = 0, **options: Any) -> np.ndarray:
    """Save a random LoRA over a source as training leaves it; returns the vectors of ITEMS that it was trained to."""
    encoder = umekit.load(source, device="cpu", **options)
    add_lora(encoder.model, rank=4, alpha=8)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in encoder.model.backbone.named_parameters():
            if "lora_B" in name:
                weight.copy_(0.1 * torch.randn(weight.shape, generator=generator))
    encoder.model.eval()
    encoder.model.save_pretrained(folder)
    encoder.processor.save_pretrained(folder)
    return encoder.encode(ITEMS)


@pytest.fixture(scope="module")
def adapter(base: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, np.ndarray]:
    folder = tmp_path_factory.mktemp("trained") / "adapter"
    return folder, save_adapter(base, folder, preset="u-marvel")


def block(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "config.json").read_text())["ume"])


def test_the_probe_would_see_it(base: Path, adapter: tuple[Path, np.ndarray], tmp_path: Path) -> None:
    """Without the record the vectors are others; the tokens are the preset's and not the base's."""
    folder, wanted = adapter
    known = umekit.load(base, device="cpu").processor.tokenizer.get_vocab()
    assert not set(ADDED) & known.keys()
    tokenizer = umekit.load(folder, device="cpu").processor.tokenizer
    ids = {token: tokenizer.convert_tokens_to_ids(token) for token in ADDED[1:]}
    assert block(folder)["filled_rows"] == ids
    shutil.copytree(folder, tmp_path / "plain")
    config = json.loads((folder / "config.json").read_text())
    del config["ume"]["filled_rows"]
    del config["ume"]["base_weights"]  # which would see it first: rows that are filled are weights
    (tmp_path / "plain" / "config.json").write_text(json.dumps(config))
    assert np.abs(umekit.load(tmp_path / "plain", device="cpu").encode(ITEMS) - wanted).max() > 1e-2


def test_filled_rows_are_means_of_the_rows_before(base: Path, adapter: tuple[Path, np.ndarray]) -> None:
    rows = open_base(adapter[0]).model.get_input_embeddings().weight.detach().numpy().astype(np.float64)
    published = AutoModelForImageTextToText.from_pretrained(base).get_input_embeddings().weight
    twin = published.detach().numpy().astype(np.float64)
    for row in sorted(block(adapter[0])["filled_rows"].values()):
        twin[row] = twin[:row].mean(axis=0)
    np.testing.assert_allclose(rows, twin, atol=1e-7)


def test_load_and_automodel(adapter: tuple[Path, np.ndarray], tmp_path: Path) -> None:
    folder, wanted = adapter
    encoder = umekit.load(folder, device="cpu")
    np.testing.assert_allclose(encoder.encode(ITEMS), wanted, atol=2e-6)
    encoder.model.save_pretrained(tmp_path / "again")  # the record goes on with the adapter
    encoder.processor.save_pretrained(tmp_path / "again")
    assert block(tmp_path / "again") == block(folder)
    for one in (folder, tmp_path / "again"):
        model = AutoModel.from_pretrained(one, trust_remote_code=True)
        processor = AutoProcessor.from_pretrained(one, trust_remote_code=True)
        np.testing.assert_allclose(model.encode(ITEMS, processor=processor), wanted, atol=2e-6)


def test_merge_and_export_write_the_rows(adapter: tuple[Path, np.ndarray], tmp_path: Path) -> None:
    folder, wanted = adapter
    for merged in (merge(folder, tmp_path / "merged"), umekit.export(folder, tmp_path / "exported")):
        np.testing.assert_allclose(umekit.load(merged, device="cpu").encode(ITEMS), wanted, atol=2e-6)
        assert "filled_rows" not in block(merged)  # its weights hold them


def test_a_soup_of_one_is_the_adapter(adapter: tuple[Path, np.ndarray], tmp_path: Path) -> None:
    folder, wanted = adapter
    soup([folder], tmp_path / "soup")
    np.testing.assert_allclose(umekit.load(tmp_path / "soup", device="cpu").encode(ITEMS), wanted, atol=2e-6)


def test_a_base_that_has_the_tokens_keeps_its_rows(
    base: Path, adapter: tuple[Path, np.ndarray], tmp_path: Path
) -> None:
    """A saved start has trained rows, perhaps: naming it as the base, or training on it, never overwrites them."""
    start = umekit.load(base, preset="u-marvel", device="cpu")
    first = start.processor.tokenizer.convert_tokens_to_ids(ADDED[1])
    with torch.no_grad():
        start.model.get_input_embeddings().weight[first].fill_(0.5)
    start.model.save_pretrained(tmp_path / "start")
    start.processor.save_pretrained(tmp_path / "start")
    rows = open_base(adapter[0], tmp_path / "start").model.get_input_embeddings().weight
    assert (rows[first] == 0.5).all()
    wanted = save_adapter(tmp_path / "start", tmp_path / "second")
    assert "filled_rows" not in block(tmp_path / "second")
    np.testing.assert_allclose(
        umekit.load(tmp_path / "second", device="cpu").encode(ITEMS), wanted, atol=2e-6
    )


@pytest.mark.parametrize(
    "entry",
    [
        ["<emb>"],
        {"<emb>": 0},
        {"<emb>": "3"},
        {"<emb>": True},
        {"<emb>": [5]},
        {"<emb>": [0, 5]},
        {"<emb>": [[5, 1], 2]},
    ],
)
def test_a_record_that_cannot_be_is_refused(entry: Any) -> None:
    config = SimpleNamespace(ume={"schema": 1, "filled_rows": entry})
    with pytest.raises(UmeSettingsError, match="names tokens and their rows"):
        filled_rows(config)
    assert UmeSettings.from_config(config) == UmeSettings()
