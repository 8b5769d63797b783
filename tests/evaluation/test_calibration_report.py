"""The calibration report: its numbers against scikit-learn, its file, its table and picture."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from umekit.evaluation.calibration_report import (
    ALL,
    CalibrationReport,
    CalibrationScore,
    Labelled,
    calibration_scores,
    draw_reliability,
    labelled_by,
)
from umekit.evaluation.conditions import Conditions
from umekit.evaluation.results import load_report, save_report
from umekit.evaluation.score import ResultFormatError
from umekit.evaluation.tables import markdown_table


def labelled(seed: int = 0, count: int = 40) -> list[Labelled]:
    rng = np.random.default_rng(seed)
    rows = []
    for number in range(count):
        relevant = np.arange(5) < 1 + number % 2
        scores = np.clip(0.3 * relevant + 0.7 * rng.random(5), 0, 1).astype(np.float32)
        rows.append(Labelled("ab"[number % 2], scores, relevant))
    return rows


def report_of(rows: list[Labelled], fingerprint: dict[str, Any] | None = None) -> CalibrationReport:
    conditions = Conditions(
        "r", {"mode": None, "encoder": "Reranker(...)"}, {"name": "rows", "split": "all", "revision": "r" * 64},
        {"umekit": "1"}, "a machine", 1.0, "umekit evaluate calibration", "2026-01-02T03:04:05+00:00",
    )  # fmt: skip
    own = fingerprint or {"model": "m", "processor": "p"}
    return CalibrationReport("calibration", calibration_scores(rows), own, conditions)


def test_numbers_are_those_of_scikit_learn() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    rows = labelled()
    found = {score.task: score for score in calibration_scores(rows)}
    assert list(found) == ["a", "b", ALL]
    for task, score in found.items():
        own = [row for row in rows if task in (row.task, ALL)]
        scores = np.concatenate([row.scores for row in own]).astype(np.float64)
        truth = np.concatenate([row.relevant for row in own])
        assert score.auc == pytest.approx(metrics.roc_auc_score(truth, scores))
        assert score.brier == pytest.approx(metrics.brier_score_loss(truth, scores))
        assert (score.pairs, score.right, score.n) == (len(truth), truth.sum(), len(own))
        assert sum(count for *_, count in score.curve) == len(truth)
        best = [row.scores[row.relevant].max() > row.scores[~row.relevant].max() for row in own]
        assert score.value == pytest.approx(np.mean(best))
        assert score.chance == pytest.approx(np.mean([row.relevant.mean() for row in own]))


def test_a_file_is_read_back_and_checked(tmp_path: Path) -> None:
    report = report_of(labelled())
    save_report(report, tmp_path / "c.json")
    again = load_report(tmp_path / "c.json")
    assert isinstance(again, CalibrationReport)
    assert list(again.scores) == list(report.scores)
    table = markdown_table(again)
    assert f"| {report.overall.auc:.3f} | {report.overall.brier:.3f} |" in table
    mean, share, count = report.overall.curve[0]
    assert f"| {mean:.3f} | {share:.3f} | {count} |" in table
    block = json.loads((tmp_path / "c.json").read_text())
    block["scores"][-1]["curve"][0][2] += 1
    (tmp_path / "c.json").write_text(json.dumps(block))
    with pytest.raises(ResultFormatError, match="do not hold its pairs"):
        load_report(tmp_path / "c.json")


def test_a_picture(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    draw_reliability(report_of(labelled()), tmp_path / "c.png")
    assert (tmp_path / "c.png").read_bytes().startswith(b"\x89PNG")


def test_what_cannot_be_reported_is_said() -> None:
    one, two = np.float32([0.2]), np.float32([0.2, 0.9])
    with pytest.raises(ValueError, match="there are no pairs"):
        calibration_scores([])
    with pytest.raises(ValueError, match="all 2 pairs are of one kind"):
        CalibrationScore.of("t", [Labelled("t", two, np.array([True, True]))])
    with pytest.raises(ValueError, match="no query has right and wrong pairs"):
        CalibrationScore.of(
            "t", [Labelled("t", one, np.array([True])), Labelled("t", one, np.array([False]))]
        )
    with pytest.raises(ValueError, match="probabilities"):
        CalibrationScore.of("t", [Labelled("t", two * 2, np.array([True, False]))])


def test_rows_are_scored_positives_first() -> None:
    class Reranker:
        def rerank(self, query: str, candidates: list[str], **_: Any) -> Any:
            if "broken" in candidates:
                raise ValueError("item 1: no such file")
            return np.array([len(query + one) / 20 for one in candidates], np.float32)

    rows: list[dict[str, Any]] = [
        {"query": "q", "positive": "abc", "positives": ["ab"], "negatives": ["a"], "task": "t"}
    ]
    [found] = labelled_by(Reranker(), rows, False)
    assert found.task == "t"
    assert found.scores == pytest.approx([0.2, 0.15, 0.1])
    assert found.relevant.tolist() == [True, True, False]
    with pytest.raises(ValueError, match="row 1: no 'negatives'"):
        list(labelled_by(Reranker(), [*rows, {"query": "q", "positive": "p"}], False))
    with pytest.raises(ValueError, match="row 1: item 1: no such file"):
        list(
            labelled_by(Reranker(), [*rows, {"query": "q", "positive": "p", "negatives": ["broken"]}], False)
        )
