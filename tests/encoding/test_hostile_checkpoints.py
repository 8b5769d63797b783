"""Checkpoints that want to run code, to read other files, or to take all memory: refused with words, before that."""

from __future__ import annotations

import io
import json
import math
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModel

import umekit
from umekit.encoding.checkpoint_files import CheckpointFilesError, RemoteCodeError, check_files, read_config
from umekit.modeling.config_checks import check_size
from umekit.modeling.weight_files import stored_tensors

EVIL = "import pathlib\npathlib.Path({mark!r}).touch()\n"


@pytest.fixture
def folder(tiny_checkpoint: Callable[..., Path], tmp_path: Path) -> Path:
    """A checkpoint of ours to be spoilt."""
    copy = tmp_path / "model"
    shutil.copytree(tiny_checkpoint("qwen3_vl", positions="1d"), copy)
    return copy


@pytest.fixture
def published(tiny_backbone: Callable[[str], Path], tmp_path: Path) -> Path:
    copy = tmp_path / "published"
    shutil.copytree(tiny_backbone("qwen2_vl"), copy)
    return copy


@pytest.fixture(autouse=True)
def nobody_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever asks whether to run code is told yes."""
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n" * 9))


def change(folder: Path, file: str, **entries: Any) -> None:
    path = folder / file
    path.write_text(json.dumps({**json.loads(path.read_text()), **entries}))


# ---- a repository's code

AUTO_MAPS: dict[str, dict[str, dict[str, Any]]] = {
    "an unknown model": {"config.json": {"model_type": "evil", "auto_map": {"AutoConfig": "evil.Evil"}}},
    "a tokenizer": {
        "tokenizer_config.json": {
            "tokenizer_class": "Evil",
            "auto_map": {"AutoTokenizer": [None, "evil.Evil"]},
        }
    },
    "an image processor": {
        "preprocessor_config.json": {
            "image_processor_type": "Evil",
            "auto_map": {"AutoImageProcessor": "evil.Evil"},
        }
    },
}


@pytest.mark.parametrize("trust", [{}, {"trust_remote_code": True}])
@pytest.mark.parametrize("kind", AUTO_MAPS)
def test_no_code_of_a_repository_runs(
    kind: str, trust: dict[str, bool], published: Path, tmp_path: Path
) -> None:
    mark = tmp_path / "ran"
    (published / "evil.py").write_text(EVIL.format(mark=str(mark)) + "class Evil: pass\n")
    for file, entries in AUTO_MAPS[kind].items():
        change(published, file, **entries)
    if kind == "an image processor":
        (published / "processor_config.json").unlink(missing_ok=True)
    for preset in ("none", "rzenembed"):
        if kind == "a tokenizer":  # its tokenizer.json is read by an installed class
            assert umekit.load(published, preset=preset, **trust).encode(["a"]).shape == (1, 64)
            continue
        with pytest.raises(RemoteCodeError, match=r"is evil.Evil"):
            umekit.load(published, preset=preset, **trust)
        assert not umekit.verify(published, preset=preset).ok
    assert not mark.exists()


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_auto_maps_that_a_stock_class_stands_in_for(published: Path, tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    (published / "evil.py").write_text(EVIL.format(mark=str(mark)))
    names = ("AutoConfig", "AutoModel", "AutoModelForImageTextToText", "AutoProcessor", "AutoTokenizer")
    auto_map = dict.fromkeys(names, "evil.Evil")
    for file in ("config.json", "tokenizer_config.json", "preprocessor_config.json"):
        change(published, file, auto_map=auto_map)
    with pytest.warns(UserWarning, match="trust_remote_code is ignored"):
        encoder = umekit.load(published, trust_remote_code=True)
    assert encoder.encode(["a"]).shape == (1, 64)
    assert not mark.exists()


def test_trust_in_a_folder_of_ours_is_not_handed_on(folder: Path, tmp_path: Path) -> None:
    """AutoModel runs this folder's code, and that code loads stock classes only."""
    mark = tmp_path / "ran"
    (folder / "evil.py").write_text(EVIL.format(mark=str(mark)))
    config = json.loads((folder / "config.json").read_text())
    names = {"AutoModelForImageTextToText": "evil.Evil", "AutoTokenizer": "evil.Evil"}
    change(folder, "config.json", auto_map={**config["auto_map"], **names})
    model = AutoModel.from_pretrained(folder, trust_remote_code=True)
    assert model.kind == "discriminative"
    assert not mark.exists()


# ---- sizes


@pytest.mark.parametrize("value", [10**7, 10**15, 0, -1, math.nan, math.inf, "3", True, 2.0, [3], {}])
@pytest.mark.parametrize(
    "field",
    ["text_config.num_hidden_layers", "text_config.hidden_size", "text_config.vocab_size", "vision_config.depth",
     "vision_config.patch_size", "text_config.intermediate_size", "vision_config.num_position_embeddings"],
)  # fmt: skip
def test_impossible_sizes(field: str, value: Any, folder: Path) -> None:
    section, name = field.split(".")
    config = json.loads((folder / "config.json").read_text())
    config[section][name] = value
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointFilesError, match=rf"config.json: {field} is"):
        umekit.load(folder)


def test_a_config_that_leaves_sizes_to_their_defaults(published: Path) -> None:
    """Qwen2-VL's defaults are those of a model of 73 billion numbers."""
    config = {"model_type": "qwen2_vl", "architectures": ["Qwen2VLForConditionalGeneration"]}
    (published / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointFilesError, match="far larger than the weights in the files"):
        umekit.load(published, preset="none")


def test_sizes_of_real_checkpoints_pass() -> None:
    """The smallest published one of each family, with the weights that it has in 4 bits, packed by eight."""
    from transformers import AutoConfig

    for family in ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_5"):
        config = AutoConfig.for_model(family)
        from transformers import AutoModelForImageTextToText

        with torch.device("meta"):
            model = AutoModelForImageTextToText.from_config(config)
        held = {name: [weight.numel() // 8] for name, weight in model.named_parameters()}
        check_size(config, family, held)


def test_headers_are_the_weights(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    assert stored_tensors(str(folder)) == {name: list(tensor.shape) for name, tensor in tensors.items()}


# ---- files of JSON

JSON_FILES = (
    "config.json", "processor_config.json", "preprocessor_config.json", "tokenizer_config.json", "modules.json",
    "config_sentence_transformers.json", "generation_config.json",
)  # fmt: skip


@pytest.mark.parametrize("file", JSON_FILES)
@pytest.mark.parametrize(
    "content",
    ["[" * 100_000 + "]" * 100_000, '{"a":' * 200 + "1" + "}" * 200, "{", "", "\x00", "3", '"text"', "null"],
    ids=["deep lists", "deep objects", "cut", "empty", "binary", "number", "text", "null"],
)
def test_json_that_is_none(file: str, content: str, folder: Path) -> None:
    (folder / file).write_text(content)
    with pytest.raises(ValueError, match=file):
        umekit.load(folder)
    result = umekit.verify(folder)
    assert file in str(result.problems[0])


def test_files_that_are_too_large(folder: Path) -> None:
    for file in ("tokenizer.json", "chat_template.jinja", "config.json"):
        path = folder / file
        kept = path.read_bytes()
        with path.open("ab") as handle:
            handle.truncate(2**28 + 1)
        with pytest.raises(CheckpointFilesError, match=rf"{file} has .* bytes"):
            check_files(str(folder), {})
        path.write_bytes(kept)
    assert read_config(str(folder)).model_type == "qwen3_vl"
