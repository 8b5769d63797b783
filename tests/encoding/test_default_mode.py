"""A checkpoint that can think and by default does not: every door gives its direct vectors, and a mode its thoughts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from transformers import AutoModel, AutoProcessor

import umekit
from umekit.encoding.packaged import packaged_model
from umekit.modeling.settings import UmeSettings, UmeSettingsError, expressible

ITEMS = ["a text", "another one, and longer"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("default_mode")
    encoder = umekit.load(packaged_model(), role="generative")
    model = encoder.model
    model.settings = replace(model.settings, default_mode="discriminative", max_new_tokens=6)
    model.save_pretrained(target)
    encoder.processor.save_pretrained(target)
    return target


def test_every_door(folder: Path, tmp_path: Path) -> None:
    library = pytest.importorskip("sentence_transformers")
    encoder = umekit.load(folder)
    direct, generated = encoder.encode(ITEMS, mode="both").values()
    assert np.abs(direct - generated).max() > 1e-3
    np.testing.assert_allclose(encoder.encode(ITEMS), direct, atol=1e-5)
    model = AutoModel.from_pretrained(folder, trust_remote_code=True)
    processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
    np.testing.assert_allclose(model.encode(ITEMS, processor=processor), direct, atol=1e-5)
    thought = model.encode(ITEMS, processor=processor, mode="generative")
    np.testing.assert_allclose(thought, generated, atol=1e-5)
    module = library.SentenceTransformer(str(folder), device="cpu", trust_remote_code=True)
    np.testing.assert_allclose(module.encode(ITEMS), direct, atol=1e-5)
    np.testing.assert_allclose(module.encode(ITEMS, mode="generative"), generated, atol=1e-5)
    umekit.export(folder, tmp_path / "stock", role="discriminative", golden=False)
    assert not (tmp_path / "stock/sentence_transformer_ume.py").exists()
    stock = library.SentenceTransformer(
        str(tmp_path / "stock"), device="cpu", trust_remote_code=True
    )  # for our processor
    assert type(stock[0]).__name__ == "Transformer"
    np.testing.assert_allclose(stock.encode(ITEMS), direct, atol=1e-5)
    model.save_pretrained(tmp_path / "again")
    processor.save_pretrained(tmp_path / "again")
    again = umekit.load(tmp_path / "again")
    assert again.model.settings == encoder.model.settings
    np.testing.assert_allclose(again.encode(ITEMS, mode="generative"), generated, atol=1e-5)


def test_all_modes_through_sentence_transformers(tmp_path: Path) -> None:
    """Exported with another default mode, a checkpoint still has all of its modes there."""
    library = pytest.importorskip("sentence_transformers")
    encoder = umekit.load(packaged_model(), role="adaptive")
    out = umekit.export(packaged_model(), tmp_path / "thinks", mode="adaptive", golden=False)
    assert (out / "sentence_transformer_ume.py").is_file()
    model = library.SentenceTransformer(str(out), device="cpu", trust_remote_code=True)
    short = {"max_new_tokens": 6}
    both = encoder.encode(ITEMS, mode="both", **short)
    decided = encoder.encode(ITEMS, mode="adaptive", kappa=0.0, **short)  # thinks of both
    np.testing.assert_allclose(model.encode(ITEMS, kappa=0.0, **short), decided, atol=1e-5)
    assert model[0].cost.reasoned == len(ITEMS)
    np.testing.assert_allclose(model.encode(ITEMS, kappa=1.0), both["discriminative"], atol=1e-5)
    assert model[0].cost.reasoned == 0
    for mode, options in (("generative", short), ("discriminative", {})):
        np.testing.assert_allclose(model.encode(ITEMS, mode=mode, **options), both[mode], atol=1e-5)
    back = umekit.export(out, tmp_path / "at_once", mode="discriminative", golden=False)
    at_once = library.SentenceTransformer(str(back), device="cpu", trust_remote_code=True)
    np.testing.assert_allclose(at_once.encode(ITEMS), both["discriminative"], atol=1e-5)
    np.testing.assert_allclose(at_once.encode(ITEMS, kappa=0.0, mode="adaptive", **short), decided, atol=1e-5)
    with pytest.raises(UmeSettingsError, match="default_mode"):
        umekit.export(packaged_model(), tmp_path / "none", mode="both")
    assert not (tmp_path / "none").exists()


def test_what_a_kind_can_have() -> None:
    assert UmeSettings(kind="generative").mode == "generative"
    assert UmeSettings(kind="reranker").mode is None
    for target in ("sentence-transformers", "vllm", "transformers"):
        assert not expressible(UmeSettings(kind="generative"), target)[0]
        direct = UmeSettings(kind="generative", default_mode="discriminative")
        assert expressible(direct, target)[0] == (target != "sentence-transformers")  # encode(..., mode=)
    without = UmeSettings(kind="adaptive", default_mode="discriminative", pooling="mean")
    assert (
        "export" not in expressible(without, "sentence-transformers")[1]
    )  # which could not give them either
    for kind, mode in (
        ("discriminative", "generative"),
        ("generative", "both"),
        ("reranker", "discriminative"),
    ):
        with pytest.raises(UmeSettingsError, match="default_mode"):
            UmeSettings(kind=kind, default_mode=mode)
