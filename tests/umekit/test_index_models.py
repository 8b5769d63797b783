"""Which model an index names, and which one a search loads for it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import umekit
from tests.encoding.fake_encoder import FakeEncoder
from umekit.cli.main import main
from umekit.encoding.index.exact import Index
from umekit.encoding.index.opening import named_model
from umekit.encoding.packaged import packaged_model
from umekit.encoding.storage.contents import stored_model


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(3):
        Image.new("RGB", (40, 40), (number * 80, 9, 9)).save(folder / f"p{number}.png")
    (folder / "note.txt").write_text("a note about a red digit")
    return folder


def model_with_document_instruction(folder: Path) -> Path:
    shutil.copytree(packaged_model(), folder)
    path = folder / "processor_config.json"
    config = json.loads(path.read_text())
    config["ume"]["prompt"]["instructions"]["document"] = "Represent this for a search of digits."
    path.write_text(json.dumps(config))
    prompts = folder / "config_sentence_transformers.json"  # what it says of prompts wins
    stored = json.loads(prompts.read_text())
    stored["prompts"]["document"] = config["ume"]["prompt"]["instructions"]["document"]
    prompts.write_text(json.dumps(stored))
    return folder


def edit_settings(index: Path, **changes: Any) -> None:
    path = index / "manifest.json"
    raw = json.loads(path.read_text())
    raw["settings"] |= changes
    path.write_text(json.dumps(raw))


def test_a_relative_model_is_found_from_anywhere(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(packaged_model(), tmp_path / "models" / "mine")
    monkeypatch.chdir(tmp_path)
    assert main(["index", "photos", "--model", "models/mine", "--quiet"]) == 0
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert main(["search", "a red digit", "--index", str(photos), "-k", "999999999999", "--json"]) == 0
    out = capsys.readouterr().out
    assert len(json.loads(out[out.index("{\n") :])["results"]) == 4  # clipped to the index
    assert main(["index", str(photos), "--quiet"]) == 0  # a second run takes the model of the first
    shutil.rmtree(tmp_path / "models")
    assert main(["search", "a red digit", "--index", str(photos)]) == 2
    assert "models/mine, which is not there: say where it is with --model" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("{index}/model", "names a folder inside the index"),
        ("{index}", "names a folder inside the index"),
        ("{index}/../.umekit-index/model", "names a folder inside the index"),
        ("{root}/link-into-it", "names a folder inside the index"),
        ("./model", "is the relative path './model'"),
        ("../evil", "is the relative path"),
        ("a/b/c", "is the relative path"),
        ("evil", "a model of the Hub or the folder of that name here"),
        (["evil"], "not the name of a model"),
        ({}, "not the name of a model"),
        (7, "not the name of a model"),
        ("/nowhere", "is not there"),
    ],
)
def test_a_model_that_an_index_may_not_name(
    photos: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    model: Any,
    said: str,
) -> None:
    loaded: list[Any] = []

    def load(name: Any = None, **_: Any) -> FakeEncoder:
        loaded.append(name)
        return FakeEncoder()

    monkeypatch.setitem(vars(umekit), "load", load)
    assert main(["index", str(photos), "--quiet"]) == 0
    index = photos / ".umekit-index"
    (index / "model").mkdir()
    (photos / "evil").mkdir()
    (photos / "link-into-it").symlink_to(index / "model")
    monkeypatch.chdir(photos)
    if isinstance(model, str):
        model = model.format(index=index, root=photos)
    edit_settings(index, model=model)
    loaded.clear()
    capsys.readouterr()
    for call in (["search", "x"], ["index", ".", "--quiet"]):
        assert main(call) == 2
        assert said in capsys.readouterr().err
    assert not loaded
    assert main(["search", "x", "--model", "evil"]) == 0  # what the user says is done
    assert loaded == ["evil"]


@pytest.mark.parametrize("changes", [{"mode": "../x"}, {"mode": 3}, {"role": []}])
def test_other_settings_are_checked_by_name(
    photos: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], changes: dict[str, Any]
) -> None:
    monkeypatch.setitem(vars(umekit), "load", lambda *_, **__: FakeEncoder())
    assert main(["index", str(photos), "--quiet"]) == 0
    edit_settings(photos / ".umekit-index", **changes)
    assert main(["search", "x", "--index", str(photos)]) == 2
    assert f"manifest.json: settings.{next(iter(changes))} is" in capsys.readouterr().err


def test_names_of_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert stored_model(None) is None
    assert stored_model("Qwen/Qwen3-VL-Embedding-2B") == "Qwen/Qwen3-VL-Embedding-2B"
    (tmp_path / "here").mkdir()
    assert stored_model("here") == stored_model(Path("./here")) == str(tmp_path / "here")
    assert named_model(tmp_path / "index", {}) is None
    for name in ("Qwen/Qwen3-VL-Embedding-2B", "gpt2", str(tmp_path / "here")):
        assert named_model(tmp_path / "index", {"model": name}) == name


@pytest.mark.filterwarnings("ignore:.*role None")
def test_a_folder_indexed_either_way_has_equal_vectors(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = str(model_with_document_instruction(tmp_path / "model"))
    assert main(["index", str(photos), "--model", model, "--index", str(tmp_path / "one"), "--quiet"]) == 0
    shards = str(tmp_path / "shards")
    assert (
        main(["encode", str(photos), "--model", model, "--shard-size", "2", "--out", shards, "--quiet"]) == 0
    )
    assert main(["index", "--from-shards", shards, "--index", str(tmp_path / "two")]) == 0
    one, two = Index.load(tmp_path / "one"), Index.load(tmp_path / "two")
    order = [two.ids.index(name) for name in one.ids]
    np.testing.assert_allclose(one.vectors, two.vectors[order], atol=1e-5)
    assert two.settings["role"] == one.settings["role"] == "document"
    bare = umekit.load(model, device="cpu").encode([{"image": str(photos / "p1.png")}])
    assert (
        float(bare[0] @ one.vectors[one.ids.index("p1.png")]) < 0.9999
    )  # the instruction does make a difference
