"""The benchmarks as data: how many tasks, which metric, and averages that are the published ones."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

from umekit.evaluation.benchmarks.definition import BENCHMARKS, TaskNameError, load_benchmark
from umekit.evaluation.benchmarks.problem import Entry, Problem
from umekit.evaluation.benchmarks.readers import READERS
from umekit.evaluation.benchmarks.report import BenchmarkReport, BenchmarkScore
from umekit.evaluation.benchmarks.videos import labels_of
from umekit.evaluation.benchmarks.wording import Words
from umekit.evaluation.conditions import Conditions
from umekit.evaluation.report import MissingTaskError
from umekit.evaluation.tables import mean_rows, score_rows

FAMILIES = {
    "image CLS": 10, "image QA": 10, "image RET": 12, "image GD": 4, "video CLS": 5, "video QA": 5, "video RET": 5,
    "video MRET": 3, "visdoc ViDoRe-v1": 10, "visdoc ViDoRe-v2": 4, "visdoc VisRAG": 6, "visdoc OOD": 4,
}  # fmt: skip
# Of the meta-tasks in the order above; then image, video, visdoc, all. From UME-R1's and RzenEmbed's papers and
# Qwen3-VL-Embedding's README; RzenEmbed's documents out of distribution before and after the repair of the split.
ROUNDED = 0.1  # of figures of one decimal: 0.05 for those that are averaged, 0.05 for their average
PUBLISHED = {
    "UME-R1-2B": ([64.8, 62.8, 67.6, 77.2, 44.3, 51.2, 32.9, 39.7, 72.4, 46.2, 79.2, 37.2], 66.6, 42.2, 63.9, 60.1),
    "UME-R1-7B": ([67.1, 69.2, 71.9, 84.9, 48.6, 60.7, 38.2, 39.3, 75.7, 50.5, 83.7, 37.6], 71.3, 47.5, 67.1, 64.5),
    "RzenEmbed-7B, paper": (
        [70.6, 71.7, 78.5, 92.1, 58.8, 63.5, 51.0, 45.5, 89.7, 60.7, 88.7, 44.4], 75.9, 55.7, 77.1, 71.6,
    ),
    "RzenEmbed-7B, repaired split": (
        [70.6, 71.7, 78.5, 92.1, 58.8, 63.5, 51.0, 45.5, 89.7, 60.7, 88.7, 69.9], 75.9, 55.7, 81.3, 72.9,
    ),
    "Qwen3-VL-Embedding-2B": (
        [70.3, 74.3, 74.8, 88.5, 71.9, 64.9, 53.9, 53.3, 84.4, 65.3, 86.4, 69.4], 75.0, 61.9, 79.2, 73.2,
    ),
    "Qwen3-VL-Embedding-8B": (
        [74.2, 81.1, 80.0, 92.2, 78.4, 71.0, 58.7, 56.1, 87.2, 69.9, 88.7, 73.3], 80.1, 67.1, 82.4, 77.8,
    ),
}  # fmt: skip
# GME-Qwen2-VL-7B, VLM2Vec experiments/public/all_scores/v2.0.1: hit@1 of every image task, in the definition's order.
GME_IMAGE = [
    0.647, 0.503, 0.539, 0.801, 0.694, 0.391, 0.406, 0.839, 0.69, 0.246, 0.331, 0.208, 0.411, 0.205, 0.177, 0.222,
    0.282, 0.389, 0.768, 0.464, 0.609, 0.549, 0.795, 0.836, 0.715, 0.574, 0.676, 0.913, 0.376, 0.784, 0.756, 0.961,
    0.314, 0.612, 0.787, 0.665,
]  # fmt: skip


def _report(name: str, values: dict[str, float]) -> BenchmarkReport:
    benchmark = load_benchmark(name)
    scores = [
        BenchmarkScore(
            task.name, task.metric, values[task.name], task.queries or 100, task.family,
            chance=0.01, optimistic=values[task.name], official=values[task.name],
        )
        for task in benchmark.tasks
        if task.name in values
    ]  # fmt: skip
    data = {"name": name, "split": "test", "revision": "a" * 40}
    conditions = Conditions("m", {"encoder": "e"}, data, {}, "cpu", 1.0, "c", "2026-01-01")
    return BenchmarkReport(
        name, scores, {"model": "a", "processor": "b"}, conditions, complete=benchmark.complete()
    )


def test_the_tasks() -> None:
    v2, v1, m_beir, zero = (load_benchmark(name) for name in ("mmeb-v2", "mmeb-v1", "m-beir", "zero-shot"))
    assert Counter(task.family for task in v2.tasks) == FAMILIES
    assert {group: len(names) for group, names in v2.groups.items()} == {
        "image": 36,
        "video": 18,
        "visdoc": 24,
    }
    assert {task.metric for task in v2.tasks if task.group != "visdoc"} == {"hit@1"}
    assert {task.metric for task in v2.tasks if task.group == "visdoc"} == {"ndcg_linear@5"}
    assert all(task.queries for task in v2.tasks)
    assert {group: len(names) for group, names in v1.groups.items()} == {
        "in distribution": 20,
        "out of distribution": 16,
    }
    assert len(m_beir.tasks) == 16
    tens = {task.name for task in m_beir.tasks if task.metric == "hit@10"}
    assert tens == {"fashion200k_task0", "fashion200k_task3", "fashioniq_task7"}
    assert {task.options["pool_file"] for task in m_beir.tasks if task.name.startswith("mscoco")} == {
        "cand_pool/local/mbeir_mscoco_task0_test_cand_pool.jsonl",
        "cand_pool/local/mbeir_mscoco_task3_test_cand_pool.jsonl",
    }
    assert {task.metric for task in zero.tasks if task.name == "CIRCO"} == {"map@5"}
    for name in BENCHMARKS:
        tasks = load_benchmark(name).tasks
        assert len({task.name for task in tasks}) == len(tasks)
        assert {task.reader for task in tasks} <= set(READERS)
    counts = {task.options["labels"]: task.candidates for task in v2.tasks if "labels" in task.options}
    assert counts == {name: len(set(labels_of(name))) for name in counts}


def test_which_counts_are_known() -> None:
    """Of queries all but M-BEIR's and MSVD's; of candidates those of pools that are the same for every query."""
    unknown = {
        name: [task.name for task in load_benchmark(name).tasks if task.queries is None]
        for name in BENCHMARKS
    }
    every = [task.name for task in load_benchmark("m-beir").tasks]
    assert unknown == {"mmeb-v1": [], "mmeb-v2": [], "m-beir": every, "zero-shot": ["MSVD_t2v"]}
    pools = {task.name: task.candidates for task in load_benchmark("m-beir").tasks if task.candidates}
    # WIDE (generative retrieval on M-BEIR), table 3
    assert sorted(pools.values()) == [21_551, 24_809, 201_824, 542_246, 544_457, 1_047_067]
    assert all(task.candidates for task in load_benchmark("zero-shot").tasks)


def test_tasks_are_chosen_by_name_family_or_part() -> None:
    benchmark = load_benchmark("mmeb-v2")
    assert len(benchmark.chosen(["image QA", "CIRR"])) == 11
    assert len(benchmark.chosen(["visdoc"])) == 24
    with pytest.raises(TaskNameError, match="no task, family or group image-qa"):
        benchmark.chosen(["image-qa"])
    with pytest.raises(TaskNameError, match="no benchmark"):
        load_benchmark("mmeb")


@pytest.mark.parametrize("model", PUBLISHED)
def test_our_means_are_the_published_ones(model: str) -> None:
    families, image, video, visdoc, total = PUBLISHED[model]
    of = dict(zip(FAMILIES, families, strict=True))
    report = _report("mmeb-v2", {t.name: of[t.family] / 100 for t in load_benchmark("mmeb-v2").tasks})
    means = report.group_means()
    for part, value in (("image", image), ("video", video), ("visdoc", visdoc)):
        assert 100 * means[part] == pytest.approx(value, abs=ROUNDED), part
    assert 100 * report.mean() == pytest.approx(total, abs=ROUNDED)


def test_the_mean_of_official_figures_of_every_task() -> None:
    names = [task.name for task in load_benchmark("mmeb-v2").tasks[:36]]
    report = _report("mmeb-v2", dict(zip(names, GME_IMAGE, strict=True)))
    assert 100 * report.group_mean("image") == pytest.approx(56.0, abs=ROUNDED)
    with pytest.raises(MissingTaskError, match="K700"):
        report.mean()
    with pytest.raises(MissingTaskError, match="no mean of video"):
        report.group_mean("video")


def _one_less(report: BenchmarkReport, **change: Any) -> BenchmarkReport:
    first, *others = report.scores
    return replace(report, scores=[replace(first, **change), *others] if change else others)


def test_a_mean_is_refused_where_anything_is_missing() -> None:
    """Traps: averages with tasks missing (VLM2Vec#113), or over fewer queries than the benchmark has."""
    whole = _report("mmeb-v1", {task.name: 0.5 for task in load_benchmark("mmeb-v1").tasks})
    assert whole.mean() == 0.5
    for less in (_one_less(whole), _one_less(whole, n=999)):
        with pytest.raises(MissingTaskError, match="ImageNet-1K"):
            less.mean()
        assert "in distribution" not in less.group_means()
        assert less.group_means() == {"out of distribution": 0.5} or less.group_means() == {}


def test_a_score_at_chance_is_an_alarm() -> None:
    """Trap: ImageNet-1K at 0.001, which is exactly chance, without a word (VLM2Vec#153)."""
    report = _report("mmeb-v2", {"ImageNet-1K": 0.001, "CIRR": 0.5})
    low = replace(report.scores[0], chance=0.001)
    report = replace(report, scores=[low, report.scores[1]])
    assert [one.startswith("at chance: ImageNet-1K") for one in report.alarms] == [True]


def test_the_mean_of_m_beir_is_that_of_sixteen_tasks() -> None:
    """Plain, whatever the tasks' sizes; of the union apart; and none where a pool was not run."""
    benchmark = load_benchmark("m-beir")
    scores = [
        BenchmarkScore(
            task.name, task.metric, value / 100, 10 * value, task.family, kind=kind,
            chance=0.0, optimistic=value / 100, official=value / 100,
        )
        for kind, base in (("local", 20), ("global", 50))
        for value, task in enumerate(benchmark.tasks, start=base)
    ]  # fmt: skip
    plain = _report("mmeb-v1", {"CIRR": 0.5})
    report = replace(
        plain, benchmark="m-beir", scores=scores, complete=benchmark.complete(("local", "global"))
    )
    assert report.mean() == pytest.approx(sum(range(20, 36)) / 1600)
    with pytest.raises(MissingTaskError, match="visualnews_task0/local"):
        _one_less(report).mean()
    alone = replace(report, scores=scores[16:], complete=benchmark.complete(("global",)))
    assert alone.mean() == pytest.approx(sum(range(50, 66)) / 1600)


def test_a_reader_sees_which_metric_a_number_is_of() -> None:
    """Trap: hit@1 and nDCG@5 of one table mixed up (VLM2Vec#194)."""
    report = _report("mmeb-v2", {task.name: 0.5 for task in load_benchmark("mmeb-v2").tasks})
    headers, rows = score_rows(report)
    metrics = {str(row[headers.index("task")]): row[headers.index("metric")] for row in rows}
    assert (metrics["CIRR"], metrics["ViDoRe_tatdqa"]) == ("hit@1", "ndcg_linear@5")
    headers, rows = mean_rows(report)
    said = {str(row[0]): " ".join(map(str, row)) for row in rows}
    assert "hit@1" in said["image CLS"]
    assert "ndcg_linear@5" in said["visdoc OOD"]
    assert all(name in said[report.total] for name in ("hit@1", "ndcg_linear@5"))


def test_other_numbers_of_queries_or_candidates_are_told() -> None:
    """Trap: a corpus without its doubles, 277 pages for 1,663, has another score (mteb#1607)."""
    task = load_benchmark("mmeb-v2").chosen(["ViDoRe_tatdqa"])[0]
    entries = [Entry(f"{number}", Words("x", joined="x")) for number in range(276)]
    problem = Problem(task, entries[:5], entries, [{0: 1.0}] * 5)
    assert problem.counts() == [
        "ViDoRe_tatdqa: 5 queries, the benchmark has 1,646",
        "ViDoRe_tatdqa: pools of 276 to 276 candidates, the benchmark has 277",
    ]
    twice = Problem(task, [*entries[:4], entries[0]], entries, [{0: 1.0}] * 5)
    assert twice.counts()[0] == "ViDoRe_tatdqa: 1 queries have the id of another, and count again"
