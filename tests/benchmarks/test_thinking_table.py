"""The reasoning half of the findings table: its rows, its controls, its scores and its verdicts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from findings_table.arms import chain, write_report
from findings_table.store import pack
from thinking_table import report, running, scoring, training
from thinking_table.claims import CLAIMS
from thinking_table.records import ARMS, TINY, Arm
from thinking_table.rows import MIXTURE, Mixture, prompts
from thinking_table.running import Table, run_seed
from thinking_table.training import add_layers, shuffled

import umekit
from umekit.encoding.packaged import packaged_model
from umekit.evaluation.digit_world import DigitWorld


def test_every_claim_reads_arms_that_there_are() -> None:
    for claim in CLAIMS:
        assert {claim.better.arm, claim.worse.arm} <= set(ARMS)
    assert [arm.name for arm in chain(["rl", "rl-twice"], ARMS)] == ["thinking", "faulty", "rl", "rl-twice"]


def test_mixtures_grow_and_go_on() -> None:
    growing, plain = Mixture(100, 1), Mixture(100, 1, first=100, growing=False, thoughts=False)
    first = [growing[place] for place in range(growing.batch)]
    assert [row["task"] for row in first] == [name for name, count in MIXTURE.items() for _ in range(count)]
    assert max(row["steps"] for row in first if row["task"] == "walk") == 0
    later = [growing[40 * 64 + place]["steps"] for place in range(44)]
    assert max(later) == 8
    assert "query_thought" not in plain[0]
    assert plain[0]["query"]["text"] == prompts(1, 1, 100)[0]["query"]["text"]  # what RL begins with


def test_added_layers_begin_by_changing_nothing() -> None:
    encoder = umekit.load(packaged_model(), role="generative", dtype=torch.float32)
    items = ["the red 4", {"image": DigitWorld("test").row("walk", 0)["query"]["image"]}]
    before = encoder.encode(items, mode="both", max_new_tokens=6)
    add_layers(encoder.model.backbone, 2)
    after = encoder.encode(items, mode="both", max_new_tokens=6)
    for mode, vectors in before.items():
        np.testing.assert_allclose(after[mode], vectors, atol=1e-5)


def test_added_layers_are_saved(tmp_path: Path) -> None:
    encoder = umekit.load(packaged_model(), role="generative", dtype=torch.float32)
    add_layers(encoder.model.backbone, 1)
    torch.nn.init.normal_(encoder.model.backbone.base_model.language_model.layers[-1].mlp.down_proj.weight)
    encoder.model.save_pretrained(tmp_path)
    encoder.processor.save_pretrained(tmp_path)
    wanted = encoder.encode(["the red 4"], mode="discriminative")
    np.testing.assert_allclose(
        umekit.load(tmp_path).encode(["the red 4"], mode="discriminative"), wanted, atol=1e-6
    )


def test_shuffled_rewards_stay_in_their_group() -> None:
    values = torch.rand(4, 8)

    class Groups:
        seed = (0, 3, 0, 0)

    dealt: Any = shuffled(lambda groups: values)
    found = dealt(Groups())
    assert torch.equal(found.sort(dim=1).values, values.sort(dim=1).values)
    assert not torch.equal(found, values)
    assert torch.equal(found, dealt(Groups()))


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("<think>p3 red 7 p7 gold 2</think>", None),
        ("<think>p3 red 8 p8 gold 2</think>", "digit"),
        ("<think>p3 pink 7", "colour"),
        ("<think>p3 red 7 p6 gold 2</think>", "position"),
        ("<think>p3 red 7</think>", "length"),
    ],
)
def test_where_a_thought_leaves_the_right_one(text: str, kind: str | None) -> None:
    assert scoring.first_difference("p3 red 7 p7 gold 2", text) == kind


# ---- arms in turn ---------------------------------------------------------------------------------


@pytest.fixture
def done(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the arms that ran, in turn; each leaves a checkpoint."""
    names: list[str] = []

    def run(table: Table, arm: Arm, seed: int) -> dict[str, Any]:
        assert table.start_of(arm, seed).is_dir()
        names.append(arm.name)
        table.checkpoint(arm.name, seed).mkdir(parents=True, exist_ok=True)
        return {}

    monkeypatch.setattr(running, "_run", run)
    return names


@pytest.fixture
def table(tmp_path: Path) -> Table:
    return Table(tmp_path / "runs", tmp_path / "results", {TINY: packaged_model()})


def test_a_stopped_table_goes_on(done: list[str], table: Table) -> None:
    run_seed(table, ["rl"], 0)
    assert done == ["thinking", "faulty", "rl"]
    run_seed(table, ["glance", "rl", "more-teaching"], 0)
    assert done[3:] == ["glance", "more-teaching"]
    run_seed(table, ["glance", "rl", "more-teaching"], 0)
    assert len(done) == 5
    table.file("rl", 0).unlink()
    table.checkpoint("faulty", 0).rmdir()  # on another machine: made again, since something needs it
    run_seed(table, ["rl"], 0)
    assert done[5:] == ["faulty", "rl"]


@pytest.mark.usefixtures("done")
def test_a_quick_table_is_another(table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    quick = replace(table, quick=True)
    run_seed(quick, ["rl"], 0)
    found = quick.known("rl", 0)
    assert found is not None
    assert found["settings"]["steps"] == ARMS["rl"].steps // 4
    assert found["controlled"] == quick.walks == scoring.WALKS // 5
    assert not table.found()
    monkeypatch.setitem(ARMS, "glance", replace(ARMS["glance"], steps=1))  # has no quarter
    assert quick.fingerprint("glance") != table.fingerprint("glance")


def test_an_arm_needs_its_start(table: Table) -> None:
    assert table.start_of(ARMS["thinking"], 1) == packaged_model()
    assert table.start_of(ARMS["rl"], 1) == table.checkpoint("faulty", 1)
    reader = replace(table, roots={})
    assert reader.start_of(ARMS["rl"], 1) == table.checkpoint("faulty", 1)
    with pytest.raises(ValueError, match="thinking begins at 'ume-tiny', and no such checkpoint was named"):
        reader.start_of(ARMS["thinking"], 1)


@pytest.mark.usefixtures("done")
def test_results_of_other_weights_do_not_count_and_are_not_mixed(
    table: Table, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "model.safetensors").write_bytes(b"0")
    other = replace(table, roots={TINY: tmp_path / "other"})
    reader = replace(table, roots={})
    told = partial(write_report, reader, "thinking", dict, str, lambda result, out: None)
    assert told() == 1
    assert "no results of this table" in capsys.readouterr().err
    run_seed(table, ["faulty"], 0)
    assert other.known("faulty", 0) is None
    assert other.identity("faulty") != table.identity("faulty")
    assert set(reader.found()) == {"thinking", "faulty"}
    assert told() == 0
    run_seed(other, ["glance"], 0)
    assert told() == 1
    assert "began at several ['ume-tiny']" in capsys.readouterr().err


# ---- the report -----------------------------------------------------------------------------------


def record(walks: np.ndarray, hops: np.ndarray, easy: np.ndarray, *modes: str) -> dict[str, Any]:
    return {
        "queries": len(walks),
        "hops": pack(hops.astype(np.uint8)),
        "values": {mode: pack(walks) for mode in modes},
        "easy": {mode: {task: pack(easy) for task in scoring.EASY} for mode in modes},
        "given": {name: pack(walks) for name in ("gold", "another")} if len(modes) > 1 else {},
        "controlled": len(walks),
        "easy_queries": len(easy),
        "training_minutes": 1.0,
        "settings": {"steps": 7},
    }


def test_a_claim_is_judged_on_its_queries() -> None:
    rng = np.random.default_rng(0)
    hops = np.repeat(np.arange(9), 500)
    easy = np.ones(50, dtype=np.uint8)
    results: dict[str, dict[int, Any]] = {"thinking": {}, "glance": {}}
    for seed in range(3):
        thinking = (rng.random(len(hops)) < 0.9).astype(np.uint8)
        glance = ((rng.random(len(hops)) < 0.1) | (hops == 0)).astype(np.uint8)
        results["thinking"][seed] = record(thinking, hops, easy, "discriminative", "generative")
        results["glance"][seed] = record(glance, hops, easy, "discriminative")
    found = {row["claim"]: row for row in report.table(results)["claims"]}
    assert set(found) == {"thinking-far", "start", "easy", "direct-kept", "thought-read"}
    assert found["thinking-far"]["queries"] == 3000
    assert found["thinking-far"]["verdict"] == "reproduced"
    assert found["thinking-far"]["difference"] == pytest.approx(0.8, abs=0.02)
    assert found["thinking-far"]["reached"]
    assert not found["start"]["reached"]  # 0.9 against 1.0
    text = report.markdown({**report.table(results), "command": "x"})
    assert "reproduced" in text
    assert "**missed**" in text


def test_rewards_are_of_arms_that_have_them() -> None:
    line = {"step": 1, "loss": 0.0}
    rewarded = {**line, "query_reward": 0.5}
    assert report.rewards({"glance": {1: {"log": [line]}}, "rl": {1: {"log": [rewarded]}}}) == {"rl": [0.5]}


# ---- all of it, small -----------------------------------------------------------------------------


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(running, "WALKS", 18)
    monkeypatch.setattr(running, "EASY_QUERIES", 6)
    monkeypatch.setattr(running, "CONTROLLED", 9)
    monkeypatch.setattr(scoring, "CONTROLLED", 9)
    monkeypatch.setattr(scoring, "SAMPLED", 4)
    monkeypatch.setattr(scoring, "MAX_TOKENS", 12)
    monkeypatch.setattr(training, "PROMPTS", 2)
    monkeypatch.setitem(training.ROLLOUTS, "max_completion_length", 12)
    monkeypatch.setitem(training.ROLLOUTS, "num_generations", 2)
    monkeypatch.setitem(training.COMMON, "logging_steps", 1)
    for name, arm in list(ARMS.items()):
        monkeypatch.setitem(ARMS, name, replace(arm, steps=2))


@pytest.mark.slow
@pytest.mark.usefixtures("small")
def test_all_arms_run(table: Table) -> None:
    run_seed(table, list(ARMS), 0)
    found = table.found()
    assert set(found) == set(ARMS)
    made = report.table(found)
    assert len(made["claims"]) == len(CLAIMS)
    assert {row["verdict"] for row in made["claims"]} == {"not judged"}
    assert {len(one[0]["log"]) for one in found.values()} == {2}
    curves = report.rewards(found)
    assert set(curves) == {"rl", "rl-shuffled", "rl-twice", "rl-skilled"}
    report.draw(made, table.results / "table.png", curves)
    assert "| rl-twice, generative | 1 |" in report.markdown({**made, "command": "x"})
