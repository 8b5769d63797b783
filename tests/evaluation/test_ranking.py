"""Ranks of anything relevant against plain loops, and metrics of ranks against libraries."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import ndcg_score

from umekit.evaluation import ranking
from umekit.evaluation.metrics import TieWarning
from umekit.evaluation.ranked import chance, parse_metric, per_query
from umekit.evaluation.ranking import ORDERS, rank, rank_scores, tie_line, top

METRICS = ("hit@1", "hit@3", "recall@3", "ndcg_linear@5", "map@5", "mrr@10")


def _problem(seed: int, coarse: bool) -> tuple[np.ndarray, np.ndarray, list[dict[int, float]]]:
    rng = np.random.default_rng(seed)
    draw = (
        (lambda *shape: rng.integers(-1, 2, shape)) if coarse else (lambda *shape: rng.standard_normal(shape))
    )
    queries, candidates = draw(7, 4).astype(np.float32), draw(30, 4).astype(np.float32)
    relevant = [
        {int(c): float(rng.integers(1, 4)) for c in rng.choice(30, rng.integers(1, 9), replace=False)}
        for _ in range(7)
    ]
    return queries, candidates, relevant


def _twin(scores: np.ndarray, right: dict[int, float], order: str) -> tuple[list[int], list[float]]:
    """Sort everything by hand."""
    tie = {
        "pessimistic": lambda c: right.get(c, 0.0),
        "optimistic": lambda c: -right.get(c, 0.0),
        "official": lambda c: c,
    }[order]
    ordered = sorted(range(len(scores)), key=lambda c: (-scores[c], tie(c)))
    found = [(ordered.index(c) + 1, gain) for c, gain in right.items()]
    return [place for place, _ in sorted(found)], [gain for _, gain in sorted(found)]


@pytest.mark.parametrize(("coarse", "blocks"), [(True, 7), (True, 1000), (False, 11)])
def test_ranks(coarse: bool, blocks: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranking, "CANDIDATES", blocks)
    monkeypatch.setattr(ranking, "QUERIES", 3)
    for seed in range(5):
        queries, candidates, relevant = _problem(seed, coarse)
        scores = queries @ candidates.T
        found, rows = rank(queries, candidates, relevant), rank_scores(list(scores), relevant)
        for number, order in itertools.product(range(7), ORDERS):
            places, gains = _twin(scores[number], relevant[number], order)
            for got in (found, rows):
                assert got.of(order)[0][number].tolist() == places
                if order != "official":
                    assert sorted(got.of(order)[1][number].tolist()) == sorted(gains)


def test_own_pools() -> None:
    queries, candidates, _ = _problem(0, True)
    pools = [np.array([4, 2, 9, 11]), *[np.array([1, 0, 7])] * 6]
    relevant = [{9: 1.0}, *[{1: 2.0, 7: 1.0}] * 6]
    found = rank(queries, candidates, relevant, pools)
    for number, pool in enumerate(pools):
        places = {int(c): at for at, c in enumerate(pool)}
        own = {places[c]: gain for c, gain in relevant[number].items()}
        scores = candidates[pool] @ queries[number]
        for order in ORDERS:
            assert found.of(order)[0][number].tolist() == _twin(scores, own, order)[0]


@pytest.mark.parametrize("metric", METRICS)
def test_a_constant_embedder_scores_at_chance_or_less(metric: str) -> None:
    """Trap: the gold is candidate 0 of every local pool, and a stable sort gives all-equal scores to it."""
    same, pools = np.ones((4, 3), dtype=np.float32), [np.arange(10)] * 4
    found = rank(same[:1].repeat(4, 0), np.ones((10, 3)), [{0: 1.0}] * 4, pools)
    value = {order: float(per_query(metric, *found.of(order)).mean()) for order in ORDERS}
    guess = chance(metric, np.full(4, 10), found.gains["pessimistic"])
    assert value["pessimistic"] <= guess < value["official"] == value["optimistic"] == 1.0
    with pytest.warns(TieWarning, match="as the official code sorts"):
        assert tie_line(found, value, "a task", metric)


def test_bf16_ties_do_not_lean_to_the_gold() -> None:
    """Trap: in bf16 scores that are less than 1/256 apart are equal; ours are float32."""
    rng = np.random.default_rng(0)
    queries = rng.standard_normal((20, 64)).astype(np.float32)
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    aside = rng.standard_normal((20, 64)).astype(np.float32)
    aside -= (aside * queries).sum(axis=1, keepdims=True) * queries
    aside /= np.linalg.norm(aside, axis=1, keepdims=True)
    # of each query a gold at a cosine of 0.8985 and another candidate at 0.8990, which is the better one
    golds, others = (c * queries + np.sqrt(1 - c * c) * aside for c in (0.8985, 0.8990))
    candidates = np.concatenate([golds, others]).astype(np.float32)
    pools = [np.array([number, 20 + number]) for number in range(20)]
    rounded = [(queries[n] @ candidates[pools[n]].T).astype(np.float32) for n in range(20)]
    assert all(torch.tensor(one).bfloat16().unique().numel() == 1 for one in rounded), "in bf16 they tie"
    found = rank(queries, candidates, [{number: 1.0} for number in range(20)], pools)
    for order in ORDERS:
        assert [one.tolist() for one in found.of(order)[0]] == [[2]] * 20, order


@pytest.mark.parametrize("blocks", [4, 1000])
def test_top(blocks: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranking, "CANDIDATES", blocks)
    queries, candidates, _ = _problem(3, True)
    found, values = top(queries, candidates, 6)
    scores = queries @ candidates.T
    assert np.array_equal(found, np.argsort(-scores, axis=1, kind="stable")[:, :6])
    assert np.array_equal(values, np.take_along_axis(scores, np.array(found), 1))


def _dense(seed: int) -> tuple[np.ndarray, np.ndarray, Any]:
    queries, candidates, relevant = _problem(seed, False)
    gains = np.zeros((7, 30))
    for number, right in enumerate(relevant):
        gains[number, list(right)] = list(right.values())
    return queries @ candidates.T, gains, rank(queries, candidates, relevant)


def test_ndcg_is_scikit_learns() -> None:
    scores, gains, found = _dense(1)
    ours = per_query("ndcg_linear@5", *found.of("pessimistic"))
    theirs = [ndcg_score(gains[i : i + 1], scores[i : i + 1], k=5) for i in range(7)]
    assert np.allclose(ours, theirs, atol=1e-9)


def test_the_others_are_pytrec_evals_and_circos() -> None:
    import pytrec_eval

    scores, gains, found = _dense(2)
    qrels = {str(i): {str(c): int(gains[i, c]) for c in np.flatnonzero(gains[i])} for i in range(7)}
    run = {str(i): {str(c): float(scores[i, c]) for c in range(30)} for i in range(7)}
    wanted = {"recall.3", "success.1,3", "recip_rank", "ndcg_cut.5"}
    theirs = pytrec_eval.RelevanceEvaluator(qrels, wanted).evaluate(run)
    names = {
        "recall@3": "recall_3",
        "hit@1": "success_1",
        "hit@3": "success_3",
        "ndcg_linear@5": "ndcg_cut_5",
    }
    for metric, name in {**names, "mrr@30": "recip_rank"}.items():
        ours = per_query(metric, *found.of("pessimistic"))
        assert np.allclose(ours, [theirs[str(i)][name] for i in range(7)], atol=1e-9), metric
    assert (gains > 0).sum(axis=1).max() > 5, "or the divisor is not seen"
    for number in range(7):  # eval_circo.py: precision at each hit, over min(ground truths, 5)
        hits = (gains[number][np.argsort(-scores[number])] > 0)[:5]
        wanted_map = ((np.cumsum(hits) * hits) / np.arange(1, 6)).sum() / min((gains[number] > 0).sum(), 5)
        assert per_query("map@5", *found.of("official"))[number] == pytest.approx(wanted_map, abs=1e-9)


@pytest.mark.parametrize("metric", METRICS)
def test_chance_is_the_mean_over_all_orders(metric: str) -> None:
    relevant = {0: 2.0, 1: 1.0}
    every = [
        rank_scores([np.array(order, dtype=np.float32)], [relevant])
        for order in itertools.permutations(range(6))
    ]
    mean = np.mean([per_query(metric, *one.of("pessimistic"))[0] for one in every])
    assert chance(metric, np.array([6]), every[0].gains["pessimistic"]) == pytest.approx(mean, abs=1e-12)


def test_wrong_metrics_and_vectors_are_named() -> None:
    for name in ("hit", "hit@0", "accuracy@1", "ndcg@5"):
        with pytest.raises(ValueError, match="no metric"):
            parse_metric(name)
    with pytest.raises(ValueError, match="finite"):
        rank([[np.nan, 1.0]], [[1.0, 0.0]], [{0: 1.0}])


def test_gains_of_any_size() -> None:
    """trec_eval takes whole ones alone, and memory for each up to the highest."""
    ranks = [np.array([1, 4]), np.array([2])]
    for gains in ([np.array([0.5, 2.5]), np.array([0.25])], [np.array([1.0, 1e9]), np.array([3.0])]):
        discount = 1 / np.log2(np.array([2, 5]))
        ideal = np.sort(gains[0])[::-1] @ (1 / np.log2([2, 3]))
        wanted = [gains[0] @ discount / ideal, 1 / np.log2(3)]
        assert per_query("ndcg_linear@5", ranks, gains) == pytest.approx(wanted, abs=1e-9)
        assert per_query("recall@3", ranks, gains) == pytest.approx([0.5, 1.0])
