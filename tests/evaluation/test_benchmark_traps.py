"""Traps of published harnesses that no other test here has: each fails where the trap is put back."""

from __future__ import annotations

import json
import os
import signal
import time
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import layouts
import numpy as np
import pytest

from umekit.cli.main import main
from umekit.evaluation.benchmarks import BenchmarkReport, LocalData, load_benchmark, run_benchmark
from umekit.evaluation.benchmarks import vectors as store
from umekit.evaluation.benchmarks.prompting import prompting
from umekit.evaluation.benchmarks.readers import read_problem
from umekit.evaluation.benchmarks.run import RunSettings
from umekit.evaluation.fusing import Fusing
from umekit.evaluation.metrics import TieWarning
from umekit.evaluation.results import load_report

MMEB = load_benchmark("mmeb-v2")
pytestmark = pytest.mark.filterwarnings("ignore::umekit.evaluation.metrics.TieWarning")


class Stub:
    """Vectors by a function of item and role; counts what it encodes."""

    dim, arithmetic, batch_tokens = 8, "cpu, float32, none", 100

    def __init__(self, vector: Any = None) -> None:
        self.vector, self.encoded = vector, 0

    def fingerprint(self) -> dict[str, Any]:
        return {"model": "stub", "processor": "stub"}

    def encode(self, items: Any, *, role: str | None = None, **_: Any) -> Any:
        from umekit.modeling.encode_loop import Encoded

        self.encoded += len(items)
        rows = np.stack([self._row(item, str(role)) for item in items])
        count = len(items)
        return Encoded(rows, ["discriminative"] * count, [None] * count, [0] * count, [False] * count)

    def _row(self, item: Any, role: str) -> Any:
        if self.vector is not None:
            return self.vector(item, role)
        rng = np.random.default_rng(abs(hash(json.dumps(item, sort_keys=True, default=str))) % 2**32)
        row = rng.standard_normal(8).astype(np.float32)
        return row / np.linalg.norm(row)


def _run(encoder: Any, root: Path, work: Path, tasks: list[str], **options: Any) -> BenchmarkReport:
    found = run_benchmark(encoder, MMEB, LocalData(root), work, RunSettings(tasks=tasks, **options))
    assert found is not None
    return found


def test_a_constant_embedder(mmeb: Any, tmp_path: Path) -> None:
    """It would have 100 % on every local image task: the gold is candidate 0, and a sort is stable."""
    root, _ = mmeb
    same = Stub(lambda *_: np.full(8, 8**-0.5, dtype=np.float32))
    with pytest.warns(TieWarning, match="as the official code sorts"):
        report = _run(same, root, tmp_path, ["HatefulMemes", "CIRR", "ViDoRe_shiftproject"])
    for score in report.scores:
        assert score.value <= score.chance
        assert score.official >= score.optimistic - 1e-9 or score.task.startswith("ViDoRe")
        assert score.at_chance
    assert report.scores[0].official == 1.0
    # of documents the relevant ones come first, in the order of their queries: ranks 1 and 2, then 3, then 4
    by_hand = [1.0, 1 / np.log2(4), 1 / np.log2(5)]
    assert report.scores[2].official == pytest.approx(np.mean(by_hand), abs=1e-9)
    assert any("one and the same vector" in alarm for alarm in report.alarms)
    assert sum("ties decide" in alarm for alarm in report.alarms) == 3


def test_vectors_are_made_anew_after_a_change_of_code_or_settings(
    mmeb: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A score file that is there is reused silently by the official code, whatever has changed since."""
    root, _ = mmeb
    encoder = Stub()
    _run(encoder, root, tmp_path, ["CIRR"])
    first = encoder.encoded
    _run(encoder, root, tmp_path, ["CIRR"])
    assert encoder.encoded == first > 0
    _run(encoder, root, tmp_path, ["CIRR"], text="separate")
    assert encoder.encoded > first
    before = encoder.encoded
    monkeypatch.setattr(store, "code_hash", lambda: "changed")
    _run(encoder, root, tmp_path, ["CIRR"])
    assert encoder.encoded == before + first


def test_an_item_is_encoded_once_across_tasks(mmeb: Any, tmp_path: Path) -> None:
    root, _ = mmeb
    encoder = Stub()
    _run(encoder, root, tmp_path, ["DocVQA", "MSCOCO_i2t", "HatefulMemes"])
    texts = {
        candidate["text"]
        for name in ("DocVQA", "MSCOCO_i2t", "HatefulMemes")
        for pool in mmeb[1][name].pools
        for candidate in pool
    }
    assert encoder.encoded == 9 + len(texts)


def test_documents_of_a_qrel_count_once_and_above_zero(mmeb: Any) -> None:
    """A double takes the higher gain; a gain of 0 is not relevant; a corpus with a page twice is refused."""
    root, _ = mmeb
    problem = read_problem(MMEB, MMEB.chosen(["ViDoRe_shiftproject"])[0], LocalData(root))
    assert [one.name for one in problem.candidates] == ["p0", "p2", "p1", "p3"]
    assert problem.relevant == [{0: 2.0, 1: 2.0}, {2: 1.0}, {3: 1.0}]
    assert problem.counts()[0].startswith("ViDoRe_shiftproject: 3 queries, the benchmark has 100")


def test_what_cannot_be_encoded_counts_as_wrong_and_is_named(mmeb: Any, tmp_path: Path) -> None:
    root, _ = mmeb

    def vector(item: Any, role: str) -> Any:
        if item.get("text", "").endswith("which 1\n") or item.get("text") == "red":
            return np.full(8, np.nan, dtype=np.float32)
        return Stub()._row(item, role)

    report = _run(Stub(vector), root, tmp_path, ["HatefulMemes"])
    [score] = report.scores
    assert score.failed == 2
    assert score.query_values()[1] == 0
    assert score.query_values()[0] == 0
    assert any("items could not be encoded and count as wrong" in alarm for alarm in report.alarms)


def test_a_right_page_that_cannot_be_encoded_is_missed_and_not_forgotten(mmeb: Any, tmp_path: Path) -> None:
    """Of a query with two right pages, one without a vector: the ideal ranking has both."""
    root, cases = mmeb
    pages = [page["image"] for page in cases["ViDoRe_shiftproject"].pools[0]]

    def vector(item: Any, role: str) -> Any:
        place = pages.index(item["image"]) if role == "document" else 0
        if role == "document" and place == 2:
            return np.full(8, np.nan, dtype=np.float32)
        return np.eye(8, dtype=np.float32)[place]

    report = _run(Stub(vector), root, tmp_path, ["ViDoRe_shiftproject"])
    [score] = report.scores
    assert score.failed == 1
    assert score.query_values()[0] == pytest.approx(1 / (1 + 1 / np.log2(3)), abs=1e-3)


def test_the_prompt_hash_is_of_what_is_said_in_every_style(mmeb: Any, tmp_path: Path) -> None:
    """Where the instruction is a part of the text, it is a prompt all the same."""
    root, _ = mmeb
    found = {
        (name, style): _run(Stub(), root, tmp_path, [name], text=style).conditions.settings["prompt_sha256"]
        for name in ("MSR-VTT", "DiDeMo")
        for style in ("joined", "separate", "none")
    }
    assert found["MSR-VTT", "joined"] == found["MSR-VTT", "separate"] != found["DiDeMo", "joined"]
    assert found["MSR-VTT", "none"] == found["DiDeMo", "none"] != found["DiDeMo", "joined"]


def test_a_limit_of_m_beir_gives_no_mean_either(mbeir: Any, tmp_path: Path) -> None:
    """How many queries it has nobody has published, but its files say it."""
    from umekit.evaluation.report import MissingTaskError

    root, cases = mbeir
    settings = {"tasks": list(cases), "pools": ("local", "global")}
    arguments = (Stub(), load_benchmark("m-beir"), LocalData(root), tmp_path)
    whole, cut = (
        run_benchmark(*arguments, RunSettings(**settings, limit=limit))  # type: ignore[arg-type]
        for limit in (None, 2)
    )
    assert whole is not None
    assert cut is not None
    families = {score.family for score in whole.scores}
    assert {"task 4"} <= families & {mean.family for mean in whole.family_means()}
    assert cut.family_means() == []
    with pytest.raises(MissingTaskError, match=r"nights_task4/local \(2 of 3 queries\)"):
        cut.family_mean("task 4")


def test_both_pools_of_m_beir_have_a_mean(mbeir: Any, tmp_path: Path) -> None:
    root, cases = mbeir
    found = run_benchmark(
        Stub(),
        load_benchmark("m-beir"),
        LocalData(root),
        tmp_path,
        RunSettings(tasks=list(cases), pools=("local", "global")),
    )
    assert found is not None
    assert found.pool_means() == {}, "tasks are missing"
    run = {score.task for score in found.scores}
    more = [
        replace(score, task=task, metric=facts["metric"])
        for task, facts in found.complete.items()
        if task not in run
        for score in found.scores[:2]
    ]
    whole = replace(found, scores=[*found.scores, *more])
    means = {
        kind: np.mean([score.value for score in whole.scores if score.kind == kind])
        for kind in ("local", "global")
    }
    assert whole.mean() == pytest.approx(means["local"])
    assert whole.pool_means() == {"global": pytest.approx(means["global"])}
    assert f"| all tasks, global pool | {means['global']:.3f} |" in "\n".join(whole.extra_tables())


def test_what_is_drawn_does_not_depend_on_what_was_drawn_before(mmeb: Any, tmp_path: Path) -> None:
    """Or a run that goes on draws other thoughts than one that was never stopped; candidates are the same for all."""
    root, _ = mmeb
    drawn: dict[str, set[Any]] = {}

    class Drawing(Stub):
        def encode(self, items: Any, *, role: str | None = None, **options: Any) -> Any:
            drawn.setdefault(str(role), set()).add(options.get("seed"))
            return super().encode(items, role=role)

    for seed, queries in ((None, {0}), (7, {7})):
        drawn.clear()
        _run(Drawing(), root, tmp_path, ["CIRR"], num_samples=2, seed=seed)
        assert drawn == {"query": queries, "document": {0}}


def test_a_limit_gives_no_mean(mmeb: Any, tmp_path: Path) -> None:
    root, _ = mmeb
    report = _run(Stub(), root, tmp_path, ["CIRR"], limit=2)
    assert report.scores[0].n == 2
    assert "CIRR (2 of 1,000 queries)" in report.missing("image RET")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("last", [1, 5])
def test_a_killed_run_goes_on_to_the_same_report(last: int, mmeb: Any, tmp_path: Path) -> None:
    """By SIGKILL, which no code hears, in the first part of a task and in the middle of another."""
    root, _ = mmeb
    names = ["HatefulMemes", "CIRR", "ViDoRe_shiftproject"]
    arguments = (MMEB, LocalData(root), tmp_path / "killed", RunSettings(tasks=names))

    class Dying(Stub):
        calls = 0

        def encode(self, items: Any, **options: Any) -> Any:
            self.calls += 1
            if self.calls == last:
                os.kill(os.getpid(), signal.SIGKILL)
            return super().encode(items, **options)

    child = os.fork()
    if not child:
        try:
            run_benchmark(Dying(), *arguments, shard_size=2)
        finally:
            os._exit(1)
    assert os.WTERMSIG(_ended(child)) == signal.SIGKILL
    resumed = run_benchmark(rest := Stub(), *arguments, shard_size=2)
    whole = run_benchmark(
        every := Stub(), MMEB, LocalData(root), tmp_path / "whole", arguments[-1], shard_size=2
    )
    assert resumed is not None
    assert whole is not None
    assert 0 < rest.encoded <= every.encoded
    assert (rest.encoded < every.encoded) == (last > 1)
    for report in (resumed, whole):
        for cost in report.costs.values():
            cost.update(seconds=0, items_per_second=0)
    assert resumed.costs == whole.costs
    assert [one.to_dict() for one in resumed.scores] == [one.to_dict() for one in whole.scores]
    assert resumed.alarms == whole.alarms


def _ended(child: int, seconds: float = 300) -> int:
    """The child's status; it is killed where it does not end."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return status
        time.sleep(0.05)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    raise AssertionError(f"the child did not end in {seconds:.0f} s")


class LikesRight:
    """A reranker that knows the right candidates."""

    def __init__(self, right: set[str]) -> None:
        self.right, self.pairs = right, 0

    def rerank(self, query: Any, candidates: Any, **_: Any) -> Any:
        self.pairs += len(candidates)
        return np.array([float(one.get("image", "") in self.right) for one in candidates], dtype=np.float32)


def test_reranking_the_first_candidates(mmeb: Any, tmp_path: Path) -> None:
    root, cases = mmeb
    right = {str(case_pool[0]["image"]) for case_pool in cases["CIRR"].pools}
    reranker = LikesRight(right)
    arguments = (Stub(), MMEB, LocalData(root), tmp_path, RunSettings(tasks=["EDIS", "CIRR"]))
    plain = run_benchmark(*arguments)
    found = run_benchmark(*arguments, rerank=Fusing(reranker, "stub", depth=4, alpha=0.0))
    assert plain is not None
    assert found is not None
    assert found.conditions.settings["rerank"] == {"reranker": "stub", "depth": 4, "alpha": 0.0}
    assert found.costs["all pairs"]["items"] == reranker.pairs == 24
    again = run_benchmark(*arguments, rerank=Fusing(reranker, "stub", depth=4, alpha=0.0))
    assert again is not None
    assert reranker.pairs == 24, "the pairs' scores were kept"
    assert [one.value for one in again.scores] == [one.value for one in found.scores]
    # by hand: the gold is one of the reranker's favourites, of which as many as are shown tie
    for case, score in zip(
        (cases["CIRR"],), [one for one in found.scores if one.task == "CIRR"], strict=True
    ):
        wanted = [1.0 if sum(str(c["image"]) in right for c in pool) == 1 else 0.0 for pool in case.pools]
        assert score.query_values().tolist() == wanted


def test_levels_keep_the_others_behind() -> None:
    cosines = np.array([0.9, 0.8, 0.1, 0.85], dtype=np.float32)
    levels = Fusing(None, "x", depth=2, alpha=0.5).levels(cosines, np.array([0, 3]), [0.1, 0.9])
    assert np.argsort(-levels).tolist() == [3, 0, 1, 2]


def test_prompts_of_published_systems() -> None:
    """UME-R1's numbers have another wording than its README, and a blank picture before a text alone."""
    from umekit.encoding.presets import get_preset

    found = prompting("zhibinlan/UME-R1-2B", None)
    assert found is not None
    assert (found.preset, found.text) == ("ume-r1-evaluation", "joined")
    assert prompting(None, "ume-r1") == found
    assert prompting(None, "ume-r1-rl").preset == "ume-r1-rl"  # type: ignore[union-attr]
    assert prompting("somewhere/else", None) is None
    for model in ("ume-r1", "u-marvel", "qwen3-vl-embedding", "rzenembed", "lamra-ret", "vlm2vec-v2"):
        get_preset(prompting(None, model).preset)  # type: ignore[union-attr]


def test_the_command(mmeb: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root, _ = mmeb
    out = [tmp_path / f"{name}.json" for name in "ab"]
    call = ["evaluate", "--benchmark", "mmeb-v2", "--tasks", "CIRR", "--data", str(root), "--quiet"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert main([*call, "--out", str(out[0])]) == 0
        assert main([*call, "--out", str(out[0])]) == 2
        assert "give --resume" in capsys.readouterr().err
        assert main([*call, "--out", str(out[0]), "--resume"]) == 0
        assert main([*call, "--out", str(out[1]), "--text", "none"]) == 0
    report = load_report(out[0])
    assert isinstance(report, BenchmarkReport)
    assert report.conditions.command == "umekit evaluate mmeb-v2 --tasks CIRR"
    capsys.readouterr()
    assert main(["evaluate", "--diff", *map(str, out)]) == 0
    said = capsys.readouterr().out
    assert "settings.text: joined before, none after" in said
    assert "CIRR" in said
    picture = tmp_path / "p.png"
    assert main(["evaluate", "--table", *map(str, out), "--picture", str(picture)]) == 0
    assert "queries/s" in capsys.readouterr().out
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert main(["evaluate", "--oracle-of", *map(str, out), "--json"]) == 0
    both = json.loads(capsys.readouterr().out)["scores"][0]["value"]
    assert both == np.maximum(*(load_report(one).scores[0].query_values() for one in out)).mean()
    assert main(["evaluate", "--pass-of", "1", *map(str, out)]) == 2
    assert "different seeds" in capsys.readouterr().err
    for wrong in (["--tasks", "none"], ["--pool", "global"], ["--queries", "3"], ["--depth", "3"]):
        assert main([*call[:3], "--data", str(root), "--out", str(tmp_path / "c.json"), *wrong]) == 2
    layouts.lines(tmp_path / "x.jsonl", [])
