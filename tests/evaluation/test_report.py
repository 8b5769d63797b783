"""One report for every benchmark: MMEB-V2's and M-BEIR's metrics in means, tables, cards, files and comparisons."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from umekit.cli.main import main
from umekit.evaluation.compare import compare
from umekit.evaluation.conditions import Conditions
from umekit.evaluation.report import MissingTaskError, Report, TaskFacts
from umekit.evaluation.results import load_report, save_report
from umekit.evaluation.score import ResultFormatError, Score, pack, unpack
from umekit.evaluation.tables import END, START, markdown_table
from umekit.hub_cards.card import build_card

ROOT = Path(__file__).resolve().parents[2]
FINGERPRINT = {"model": "a" * 64, "processor": "b" * 64, "dim": 192}
RNG = np.random.default_rng(0)


def conditions(**data: str) -> Conditions:
    return Conditions(
        model="someone/embedder",
        settings={"mode": None, "encoder": "Encoder(bfloat16)", "prompt": "first"},
        data={"name": "TIGER-Lab/some-benchmark", "split": "test", "revision": "1234567890abcdef"} | data,
        versions={"umekit": "1", "torch": "2", "transformers": "5", "python": "3"},
        machine="a machine, 2 cores",
        seconds=60.0,
        command="umekit evaluate ...",
        created="2026-01-02T03:04:05+00:00",
    )


def values(mean: float, n: int) -> np.ndarray:
    """Hits of n queries."""
    return (np.arange(n) < round(mean * n)).astype(float)


MMEB = [
    ("ImageNet-1K", "hit@1", "image", 0.8),
    ("OK-VQA", "hit@1", "image", 0.6),
    ("MSR-VTT", "hit@1", "video", 0.5),
    ("ViDoRe_docvqa", "ndcg@5", "visdoc", 0.9),
]
MMEB_TASKS: dict[str, TaskFacts] = {
    task: {"family": family, "metric": metric, "queries": 1000} for task, metric, family, _ in MMEB
}
MBEIR = [
    ("visualnews_task0", "single-modal query", "R@5", 0.4),
    ("fashion200k_task0", "single-modal query", "R@10", 0.2),
    ("cirr_task7", "multi-modal query", "R@5", 0.5),
]


@pytest.fixture
def mmeb() -> Report:
    scores = [
        Score.of_queries(
            task,
            metric,
            values(mean, 1000) if metric == "hit@1" else np.full(1000, mean) + np.tile([0.05, -0.05], 500),
            family=family,
            candidates=1000,
            chance=0.001,
            revision=f"{task}-revision",
        )
        for task, metric, family, mean in MMEB
    ]
    return Report("MMEB-V2", scores, FINGERPRINT, conditions(), MMEB_TASKS)


@pytest.fixture
def mbeir() -> Report:
    """Both recalls of every task, locally and globally; means are of one of them."""
    scores = [
        Score.of_queries(task, metric, values(mean + add + step, 500), family=family, kind=kind, chance=0.01)
        for task, family, _, mean in MBEIR
        for kind, add in (("local", 0.0), ("global", -0.1))
        for metric, step in (("R@5", 0.0), ("R@10", 0.1))
    ]
    tasks: dict[str, TaskFacts] = {
        task: {"family": family, "metric": metric, "kinds": ["local", "global"]}
        for task, family, metric, _ in MBEIR
    }
    return Report("M-BEIR", scores, FINGERPRINT, conditions(), tasks)


def rows_of(text: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line[:1] == "|"]


def test_mmeb_means_are_over_tasks_and_name_their_metric(mmeb: Report) -> None:
    assert mmeb.mean() == pytest.approx((0.8 + 0.6 + 0.5 + 0.9) / 4)
    assert [(mean.family, mean.metrics) for mean in mmeb.family_means()] == [
        ("image", ("hit@1",)),
        ("video", ("hit@1",)),
        ("visdoc", ("ndcg@5",)),
    ]
    rows = rows_of(markdown_table(mmeb))
    assert rows[0] == [
        "family", "task", "metric", "candidates", "queries", "score", "99 % lower", "baseline", "x baseline",
    ]  # fmt: skip
    assert rows[2][:6] == ["image", "ImageNet-1K", "hit@1", "1,000", "1,000", "0.800"]
    assert ["image", "hit@1", "2", "0.700", "0.001", "700.0", "yes"] in rows
    assert rows[-1][:4] == ["**all tasks**", "hit@1, ndcg@5", "4", "0.700"]


def test_mbeir_takes_the_recall_that_each_task_is_judged_by(mbeir: Report) -> None:
    assert mbeir.mean() == pytest.approx((0.4 + 0.3 + 0.5) / 3)
    single, multi = mbeir.family_means()
    assert single.metrics == ("R@5", "R@10")
    assert single.value == pytest.approx(0.35)
    assert single.others == {"global": pytest.approx(0.25)}
    assert multi.value == pytest.approx(0.5)
    rows = rows_of(markdown_table(mbeir))
    assert rows[0][:4] == ["family", "task", "pool", "metric"]
    assert len([row for row in rows if row[1] == "cirr_task7"]) == 4
    means = next(row for row in rows if row[0] == "single-modal query" and row[1] == "R@5, R@10")
    assert means[2:5] == ["2", "0.350", "0.250"]


def test_conditions_name_data_metrics_and_run(mmeb: Report) -> None:
    text = markdown_table(mmeb)
    assert "MMEB-V2 test split, revision 1234567890ab" in text
    assert "hit@1, ndcg@5 with ties counted against the model" in text
    assert "baseline: what guessing scores" in text


@pytest.mark.parametrize("benchmark", ["mmeb", "mbeir"])
def test_files_hold_any_report(benchmark: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    report: Report = request.getfixturevalue(benchmark)
    save_report(report, tmp_path / "r.json")
    again = load_report(tmp_path / "r.json")
    assert again == report
    assert type(again) is Report
    assert markdown_table(again) == markdown_table(report)


def test_the_committed_result_of_digit_world_is_kept_byte_for_byte(tmp_path: Path) -> None:
    committed = ROOT / "benchmarks" / "results" / "digit_world.json"
    report = load_report(committed)
    save_report(report, tmp_path / "r.json")
    assert (tmp_path / "r.json").read_bytes() == committed.read_bytes()
    assert markdown_table(report) in (ROOT / "docs" / "results.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("change", ["missing", "queries", "metric"])
def test_means_refuse_what_is_incomplete(mmeb: Report, change: str) -> None:
    last = mmeb.scores[-1]
    instead = {
        "missing": [],
        "queries": [replace(last, n=999, per_query="")],
        "metric": [replace(last, metric="hit@1")],
    }
    report = replace(mmeb, scores=[*mmeb.scores[:-1], *instead[change]])
    with pytest.raises(MissingTaskError, match="ViDoRe_docvqa"):
        report.mean()
    with pytest.raises(MissingTaskError, match="ViDoRe_docvqa"):
        report.family_mean("visdoc")
    text = markdown_table(report)
    assert "Not run, hence in no mean: ViDoRe_docvqa" in text
    assert "all tasks" not in text
    assert report.family_mean("image").value == pytest.approx(0.7)


def test_a_report_that_does_not_know_its_tasks_has_no_mean(mmeb: Report) -> None:
    report = Report("MMEB-V2", mmeb.scores, FINGERPRINT, conditions())
    with pytest.raises(MissingTaskError, match="does not say"):
        report.mean()
    assert "mean" not in markdown_table(report).split("Model someone")[0]


@pytest.mark.parametrize("metric", ["hit@1", "ndcg@5"])
def test_chance_is_an_alarm_under_every_metric(mmeb: Report, metric: str, tmp_path: Path) -> None:
    task, *rest = mmeb.scores
    low = replace(task, value=0.001, metric=metric, per_query="")
    report = replace(mmeb, scores=[low, *rest])
    assert low.at_chance
    assert f"at chance: ImageNet-1K has {metric} 0.001" in report.alarms[0]
    save_report(report, tmp_path / "r.json")
    assert load_report(tmp_path / "r.json").alarms == report.alarms
    block = json.loads((tmp_path / "r.json").read_text())
    (tmp_path / "r.json").write_text(json.dumps(block | {"alarms": []}))
    assert load_report(tmp_path / "r.json").alarms == report.alarms


def test_an_unknown_chance_is_an_alarm(mmeb: Report) -> None:
    report = replace(mmeb, scores=[replace(score, chance=None) for score in mmeb.scores])
    assert len(report.alarms) == 1
    assert "ViDoRe_docvqa ndcg@5" in report.alarms[0]
    assert ["image", "hit@1", "2", "0.700", "-", "-", "-"] in rows_of(markdown_table(report))


@pytest.mark.parametrize("absent", ["fingerprint.processor", "data.revision", "settings.encoder"])
def test_a_file_says_what_it_is_of(mmeb: Report, absent: str, tmp_path: Path) -> None:
    save_report(mmeb, tmp_path / "r.json")
    block = json.loads((tmp_path / "r.json").read_text())
    part, name = absent.split(".")
    del block[part][name]
    (tmp_path / "r.json").write_text(json.dumps(block))
    with pytest.raises(ResultFormatError, match=absent):
        load_report(tmp_path / "r.json")
    with pytest.raises(ResultFormatError, match=r"fingerprint\.model"):
        save_report(replace(mmeb, fingerprint={"processor": "b"}), tmp_path / "s.json")


@pytest.mark.parametrize(
    ("name", "value"), [("value", 0.7), ("value", 70.0), ("n", 0), ("per_query", "AAAA"), ("ratio", 3.0)]
)
def test_an_edited_file_is_refused(mmeb: Report, name: str, value: Any, tmp_path: Path) -> None:
    block = json.loads(json.dumps(mmeb.to_dict()))
    block["scores"][0][name] = value
    (tmp_path / "r.json").write_text(json.dumps(block))
    with pytest.raises(ResultFormatError, match=r"r\.json"):
        load_report(tmp_path / "r.json")


def test_what_is_no_score_raises() -> None:
    with pytest.raises(ValueError, match="no mean in"):
        Score("ImageNet-1K", "hit@1", 77.8, 1000)
    with pytest.raises(ValueError, match="each once"):
        Report("x", [Score("a", "hit@1", 0.5, 10)] * 2, FINGERPRINT, conditions())
    with pytest.raises(ValueError, match="each once"):
        Report("x", [], FINGERPRINT, conditions())


@pytest.mark.parametrize("n", [1, 7, 8, 9, 16])
def test_values_are_packed(n: int) -> None:
    for found in (RNG.random(n) < 0.5, RNG.random(n)):
        np.testing.assert_allclose(unpack(pack(found), n), found, atol=1e-3)


# --- two reports --------------------------------------------------------------------------------------------


def test_only_the_same_metric_is_compared(mmeb: Report) -> None:
    last = mmeb.scores[-1]
    after = replace(mmeb, scores=[*mmeb.scores[:-1], replace(last, metric="hit@1")])
    found = compare(mmeb, after)
    assert found.only_before == ["ViDoRe_docvqa ndcg@5"]
    assert found.only_after == ["ViDoRe_docvqa hit@1"]
    assert [change.difference for change in found.changes] == [0, 0, 0]
    assert [mean.task for mean in found.means] == ["image", "video"]


def test_changes_have_paired_intervals_where_the_queries_are_the_same(mmeb: Report) -> None:
    first, *rest = mmeb.scores
    better = Score.of_queries(
        first.task, first.metric, values(0.9, 1000), family="image", candidates=1000, chance=0.001,
        revision=first.revision,
    )  # fmt: skip
    found = compare(mmeb, replace(mmeb, scores=[better, *rest]))
    change = found.changes[0]
    assert change.difference == pytest.approx(0.1)
    assert change.interval is not None
    assert 0.05 < change.interval[0] < 0.1 < change.interval[1] < 0.15
    assert found.changes[3].interval == (0, 0)
    assert found.means[0].difference == pytest.approx(0.05)
    other = compare(mmeb, replace(mmeb, scores=[replace(better, revision="another"), *rest]))
    assert other.changes[0].interval is None
    renewed = compare(mmeb, replace(mmeb, conditions=conditions(revision="another")))
    assert renewed.conditions == {"data.revision": ("1234567890abcdef", "another")}
    # each score's own data are the same
    assert [change.interval for change in renewed.changes] == [(0, 0)] * 4
    nameless = replace(mmeb, scores=[replace(score, revision="") for score in mmeb.scores])
    renewed = compare(nameless, replace(nameless, conditions=conditions(revision="another")))
    assert [change.interval for change in renewed.changes] == [None] * 4


def test_two_benchmarks_are_not_compared(mmeb: Report, mbeir: Report) -> None:
    with pytest.raises(ValueError, match="MMEB-V2 and M-BEIR"):
        compare(mmeb, mbeir)


# --- verbs --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("benchmark", ["mmeb", "mbeir"])
def test_the_verb_shows_and_compares_any_report(
    benchmark: str, request: pytest.FixtureRequest, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report: Report = request.getfixturevalue(benchmark)
    settings = report.conditions.settings | {"prompt": "mean4"}
    after = replace(report, conditions=replace(report.conditions, settings=settings))
    files = [str(tmp_path / "before.json"), str(tmp_path / "after.json")]
    for one, path in zip((report, after), files, strict=True):
        save_report(one, Path(path))
    (tmp_path / "README.md").write_text(f"{START}\n{END}\n")
    assert main(["evaluate", "--from", files[0], "--readme", str(tmp_path / "README.md")]) == 0
    shown = capsys.readouterr().out
    assert all(score.task in shown and score.metric in shown for score in report.scores)
    assert markdown_table(report) in (tmp_path / "README.md").read_text()
    assert main(["evaluate", "--diff", *files]) == 0
    shown = capsys.readouterr().out
    assert shown.splitlines()[0] == "settings.prompt: first before, mean4 after"
    assert f"mean of {report.family_means()[0].family}" in shown
    assert main(["evaluate", "--diff", *files, "--json"]) == 0
    block = json.loads(capsys.readouterr().out)
    assert block["conditions"] == {"settings.prompt": ["first", "mean4"]}
    assert len(block["changes"]) == len(report.scores)
    assert block["changes"][0]["difference"] == 0


def test_the_verb_refuses_what_it_can_not_do(
    mmeb: Report, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = str(tmp_path / "r.json")
    save_report(mmeb, Path(file))
    for call in (
        [],
        ["mmeb-v2"],
        ["digit-world", "--from", file],
        ["--diff", file, str(tmp_path / "none.json")],
        ["--diff", file, file, "--from", file],
        ["--diff", file, file, "--queries", "3"],
        ["--diff", file, file, "--out", str(tmp_path / "out.json")],
    ):
        assert main(["evaluate", *call]) == 2, call
        assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.parametrize("benchmark", ["mmeb", "mbeir"])
def test_cards_take_any_report(benchmark: str, request: pytest.FixtureRequest) -> None:
    report: Report = request.getfixturevalue(benchmark)
    card = build_card(ROOT / "examples" / "ume-tiny", [report], fingerprint=FINGERPRINT)
    assert f"### {report.title}, test split" in card.content
    assert markdown_table(report) in card.content
    results = {(one.dataset_config, one.metric_type): one for one in card.data.eval_results}
    assert len(results) == len(report.scores)
    if benchmark == "mmeb":
        one = results["ViDoRe_docvqa", "ndcg_at_5"]
        assert (one.metric_value, one.dataset_revision) == (0.9, "ViDoRe_docvq")
        assert results["OK-VQA", "hit_at_1"].dataset_name == "MMEB-V2 OK-VQA"
    else:
        one = results["cirr_task7/global", "recall_at_10"]
        assert (one.metric_value, one.metric_name, one.dataset_revision) == (
            0.5,
            "recall@10 (discriminative mode)",
            "1234567890ab",
        )
