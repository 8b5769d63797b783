"""Index, search and demo with a checkpoint that thinks: they work as with any other, and show the thought."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("sklearn")
pytest.importorskip("av")
pytest.importorskip("pypdfium2")

import umekit
from umekit.cli.main import main
from umekit.demo.contact_sheet import contact_sheet
from umekit.demo.queries import Query, Result


@pytest.mark.parametrize("mode", [[], ["--mode", "generative"], ["--mode", "discriminative"]])
def test_index_and_search(
    mode: list[str], tiny_checkpoint: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = str(tiny_checkpoint("qwen2_vl", role="generative"))
    for number, text in enumerate(["the text", "a picture of it", "compare the video"]):
        (tmp_path / f"{number}.txt").write_text(text)
    assert main(["index", str(tmp_path), "--model", model, "--quiet", *mode]) == 0
    capsys.readouterr()
    search = ["search", "a page", "--index", str(tmp_path), "-k", "3"]
    assert main([*search, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert main(search) == 0
    shown = capsys.readouterr().out
    chosen = mode[1] if mode else "generative"
    encoder = umekit.load(model)
    own = encoder.encode(["a page"], role="query", mode=chosen, return_details=True)
    documents = [(tmp_path / f"{number}.txt").read_text() for number in range(3)]
    expected = own.embeddings @ encoder.encode(documents, role="document", mode=chosen).T
    np.testing.assert_allclose(
        [row["score"] for row in told["results"]], np.sort(expected[0])[::-1], atol=1e-5
    )
    if chosen == "discriminative":
        assert "thought" not in told
        assert "thought" not in shown
    else:
        assert (told["thought"], told["forced"]) == (own.thoughts[0], own.forced[0])
        assert shown.startswith(f"thought ({own.thought_tokens[0]} tokens")


def test_the_sheet_shows_the_thought_as_text(tmp_path: Path) -> None:
    (tmp_path / "note.txt").write_text("a note")
    query = Query("text -> text", {"text": "a"}, "text", "note.txt", "a")
    hits = (("note.txt", 0.5),)
    with_thought = contact_sheet([Result(query, hits, "<think>it & that</think>")], tmp_path, "t", "s")
    assert '<div class="thought">&lt;think&gt;it &amp; that&lt;/think&gt;</div>' in with_thought
    assert 'class="thought"' not in contact_sheet([Result(query, hits)], tmp_path, "t", "s")


def test_demo_of_a_model_that_thinks(
    tiny_checkpoint: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = str(tiny_checkpoint("qwen2_vl", role="generative"))
    command = ["demo", "--out", str(tmp_path), "--model", model, "--max-new-tokens", "2", "--quiet"]
    assert main([*command, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["results"]
    assert all(isinstance(row["thought"], str) for row in rows)
    assert '<div class="thought">' in (tmp_path / "contact-sheet.html").read_text(encoding="utf-8")
