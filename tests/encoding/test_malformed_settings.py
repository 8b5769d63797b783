"""Settings blocks that somebody wrote by hand, or in bad faith: the error names file and entry."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import umekit
from umekit.encoding.presets import PRESETS
from umekit.modeling.settings import UmeSettings, UmeSettingsError
from umekit.processing.settings import ProcessorSettings, ProcessorSettingsError

MODEL: list[tuple[str, list[Any]]] = [
    ("role", ["embedder", 3, None, ["discriminative"], {}]),
    ("attention", ["both", True]),
    ("pooling", ["first", 0]),
    ("positions", [1, "2d"]),
    ("deepstack", ["yes", 1, None]),
    ("normalize", ["no", 0]),
    ("dim", [0, -1, True, 1.5, "8", math.nan, math.inf, 10**30, [8]]),
    ("max_new_tokens", [0, -5, True, None, "9", 1e9, 10**30]),
    ("tokens", [[1], "a", {"yes": "1"}, {"yes": -1}, {"yes": True}, {"yes": [1, "2"]}, {"yes": 1.0}]),
    ("schema", [0, 2, "1", True, None, 1.0]),
    ("thought_end", ["soon", []]),
    ("default_mode", ["generative", "both", 1, []]),  # of a discriminative checkpoint
    ("new_entry", [1]),
]
PROCESSOR: list[tuple[str, list[Any]]] = [
    ("max_length", [0, -1, True, "8", 1.5, math.nan, 10**30, None]),
    ("limits", [[1], {"query": "8"}, {"query": 0}, {"page": 8}, {"query": True}]),
    ("truncation", ["left", 1]),
    ("pairs", [1, "yes", None]),
    ("prompt", [3, "text", None, {"system": 3}, {"instructions": {"query": 3}}, {"unknown": ""}]),
    ("pooling", ["last", {"kind": "first"}, {"kind": "token"}, {"offset": True}, {"token": 3}]),
    ("sampling", [{"fps": 0}, {"fps": math.nan}, {"fps": "2"}, {"fps": 1e9},
                  {"min_frames": 9, "max_frames": 3}, {"multiple": 0}, {"max_frames": 10**12}, {"list_pad": 1},
                  {"min_frames": True}, []]),
    ("budget", [{}, 5, {"image": [4], "frame": [1, 2], "video": [1, 2]},
                {"image": [1, "2"], "frame": [1, 2], "video": [1, 2]},
                {"image": [2, 1], "frame": [1, 2], "video": [1, 2]},
                {"image": [10**12, 10**13], "frame": [1, 2], "video": [1, 2]},
                {"image": [math.nan, 2], "frame": [1, 2], "video": [1, 2]},
                {"image": [1, 2], "frame": [1, 2], "video": [1, 2], "first_image": {"factor": -28}}]),
    ("schema", [0, 2, "1", True, None]),
    ("new_entry", [1]),
    ("family", [3, None]),
]  # fmt: skip


@pytest.fixture
def folder(tiny_checkpoint: Callable[..., Path], tmp_path: Path) -> Path:
    copy = tmp_path / "model"
    shutil.copytree(tiny_checkpoint("qwen3_vl", positions="1d"), copy)
    return copy


def change(folder: Path, file: str, entry: str, value: Any) -> None:
    path = folder / file
    content = json.loads(path.read_text())
    content["ume"][entry] = value
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(("entry", "value"), [(entry, value) for entry, values in MODEL for value in values])
def test_of_the_model(entry: str, value: Any, folder: Path) -> None:
    change(folder, "config.json", entry, value)
    with pytest.raises(UmeSettingsError, match=rf"config.json: ume.*{entry}"):
        umekit.load(folder)
    assert not umekit.verify(folder).ok


@pytest.mark.parametrize(
    ("entry", "value"), [(entry, value) for entry, values in PROCESSOR for value in values]
)
def test_of_the_processor(entry: str, value: Any, folder: Path) -> None:
    change(folder, "processor_config.json", entry, value)
    with pytest.raises(ProcessorSettingsError, match=rf"processor_config.json: ume.*{entry}"):
        umekit.load(folder)
    assert not umekit.verify(folder).ok


@pytest.mark.parametrize("value", [3, "text", [], True])
def test_blocks_that_are_none(value: Any, folder: Path) -> None:
    for file, error in (("processor_config.json", ProcessorSettingsError), ("config.json", UmeSettingsError)):
        path = folder / file
        path.write_text(json.dumps({**json.loads(path.read_text()), "ume": value}))
        with pytest.raises(error, match=rf"{file}: ume is"):
            umekit.load(folder)


def test_good_settings_come_back_as_they_were() -> None:
    stored = UmeSettings(kind="generative", dim=8).to_dict()
    assert stored["role"] == "generative"
    assert UmeSettings.from_config(SimpleNamespace(ume=stored)) == UmeSettings(kind="generative", dim=8)
    with pytest.raises(UmeSettingsError, match="kind"):
        UmeSettings.from_config(SimpleNamespace(ume={"kind": "generative"}))

    class Geometry:
        size = {"shortest_edge": 65536, "longest_edge": 16777216}  # noqa: RUF012

    for preset in PRESETS.values():
        settings = preset.processor(preset.families[0], Geometry())
        assert ProcessorSettings.from_dict(json.loads(json.dumps(settings.to_dict()))) == settings
