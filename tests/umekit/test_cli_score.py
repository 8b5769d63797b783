"""``umekit score``: its arguments, its parts, and the rows that it writes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from umekit.cli.common import UsageError
from umekit.cli.main import main
from umekit.cli.score import part_of
from umekit.testing import save_tiny_reranker


@pytest.mark.parametrize(("text", "found"), [(None, (0, 1)), ("1/2", (0, 2)), ("8/8", (7, 8))])
def test_parts(text: str | None, found: tuple[int, int]) -> None:
    assert part_of(text) == found


@pytest.mark.parametrize("text", ["0/2", "3/2", "1/1", "1", "a/b", "-1/2", "1/2/3"])
def test_what_is_no_part(text: str) -> None:
    with pytest.raises(UsageError, match="I/N"):
        part_of(text)


def test_wrong_calls_are_told_before_a_model_is_loaded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    call = ["score", str(tmp_path / "rows.jsonl"), "--reranker", "r", "--out", str(tmp_path / "out")]
    assert main(call) == 2
    assert "there is no such file or folder" in capsys.readouterr().err
    assert main([*call, "--alpha", "2"]) == 2
    assert "from 0 to 1" in capsys.readouterr().err
    (tmp_path / "folder").mkdir()
    assert main(["score", str(tmp_path / "folder"), *call[2:]]) == 2
    assert "no rows of umekit mine, score or select" in capsys.readouterr().err


def test_rows_are_scored_in_parts(
    tmp_path: Path,
    tiny_backbone: Callable[[str], Path],
    tiny_checkpoint: Callable[..., Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    reranker = save_tiny_reranker(tmp_path / "reranker", tiny_backbone("qwen3_vl"))
    rows = [{"query": f"q {n}", "positive": f"p {n}", "negatives": ["a", "b"]} for n in range(2)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    call = ["score", str(tmp_path / "rows.jsonl"), "--model", str(tiny_checkpoint("qwen2_vl")), "--quiet"]
    call += ["--reranker", str(reranker), "--out", str(tmp_path / "out"), "--positive", "always"]
    call += ["--block-size", "1"]
    assert main([*call, "--part", "2/2"]) == 0
    assert "part 2/2 is done" in capsys.readouterr().out
    assert main([*call, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["rows"], report["pairs"]) == (2, 6)
    assert json.loads(Path(report["file"]).read_text().splitlines()[0])["query"] == {"text": "q 0"}
