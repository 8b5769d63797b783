"""Metric modules: loadable by their path, and equal to scikit-learn and pytrec_eval."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import label_ranking_average_precision_score, ndcg_score

from umekit.evaluation import rows
from umekit.evaluation.metric_modules import NAMES, metric_path

RNG = np.random.default_rng(0)
SCORES = RNG.standard_normal((6, 12)).astype(np.float32)
GAINS = np.where(RNG.random((6, 12)) < 0.3, RNG.integers(1, 4, (6, 12)), 0).astype(np.float32)
GAINS[:, 0] = 1


def _value(name: str, **options: object) -> float:
    """By ``evaluate`` where it is installed."""
    evaluate = pytest.importorskip("evaluate")
    found = evaluate.load(metric_path(name)).compute(predictions=SCORES, references=GAINS, **options)
    return float(found[name])


def test_there_is_a_module_of_each_name() -> None:
    for name in NAMES:
        assert (Path(metric_path(name)) / f"{name}.py").is_file()
    with pytest.raises(ValueError, match="no metric"):
        metric_path("accuracy")


@pytest.mark.parametrize("k", [1, 3, 5])
def test_ranked_metrics_are_those_of_libraries(k: int) -> None:
    import pytrec_eval

    qrels = {str(i): {str(c): int(GAINS[i, c]) for c in np.flatnonzero(GAINS[i])} for i in range(6)}
    run = {str(i): {str(c): float(SCORES[i, c]) for c in range(12)} for i in range(6)}
    theirs = pytrec_eval.RelevanceEvaluator(qrels, {f"recall.{k}", f"success.{k}", "recip_rank"}).evaluate(
        run
    )

    def mean(name: str) -> float:
        return float(np.mean([one[name] for one in theirs.values()]))

    wanted = {
        "hit": mean(f"success_{k}"),
        "recall": mean(f"recall_{k}"),
        "ndcg_linear": ndcg_score(GAINS, SCORES, k=k),
    }
    for kind, value in wanted.items():
        assert rows.ranked(kind, k, SCORES, GAINS, "pessimistic") == pytest.approx(value, abs=1e-9), kind
    # of the whole ranking CIRCO's mAP@k is the mean average precision of everybody
    every = label_ranking_average_precision_score(GAINS > 0, SCORES)
    assert rows.ranked("map", 12, SCORES, GAINS, "pessimistic") == pytest.approx(every, abs=1e-9)
    assert rows.ranked("mrr", 100, SCORES, GAINS, "pessimistic") == pytest.approx(
        mean("recip_rank"), abs=1e-9
    )


def test_modules_load_and_compute_the_same() -> None:
    for name, kind in (
        ("hit_at_k", "hit"),
        ("recall_at_k", "recall"),
        ("ndcg_at_k", "ndcg_linear"),
        ("map_at_k", "map"),
    ):
        assert _value(name, k=3) == pytest.approx(
            rows.ranked(kind, 3, SCORES, GAINS, "pessimistic"), abs=1e-9
        )
    assert _value("mrr") == pytest.approx(rows.ranked("mrr", 1000, SCORES, GAINS, "pessimistic"), abs=1e-9)
    evaluate = pytest.importorskip("evaluate")
    answers = {"predictions": [["a", "b", "a"], ["c", "c", "c"]], "references": ["a", "a"]}
    assert evaluate.load(metric_path("pass_at_k")).compute(**answers, k=2)["pass_at_k"] == pytest.approx(0.5)
    assert evaluate.load(metric_path("oracle")).compute(**answers)["oracle"] == pytest.approx(0.5)


def test_samples_and_ties() -> None:
    assert rows.pass_at(1, [["a", "b"], ["a", "a"]], ["a", "a"]) == pytest.approx(0.75)
    assert rows.any_right([["a"], ["b"]], ["a", "a"]) == 0.5
    tie = ([[1.0, 1.0]], [[1.0, 0.0]])
    assert [rows.ranked("hit", 1, *tie, order) for order in ("pessimistic", "optimistic", "official")] == [
        0,
        1,
        1,
    ]
    for bad in (([[1.0]], [[1.0, 0.0]]), ([[1.0, 2.0]], [[0.0, 0.0]])):
        with pytest.raises(ValueError, match="query 0"):
            rows.ranked("hit", 1, *bad, "pessimistic")
    with pytest.raises(ValueError, match="samples"):
        rows.pass_at(1, [["a"], ["a", "b"]], ["a", "a"])


def test_nothing_to_score_and_gains_that_are_no_numbers() -> None:
    with pytest.raises(ValueError, match="no queries"):
        rows.ranked("hit", 1, [], [], "pessimistic")
    with pytest.raises(ValueError, match="query 0: a gain is not finite"):
        rows.ranked("ndcg_linear", 5, [[1.0, 0.5]], [[1.0, float("nan")]], "pessimistic")
