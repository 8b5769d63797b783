"""What comes with ume-tiny to look twice: published from a made-up adapter, and opened by every door."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoProcessor

import umekit
import umekit.examples
from umekit.cli.main import main
from umekit.encoding.packaged import packaged_model
from umekit.encoding.presets.u_marvel_reranker import U_MARVEL_RERANKER_SHORT
from umekit.evaluation import tuning_data
from umekit.evaluation.digit_world import DigitWorld, labelled
from umekit.evaluation.results import load_report
from umekit.examples.publish_ume_tiny_reranker import main as publish
from umekit.examples.train_ume_tiny_reranker import save
from umekit.modeling.adapters import AdapterError
from umekit.trainers import add_lora

QUERY = {"text": "p1 red 4", "instruction": "Find the picture."}
NEAR = 2e-3  # an adapter in bfloat16 against the one that was trained


@pytest.fixture(scope="module")
def pool() -> Any:
    return DigitWorld("test", seed=3).pool("retrieve_scene", 8, 8, "hard")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, pool: Any) -> Iterator[Path]:
    """An installation that has ume-tiny, and a reranker of it as it is published; what it scores is in scores.npy."""
    tiny = packaged_model()
    examples = tmp_path_factory.mktemp("examples")
    (examples / "ume-tiny").symlink_to(tiny)
    encoder = umekit.load(device="cpu")
    model, processor = U_MARVEL_RERANKER_SHORT.put_on(encoder.model, encoder.processor)
    torch.manual_seed(0)
    add_lora(model, rank=4, alpha=8, dropout=0.0, parts=("language", "merger"), init_lora_weights=False)
    trained = umekit.Reranker(model.eval(), processor)
    np.save(examples / "scores.npy", trained.rerank(pool.queries[0], pool.candidates))
    adapter = tmp_path_factory.mktemp("runs") / "adapter"
    save(model, processor, tiny, adapter)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(umekit.examples, "__path__", [str(examples)])
        for module in (labelled, tuning_data):
            patch.setattr(module, "POOL", 16)
        words = ["publish", str(adapter), "--queries", "2", "--result", str(examples / "result.json")]
        patch.setattr(sys, "argv", words)
        assert publish() == 0
        yield examples


def test_it_is_small_and_names_its_base_beside_it(place: Path) -> None:
    folder = place / "ume-tiny-reranker"
    weights = folder / "adapter_model.safetensors"
    assert {tensor.dtype for tensor in load_file(weights).values()} == {torch.bfloat16}
    assert weights.stat().st_size <= 2 * 2**20
    assert (
        json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"] == "../ume-tiny"
    )
    for file in folder.rglob("*.json"):
        assert str(Path.cwd()) not in file.read_text()
        assert str(place) not in file.read_text()
    card = (folder / "README.md").read_text()
    assert "a LoRA on `ume-tiny`" in card
    assert "Calibration" in card
    cascade = json.loads((place / "ume-tiny-cascade" / "cascade.json").read_text())
    assert [cascade[which]["packaged"] for which in ("embedder", "reranker")] == [
        "ume-tiny",
        "ume-tiny-reranker",
    ]
    assert cascade["depth"] == 10


def test_every_door_gives_the_scores_that_it_was_trained_to(place: Path, pool: Any, tmp_path: Path) -> None:
    query, candidates = pool.queries[0], pool.candidates
    trained = np.load(place / "scores.npy")
    plain = U_MARVEL_RERANKER_SHORT.put_on(
        *(lambda one: (one.model, one.processor))(umekit.load(device="cpu"))
    )
    assert np.abs(umekit.Reranker(*plain).rerank(query, candidates) - trained).max() > 10 * NEAR
    wanted = umekit.load(role="reranker", device="cpu").rerank(query, candidates)
    np.testing.assert_allclose(wanted, trained, atol=NEAR)

    def check(found: Any) -> None:
        np.testing.assert_allclose(np.asarray(found, dtype=np.float32), wanted, atol=1e-5)

    folder = place / "ume-tiny-reranker"
    check(umekit.load("ume-tiny-reranker", device="cpu").rerank(query, candidates))
    check(umekit.load(folder, role="reranker", device="cpu").rerank(query, candidates))
    model = AutoModel.from_pretrained(folder, trust_remote_code=True)
    processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
    check(model.rerank(query, candidates, processor=processor))
    library = pytest.importorskip("sentence_transformers")
    with pytest.raises(ValueError, match=r"its adapter is not merged \(`umekit export`"):
        library.CrossEncoder(str(folder), trust_remote_code=True, device="cpu")
    merged = umekit.export(folder, tmp_path / "merged", golden=False)
    cross = library.CrossEncoder(str(merged), trust_remote_code=True, device="cpu")
    texts = [{key: one for key, one in query.items() if key != "instruction"}] * len(candidates)
    check(cross.predict(list(zip(texts, candidates, strict=True)), prompt=query["instruction"]))


def test_on_other_weights_it_is_refused(place: Path, tmp_path: Path) -> None:
    shutil.copytree(place / "ume-tiny", tmp_path / "ume-tiny")
    shutil.copytree(place / "ume-tiny-reranker", tmp_path / "ume-tiny-reranker")
    assert umekit.load(tmp_path / "ume-tiny-reranker", device="cpu").rerank("a", ["b"]).shape == (1,)
    weights = load_file(tmp_path / "ume-tiny" / "model.safetensors")
    name = next(name for name in weights if "mlp.down_proj" in name)
    weights[name] = weights[name] * 1.1
    save_file(weights, tmp_path / "ume-tiny" / "model.safetensors", metadata={"format": "pt"})
    for opened in (
        lambda: umekit.load(tmp_path / "ume-tiny-reranker", device="cpu"),
        lambda: umekit.export(tmp_path / "ume-tiny-reranker", tmp_path / "out"),
    ):
        with pytest.raises(AdapterError, match="was trained on other weights"):
            opened()
    with pytest.raises(RuntimeError, match="was trained on other weights"):  # of the folder's own code
        AutoModel.from_pretrained(tmp_path / "ume-tiny-reranker", trust_remote_code=True)


def test_folders_of_these_names_here_are_taken_where_they_are_named(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("ume-tiny", "ume-tiny-reranker", "ume-tiny-cascade"):
        (tmp_path / name).mkdir()  # empty, so that opening it fails
    monkeypatch.chdir(tmp_path)
    assert umekit.load(device="cpu").encode(["a"]).shape[0] == 1
    assert umekit.load(role="reranker", device="cpu").rerank("a", ["b"]).shape == (1,)
    assert umekit.Cascade.load(device="cpu").fusion.depth == 10
    assert umekit.Cascade.of(device="cpu").fusion.tasks == {}
    for opened in (
        lambda: umekit.load("ume-tiny", device="cpu"),
        lambda: umekit.load("ume-tiny-reranker", device="cpu"),
        lambda: umekit.Cascade.load("ume-tiny-cascade", device="cpu"),
    ):
        with pytest.raises(Exception, match=r"ume-tiny"):
            opened()


def test_an_installation_without_it_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(umekit.examples, "__path__", [str(tmp_path)])
    with pytest.raises(FileNotFoundError, match="ume-tiny-reranker is not in this installation"):
        umekit.load(role="reranker")
    with pytest.raises(FileNotFoundError, match="ume-tiny-cascade is not in this installation"):
        umekit.Cascade.load()


# ---- on the command line -------------------------------------------------------------------------------------------


def call(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    capsys.readouterr()
    code = main([str(argument) for argument in arguments])
    output = capsys.readouterr()
    return code, output.out, output.err


@pytest.fixture(scope="module")
def indexed(place: Path, pool: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("files") / "root"
    folder.mkdir()
    for number, candidate in enumerate(pool.candidates):
        candidate["image"].save(folder / f"{number}.png")
    assert main(["index", str(folder), "--quiet"]) == 0
    return folder


def test_search_takes_it_without_a_name(
    place: Path, indexed: Path, pool: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    text = pool.queries[0]["text"]
    code, out, _ = call(capsys, "search", text, "--index", indexed, "--rerank", "--json")
    assert code == 0
    found = json.loads(out)["results"]
    pair = umekit.Cascade.load(device="cpu")
    candidates = {f"{n}.png": one for n, one in enumerate(pool.candidates)}
    [wanted] = pair.rank([{"text": text}], candidates, k=8)
    assert [row["id"] for row in found] == [row.id for row in wanted]
    for row, one in zip(found, wanted, strict=True):
        assert (row["score"], row["rerank"]) == pytest.approx((one.score, one.rerank), abs=1e-4)
    code, _, err = call(capsys, "search", "--index", indexed, "--rerank", text)
    assert code == 2
    assert "was taken for --rerank PATH: write the query first" in err
    code, out, _ = call(capsys, "rerank", indexed / "0.png", "--query", text, "--json")
    assert code == 0
    assert len(json.loads(out)["results"]) == 1


def test_another_embedder_needs_a_reranker_of_its_own(
    place: Path, tiny_checkpoint: Any, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "a.txt").write_text("a ladder")
    model = tiny_checkpoint("qwen2_vl")
    assert call(capsys, "index", tmp_path, "--model", model, "--quiet")[0] == 0
    code, out, err = call(capsys, "search", "a", "--index", tmp_path, "--rerank")
    assert (code, out) == (2, "")
    assert "--rerank without PATH is the reranker of the packaged ume-tiny" in err


def test_a_benchmark_takes_it_and_names_it(
    place: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    words = ["--tasks", "retrieve_scene", "--kinds", "hard", "--queries", 8, "--size", 8, "--quiet"]
    code, _, _ = call(capsys, "evaluate", "digit-world", *words, "--out", tmp_path / "r.json", "--rerank")
    assert code == 0
    conditions = load_report(tmp_path / "r.json").conditions
    how = conditions.settings["rerank"]
    assert (how["reranker"], how["depth"]) == ("ume-tiny-reranker", 10)
    assert "--rerank ume-tiny-cascade" in conditions.command
