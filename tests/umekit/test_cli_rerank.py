"""``umekit rerank`` over a published fixture: order, JSON, exit codes, one-line errors."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import umekit
from umekit.cli.main import main

FIXTURE = Path(__file__).parents[1] / "golden" / "qwen3vl_reranker"
MODEL = ["--model", str(FIXTURE / "checkpoint"), "--preset", "qwen3-vl-reranker"]


def call(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    try:
        code = main(["rerank", *(str(argument) for argument in arguments)])
    except SystemExit as stop:
        code = int(stop.code or 0)
    output = capsys.readouterr()
    return code, output.out, output.err


def test_best_first_with_the_scores_of_the_api(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "notes.md").write_text("a wooden ladder")
    files = [FIXTURE / "inputs" / "object.png", FIXTURE / "inputs" / "wide.png", tmp_path / "notes.md"]
    texts = ["--candidate", "a red kitten", "--candidate", "two rockets"]
    code, out, _ = call(capsys, *files, *texts, "--query", "kitten", *MODEL, "--json")
    results = json.loads(out)["results"]
    assert code == 0
    assert [row["rank"] for row in results] == [1, 2, 3, 4, 5]
    items = [{"image": str(file)} for file in files[:2]] + ["a wooden ladder", "a red kitten", "two rockets"]
    scores = umekit.load(FIXTURE / "checkpoint", preset="qwen3-vl-reranker").rerank("kitten", items)
    names = [*map(str, files), "text:0", "text:1"]
    assert [row["id"] for row in results] == [names[place] for place in np.argsort(-scores)]
    assert [row["score"] for row in results] == pytest.approx(sorted(scores.tolist(), reverse=True), abs=1e-5)
    code, out, _ = call(capsys, *files, *texts, "--query", "kitten", *MODEL, "-k", 2)
    assert code == 0
    assert len(out.splitlines()) == 4
    assert results[1]["id"] in out


def test_what_can_not_be_read_is_left_out_and_1(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"\x89PNG no picture")
    query = ["--image", FIXTURE / "inputs" / "photo.png", "--instruction", "Find what is like it."]
    code, out, err = call(
        capsys, broken, tmp_path / "missing.png", "--candidate", "a text", *query, *MODEL, "--json"
    )
    assert code == 1
    assert [row["id"] for row in json.loads(out)["results"]] == ["text:0"]
    assert "broken.png" in err
    assert "missing.png: No such file" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--query", "x", *MODEL], "no candidate"),
        (["--candidate", "a", *MODEL], "give a text, --image"),
        (["--candidate", "a", "--query", "x", "-k", "0", *MODEL], "at least 1"),
    ],
)
def test_wrong_calls_are_one_line_and_2(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = call(capsys, *arguments)
    assert (code, out) == (2, "")
    assert message in err.splitlines()[-1]


def test_an_embedder_scores_no_pairs(
    capsys: pytest.CaptureFixture[str], tiny_checkpoint: Callable[..., Path]
) -> None:
    code, _, err = call(capsys, "--candidate", "a", "--query", "x", "--model", tiny_checkpoint("qwen2_vl"))
    assert code == 2
    assert "is an embedder" in err.splitlines()[-1]
