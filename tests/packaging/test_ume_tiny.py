"""The committed model: its size, its tokenizer, and that it still knows its world."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from transformers import AutoModel, AutoProcessor

import umekit
from umekit.bundling import model_files, processor_files
from umekit.encoding.packaged import packaged_model
from umekit.evaluation.digit_world import COLOURS, POSITIONS, DigitWorld

BESIDE = sorted(path.parent for path in packaged_model().parent.glob("*/config.json"))


@pytest.fixture(scope="module")
def encoder() -> umekit.Encoder:
    return umekit.load()


def test_it_is_small_and_complete() -> None:
    folder = packaged_model()
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 8 * 2**20
    names = {path.name for path in files}
    assert {"config.json", "model.safetensors", "processor_config.json", "README.md", "modules.json"} <= names


@pytest.mark.parametrize("folder", BESIDE, ids=lambda folder: folder.name)
def test_its_code_is_what_a_save_writes(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    written = {**model_files(config["ume"]["role"]), **processor_files()}
    if "sentence_transformer_ume." not in (folder / "modules.json").read_text(encoding="utf-8"):
        del written["sentence_transformer_ume.py"]  # stock modules express it
    found = {path.name: path.read_text(encoding="utf-8") for path in folder.rglob("*.py")}
    assert found.keys() == written.keys()
    stale = [name for name, text in written.items() if found[name] != text]
    assert not stale, f"{stale} are stale: run `python examples/refresh_ume_tiny.py`"


def test_what_lies_beside_it_is_of_its_weights() -> None:
    """A reranker of other weights, and a cascade of other models, are refused when they are opened."""
    for folder in BESIDE:
        assert umekit.load(folder, device="cpu").processor is not None
    for path in packaged_model().parent.glob("*/cascade.json"):
        assert umekit.Cascade.load(path.parent, device="cpu").fusion.depth >= 1


def test_words_of_its_world_are_single_tokens(encoder: umekit.Encoder) -> None:
    tokenizer = encoder.processor.tokenizer
    for word in [*POSITIONS, *COLOURS, *"0123456789", "Yes", "No"]:
        assert len(tokenizer(word, add_special_tokens=False).input_ids) == 1, word
    for token in (
        "<disc_emb>",
        "<gen_emb>",
        "<direct>",
        "<reason>",
        "<instruction_start>",
        "<emb>",
        "<think>",
    ):
        assert token in tokenizer.get_added_vocab()
    assert encoder.model.config.get_text_config().vocab_size <= 1024


@pytest.mark.parametrize(("kind", "least"), [("random", 0.9), ("hard", 0.7)])
def test_it_finds_scenes_in_unseen_handwriting(encoder: umekit.Encoder, kind: str, least: float) -> None:
    pool = DigitWorld("test", seed=5).pool("retrieve_scene", queries=128, size=128, kind=kind)
    scores = encoder.encode_query(pool.queries) @ encoder.encode_document(pool.candidates).T
    assert float(np.mean(scores.argmax(axis=1) == np.array(pool.positives))) >= least


def test_every_door_gives_its_vectors_by_default(encoder: umekit.Encoder) -> None:
    library = pytest.importorskip("sentence_transformers")
    folder = str(packaged_model())
    wanted = encoder.encode_query(["find the red 4"])
    stock = library.SentenceTransformer(folder, trust_remote_code=True, device="cpu")
    np.testing.assert_allclose(stock.encode_query(["find the red 4"]), wanted, atol=1e-5)
    model = AutoModel.from_pretrained(folder, trust_remote_code=True)
    processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
    found = model.encode(["find the red 4"], processor=processor, role="query")
    np.testing.assert_allclose(found, wanted, atol=1e-5)
