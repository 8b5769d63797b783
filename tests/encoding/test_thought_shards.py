"""Thoughts in parts: stopped and gone on with they are the same bytes, and embedded with they give the same vectors."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import umekit
from umekit.cli.main import main
from umekit.encoding.inputs import open_source
from umekit.encoding.shards.files import ShardMismatchError
from umekit.encoding.shards.given_thoughts import open_thoughts
from umekit.encoding.shards.thoughts import write_thoughts
from umekit.encoding.storage.contents import IndexFormatError


@pytest.fixture(scope="module")
def model(tiny_checkpoint: Callable[..., Path]) -> Path:
    return tiny_checkpoint("qwen2_vl", role="generative")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    lines = [{"id": f"n{number}", "text": f"text {number}"} for number in range(5)]
    lines.insert(2, {"id": "gone", "image": "nowhere.png"})
    file = tmp_path / "items.jsonl"
    file.write_text("\n".join(map(json.dumps, lines)))
    return file


def test_a_run_goes_on_with_the_same_bytes(model: Path, source: Path, tmp_path: Path) -> None:
    encoder = umekit.load(model)
    options = {"num_samples": 2, "temperature": 1.0, "role": "query"}

    def write(name: str, **more: object) -> object:
        return write_thoughts(encoder, open_source([str(source)]), tmp_path / name, 2, **{**options, **more})

    whole = write("whole")
    assert (vars(whole)["rows"], vars(whole)["failed"]) == (5, 1)
    before = {path.name: path.read_bytes() for path in (tmp_path / "whole").iterdir()}
    assert len(before) == 4
    (tmp_path / "whole" / "thoughts-00001.jsonl").unlink()
    again = write("whole")
    assert (vars(again)["made"], vars(again)["kept"]) == (1, 2)
    assert {path.name: path.read_bytes() for path in (tmp_path / "whole").iterdir()} == before
    for rank in (1, 0):
        write("two", rank=rank, world=2)
    assert {path.name: path.read_bytes() for path in (tmp_path / "two").iterdir()} == before
    with pytest.raises(ShardMismatchError, match="another options"):
        write("whole", role="document")
    row = json.loads(before["thoughts-00000.jsonl"].splitlines()[0])
    assert [len(row[name]) for name in ("thought", "tokens", "forced")] == [2, 2, 2]
    assert "nowhere.png" in json.loads(before["thoughts-00001.jsonl"].splitlines()[0])["error"]
    lookup = open_thoughts(tmp_path / "whole").of_samples(0, 6)
    assert [lookup(name) is None for name in ("n0", "n4", "gone", "n5")] == [False, False, True, True]


def test_the_commands(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "texts"
    folder.mkdir()
    for name in ("a", "b"):
        (folder / f"{name}.txt").write_text(f"the text of {name}")
    texts = [str(folder / f"{name}.txt") for name in ("a", "b")]
    thoughts = tmp_path / "thoughts.jsonl"
    rows = [
        {"id": texts[0], "thought": "<think>it is</think><answer>a text"},
        {"id": texts[1], "thought": "so", "answer": "it"},
    ]
    thoughts.write_text("\n".join(map(json.dumps, rows)))
    command = ["encode", *texts, "--out", str(tmp_path / "v.npz"), "--model", str(model), "--quiet"]
    command += ["--max-new-tokens", "64", "--thoughts"]
    assert main([*command, str(thoughts)]) == 0
    found = np.load(tmp_path / "v.npz")["embeddings"]
    given = [rows[0]["thought"], ("so", "it")]
    expected = umekit.load(model).encode(
        ["the text of a", "the text of b"], thoughts=given, max_new_tokens=64
    )
    np.testing.assert_allclose(found, expected, atol=1e-5)
    thoughts.write_text(json.dumps({"id": "other", "thought": "<think>a</think><answer>b"}))
    assert main([*command, str(thoughts)]) == 2
    assert "no thought of these items" in capsys.readouterr().err
    out = str(tmp_path / "out")
    assert main(["think", str(folder), "--out", out, "--model", str(model), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["rows"] == 2
    assert main(["think", str(folder), "--out", out, "--model", str(model), "--mode", "discriminative"]) == 2


@pytest.mark.parametrize(
    "line", ["[]", "{}", '{"id": 3, "thought": "a"}', '{"id": "a", "thought": []}', "no json"]
)
def test_a_bad_line_is_named(tmp_path: Path, line: str) -> None:
    file = tmp_path / "thoughts.jsonl"
    file.write_text('{"id": "b", "thought": "c"}\n' + line)
    with pytest.raises(IndexFormatError, match="line 2"):
        open_thoughts(file)
    file.write_text('{"id": "b", "thought": "c"}\n' * 2)
    with pytest.raises(IndexFormatError, match="twice"):
        open_thoughts(file)
