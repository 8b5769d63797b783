"""A benchmark's tasks after reranking: against everything sorted by hand; and which pairs' scores are kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from umekit.evaluation.benchmarks import LocalData, load_benchmark, reranking, run_benchmark
from umekit.evaluation.benchmarks.problem import Entry, Problem
from umekit.evaluation.benchmarks.reranking import reranked
from umekit.evaluation.benchmarks.run import RunSettings
from umekit.evaluation.benchmarks.scoring import score_problem, without_failures
from umekit.evaluation.benchmarks.wording import Words
from umekit.evaluation.fusing import Fusing
from umekit.evaluation.ranking import ORDERS

MBEIR = load_benchmark("m-beir")
pytestmark = pytest.mark.filterwarnings("ignore::umekit.evaluation.metrics.TieWarning")


class Reranker:
    """Scores by a function of both texts; weights are a number."""

    def __init__(self, score: Any, weights: int = 0) -> None:
        self.score, self.weights, self.pairs = score, weights, 0

    def fingerprint(self) -> dict[str, Any]:
        return {"model": str(self.weights)}

    def rerank(self, query: Any, candidates: Any, **_: Any) -> Any:
        self.pairs += len(candidates)
        return np.array([self.score(query, one) for one in candidates], dtype=np.float32)


def _problem(
    relevant: list[dict[int, float]], count: int, pools: Any = None, task: str = "cirr_task7"
) -> Problem:
    def entries(name: str, many: int) -> list[Entry]:
        return [Entry(f"{name}{one}", Words(f"{name}{one}")) for one in range(many)]

    return Problem(MBEIR.chosen([task])[0], entries("q", len(relevant)), entries("c", count), relevant, pools)


@pytest.mark.parametrize("local", [False, True])
@pytest.mark.parametrize("depth", [3, 12, 40])
def test_ranks_are_those_of_everything_sorted(
    local: bool, depth: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reranking, "CANDIDATES", 7)
    rng = np.random.default_rng(depth)
    vectors = {"queries": rng.integers(-1, 2, (9, 3)), "candidates": rng.integers(-1, 2, (30, 3))}
    queries, candidates = (one.astype(np.float32) for one in vectors.values())
    relevant = [{int(c): 1.0 for c in rng.choice(15, rng.integers(1, 5), replace=False)} for _ in range(9)]
    pools = [rng.permutation(np.arange(15 + n)).astype(np.int64) for n in range(9)] if local else None
    noise = rng.integers(0, 4, (9, 30)) / 8
    left = without_failures(_problem(relevant, 30, pools), queries, candidates)
    assert left is not None
    score = Reranker(lambda query, one: noise[int(query["text"][1:]), int(one["text"][1:])])
    found = reranked(left, Fusing(score, "r", depth, 0.5), "separate")
    for number, right in enumerate(relevant):
        pool = np.arange(30) if pools is None else pools[number]
        cosines = candidates[pool] @ queries[number]
        own = [int(one) in right for one in pool]
        reach = np.lexsort((own, -cosines))[:depth]
        fused = np.full(len(pool), -np.inf)
        fused[reach] = 0.5 * cosines[reach] + 0.5 * noise[number, pool[reach]]
        order = np.lexsort((own, -cosines, -fused))
        order = np.concatenate(
            [reach[np.lexsort((np.array(own)[reach], -fused[reach]))], order[len(reach) :]]
        )
        wanted = [place + 1 for place, at in enumerate(order) if own[at]]
        assert found.ranks.of("pessimistic")[0][number].tolist() == wanted, number
        for rank in ORDERS:
            places = found.ranks.of(rank)[0][number]
            assert len(set(places.tolist())) == len(right)
            assert (places <= len(reach)).sum() == sum(own[place] for place in reach), "others stay behind"
            assert (places <= found.ranks.pessimistic[number]).all()
        assert np.array_equal(np.sort(pool[reach]), np.sort(found.first[number]))


def test_a_constant_embedder_hands_no_gold_to_a_reranker(mmeb: Any, tmp_path: Path) -> None:
    """In MMEB the gold stands first: by the order of equal scores it would always be among those ranked again."""
    from test_benchmark_traps import Stub

    root, cases = mmeb
    right = {str(pool[0]["image"]) for pool in cases["CIRR"].pools}
    same = Stub(lambda *_: np.full(8, 8**-0.5, dtype=np.float32))
    found = run_benchmark(
        same,
        load_benchmark("mmeb-v2"),
        LocalData(root),
        tmp_path,
        RunSettings(tasks=["CIRR"]),
        rerank=Fusing(Reranker(lambda _, one: float(one["image"] in right)), "knows", depth=2, alpha=0.0),
    )
    assert found is not None
    assert found.scores[0].value == 0
    assert any("ties decide what the reranker sees" in alarm for alarm in found.alarms)


def test_the_share_of_wrong_modality_is_of_the_reranked_order() -> None:
    problem = _problem([{0: 1.0}], 10)
    problem.wanted, problem.modalities = "image", ["image"] * 5 + ["text"] * 5
    queries = np.array([[1.0, 0.0]], dtype=np.float32)
    angles = np.linspace(0.1, 1.0, 10)[::-1]  # those of text come first
    candidates = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    left = without_failures(problem, queries, candidates)
    assert left is not None
    likes = Reranker(lambda _, one: float(int(one["text"][1:]) < 5))
    for depth, wanted in ((10, 0.0), (6, 0.8), (2, 1.0)):
        found = reranked(left, Fusing(likes, "r", depth, 0.0), "separate")
        score, _ = score_problem(problem, queries, candidates, ranks=found.ranks, first=found.first)
        assert score.wrong_modality == pytest.approx(wanted), depth
    assert score_problem(problem, queries, candidates)[0].wrong_modality == 1.0


def test_pairs_are_scored_again_by_another_reranker_or_of_other_media(tmp_path: Path) -> None:
    """Not by the name of a folder, whose weights may be others, nor by the name of a picture."""
    import layouts
    from test_benchmark_traps import Stub

    layouts.MMEB_V2["CIRR"](tmp_path / "data")
    blind = Stub(lambda item, role: Stub()._row({**item, "image": Path(item["image"]).name}, role))

    def run(reranker: Reranker, alpha: float = 0.0) -> Any:
        found = run_benchmark(
            blind,
            load_benchmark("mmeb-v2"),
            LocalData(tmp_path / "data"),
            tmp_path / "work",
            RunSettings(tasks=["CIRR"]),
            rerank=Fusing(reranker, "the same name", depth=4, alpha=alpha),
        )
        assert found is not None
        return found

    first, again, other = Reranker(lambda *_: 0.5), Reranker(lambda *_: 0.5), Reranker(lambda *_: 0.5, 1)
    before = run(first)
    run(again)
    run(again, alpha=0.5)  # scores are fused by another share, and are the same scores
    assert (again.pairs, first.pairs > 0) == (0, True)
    assert run(other).conditions.settings["rerank"]["fingerprint"] == {"model": "1"}
    assert other.pairs == first.pairs
    picture = next((tmp_path / "data").rglob("*.jpg"), None) or next((tmp_path / "data").rglob("*.png"))
    layouts.picture(picture, 12345)
    with pytest.warns(UserWarning, match="other content"):
        after = run(last := Reranker(lambda *_: 0.5, 1))
    assert last.pairs == first.pairs
    assert after.scores[0].revision != before.scores[0].revision
