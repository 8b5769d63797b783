"""``umekit evaluate RERANKER --benchmark calibration``: file, picture, and the reranker's card from the file."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml

import umekit
from umekit.cli.main import main
from umekit.evaluation.results import load_report
from umekit.testing import save_tiny_reranker

ROWS = [
    {"query": f"q {n}", "positive": f"right {n}", "negatives": [f"wrong {n}", "x"], "task": "ab"[n % 2]}
    for n in range(6)
]


@pytest.fixture
def reranker(tmp_path: Path, tiny_backbone: Callable[[str], Path]) -> Path:
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return save_tiny_reranker(tmp_path / "reranker", tiny_backbone("qwen2_vl"))


def test_a_rerankers_card_has_what_was_measured(
    reranker: Path, tmp_path: Path, tiny_backbone: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    pytest.importorskip("matplotlib")
    out, picture = tmp_path / "c.json", tmp_path / "c.png"
    call = ["evaluate", str(reranker), "--benchmark", "calibration", "--rows", str(tmp_path / "rows.jsonl")]
    assert main([*call, "--out", str(out), "--picture", str(picture), "--quiet"]) == 0
    assert "AUC" in capsys.readouterr().out
    assert picture.read_bytes().startswith(b"\x89PNG")
    loaded = umekit.load(reranker, device="cpu")
    scores = [loaded.rerank(row["query"], [row["positive"], *row["negatives"]]) for row in ROWS]
    truth = np.tile([True, False, False], len(ROWS))
    report = load_report(out)
    assert [score.task for score in report.scores] == ["a", "b", "all pairs"]
    auc = metrics.roc_auc_score(truth, np.concatenate(scores))
    assert dict(report.scores[-1].entries())["AUC"] == pytest.approx(auc, abs=1e-3)
    assert report.fingerprint == loaded.fingerprint()
    picture.unlink()
    assert main(["evaluate", "--from", str(out), "--picture", str(picture)]) == 0
    assert picture.is_file()

    card = tmp_path / "card.md"
    assert main(["card", str(reranker), "--results", str(out), "--out", str(card)]) == 0
    text = card.read_text()
    assert "### Calibration, all split" in text
    assert "| mean score of a bin | right pairs | pairs |" in text
    results = yaml.safe_load(text.split("---\n")[1])["model-index"][0]["results"]
    named = {
        metric["name"]: (metric["type"], metric["value"]) for one in results for metric in one["metrics"]
    }
    assert named["AUC"] == ("auc", pytest.approx(auc, abs=1e-3))
    assert {"Brier", "calibration error", "hit@1"} <= set(named)
    assert {one["task"]["type"] for one in results} == {"text-ranking"}
    other = save_tiny_reranker(tmp_path / "other", tiny_backbone("qwen3_vl"))
    capsys.readouterr()
    assert main(["card", str(other), "--results", str(out), "--out", str(tmp_path / "no.md")]) == 1
    assert "is not of this checkpoint" in capsys.readouterr().err


def test_scores_of_a_folder_are_there_already(
    reranker: Path, tmp_path: Path, tiny_checkpoint: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    out, scored = tmp_path / "c.json", tmp_path / "scored"
    call = ["score", str(tmp_path / "rows.jsonl"), "--model", str(tiny_checkpoint("qwen2_vl")), "--quiet"]
    call += ["--reranker", str(reranker), "--positive", "always", "--out", str(scored)]
    assert main(call) == 0
    assert main(["evaluate", "calibration", "--rows", str(scored), "--out", str(out)]) == 0
    found = load_report(out)
    assert found.fingerprint == umekit.load(reranker, device="cpu").fingerprint()
    plain = tmp_path / "plain.json"
    call = ["evaluate", "calibration", str(reranker), "--rows", str(tmp_path / "rows.jsonl"), "--quiet"]
    assert main([*call, "--out", str(plain)]) == 0
    for one, other in zip(found.scores, load_report(plain).scores, strict=True):
        assert dict(one.entries()) == pytest.approx(dict(other.entries()), abs=1e-4)
    capsys.readouterr()


def test_wrong_calls(
    reranker: Path, tmp_path: Path, tiny_checkpoint: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    rows = str(tmp_path / "rows.jsonl")
    (tmp_path / "bare.jsonl").write_text('{"query": "q", "positive": "p"}\n')
    for options, said in (
        (["--rows", "R", "--queries", "5"], "--queries is of DigitWorld"),
        (["--rows", str(tmp_path / "gone")], "there is no file or folder"),
        (["--rows", rows], "so name one"),
        ([str(reranker), "--rows", str(tmp_path)], "name none"),
        (["--rows", str(tmp_path)], "holds no rows of umekit score"),
        ([str(tiny_checkpoint("qwen2_vl")), "--rows", rows], "is an embedder"),
        ([str(reranker), "--rows", str(tmp_path / "bare.jsonl")], "no 'negatives'"),
        ([str(reranker), "--rows", rows, "--tasks", "a"], "has no --tasks"),
    ):
        assert main(["evaluate", "calibration", *options]) == 2, options
        assert said in capsys.readouterr().err.splitlines()[-1]
    assert main(["evaluate", "digit-world", "--picture", "x.png"]) == 2
    assert "--picture is of --table, or of calibration" in capsys.readouterr().err
