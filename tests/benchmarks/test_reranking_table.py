"""The reranking part of the findings table: its rows, its arms in turn, its scores and its verdicts."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from findings_table.arms import chain
from findings_table.store import pack
from reranking_table import records, report, rows, running, scoring
from reranking_table.claims import CLAIMS
from reranking_table.records import ARMS, TASKS, Arm
from reranking_table.rows import StudentRows
from reranking_table.running import Table, run_seed
from reranking_table.training import reading_of

import umekit
from umekit.encoding.packaged import packaged_model

SMALL = 24
ASKED = ("one", "another")  # tasks of a report


@pytest.fixture
def small_pools(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (records, rows, scoring):
        monkeypatch.setattr(module, "POOL", SMALL)


def test_every_claim_reads_arms_that_there_are() -> None:
    for claim in CLAIMS:
        assert {claim.better.arm, claim.worse.arm} <= set(ARMS)
    assert [arm.name for arm in chain(["continued", "distilled"], ARMS)] == [
        "stage2",
        "reranker",
        "continued",
        "distilled",
    ]


def test_students_differ_in_nothing_but_what_they_learn() -> None:
    distilled, control = ARMS["distilled"], ARMS["continued"]
    assert replace(control, name="", what="", kind="distilled") == replace(distilled, name="", what="")


@pytest.mark.usefixtures("small_pools")
def test_students_and_their_teachers_read_the_same_pools() -> None:
    encoder = umekit.load(packaged_model(), device="cpu")
    taught = rows.reranker_rows(encoder, len(TASKS), SMALL, 0)
    for number, task in enumerate(TASKS):
        names = {taught[number * SMALL + place]["positive_id"] for place in range(SMALL)}
        assert names == set(rows.student_pool(0, task, SMALL).candidate_ids)


def scored(number: int, task: str, *, recalled: bool = True) -> dict[str, Any]:
    names = [f"{number}-{place}" for place in range(4)]
    return {
        "query": {"text": f"{task} {number}"},
        "positive": {"text": names[2]},
        "positive_id": names[2] if recalled else "elsewhere",
        "task": task,
        "candidates": [{"text": name} for name in names],
        "candidate_ids": names,
        "teacher_scores": [0.4, 0.3, 0.2, 0.1],
    }


def test_students_read_the_same_rows() -> None:
    teacher = [scored(number, task, recalled=number != 5) for task in ASKED for number in range(6)]
    distilled, anchored, control = (
        StudentRows(teacher, 2 * len(ASKED), 3, 1, reading_of(ARMS[name]))
        for name in ("distilled", "anchored", "continued")
    )
    assert [distilled[i]["query"] for i in range(len(control))] == [
        control[i]["query"] for i in range(len(control))
    ]
    assert [distilled[i]["task"] for i in range(len(control))] == [
        task for task in ASKED * 2 for _ in range(3)
    ]
    counts = Counter(distilled[i]["query"]["text"] for i in range(len(control)))
    assert set(counts.values()) == {1}  # two batches are all of a task
    for i in range(len(control)):
        negatives = control[i]["negatives"]
        assert len(negatives) == 3  # as many items, whether the positive was recalled or not
        assert {"text": control[i]["positive_id"]} not in negatives
        assert "positive" not in distilled[i]  # nothing says which one is right
        assert anchored[i] == {
            **distilled[i],
            **{name: control[i][name] for name in ("positive", "positive_id")},
        }
    with pytest.raises(ValueError, match="make no batch"):
        StudentRows(teacher, 1, 7, 0, rows.hard_negatives)


def test_a_tie_is_no_hit() -> None:
    relevant = np.array([[True, False], [True, False], [False, True]])
    found: Any = scoring.Recalled(None, None, None, relevant, None)  # type: ignore[arg-type]
    hits = scoring.first_is_right(found, np.array([[1, 1], [2, 1], [1, 2]], dtype=np.float32))
    assert hits.tolist() == [0, 1, 1]


# ---- arms in turn ---------------------------------------------------------------------------------


@pytest.fixture
def done(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the arms that ran, in turn; each leaves a checkpoint."""
    names: list[str] = []

    def run(table: Table, arm: Arm, seed: int) -> dict[str, Any]:
        assert all(table.is_ready(name, seed) for name in arm.needs)
        names.append(arm.name)
        table.checkpoint(arm.name, seed).mkdir(parents=True, exist_ok=True)
        return {}

    monkeypatch.setattr(running, "_run", run)
    return names


def test_a_stopped_table_goes_on(done: list[str], tmp_path: Path) -> None:
    table = Table(tmp_path / "runs", tmp_path / "results", packaged_model())
    run_seed(table, ["reranker"], 0)
    assert done == ["stage2", "reranker"]
    run_seed(table, list(ARMS), 0)
    assert done == ["stage2", "reranker", "distilled", "anchored", "continued"]
    run_seed(table, list(ARMS), 0)
    assert len(done) == 5
    table.file("continued", 0).unlink()
    table.checkpoint("stage2", 0).rmdir()  # on another machine: made again, since something needs it
    run_seed(table, list(ARMS), 0)
    assert done[5:] == ["stage2", "continued"]


def test_results_of_another_start_or_size_do_not_count(done: list[str], tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "model.safetensors").write_bytes(b"0")
    table = Table(tmp_path / "runs", tmp_path / "results", packaged_model())
    run_seed(table, ["stage2"], 0)
    for changed in (replace(table, start=other), replace(table, quick=True), replace(table, stage2=other)):
        assert changed.known("stage2", 0) is None
    assert table.known("stage2", 0) is not None
    assert done == ["stage2"]


# ---- the report -----------------------------------------------------------------------------------


@pytest.fixture
def two_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "TASKS", ASKED)


def embedder(share: float, rng: np.random.Generator, count: int) -> dict[str, Any]:
    hits = {task: pack((rng.random(count) < share).astype(np.uint8)) for task in ASKED}
    every = {task: pack(np.ones(count, dtype=np.uint8)) for task in ASKED}
    return {
        "hits": hits,
        "recalled": every,
        "queries": count,
        "settings": ARMS["stage2"].to_dict(),
        "rate": 1e-3,
        "minutes": 1.0,
    }


def results(teacher: dict[str, float], count: int = 2000) -> dict[str, dict[int, Any]]:
    """Recall .6, students .7, .75 and .65, a teacher by task."""
    rng = np.random.default_rng(0)
    found: dict[str, dict[int, Any]] = {name: {} for name in ARMS}
    for seed in range(3):
        for name, share in (("stage2", 0.6), ("distilled", 0.7), ("anchored", 0.75), ("continued", 0.65)):
            found[name][seed] = embedder(share, rng, count)
        packed = {task: pack((rng.random(count) < share).astype(np.uint8)) for task, share in teacher.items()}
        found["reranker"][seed] = {
            "reranked": packed,
            "fused": packed,
            "queries": count,
            "alpha": 0.5,
            "alpha_of": {},
            "alphas": [0.0, 1.0],
            "curve": {task: [0.8, 0.6] for task in ASKED},
            "calibration": {task: {"auc": 0.9, "brier": 0.1, "error": 0.05} for task in ASKED},
            "settings": ARMS["reranker"].to_dict(),
            "minutes": 2.0,
        }
    return found


@pytest.mark.usefixtures("two_tasks")
def test_claims_of_students_are_void_without_a_teacher(tmp_path: Path) -> None:
    given = results({ASKED[0]: 0.8, ASKED[1]: 0.62})
    table = report.table(given)
    verdicts = {(row["claim"], row["task"]): row["verdict"] for row in table["claims"]}
    assert verdicts["reranked", ASKED[0]] == verdicts["distilled", ASKED[0]] == "reproduced"
    assert verdicts["distilled", ASKED[1]] == verdicts["distilled-control", ASKED[1]] == "void"
    reached = {(row["claim"], row["task"]): row["reached"] for row in table["claims"]}
    assert reached["reranked", ASKED[0]]
    assert not reached["reranked", ASKED[1]]
    text = report.markdown({**table, "command": "x"})
    assert "**missed**" in text
    assert "| distilled |" in text
    report.draw(table, tmp_path / "table.png")
    assert (tmp_path / "table.png").stat().st_size > 1000


@pytest.mark.usefixtures("two_tasks")
def test_share_of_the_gain_that_is_kept() -> None:
    found = report.table(results(dict.fromkeys(ASKED, 0.8)))["tasks"][ASKED[0]]
    kept = found["kept"]["distilled"]
    assert kept["share"] == pytest.approx(0.5, abs=0.08)
    assert kept["interval"][0] < kept["share"] < kept["interval"][1]
    assert found["kept"]["hard negatives, same rows"]["share"] == pytest.approx(0.25, abs=0.08)
    assert found["conditions"]["testable"]
    assert report.kept_share(results(dict.fromkeys(ASKED, 0.5)), ASKED[0], report.STUDENT) is None


@pytest.mark.usefixtures("two_tasks")
def test_few_queries_are_not_judged() -> None:
    table = report.table(results(dict.fromkeys(ASKED, 0.8), count=100))
    assert {row["verdict"] for row in table["claims"]} == {"not judged"}


# ---- all of it, small -----------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.usefixtures("small_pools")
def test_all_arms_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    batches = {"stage2": 8, "reranker": 4, "distilled": 4, "anchored": 4, "continued": 4}
    for name, arm in list(ARMS.items()):
        monkeypatch.setitem(ARMS, name, replace(arm, steps=3, batch=batches[name]))
    for name, value in (("QUERIES", 24), ("VALIDATION", 16), ("STUDENT_ROWS", SMALL)):
        monkeypatch.setattr(running, name, value)
    table = Table(tmp_path / "runs", tmp_path / "results", packaged_model())
    run_seed(table, list(ARMS), 0)
    found = {name: {0: table.known(name, 0)} for name in ARMS}
    made: Any = report.table(found)  # type: ignore[arg-type]
    assert len(made["claims"]) == len(CLAIMS) * len(TASKS)
    assert found["distilled"][0]["rows"] == len(TASKS) * SMALL  # type: ignore[index]
    given = replace(table, stage2=packaged_model(), results=tmp_path / "given")
    run_seed(given, ["stage2"], 0)
    assert (given.known("stage2", 0) or {})["queries"] == 24
