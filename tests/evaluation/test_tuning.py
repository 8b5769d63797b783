"""The share of the recall score: against plain NumPy, at its ends, and from rows of both kinds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from umekit.encoding.inputs.records import open_records
from umekit.encoding.storage.ownership import ForeignFileError
from umekit.evaluation.tuning import ALPHAS, Judged, Tuning, tune
from umekit.evaluation.tuning_data import scored_cases
from umekit.evaluation.tuning_file import draw_tuning, save_tuning


def cases(seed: int = 0, count: int = 120, size: int = 12) -> list[Judged]:
    """Task ``near`` is told by recall, task ``far`` by the reranker; a tenth of the positives is not recalled."""
    rng = np.random.default_rng(seed)
    made = []
    for number in range(count):
        relevant = np.zeros(size, dtype=bool)
        if number % 10:
            relevant[rng.integers(size)] = True
        task = ("near", "far")[number % 2]
        good, bad = relevant + rng.normal(scale=0.4, size=size), rng.normal(size=size)
        scores = (good, bad) if task == "near" else (bad, good)
        recall, rerank = (np.round(one, 1).astype(np.float32) for one in scores)  # with ties
        made.append(Judged(task, recall, rerank, relevant, 1 + number % 3 // 2 * bool(number % 10)))
    return made


def hit_at_1(case: Judged, alpha: float, depth: int) -> float:
    """In plain NumPy; a tie counts against the cascade."""
    order = np.argsort(-case.recall, kind="stable")[:depth]
    fused = (alpha * case.recall.astype(np.float64) + (1 - alpha) * case.rerank.astype(np.float64))[order]
    fused = fused.astype(np.float32)
    return float(case.relevant[order][fused == fused.max()].all())


def test_curves_and_choice_are_those_of_plain_numpy() -> None:
    given = cases()
    found = tune(iter(given), depths=(3, 12), min_queries=10)
    assert found.queries == {"near": 60, "far": 60}
    for place, depth in enumerate(found.depths):
        for task, curve in found.curves.items():
            own = [case for case in given if case.task == task]
            wanted = [np.mean([hit_at_1(case, alpha, depth) for case in own]) for alpha in ALPHAS]
            assert curve[place] == pytest.approx(wanted)
    best = {depth: np.mean([max(curve[place]) for curve in found.curves.values()])
            for place, depth in enumerate(found.depths)}  # fmt: skip
    assert found.depth == (3 if best[3] >= best[12] else 12) == 12
    for task, alpha in found.tasks.items():
        curve = found.curves[task][1]
        equal = [one for one, value in zip(ALPHAS, curve, strict=True) if value == max(curve)]
        assert alpha == min(equal, key=lambda one: abs(one - 0.5))
        assert found.value(task, alpha) == max(curve)
    assert found.tasks["near"] > 0.5 > found.tasks["far"]
    mean = np.mean([curve[1] for curve in found.curves.values()], axis=0)
    assert mean[ALPHAS.index(found.alpha)] == mean.max()
    assert found.fusion.alpha_of("near") == found.tasks["near"]
    assert found.fusion.alpha_of("unknown") == found.alpha
    headers, rows = found.rows()
    assert headers == [
        "task",
        "queries",
        "alpha",
        "whose",
        "hit@1",
        "recall alone",
        "reranker alone",
        "alpha 0.5",
    ]
    assert rows[0][:4] == ["near", 60, found.tasks["near"], "own"]
    assert rows[0][5] == pytest.approx(found.curves["near"][1][-1])


def test_several_positives_and_those_that_were_not_recalled_count() -> None:
    recall, rerank = np.float32([0.9, 0.8, 0.1]), np.float32([0.0, 1.0, 0.9])
    case = Judged(None, recall, rerank, np.array([False, True, True]), 4)
    found = tune([case], metric="map@3", alphas=(0.0, 1.0), depths=(3,))
    # average precision over min(4, 3): reranked the positives are 1st and 2nd, recalled 2nd and 3rd
    assert found.curves[""] == [[pytest.approx(2 / 3), pytest.approx((1 / 2 + 2 / 3) / 3)]]
    assert found.tasks == {}
    assert found.alpha == 0.0
    # At depth 2 the third keeps its place behind, whatever the reranker says of it.
    assert tune([case], metric="mrr@3", alphas=(0.0, 1.0), depths=(1, 2)).curves[""] == [
        [0.5, 0.5],
        [1.0, 0.5],
    ]


def test_a_small_task_has_no_share_of_its_own_and_slack_takes_a_smaller_depth() -> None:
    few = [case for number, case in enumerate(cases()) if case.task == "near" or number < 40]
    found = tune(few, depths=(3, 12))
    assert list(found.tasks) == ["near"]
    assert found.rows()[1][1][2:4] == [found.alpha, "of all"]
    assert tune(cases(), depths=(3, 12), depth_slack=0.9).depth == 3


def test_equal_alphas_take_the_one_nearest_to_a_half() -> None:
    flat = [Judged("t", np.float32([1, 0]), np.float32([1, 0]), np.array([True, False]), 1)] * 60
    found = tune(flat)
    assert (found.alpha, found.tasks, found.depth) == (0.5, {"t": 0.5}, 50)


def test_what_cannot_be_tuned_is_said() -> None:
    lost = Judged("t", np.float32([1, 0]), np.float32([1, 0]), np.array([False, False]), 1)
    with pytest.raises(ValueError, match="do their ids match"):
        tune([lost] * 60)
    with pytest.raises(ValueError, match="without queries"):
        tune([])
    for wrong in ({"alphas": ()}, {"depths": (0,)}, {"min_queries": 0}, {"depth_slack": 1.0}):
        with pytest.raises(ValueError, match="1 or more"):
            tune(cases(), **wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="from 0 to 1"):
        tune(cases(), alphas=(0.5, 1.5))
    with pytest.raises(ValueError, match="no metric"):
        tune(cases(), metric="accuracy")
    with pytest.raises(ValueError, match="not finite"):
        Judged("t", np.float32([np.nan]), np.float32([0]), np.array([True]), 1)
    with pytest.raises(ValueError, match="1 positives, and 2"):
        Judged("t", np.float32([1, 0]), np.float32([1, 0]), np.array([True, True]), 1)


def test_scored_rows_say_what_is_right_by_content_or_id(tmp_path: Path) -> None:
    row: dict[str, Any] = {
        "query": {"text": "q"}, "positive": {"text": "p", "image": None}, "positive_id": "p",
        "positive_ids": ["p", "other"], "task": "t", "recall_scores": [0.5, 0.9, 0.1],
        "rerank_scores": [0.9, 0.1, 0.0], "candidate_ids": ["x", "other", "z"],
        "candidates": [{"text": "p"}, {"text": "o"}, {"text": "n"}],
    }  # fmt: skip
    missed = {**row, "candidates": [{"text": "a"}], "candidate_ids": [None], "positive_ids": None,
              "recall_scores": [0.5], "rerank_scores": [0.5]}  # fmt: skip
    found = list(scored_cases(open_records([row, missed])))
    assert found[0].relevant.tolist() == [True, True, False]
    assert (found[0].positives, found[0].task) == (2, "t")
    assert (found[1].relevant.tolist(), found[1].positives) == ([False], 1)
    with pytest.raises(ValueError, match=r"row 1.*no 'rerank_scores'"):
        list(scored_cases(open_records([row, {k: v for k, v in row.items() if k != "rerank_scores"}])))
    with pytest.raises(ValueError, match="both scores"):
        list(scored_cases(open_records([{**row, "rerank_scores": [0.5]}])))


def test_file_and_picture(tmp_path: Path) -> None:
    found = tune(cases(), depths=(3, 12))
    save_tuning(found, tmp_path / "tuning.json", {"rows": "r"}, {"embedder": {"model": "m"}})
    block = json.loads((tmp_path / "tuning.json").read_text())
    fields = Tuning.__dataclass_fields__
    assert Tuning(**{name: block[name] for name in fields}) == found
    assert (block["kind"], block["fingerprints"]) == ("umekit-tuning", {"embedder": {"model": "m"}})
    pytest.importorskip("matplotlib")
    draw_tuning(found, tmp_path / "tuning.png")
    assert (tmp_path / "tuning.png").read_bytes().startswith(b"\x89PNG")
    (tmp_path / "tuning.json").write_text("{}")
    with pytest.raises(ForeignFileError):
        save_tuning(found, tmp_path / "tuning.json", {}, {})
