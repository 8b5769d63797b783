"""The adaptive part of the findings table: its mix, its budgets, its arms in turn, its verdicts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from adaptive_table import judging, records, report, rows, running, scoring, selecting, training
from adaptive_table.claims import BARS, CLAIMS, RACES
from adaptive_table.records import ARMS, START, Arm
from adaptive_table.rows import PARTS, Batches
from adaptive_table.running import Table, run_seed
from adaptive_table.scoring import BUDGETS, at_budgets, best_kappa, levels
from findings_table import verdict
from findings_table.arms import chain, several_weights
from findings_table.store import pack

from umekit.encoding.packaged import packaged_model
from umekit.evaluation.curves import Outcomes


def test_every_claim_reads_arms_that_there_are() -> None:
    for claim in CLAIMS:
        assert {claim.better.arm, claim.worse.arm} <= set(ARMS)
    assert {one.arm for one in (*BARS, *RACES)} <= set(ARMS)
    names = [one.name for one in (*CLAIMS, *BARS, *RACES)]
    assert len(set(names)) == len(names)
    assert [arm.name for arm in chain(["rl", "random"], ARMS)] == ["evaluator", "pair-aware", "rl", "random"]


def test_arms_of_selection_differ_in_nothing_but_the_choice() -> None:
    first = ARMS["pair-aware"]
    for name, choice in (("random", "random"), ("unselected", "none")):
        assert replace(ARMS[name], name=first.name, what=first.what, choice=first.choice) == first
        assert ARMS[name].choice == choice


# ---- rows -----------------------------------------------------------------------------------------


def test_the_mix_is_60_percent_easy_and_long_enough_to_be_judged() -> None:
    easy = sum(part.asked for part in PARTS if part.is_easy)
    assert easy == 0.6 * records.QUERIES == 0.6 * sum(part.asked for part in PARTS)
    assert records.QUERIES - easy >= 2000  # walks are judged by themselves
    assert sum(rows.TRAINED) == ARMS["pair-aware"].batch
    for counts in ([part.weighed for part in PARTS], [part.glanced for part in PARTS]):
        assert sum(counts) == ARMS["evaluator"].batch


def test_parts_of_one_task_ask_different_questions() -> None:
    near, far = rows.asked("test", 126)[:2]
    assert len(near.questions.queries) == len(far.questions.queries) == 18
    assert set(near.hops) == {0, 1}
    assert max(far.hops) > 3
    pictures = [one["image"].tobytes() for part in (near, far) for one in part.questions.queries]
    assert len(set(pictures)) == 36
    walks, until_gold, digits = rows.pooled_rows(0, 1)[1:4]
    assert {row["task"] for row in walks} == {"walk"}
    workers = Counter(
        one["worker"] for row in (*walks, *until_gold, *digits) for one in row["query_thoughts"]
    )
    assert set(workers.values()) == {len(walks) + len(until_gold) + len(digits)}  # a third each
    assert all(len(row["negatives"]) == rows.NEGATIVES for row in walks)


def test_batches_hold_every_list_and_begin_anew_in_another_order() -> None:
    lists = [[{"name": f"{kind}{place}"} for place in range(4)] for kind in "ab"]
    found = Batches(lists, [1, 2], 4, 0)
    names = [found[place]["name"] for place in range(len(found))]
    assert [name[0] for name in names] == list("abb") * 4
    assert Counter(names) == Counter({f"a{n}": 1 for n in range(4)} | {f"b{n}": 2 for n in range(4)})
    of_b = [name for name in names if name[0] == "b"]
    assert of_b[:4] != of_b[4:]
    assert names == [Batches(lists, [1, 2], 4, 0)[place]["name"] for place in range(12)]


def test_an_evaluator_sees_before_it_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "GLANCES", 2)
    found = rows.evaluator_rows(4, 0)
    assert len(found) == 4 * ARMS["evaluator"].batch
    every = [found[place] for place in range(len(found))]
    seen, read = every[: len(every) // 2], every[len(every) // 2 :]
    easy = {part.task for part in PARTS if part.is_easy}
    assert {row["task"] for row in seen} == easy
    assert {row["task"] for row in read} == {part.task for part in PARTS}
    assert all(isinstance(row["positive"], dict) and len(row["negatives"]) == 6 for row in seen)
    followed = [not isinstance(row["positive"], dict) for row in read]  # by a thought
    assert 0.5 < sum(followed) / len(read) < 0.95


def test_a_batch_of_rl_has_one_part() -> None:
    found = rows.rl_rows(6, 4, 1)
    assert len(found) == 24
    assert all(len({row["task"] for row in found[first : first + 4]}) == 1 for first in range(0, 24, 4))


# ---- budgets --------------------------------------------------------------------------------------


def test_budgets_are_kept_and_spent_on_the_highest_scores() -> None:
    rng = np.random.default_rng(0)
    scores, tokens = rng.random(500), rng.integers(5, 40, 500).astype(float)
    level = levels(scores, tokens)
    for place, budget in enumerate(BUDGETS):
        inside = level <= place
        assert tokens[inside].sum() <= budget * tokens.sum()
        assert tokens[inside].sum() > budget * tokens.sum() - 40
        assert scores[inside].min() > scores[~inside].max()
    hits = at_budgets(level, np.zeros(500), np.ones(500))
    assert (np.diff(hits.sum(axis=1)) > 0).all()
    equal = levels(np.zeros(500), tokens)  # scores that say nothing are no order of the queries
    assert abs(np.corrcoef(equal, np.arange(500))[0, 1]) < 0.15


def test_kappa_is_the_best_that_can_be_paid() -> None:
    tokens = np.full(10, 10.0)
    at_once = np.array([1, 1, 1, 1, 1, 1, 0, 0, 0, 0], dtype=float)
    scores = np.linspace(0, 0.9, 10)
    chosen = best_kappa(Outcomes(at_once, 1 - at_once, tokens), scores)
    assert (scores > chosen).sum() == 4  # where a thought helps, and it can be paid
    dear = best_kappa(Outcomes(np.zeros(10), np.ones(10), tokens), scores)
    assert (scores > dear).sum() == 5  # all would gain, and half of the tokens are within the limit


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


@pytest.fixture
def other(tmp_path: Path) -> Path:
    folder = tmp_path / "other"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"0")
    return folder


def test_a_stopped_table_goes_on(done: list[str], tmp_path: Path) -> None:
    table = Table(tmp_path / "runs", tmp_path / "results", {START: packaged_model()})
    run_seed(table, ["pair-aware"], 0)
    assert done == ["evaluator", "pair-aware"]
    run_seed(table, list(ARMS), 0)
    assert done == ["evaluator", "pair-aware", "random", "unselected", "rl", "rl-anchored"]
    run_seed(table, list(ARMS), 0)
    assert len(done) == 6
    table.file("rl", 0).unlink()
    table.checkpoint("pair-aware", 0).rmdir()  # on another machine: made again, since something needs it
    run_seed(table, list(ARMS), 0)
    assert done[6:] == ["pair-aware", "rl"]


def test_results_of_other_weights_do_not_count_and_are_not_mixed(
    done: list[str], tmp_path: Path, other: Path
) -> None:
    table = Table(tmp_path / "runs", tmp_path / "results", {START: packaged_model()})
    run_seed(table, ["random"], 0)
    found = table.known("random", 0)
    assert found is not None
    assert set(found["weights"]) == {START}
    elsewhere = replace(table, roots={START: other})
    assert elsewhere.known("random", 0) is None
    reader = Table(table.runs, table.results)  # a report needs no weights
    assert set(reader.found()) == {"evaluator", "random"}
    assert several_weights(reader.found()) == []
    run_seed(elsewhere, ["random"], 1)
    assert several_weights(reader.found()) == ["start"]
    assert replace(table, quick=True).known("random", 0) is None


# ---- the report -----------------------------------------------------------------------------------

DIVIDE = 8  # of the queries: intervals are of many resamples of each


def record(arm: Arm, rng: np.random.Generator, gain: float) -> dict[str, Any]:
    """A model that thinks of all walks, which helps, while on the easy a thought costs hits; a policy that knows where
    it helps, a gate that knows nothing."""
    sizes = {part: part.asked // DIVIDE for part in PARTS}
    easy = np.concatenate([np.full(size, part.is_easy) for part, size in sizes.items()])
    never = rng.random(len(easy)) < np.where(easy, 0.9, 0.3)
    always = np.where(easy, never & (rng.random(len(easy)) > 0.05), rng.random(len(easy)) < 0.7 + gain)
    tokens = np.where(easy, 36.0, 16.0)
    helps = (always & ~never).astype(float)
    scores = {"policy": helps, "margin": rng.random(len(easy)), "probe": helps}
    level = {name: levels(values, tokens) for name, values in scores.items()}
    outcomes = Outcomes(never.astype(float), always.astype(float), tokens)
    share = {"always": tokens.mean(), "adaptive": (tokens * ~easy).mean()}
    return {
        "settings": arm.to_dict(),
        "minutes": 5.0,
        "kappa": 0.5,
        "parts": {
            part.name: {
                "queries": size,
                "thinks": float(not part.is_easy),
                "tokens": 10.0,
                "always_tokens": 20.0,
            }
            for part, size in sizes.items()
        },
        "hops": pack(np.where(easy, 0, rng.integers(0, 3, len(easy))).astype(np.uint8)),
        "never": pack(never.astype(np.uint8)),
        "always": pack(always.astype(np.uint8)),
        "thinks": pack((~easy).astype(np.uint8)),
        "levels": {name: pack(values) for name, values in level.items()},
        "validation_curve": {name: scoring._means(values, outcomes) for name, values in level.items()},
        "tokens": {**share, "ideal": outcomes.ideal()["tokens_per_item"]},
        "seconds": {"never": 0.003, "adaptive": 0.005, "always": 0.01},
        "selection": {
            "rows": 10,
            "kept": 5,
            "of_kept": dict.fromkeys(("careful", "confused", "generic"), 0.3),
        },
    }


def made() -> dict[str, dict[int, Any]]:
    rng = np.random.default_rng(0)
    gains = {"pair-aware": 0.2, "random": 0.0, "unselected": 0.0, "rl": 0.2, "rl-anchored": 0.2}
    found: dict[str, dict[int, Any]] = {
        name: {seed: record(ARMS[name], rng, gain) for seed in range(3)} for name, gain in gains.items()
    }
    judges = {part.name: {"no thought": 0.5, "careful": 1.0} for part in PARTS}
    return {
        "evaluator": {0: {"settings": ARMS["evaluator"].to_dict(), "minutes": 5.0, "judges": judges}},
        **found,
    }


@pytest.fixture(scope="module")
def judged() -> Iterator[dict[str, Any]]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(verdict, "QUERIES", 2000 // DIVIDE)
        yield report.table(made())


def test_claims_bars_and_races_are_judged(judged: dict[str, Any]) -> None:
    claims = {row["claim"]: row for row in judged["claims"]}
    assert set(claims) == {claim.name for claim in CLAIMS}
    assert claims["selected"]["verdict"] == claims["walks-random"]["verdict"] == "reproduced"
    assert claims["random"]["verdict"] == "not seen"
    assert claims["pair-aware-always"]["verdict"] == claims["pair-aware-never"]["verdict"] == "reproduced"
    assert claims["walks-random"]["queries"] == 2016 // DIVIDE
    bars = {row["claim"]: row for row in judged["bars"]}
    share = 0.4 * 16 / (0.4 * 16 + 0.6 * 36)
    assert bars["pair-aware-tokens"]["mean"] == pytest.approx(share, abs=1e-3)
    assert bars["pair-aware-tokens"]["ideal"] < share
    assert bars["pair-aware-easy"]["mean"] == 0
    assert bars["pair-aware-walks"]["mean"] == 1
    assert bars["pair-aware-time"]["mean"] == pytest.approx(0.5)
    assert {row["verdict"] for row in bars.values()} == {"reproduced"}
    races = {row["claim"]: row for row in judged["races"]}
    assert races["pair-aware-margin"]["verdict"] == "reproduced"
    assert races["pair-aware-margin"]["differences"][-1] < races["pair-aware-margin"]["difference"]
    assert not races["pair-aware-margin"]["tie"]
    assert races["pair-aware-probe"]["tie"]
    assert races["pair-aware-probe"]["verdict"] == "reproduced"


def test_a_bar_that_is_missed() -> None:
    found = made()
    for one in found["pair-aware"].values():
        one["seconds"]["adaptive"] = 0.009
    row = judging.bar_row(next(bar for bar in BARS if bar.name == "pair-aware-time"), found)
    assert row is not None
    assert (row["verdict"], row["reached"]) == ("reversed", False)
    found["pair-aware"][1]["seconds"]["adaptive"] = 0.001
    row = judging.bar_row(next(bar for bar in BARS if bar.name == "pair-aware-time"), found)
    assert (row or {})["verdict"] == "not seen"


def test_the_page_and_the_picture(judged: dict[str, Any], tmp_path: Path) -> None:
    text = report.markdown({**judged, "command": "x"})
    assert "(ideal policy: 0." in text
    assert "a tie within a point at every budget" in text
    assert "| evaluator | 1 |" in text
    assert "| walk, 0-1 hops | 1.00 | 1.00 |" in text
    assert "| until gold | 0.50 | 1.00 |" in text
    widths = {line.count("|") for line in text.splitlines() if line.startswith(("| arm", "| pair-aware |"))}
    assert len(widths) == 1
    report.draw(judged, tmp_path / "table.png")
    assert (tmp_path / "table.png").stat().st_size > 1000


# ---- all of it, small -----------------------------------------------------------------------------


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(running, "BATCHES", 1)
    monkeypatch.setattr(running, "JUDGED", 1)
    monkeypatch.setattr(rows, "GLANCES", 1)
    monkeypatch.setattr(running, "QUERIES", 42)
    monkeypatch.setattr(running, "VALIDATION", 42)
    monkeypatch.setattr(scoring, "TIMED", 6)
    monkeypatch.setattr(scoring, "REPEATS", 1)
    monkeypatch.setattr(training, "MAX_TOKENS", 12)
    monkeypatch.setitem(training.REWARDED, "max_completion_length", 12)
    monkeypatch.setitem(training.REWARDED, "num_generations", 2)
    for name, arm in list(ARMS.items()):
        monkeypatch.setitem(ARMS, name, replace(arm, steps=2, batch=2 if "rl" in arm.kind else arm.batch))
    yield
    rows.print_of_rows.cache_clear()


@pytest.mark.slow
@pytest.mark.usefixtures("small")
def test_all_arms_run(tmp_path: Path) -> None:
    table = Table(tmp_path / "runs", tmp_path / "results", {START: packaged_model()})
    run_seed(table, list(ARMS), 0)
    found = table.found()
    assert set(found) == set(ARMS)
    made = report.table(found)
    assert len(made["claims"]) == len(CLAIMS)
    assert len(made["bars"]) == len(BARS)
    assert {row["verdict"] for row in (*made["claims"], *made["bars"])} == {"not judged"}
    assert len(list((tmp_path / "runs").glob("selected-0/*/work/blocks-*"))) == 1  # weighed once
    unselected = found["unselected"][0]["selection"]
    assert unselected["kept"] == unselected["rows"] == 64
    assert "x" in report.markdown({**made, "command": "x"})


def test_selected_rows_keep_their_labels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A row whose thought is kept learns it; another is embedded at once, in the order of its part."""
    parts = [
        [{"query": part.name, "positive": "p", "positive_id": "p", "task": "t", "number": part.name}]
        for part in PARTS
    ]
    told = [
        {
            "query_action": "direct" if part.is_easy else "reason",
            "query_thought": None if part.is_easy else part.name,
            "answer": None,
            "query_thoughts": [{"worker": "careful", "tokens": 3, "kept": not part.is_easy}],
        }
        for part in PARTS
    ]
    monkeypatch.setattr(selecting, "select", lambda *_, **__: type("R", (), {"failed_rows": 0, "file": "f"}))
    monkeypatch.setattr(selecting, "open_records", lambda *_, **__: told)
    found = selecting.selected(parts, tmp_path, "pair-aware", tmp_path)
    assert [one[0]["query_thought"] for one in found.rows] == [one["query_thought"] for one in told]
    assert "negatives" not in found.rows[0][0]
    assert found.facts["of_kept"] == {"careful": 1.0, "confused": 0.0, "generic": 0.0}
    assert found.facts["tokens"] == 9
    assert found.facts["reason"]["until gold"] == 1
    assert found.facts["reason"]["which digit"] == 0
