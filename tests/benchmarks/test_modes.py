"""ume-tiny's ways in one table: from files that the verb wrote, and from nothing that is not what it is called."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import modes
import pytest

from umekit.cli.main import main
from umekit.evaluation.report import Report
from umekit.evaluation.results import load_report, save_report

SMALL = [
    "--tasks",
    "retrieve_scene",
    "edit_scene",
    "--queries",
    "6",
    "--size",
    "6",
    "--kinds",
    "hard",
    "--quiet",
]


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three ways, by the verb; the reranked and the distilled one are these by name alone."""
    folder = tmp_path_factory.mktemp("modes")
    for name, mode in (("glance", "discriminative"), ("thinking", "generative"), ("adaptive", "adaptive")):
        out = str(modes.file_of(name, folder))
        assert main(["evaluate", "digit-world", "--mode", mode, *SMALL, "--out", out]) == 0
    glance = load_report(modes.file_of("glance", folder))
    settings = {**glance.conditions.settings, "rerank": {"reranker": "r", "depth": 3, "alpha": 0.5}}
    pairs = {"items": 36, "seconds": 9.0, "thoughts": 0, "thought_tokens": 0}
    save_report(
        replace(
            glance,
            conditions=replace(glance.conditions, settings=settings),
            costs={**glance.costs, "all pairs": pairs},
        ),
        modes.file_of("reranked", folder),
    )
    other = {**glance.fingerprint, "model": "another"}
    save_report(replace(glance, fingerprint=other), modes.file_of("distilled", folder))
    return folder


@pytest.fixture
def results(measured: Path, tmp_path: Path) -> Path:
    for path in measured.glob("*.json"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


def run(results: Path, monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["modes.py", "--results", str(results), *words])
    return modes.main()


def test_one_table_and_one_picture(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(results, monkeypatch) == 0
    table = json.loads((results / "ume-tiny-modes.json").read_text())
    assert [row["result"] for row in table["rows"]] == list(modes.WAYS)
    assert table["missing"] == []
    rows = {row["result"]: row for row in table["rows"]}
    for name in modes.WAYS:
        report = load_report(modes.file_of(name, results))
        mean = sum(score.value for score in report.scores) / len(report.scores)
        assert rows[name]["mean of 2 scores"] == pytest.approx(mean, abs=1e-12)
        cost = report.costs["all queries"]
        pairs = 9.0 if name == "reranked" else 0.0
        assert rows[name]["queries/s"] == pytest.approx(cost["items"] / (cost["seconds"] + pairs))
        assert rows[name]["thought tokens/query"] == cost["tokens_per_item"]
        assert rows[name]["thinks"] == cost["invocation_ratio"]
        assert table["sources"][name]["command"] == report.conditions.command
        settings = report.conditions.settings
        assert settings["arithmetic"].startswith("cpu, float32")
        assert settings["processor"]["budget"]
        assert len(settings["prompt_sha256"]) == 64
    assert rows["thinking"]["thinks"] == 1
    assert rows["reranked"]["pairs/query"] == 36 / 12
    assert rows["reranked"]["mode"] == "discriminative, first 3 reranked"
    assert any(
        "fingerprint.model differs" in line and "another (distilled)" in line for line in table["said"]
    )
    text = (results / "ume-tiny-modes.md").read_text()
    assert all(f"| {name} |" in text for name in modes.WAYS)
    assert (results / "ume-tiny-modes.png").read_bytes().startswith(b"\x89PNG")


def test_what_was_not_run_is_said(
    results: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("reranked", "distilled"):
        modes.file_of(name, results).unlink()
    assert run(results, monkeypatch) == 0
    assert "Not run: reranked, distilled." in capsys.readouterr().out
    assert json.loads((results / "ume-tiny-modes.json").read_text())["missing"] == ["reranked", "distilled"]
    for name in ("thinking", "adaptive"):
        modes.file_of(name, results).unlink()
    assert run(results, monkeypatch) == 1
    assert "has 1 of glance" in capsys.readouterr().err


def _setting(name: str, value: Any) -> Callable[[Report], Report]:
    return lambda report: replace(
        report,
        conditions=replace(report.conditions, settings={**report.conditions.settings, name: value}),
    )


def _data(name: str, value: Any) -> Callable[[Report], Report]:
    return lambda report: replace(
        report, conditions=replace(report.conditions, data={**report.conditions.data, name: value})
    )


@pytest.mark.parametrize(
    ("name", "change", "error"),
    [
        ("thinking", _setting("mode", "adaptive"), "embedded after a thought: mode adaptive"),
        ("reranked", _setting("rerank", None), "then reranked: no reranker"),
        ("distilled", _setting("rerank", {"depth": 3}), "at a glance: a reranker"),
        ("glance", _setting("blind", True), "blind controls"),
        (
            "adaptive",
            lambda one: replace(one, fingerprint={**one.fingerprint, "model": "b"}),
            "several ume-tinys",
        ),
        ("thinking", _data("seed", 1), "other data: seed"),
        ("thinking", _data("definitions", "b"), "other data: definitions"),
    ],
)
def test_what_is_not_what_it_is_called_is_refused(
    name: str,
    change: Callable[[Report], Report],
    error: str,
    results: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = modes.file_of(name, results)
    save_report(change(load_report(path)), path)
    assert run(results, monkeypatch) == 1
    assert error in capsys.readouterr().err
    assert not (results / "ume-tiny-modes.png").exists()


def test_a_student_that_is_ume_tiny_itself_is_refused(
    results: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    modes.file_of("distilled", results).write_bytes(modes.file_of("glance", results).read_bytes())
    assert run(results, monkeypatch) == 1
    assert "distilled is ume-tiny itself" in capsys.readouterr().err


def test_other_queries_and_settings_are_said(
    results: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A task on other queries is in no mean; a dtype, or a machine, stands under the table."""
    path = modes.file_of("thinking", results)
    report = load_report(path)
    first, second = report.scores
    report = _setting("encoder", "in bfloat16")(
        replace(report, scores=[replace(first, revision="other"), second])
    )
    save_report(report, path)
    assert run(results, monkeypatch) == 0
    said = json.loads((results / "ume-tiny-modes.json").read_text())["said"]
    assert any(line.startswith("thinking: not in all results") and first.task in line for line in said)
    assert any(
        line.startswith("settings.encoder differs") and "in bfloat16 (thinking)" in line for line in said
    )
    assert "mean of 1 scores" in (results / "ume-tiny-modes.md").read_text()
    capsys.readouterr()
    assert main(["evaluate", "--table", str(path), str(modes.file_of("glance", results))]) == 0
    assert "settings.encoder differs" in capsys.readouterr().err


def test_the_commands_make_what_is_read(
    results: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(results, monkeypatch, "--commands", "--reranker", "R", "--distilled", "D") == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(modes.WAYS)
    for name, line in zip(modes.WAYS, lines, strict=True):
        assert Path(line.rsplit(" ", 1)[1]).name == modes.file_of(name, results).name
        assert ("--rerank R" in line) == (name == "reranked")
        assert line.startswith(f"umekit evaluate {'D' if name == 'distilled' else 'examples/ume-tiny'} ")
