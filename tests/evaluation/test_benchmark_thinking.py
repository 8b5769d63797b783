"""Benchmarks with thoughts: generative and sampled runs, and what several of them would score together."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from math import comb
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import umekit
from umekit.cli.main import main
from umekit.evaluation.benchmarks import BenchmarkReport, LocalData, load_benchmark, run_benchmark
from umekit.evaluation.benchmarks.run import RunSettings
from umekit.evaluation.results import load_report, save_report
from umekit.modeling.encode_loop import Encoded

TASKS = ["DocVQA", "MSCOCO_i2t", "VisDial"]  # nine queries, with four or five candidates each
MORE = ["HatefulMemes", "EDIS", "CIRR", "RefCOCO-Matching"]
NEW = 4
MOST = {"generative": NEW, "discriminative": None}  # tokens of a thought, where there is one
pytestmark = pytest.mark.filterwarnings("ignore::umekit.evaluation.metrics.TieWarning")


@pytest.fixture(scope="module")
def thinking(tiny_checkpoint: Callable[..., Path]) -> Any:
    return umekit.load(str(tiny_checkpoint("qwen2_vl", role="generative")))


@pytest.fixture(scope="module")
def reports(thinking: Any, mmeb: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, BenchmarkReport]:
    """Of both modes."""
    root, _ = mmeb
    found = {}
    for mode, most in MOST.items():
        report = run_benchmark(
            thinking,
            load_benchmark("mmeb-v2"),
            LocalData(root),
            tmp_path_factory.mktemp("work"),
            RunSettings(tasks=TASKS, mode=mode, max_new_tokens=most),
        )
        assert report is not None
        found[mode] = report
    return found


def _by_hand(thinking: Any, case: Any, mode: str, **options: Any) -> list[float]:
    """Hits of each query: equal candidates once, in the order of the rows, as one call."""
    options |= {"mode": mode, "max_new_tokens": MOST[mode]}
    documents = list({repr(one): one for pool in case.pools for one in pool}.values())
    queries = thinking.encode(case.queries, role="query", **options)
    if "seed" in options:
        options["seed"] = 0  # candidates are the same whatever the queries' seed is
    vectors = dict(
        zip(
            map(repr, documents),
            thinking.encode(documents, role="document", **options),
            strict=True,
        )
    )
    found = []
    for query, pool, gains in zip(queries, case.pools, case.gains, strict=True):
        scores = np.stack([vectors[repr(one)] for one in pool]) @ query
        [gold] = gains
        found.append(float((scores >= scores[gold]).sum() == 1))
    return found


def test_both_modes_score_what_their_vectors_score(reports: Any, thinking: Any, mmeb: Any) -> None:
    for mode in ("discriminative", "generative"):
        report = reports[mode]
        for score in report.scores:
            wanted = _by_hand(thinking, mmeb[1][score.task], mode)
            assert score.query_values().tolist() == wanted, (mode, score.task)
        thinks = mode == "generative"
        for side in ("all queries", "all documents"):
            cost = report.costs[side]
            assert cost["invocation_ratio"] == float(thinks)
            assert 0 < cost["tokens_per_item"] <= NEW if thinks else cost["thought_tokens"] == 0
        assert report.conditions.settings["mode"] == mode
        assert report.conditions.settings["max_new_tokens"] == MOST[mode]


def test_samples_are_averaged(thinking: Any, mmeb: Any, tmp_path: Path) -> None:
    """``num_samples`` thoughts of an item: their vectors' mean, drawn anew from the same seed."""
    root, cases = mmeb
    settings = RunSettings(tasks=["DocVQA"], mode="generative", num_samples=3, seed=1, max_new_tokens=NEW)
    report = run_benchmark(thinking, load_benchmark("mmeb-v2"), LocalData(root), tmp_path, settings)
    assert report is not None
    wanted = _by_hand(thinking, cases["DocVQA"], "generative", num_samples=3, seed=1)
    assert report.scores[0].query_values().tolist() == wanted
    assert report.conditions.settings["num_samples"] == 3
    cost = report.costs["all queries"]
    assert (cost["items"], cost["thoughts"]) == (3, 3)
    assert NEW < cost["tokens_per_item"] <= 3 * NEW


class Drawn:
    """Vectors drawn anew for each item, mode and seed, so that results differ in every query."""

    salt = 5  # of several, one with which each mode is better somewhere
    dim, arithmetic, batch_tokens = 8, "cpu, float32, none", 100

    def fingerprint(self) -> dict[str, Any]:
        return {"model": "drawn", "processor": "drawn"}

    def encode(self, items: Any, *, mode: str = "", seed: int | None = None, **_: Any) -> Encoded:
        count = len(items)
        rows = np.stack([self._row(item, mode, seed) for item in items])
        return Encoded(rows, [mode] * count, [None] * count, [0] * count, [False] * count)

    def _row(self, item: Any, mode: str, seed: int | None) -> Any:
        known = {key: Path(value).name if key == "image" else value for key, value in item.items()}
        digest = hashlib.sha256(repr((self.salt, sorted(known.items()), mode, seed)).encode()).digest()
        row = np.random.default_rng(list(digest)).standard_normal(self.dim).astype(np.float32)
        return row / np.linalg.norm(row)


def _values(report: Any) -> Any:
    return np.concatenate([score.query_values() for score in report.scores])


def test_an_oracle_and_pass_at_k(mmeb: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """From result files that the runs wrote, by the verb, against sums by hand."""

    def values_of(mode: str, seed: int | None = None) -> Any:
        settings = RunSettings(tasks=[*TASKS, *MORE], mode=mode, seed=seed)
        work = tmp_path / f"{mode}{seed}"
        report = run_benchmark(Drawn(), load_benchmark("mmeb-v2"), LocalData(mmeb[0]), work, settings)
        assert report is not None
        save_report(report, work / "result.json")
        return _values(report)

    def together(*arguments: object) -> Any:
        assert main(["evaluate", *map(str, arguments), "--out", str(tmp_path / "out.json"), "--json"]) == 0
        return _values(load_report(tmp_path / "out.json"))

    modes = [values_of(mode) for mode in MOST]
    assert (modes[0] > modes[1]).any(), "each is better somewhere, or an oracle would be one of them"
    assert (modes[0] < modes[1]).any()
    files = [tmp_path / f"{mode}None/result.json" for mode in MOST]
    assert together("--oracle-of", *files).tolist() == np.maximum(*modes).tolist()
    right = np.stack([values_of("generative", seed) for seed in range(3)]).sum(axis=0).astype(int)
    assert ((right > 0) & (right < 3)).any(), "or pass@k would be that of one sample"
    files = [tmp_path / f"generative{seed}/result.json" for seed in range(3)]
    for k in (1, 2, 3):
        by_hand = [1 - comb(3 - c, k) / comb(3, k) for c in right]
        assert together("--pass-of", k, *files) == pytest.approx(by_hand, abs=5e-4), (
            k
        )  # a file keeps half precision
    combined = load_report(tmp_path / "out.json")
    assert combined.conditions.settings["mode"] == "pass@3 of 3 samples, drawn on the query side"
    assert {load_report(file).conditions.settings["sampled_side"] for file in files} == {"query"}
    shards = [set(file.parent.glob("vectors/*/*-document-*/*.npy")) for file in files]
    assert shards[0]
    for path in shards[0]:
        other = next(one for one in shards[1] if one.parts[-2:] == path.parts[-2:])
        assert path.read_bytes() == other.read_bytes(), "candidates are the same whatever the seed"
    assert main(["evaluate", "--pass-of", "4", *map(str, files), "--out", str(tmp_path / "out.json")]) == 2
    mixed = [files[0], tmp_path / "generativeNone" / "result.json"]
    assert main(["evaluate", "--pass-of", "1", *map(str, mixed), "--out", str(tmp_path / "out.json")]) == 2
    assert "drawn on one and the same side, and these say None, query" in capsys.readouterr().err
    other = tmp_path / "other.json"
    second = load_report(files[1])
    save_report(replace(second, fingerprint={**second.fingerprint, "model": "another"}), other)
    assert (
        main(
            ["evaluate", "--pass-of", "1", *map(str, [files[0], other]), "--out", str(tmp_path / "out.json")]
        )
        == 2
    )
    assert "drawn by one model" in capsys.readouterr().err
