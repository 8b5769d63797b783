"""Weights that are elsewhere, pickled, cut off or no weights: nothing but safetensors of the folder is read."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file, save_file
from transformers import AutoModel

import umekit
from umekit.encoding.checkpoint_files import CheckpointFilesError
from umekit.trainers.lora.checkpoint_souping import soup_checkpoints
from umekit.trainers.lora.merging import merge


@pytest.fixture
def folder(tiny_checkpoint: Callable[..., Path], tmp_path: Path) -> Path:
    """A checkpoint of ours to be spoilt."""
    copy = tmp_path / "model"
    shutil.copytree(tiny_checkpoint("qwen3_vl", positions="1d"), copy)
    return copy


def shard(folder: Path, where: str) -> None:
    """The folder's weights in a file that an index names as ``where``."""
    target = Path(os.path.join(folder, where))
    target.parent.mkdir(parents=True, exist_ok=True)
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    save_file(tensors, target, metadata={"format": "pt"})
    index = {"metadata": {}, "weight_map": dict.fromkeys(tensors, where)}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


@pytest.mark.parametrize(
    "where", ["../outside.safetensors", "sub/inside.safetensors", "{tmp}/absolute.safetensors"]
)
def test_weight_maps_name_files_of_their_folder_only(where: str, folder: Path, tmp_path: Path) -> None:
    shard(folder, where.format(tmp=tmp_path))
    with pytest.raises(CheckpointFilesError, match=r"index.json names .* not a file of its folder"):
        umekit.load(folder)
    with pytest.raises(Exception, match="not a file of its folder"):  # the repository's own class of error
        AutoModel.from_pretrained(folder, trust_remote_code=True)
    with pytest.raises(CheckpointFilesError, match="not a file of its folder"):
        soup_checkpoints([folder, folder], tmp_path / "soup")
    model = umekit.load(device="cpu").model
    with pytest.raises(CheckpointFilesError, match="not a file of its folder"):
        model.load_native_weights(folder)


@pytest.mark.parametrize(
    "content",
    [[], {}, {"weight_map": []}, {"weight_map": {}}, {"weight_map": {"a": 3}}, {"weight_map": {"a": "..\\x"}},
     {"weight_map": {"a": "model.bin"}}],
)  # fmt: skip
def test_impossible_weight_maps(content: Any, folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "model-1.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps(content))
    with pytest.raises(CheckpointFilesError, match=r"model.safetensors.index.json"):
        umekit.load(folder)


def test_shards_load(folder: Path) -> None:
    wanted = umekit.load(folder).encode(["a"])
    shard(folder, "model-00001-of-00001.safetensors")
    assert np.array_equal(umekit.load(folder).encode(["a"]), wanted)


def test_weights_behind_links(folder: Path, tmp_path: Path) -> None:
    """A cache of the Hub is links to its blobs, so a link is followed; what is no file of weights is not read."""
    wanted = umekit.load(folder).encode(["a"])
    weights = folder / "model.safetensors"
    weights.rename(tmp_path / "blob")
    weights.symlink_to(tmp_path / "blob")
    assert np.array_equal(umekit.load(folder).encode(["a"]), wanted)
    (tmp_path / "secret").write_text("a password of somebody's")
    os.mkfifo(tmp_path / "pipe")
    for target in (
        "/dev/zero",
        tmp_path / "secret",
        tmp_path / "pipe",
        "model.safetensors",
        tmp_path / "none",
    ):
        weights.unlink()
        weights.symlink_to(target)
        with pytest.raises((OSError, CheckpointFilesError)) as caught:
            umekit.load(folder)
        assert "password" not in str(caught.value)


def test_a_weight_that_a_map_names_twice(folder: Path) -> None:
    """JSON's last entry counts, for us as for transformers; a file that is not there is named."""
    shard(folder, "model-00001-of-00001.safetensors")
    index = folder / "model.safetensors.index.json"
    text = index.read_text()
    name = next(iter(json.loads(text)["weight_map"]))
    first = json.dumps({name: "missing.safetensors"})[1:-1]
    index.write_text(text.replace('"weight_map": {', '"weight_map": {' + first + ", ", 1))
    assert umekit.load(folder).encode(["a"]).shape == (1, 64)
    second = json.dumps({"another": "missing.safetensors"})[1:-1]
    index.write_text(text.replace('"weight_map": {', '"weight_map": {' + second + ", ", 1))
    with pytest.raises(OSError, match=r"missing.safetensors"):
        umekit.load(folder)


class Bomb:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return Path.touch, (self.mark,)


def test_pickled_weights_stay_closed(folder: Path, tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb(mark)))
    for options in ({}, {"use_safetensors": False}, {"use_safetensors": None}):
        with pytest.raises((OSError, CheckpointFilesError)):
            umekit.load(folder, **options)
    assert not mark.exists()


def test_a_pickled_adapter_stays_closed(tiny_backbone: Callable[[str], Path], tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    adapter, mark = tmp_path / "adapter", tmp_path / "ran"
    peft.LoraConfig(
        r=2, target_modules=["q_proj"], base_model_name_or_path=str(tiny_backbone("qwen3_vl"))
    ).save_pretrained(adapter)
    (adapter / "adapter_model.bin").write_bytes(pickle.dumps(Bomb(mark)))
    with pytest.raises(RuntimeError, match=r"adapter_model.safetensors; a pickled .bin is not read"):
        umekit.load(adapter, preset="none")
    with pytest.raises(RuntimeError, match=r"adapter_model.safetensors; a pickled .bin is not read"):
        merge(adapter, tmp_path / "merged")
    assert not mark.exists()


@pytest.mark.parametrize(
    "content", [b"", b"\x00" * 8, b"\xff" * 16, b"\x02" + b"\x00" * 7 + b"[]", b"\x02" * 9]
)
def test_cut_off_weights(content: bytes, folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(content)
    with pytest.raises(CheckpointFilesError, match=r"model.safetensors"):
        umekit.load(folder)
