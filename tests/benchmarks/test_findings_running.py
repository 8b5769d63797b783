"""Jobs really run: starts are made, rates searched, a claim goes from its jobs to its row."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from findings_table import starts
from findings_table.claims import chosen
from findings_table.jobs import Job, Settings, Work
from findings_table.records import Claim, Start
from findings_table.report import table
from findings_table.running import execute
from findings_table.store import read_json, unpack
from findings_table.training import open_start

import umekit
from umekit.encoding.presets.u_marvel import U_MARVEL


def shortened(name: str) -> Claim:
    """A claim of arms of two steps, scored on labels."""
    (claim,) = chosen([name])
    changes = {"batch": 4, "rows": 8, "pool": "labels", "start": "read", "prompt": "direct"}
    return replace(claim, arms=tuple(replace(arm, **changes) for arm in claim.arms))


@pytest.mark.parametrize("name", ["merged-classification", pytest.param("soup", marks=pytest.mark.slow)])
def test_a_claim_from_its_jobs_to_its_row(start: Path, tmp_path: Path, name: str) -> None:
    claim = shortened(name)
    work = Work([claim], (0,), Settings(tmp_path, quick=True, queries=20, warm_up={0: start}))
    for job in work.all_jobs():
        assert not work.is_done(job)
        shown = execute(work, job)
        assert work.is_done(job)
        assert 0 <= shown["mean"] <= 1
    (row,) = table([claim], work)
    assert row["verdict"] == "not judged"
    assert row["queries"] == 20
    assert set(row["arms"]) == set(claim.names)
    record = read_json(work.file(Job("run", claim.better, 0)))
    assert record is not None
    assert record["mean"] == pytest.approx(unpack(record["values"], 20).mean())


def test_a_search_tries_a_quarter_of_the_steps(start: Path, tmp_path: Path) -> None:
    claim = shortened("merged-classification")
    claim = replace(claim, arms=tuple(replace(arm, rows=32) for arm in claim.arms))
    work = Work([claim], (0,), Settings(tmp_path, queries=20, warm_up={0: start}))
    searches = work.searches(claim.arms[0])
    assert len(searches) == 2
    for job in searches:
        execute(work, job)
        record = read_json(work.file(job))
        assert record is not None
        assert record["steps"] == 2
    assert work.rate(claim.arms[0]) in claim.arms[0].rates


def test_every_start_is_made_and_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(starts, "learn_to_read", lambda *args: print("reading"))
    monkeypatch.setattr(starts, "CONVERSION_STEPS", 1)
    monkeypatch.setattr(starts, "CONVERSION_ROWS", 8)
    monkeypatch.setattr(starts, "UNSEEN", 16)
    monkeypatch.setattr(starts, "PAIRED", replace(starts.PAIRED, rows=8, batch=4))
    read = tmp_path / "read"
    found = starts.make_start("read", 0, read, None)
    assert set(found["unseen"]) == {"digit", "colour", "position"}
    assert (read / "log.jsonl").read_text(encoding="utf-8") == "reading\n"
    before = open_start(read, 0)[0].state_dict()
    names: tuple[Start, ...] = ("causal", "bidirectional", "paired")
    for name in names:
        source = tmp_path / str(starts.before(name))
        starts.make_start(name, 0, tmp_path / name, source)
        model, processor = open_start(tmp_path / name, 0)
        assert any(not torch.equal(value, before[key]) for key, value in model.state_dict().items())
        if name != "paired":  # an arm's prompt brings its own attention and template
            assert processor.settings == open_start(read, 0)[1].settings
    miner = umekit.load(tmp_path / "paired", device="cpu")
    assert miner.model.settings.attention == "bidirectional"
    assert miner.processor.settings.pooling == U_MARVEL.processor("qwen2_vl", None).pooling
