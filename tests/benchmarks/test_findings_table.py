"""Cache, schedule, report: what is done stays done, what is stale is made anew, and the table says what was found."""

from __future__ import annotations

import json
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import findings
import findings_fakes
import numpy as np
import pytest
from findings_table.claims import chosen
from findings_table.jobs import Job, Settings, Work
from findings_table.plot import draw
from findings_table.report import markdown, remark, table
from findings_table.schedule import processes, run_all
from findings_table.store import pack, read_json, unpack, write_json
from findings_table.verdict import Judgement

GOOD, BAD = findings_fakes.GOOD, findings_fakes.BAD


@pytest.fixture
def work(tmp_path: Path) -> Work:
    return Work(chosen(["embedding-prompt"]), (0, 1, 2), Settings(tmp_path / "cache"))


def finish(work: Work) -> None:
    for job in work.all_jobs():
        findings_fakes.execute(work, job)


@pytest.mark.parametrize("count", [0, 1, 7, 2000])
def test_values_are_packed_without_loss(count: int) -> None:
    values = np.random.default_rng(0).integers(0, 16, count).astype(np.uint8)
    assert (unpack(pack(values), count) == values).all()
    assert len(pack(values)) <= count * 2 / 3 + 4


def test_bad_values_are_refused() -> None:
    with pytest.raises(ValueError, match="0 to 15"):
        pack(np.array([16], dtype=np.uint8))
    with pytest.raises(ValueError, match="packed values"):
        unpack(pack(np.zeros(10, dtype=np.uint8)), 13)


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "one.json"
    write_json(path, {"a": 1})
    with pytest.raises(TypeError):
        write_json(path, {"a": object()})
    assert read_json(path) == {"a": 1}
    assert [file.name for file in path.parent.iterdir()] == ["one.json"]
    assert read_json(tmp_path / "missing.json") is None


def test_jobs_come_after_what_they_need(work: Work) -> None:
    jobs = work.all_jobs()
    for place, job in enumerate(jobs):
        assert set(work.before(job)) <= set(jobs[:place])
    assert [job for job in jobs if job.kind == "search"] == [
        Job("search", name, 0, rate) for name in (GOOD, BAD) for rate in (3e-4, 1e-3)
    ]
    assert {job.seed for job in jobs if job.kind == "start"} == {0, 1, 2}


def test_soup_waits_for_its_adapters_and_rates_follow_the_batch(tmp_path: Path) -> None:
    work = Work(chosen(["soup", "larger-batch"]), (0,), Settings(tmp_path))
    before = work.before(Job("run", "soup", 0))
    assert {job.name for job in before if job.kind == "run"} == set(work.arms["soup"].needs)
    finish(work)
    assert work.rate(work.arms["soup"]) is None
    assert work.rate(work.arms["batch-32"]) == 3e-4
    assert work.rate(work.arms["batch-512-fixed"]) == 3e-4
    assert work.rate(work.arms["batch-512-rule"]) == pytest.approx(1.2e-3)


def test_given_warm_up_is_used_and_its_weights_decide_the_fingerprint(tmp_path: Path) -> None:
    folder = tmp_path / "given"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"weights")
    claims = chosen(["embedding-prompt"])
    work = Work(claims, (0,), Settings(tmp_path / "cache", quick=True, warm_up={0: folder}))
    assert not [job for job in work.all_jobs() if job.kind == "start"]
    assert work.start_folder("read", 0) == folder
    own = Work(claims, (0,), Settings(tmp_path / "cache", quick=True))
    assert own.fingerprint(Job("run", GOOD, 0)) != work.fingerprint(Job("run", GOOD, 0))


def test_a_quick_table_has_the_starts_of_a_whole_one(tmp_path: Path) -> None:
    claims = chosen(["hardness-weighting"])
    whole, quick = (Work(claims, (0,), Settings(tmp_path, divide=divide)) for divide in (1, 4))
    for start in ("read", "bidirectional", "paired"):
        job = Job("start", start, 0)
        assert whole.file(job) == quick.file(job)
        assert whole.fingerprint(job) == quick.fingerprint(job)
    run = Job("run", "hardness-on", 0)
    assert whole.file(run) != quick.file(run)


def test_an_arm_that_needs_an_unchosen_one_is_refused(tmp_path: Path) -> None:
    (claim,) = chosen(["soup"])
    lonely = replace(claim, arms=claim.arms[:1])
    with pytest.raises(ValueError, match="which no chosen claim has"):
        Work([lonely], (0,), Settings(tmp_path))


def test_a_stopped_table_goes_on_where_it_was(work: Work) -> None:
    lines: list[str] = []
    pool = ThreadPoolExecutor(2)
    failed = run_all(work, pool, 2, findings_fakes.fail_on_bad, lines.append)
    assert {job for job, _ in failed} == {Job("run", BAD, seed) for seed in range(3)}
    assert all("no such luck" in reason for _, reason in failed)
    assert all(work.is_done(Job("run", GOOD, seed)) for seed in range(3))
    before = {path: path.stat().st_mtime_ns for path in work.settings.cache.rglob("*.json")}
    lines.clear()
    assert run_all(work, pool, 1, findings_fakes.execute, lines.append) == []
    assert len(lines) == 1 + 3  # what was done already, and the three that had failed
    assert all(path.stat().st_mtime_ns == when for path, when in before.items())


def test_starts_come_first(work: Work) -> None:
    """The longest chain: made in the arms' order, the last seed's start would run alone."""
    lines: list[str] = []
    assert run_all(work, ThreadPoolExecutor(1), 1, findings_fakes.execute, lines.append) == []
    kinds = [line.split("] ")[1].split()[0] for line in lines]
    assert kinds[:3] == ["start"] * 3
    assert "start" not in kinds[3:]


def test_a_stale_result_is_not_taken(work: Work) -> None:
    finish(work)
    job = Job("run", GOOD, 1)
    assert work.is_done(job)
    changed = Work(work_claims(batch=32), (0, 1, 2), work.settings)
    assert not changed.is_done(job)
    assert changed.is_done(Job("run", BAD, 1))
    again = findings_fakes.record(work, Job("start", "read", 1)) | {"fingerprint": "another"}
    write_json(work.file(Job("start", "read", 1)), again)
    assert not work.is_done(Job("start", "read", 1))


def work_claims(**changes: int) -> list[object]:
    """The claim with its better arm changed."""
    (claim,) = chosen(["embedding-prompt"])
    arms = tuple(replace(arm, **changes) if arm.name == GOOD else arm for arm in claim.arms)
    return [replace(claim, arms=arms)]


def test_the_table_says_what_was_found(work: Work, tmp_path: Path) -> None:
    claims = chosen(["embedding-prompt"])
    assert table(claims, work) == []
    finish(work)
    (row,) = table(claims, work)
    assert row["verdict"] == "reproduced"
    assert row["difference"] == pytest.approx(0.25)
    assert row["signs"] == "+++"
    assert row["queries"] == 2000
    assert row["arms"][GOOD]["score"] == pytest.approx(0.75)
    assert row["arms"][GOOD]["learning_rate"] == 3e-4
    machine = {"processor": "p", "cores": 2, "torch": "t", "transformers": "f"}
    result = {
        "machine": machine,
        "jobs": 2,
        "seeds": [0, 1, 2],
        "command": "c",
        "claims": [row],
        "starts": {"read": 1},
    }
    page = markdown(result)
    assert page.count("embedding-prompt-on") == 1
    assert "+0.250" in page
    assert "**reproduced**" in page
    draw([row], tmp_path / "table.png")
    assert (tmp_path / "table.png").stat().st_size > 5000


@pytest.mark.parametrize(
    ("means", "said"),
    [
        ({"digits": (0.11, 0.12), "pictures": (0.6, 0.5)}, "digits near chance in both arms"),
        ({"digits": (0.11, 0.12), "pictures": (0.01, 0.02)}, "both arms are near chance: not learned"),
        ({"digits": (0.11, 0.4), "pictures": (0.6, 0.5)}, ""),
        ({"digits": (0.99, 0.995), "pictures": (0.99, 0.99)}, "near the ceiling"),
    ],
)
def test_a_part_that_was_not_learned_is_named(
    work: Work, means: dict[str, tuple[float, float]], said: str
) -> None:
    (claim,) = chosen(["embedding-prompt"])
    chance = {"digits": 0.1, "pictures": 0.0025}
    arms = {
        name: {
            "score": float(np.mean([pair[which] for pair in means.values()])),
            "parts": {part: {"mean": pair[which], "chance": chance[part]} for part, pair in means.items()},
        }
        for which, name in enumerate((GOOD, BAD))
    }
    found = remark(claim, Judgement(0.1, 0.05, 0.15, (0.1, 0.1, 0.1), "reproduced"), arms, BAD)
    assert found.startswith(said) if said.startswith("both") else said in found
    assert bool(found) == bool(said)


def test_one_seed_is_no_verdict(tmp_path: Path) -> None:
    claims = chosen(["embedding-prompt"])
    work = Work(claims, (0,), Settings(tmp_path, quick=True, divide=4))
    finish(work)
    (row,) = table(claims, work)
    assert row["verdict"] == "not judged"
    assert row["arms"][GOOD]["learning_rate"] == 1e-3  # no search: the higher of the two


def test_the_best_of_several_losers_is_chosen_on_validation_rows(tmp_path: Path) -> None:
    claims = chosen(["learned-temperature"])
    work = Work(claims, (0, 1, 2), Settings(tmp_path))
    finish(work)
    for seed in range(3):
        job = Job("run", "temperature-0.2", seed)
        write_json(work.file(job), findings_fakes.record(work, job) | {"validation": 0.9, "mean": 0.0})
    (row,) = table(claims, work)
    assert row["worse"] == "temperature-0.2"
    assert row["margin"] == 0.01
    assert row["difference"] == pytest.approx(0.01)


@pytest.mark.slow
def test_jobs_run_in_processes(work: Work) -> None:
    with processes(2) as pool:
        assert run_all(work, pool, 2, findings_fakes.execute, lambda line: None) == []
    assert all(work.is_done(job) for job in work.all_jobs())


def test_the_command_writes_a_table_from_the_cache(
    work: Work, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    finish(work)
    command = ["findings.py", "--only", "embedding-prompt", "--cache", str(work.settings.cache)]
    monkeypatch.setattr(sys, "argv", [*command, "--out", str(tmp_path / "t"), "--report-only"])
    assert findings.main() == 0
    assert "reproduced" in capsys.readouterr().out
    result = json.loads((tmp_path / "t.json").read_text(encoding="utf-8"))
    assert result["claims"][0]["verdict"] == "reproduced"
    assert result["core_minutes"] == pytest.approx(13 / 60, abs=0.05)
    assert {path.suffix for path in tmp_path.glob("t.*")} == {".json", ".md", ".png"}


def test_the_command_refuses_more_warm_ups_than_seeds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["findings.py", "--quick", "--warm-up", "a", "b"])
    with pytest.raises(SystemExit):
        findings.main()
