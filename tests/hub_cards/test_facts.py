"""A checkpoint's facts, read from the heads of its files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from umekit.hub_cards.facts import read_facts
from umekit.modeling.weight_files import CheckpointFilesError


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff" * 16,
        (8).to_bytes(8, "little") + b"[" * 8,
        (10**6).to_bytes(8, "little") + b"[" * 10**6,
        (2).to_bytes(8, "little") + b"[]",
    ],
    ids=["empty", "length that lies", "cut off", "deep", "a list"],
)
def test_a_weight_file_that_is_none_is_named(
    tiny_checkpoint: Callable[..., Path], tmp_path: Path, content: bytes
) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    for path in tiny_checkpoint().iterdir():
        if path.is_file():
            (folder / path.name).write_bytes(path.read_bytes())
    (folder / "model.safetensors").write_bytes(content)
    with pytest.raises(CheckpointFilesError, match="model"):
        read_facts(folder)


def test_an_unknown_dtype_is_words(tiny_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    for path in tiny_checkpoint().iterdir():
        if path.is_file():
            (folder / path.name).write_bytes(path.read_bytes())
    head = json.dumps({"w": {"dtype": "<F5>", "shape": [2, 3], "data_offsets": [0, 6]}, "v": {"shape": [5]}})
    extra = len(head).to_bytes(8, "little") + head.encode()
    (folder / "model-more.safetensors").write_bytes(extra)
    values = read_facts(folder).values
    assert values["\\<F5\\>"] == 6
    assert values["unknown"] == 5
