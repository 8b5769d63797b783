"""Metrics, DigitWorld's scores and tables: an oracle, a random and a constant encoder as known answers."""

from __future__ import annotations

import doctest
import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("sklearn")

import umekit
from umekit.cli.main import main
from umekit.evaluation import metrics
from umekit.evaluation.digit_world import TASKS, DigitWorld
from umekit.evaluation.digit_world.evaluate import definitions_sha256, kinds_of, score_digit_world
from umekit.evaluation.digit_world.report import DigitWorldReport, DigitWorldScore
from umekit.evaluation.metrics import TieWarning
from umekit.evaluation.report import MissingTaskError
from umekit.evaluation.results import load_report, save_report
from umekit.evaluation.score import ResultFormatError
from umekit.evaluation.tables import END, START, MarkerError, markdown_table, replace_block

QUERIES, SIZE = 24, 16


def content(item: dict[str, Any]) -> str:
    """What an item shows and asks, as a key."""
    digest = hashlib.sha256()
    for name in sorted(item):
        parts = item[name] if isinstance(item[name], list) else [item[name]]
        for part in parts:
            digest.update(name.encode() + (part.encode() if isinstance(part, str) else part.tobytes()))
    return digest.hexdigest()


def direction(word: str) -> np.ndarray:
    seed = int(hashlib.sha256(word.encode()).hexdigest()[:12], 16)
    vector = np.random.default_rng(seed).normal(size=32)
    return vector / np.linalg.norm(vector)


class Guesser:
    """A random vector for every content."""

    def __init__(self) -> None:
        self.calls: list[tuple[str | None, int]] = []

    def __repr__(self) -> str:
        return type(self).__name__

    def fingerprint(self) -> dict[str, Any]:
        return {"model": "a" * 64, "processor": "b" * 64, "dim": 32}

    def encode(self, items: Any, *, role: str | None = None, show_progress: bool | None = None) -> np.ndarray:
        self.calls.append((role, len(items)))
        return np.array([self.vector(item) for item in items], dtype=np.float32)

    def vector(self, item: dict[str, Any]) -> np.ndarray:
        return direction(content(item))


class Oracle(Guesser):
    """The vector of an item's meaning, where the item stands in a pool; else a random one."""

    def __init__(self, tasks: list[str], queries: int = QUERIES, size: int = SIZE) -> None:
        super().__init__()
        self.meanings: dict[str, str] = {}
        world = DigitWorld("test", 0)
        for task in tasks:
            for kind in kinds_of(TASKS[task]):
                for pool in world.pools(task, queries, size, "hard" if kind == "hard" else "random"):
                    for item, name in zip(pool.candidates, pool.candidate_ids, strict=True):
                        self.meanings[content(item)] = name
                    for item, place in zip(pool.queries, pool.positives, strict=True):
                        self.meanings[content(item)] = pool.candidate_ids[place]

    def vector(self, item: dict[str, Any]) -> np.ndarray:
        return direction(self.meanings.get(content(item), content(item)))


class Constant(Guesser):
    def vector(self, item: dict[str, Any]) -> np.ndarray:
        return direction("always the same")


def score(encoder: Any, tasks: list[str], **options: Any) -> DigitWorldReport:
    return score_digit_world(encoder, tasks, QUERIES, SIZE, progress=False, **options)


# --- metrics ------------------------------------------------------------------------------------------------


def test_ties_count_against_the_model() -> None:
    scores = np.zeros((3, 400))
    assert metrics.ranks(scores, [0, 7, 399]).tolist() == [400] * 3
    assert metrics.ranks(scores, [0, 7, 399], "optimistic").tolist() == [1] * 3
    with pytest.warns(TieWarning, match=r"0\.0000 if they count against"):
        metrics.warn_of_ties(
            metrics.ranks(scores, [0] * 3), metrics.ranks(scores, [0] * 3, "optimistic"), "x"
        )


def test_equal_vectors_tie_wherever_they_stand() -> None:
    rng = np.random.default_rng(0)
    queries, one = rng.normal(size=(50, 193)), rng.normal(size=193)
    scores = metrics.similarity(queries, np.repeat(one[None], 401, axis=0))
    assert scores.dtype == np.float32
    assert (scores == scores[:, :1]).all()


def test_several_positives() -> None:
    scores = np.array([[0.9, 0.8, 0.8, 0.1], [0.1, 0.2, 0.3, 0.4]])
    relevance = np.array([[0, 1, 0, 1], [2, 0, 0, 1]])
    low, high = (metrics.candidate_ranks(scores, relevance, ties) for ties in ("pessimistic", "optimistic"))
    assert low.tolist() == [[1, 3, 2, 4], [4, 3, 2, 1]]
    assert high.tolist() == [[1, 2, 3, 4], [4, 3, 2, 1]]
    first = metrics.first_ranks(low, relevance)
    assert first.tolist() == [3, 1]
    assert (metrics.hit_at_k(first, 1), metrics.hit_at_k(first, 3)) == (0.5, 1.0)
    assert metrics.recall_at_k(low, relevance, 3) == 0.5
    assert metrics.mrr(first) == pytest.approx((1 / 3 + 1) / 2)
    assert metrics.mrr(first, k=2) == 0.5


def test_ndcg_is_linear_and_pessimistic() -> None:
    scores, relevance = np.array([[0.5, 0.5, 0.1]]), np.array([[2, 0, 1]])
    gain = 2 / np.log2(3) + 1 / np.log2(4)
    assert metrics.ndcg_at_k(scores, relevance, 3) == pytest.approx(gain / (2 + 1 / np.log2(3)))
    assert metrics.ndcg_at_k(scores, relevance, 3, "optimistic") == pytest.approx(
        (2 + 1 / np.log2(4)) / (2 + 1 / np.log2(3))
    )
    assert metrics.ndcg_at_k(np.zeros((4, 50)), np.eye(4, 50), 5) == 0


def test_the_documented_examples() -> None:
    assert doctest.testmod(metrics).failed == 0


def test_single_and_general_ranks_agree() -> None:
    rng = np.random.default_rng(1)
    scores, positives = rng.integers(0, 6, (200, 9)) / 7, rng.integers(0, 9, 200)
    relevance = np.eye(9)[positives]
    for ties in ("pessimistic", "optimistic"):
        every = metrics.candidate_ranks(scores, relevance, ties)
        assert (metrics.first_ranks(every, relevance) == metrics.ranks(scores, positives, ties)).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: metrics.ranks([[np.nan, 1]], [0]), "finite"),
        (lambda: metrics.ranks([[0, 1]], [2]), "column"),
        (lambda: metrics.candidate_ranks([[0, 1]], [[0, 0]]), "needs a positive"),
        (lambda: metrics.hit_at_k([]), "no queries"),
        (lambda: metrics.wilson_lower_bound(3, 2), "no share"),
        (lambda: metrics.paired_bootstrap([1], [1, 2]), "same queries"),
    ],
)
def test_what_cannot_be_scored_raises(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_bounds_hold_in_simulation() -> None:
    rng = np.random.default_rng(0)
    found = rng.binomial(200, 0.9, 4000)
    held = np.mean([metrics.wilson_lower_bound(int(correct), 200) <= 0.9 for correct in found])
    assert 0.985 <= held <= 0.998
    assert metrics.wilson_lower_bound(0, 50) == 0
    assert 0.9 < metrics.wilson_lower_bound(100, 100) < 1


def test_paired_bootstrap() -> None:
    rng = np.random.default_rng(0)
    theirs = rng.random(2000) < 0.5
    ours = theirs | (rng.random(2000) < 0.06)
    better = metrics.paired_bootstrap(ours, theirs, resamples=2000)
    assert better.low < better.difference < better.high
    assert better.excludes_zero
    assert not metrics.paired_bootstrap(theirs, rng.permutation(theirs), resamples=2000).excludes_zero


# --- DigitWorld ---------------------------------------------------------------------------------------------


def test_the_oracle_is_perfect_and_steps_add_up() -> None:
    tasks = ["retrieve_caption", "retrieve_clip", "ground_cell", "walk", "sum"]
    encoder = Oracle(tasks)
    report = score(encoder, tasks)
    kinds = [(one.task, one.kind) for one in report.scores]
    assert set(kinds) == {(task, kind) for task in tasks for kind in kinds_of(TASKS[task])}
    for one in report.scores:
        assert one.value == 1 == one.query_values().mean()
        assert one.n >= QUERIES
        assert one.lower_bound > one.baseline
        assert one.chance == 1 / one.candidates
    assert not report.alarms
    walk = report.score("walk", "labels")
    assert isinstance(walk, DigitWorldScore)
    assert sum(share.queries for share in walk.by_steps.values()) == walk.n
    assert walk.candidates == 72
    retrieval = report.score("retrieve_caption", "hard")
    assert isinstance(retrieval, DigitWorldScore)
    assert (retrieval.by_steps, retrieval.pools, retrieval.candidates) == ({}, 2, SIZE)
    assert {role for role, _ in encoder.calls} == {"query", "document"}


def test_guessing_is_called_guessing() -> None:
    report = score(Guesser(), ["walk", "retrieve_page"])
    assert all(one.at_chance for one in report.scores)
    assert sum("at chance" in alarm for alarm in report.alarms) == len(report.scores) == 3
    assert "at chance: walk (labels)" in markdown_table(report)


def test_a_constant_encoder_scores_nothing() -> None:
    with pytest.warns(TieWarning):
        report = score(Constant(), ["retrieve_caption"], kinds=("random",))
    assert report.scores[0].correct == 0
    assert report.scores[0].optimistic == report.scores[0].n
    assert any("ties decide" in alarm for alarm in report.alarms)


def test_blind_controls() -> None:
    tasks = ["until_gold", "classify_parity"]
    encoder = Oracle(tasks)
    report = score(encoder, tasks, blind=True)
    gold, parity = report.score("until_gold", "labels"), report.score("classify_parity", "labels")
    assert isinstance(gold, DigitWorldScore)
    assert isinstance(parity, DigitWorldScore)
    assert gold.question_only is not None
    assert gold.media_only is not None
    assert gold.question_only.value < 0.6
    assert parity.question_only is None
    assert gold.baseline >= max(gold.question_only.value, gold.majority)
    asked = [count for role, count in encoder.calls if role == "query"]
    assert min(asked) <= 9  # nine wordings, each encoded once
    assert "question only" in markdown_table(report)


def test_a_blind_answer_raises_the_baseline() -> None:
    encoder = Oracle(["qa_where"])
    world = DigitWorld("test", 0)
    for pool in world.pools("qa_where", QUERIES, SIZE):
        for item, place in zip(pool.queries, pool.positives, strict=True):
            bare = {name: value for name, value in item.items() if name != "image"}
            encoder.meanings[content(bare)] = pool.candidate_ids[place]
    one = score(encoder, ["qa_where"], blind=True).scores[0]
    assert one.question_only is not None
    assert one.baseline == one.question_only.value > one.majority


@pytest.mark.parametrize("rows", ["zero", "nan", "short"])
def test_bad_vectors_raise(rows: str) -> None:
    class Broken(Guesser):
        def encode(self, items: Any, **options: Any) -> np.ndarray:
            vectors = super().encode(items, **options)
            return {"zero": vectors * 0, "nan": vectors * np.nan, "short": vectors[1:]}[rows]

    with pytest.raises(ValueError, match=r"not finite and of length 1|gave vectors of shape"):
        score(Broken(), ["sum"])


def test_unknown_names_raise() -> None:
    with pytest.raises(ValueError, match="unknown tasks"):
        score(Guesser(), ["hop"])
    with pytest.raises(ValueError, match="unknown kinds"):
        score(Guesser(), ["walk"], kinds=("easy",))
    with pytest.raises(ValueError, match="nothing to score"):
        score(Guesser(), ["ground_cell"], kinds=("hard",))


# --- reports ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def report() -> DigitWorldReport:
    return score(Oracle(["walk", "sum", "retrieve_caption"]), ["walk", "sum", "retrieve_caption"])


def test_round_trip(report: DigitWorldReport, tmp_path: Path) -> None:
    save_report(report, tmp_path / "r.json")
    again = load_report(tmp_path / "r.json")
    assert again == report
    assert again.conditions.data["definitions"] == definitions_sha256()
    block = json.loads((tmp_path / "r.json").read_text())
    assert {"python", "umekit", "torch", "transformers"} <= set(block["versions"]) | {"umekit"}
    assert block["machine"]


@pytest.mark.parametrize("change", ["rate", "count", "hits", "schema", "kind", "entry"])
def test_an_edited_file_is_refused(report: DigitWorldReport, tmp_path: Path, change: str) -> None:
    block = json.loads(json.dumps(report.to_dict()))
    first = block["scores"][0]
    edits = {
        "rate": (first, "recall_at_1", 0.5),
        "count": (first, "correct", 1),
        "hits": (first, "hits", "AAAA"),
    }
    edits |= {"schema": (block, "schema", 99), "kind": (block, "kind", "x"), "entry": (first, "extra", 1)}
    target, name, value = edits[change]
    target[name] = value
    (tmp_path / "r.json").write_text(json.dumps(block))
    with pytest.raises(ResultFormatError):
        load_report(tmp_path / "r.json")


def test_means_refuse_what_is_incomplete(report: DigitWorldReport) -> None:
    assert report.family_mean("walk").value == 1
    with pytest.raises(MissingTaskError, match="retrieve_scene/random"):
        report.family_mean("image_retrieval")
    with pytest.raises(MissingTaskError):
        report.mean()
    assert [mean.family for mean in report.family_means()] == ["walk", "sum"]
    text = markdown_table(report)
    assert "Not run, hence in no mean" in text
    assert "all families" not in text


def test_a_complete_report_has_a_mean(report: DigitWorldReport) -> None:
    one = report.scores[0]
    scores = [
        replace(one, task=task.name, family=task.family, kind=kind)
        for task in TASKS.values()
        for kind in kinds_of(task)
    ]
    whole = replace(report, scores=scores)
    assert not whole.missing()
    assert whole.mean() == pytest.approx(one.value)
    text = markdown_table(whole)
    assert "**all families**" in text
    assert whole.conditions.data["definitions"][:12] in text


def test_the_block_of_a_readme() -> None:
    text = f"# a\n\n{START}\nold\n{END}\n\nb\n"
    made = replace_block(text, "| new |")
    assert made == f"# a\n\n{START}\n| new |\n{END}\n\nb\n"
    assert replace_block(made, "| new |") == made
    for bad in ("no marks", f"{END}\n{START}", text + text):
        with pytest.raises(MarkerError):
            replace_block(bad, "x")


# --- the verb -----------------------------------------------------------------------------------------------


def test_evaluate_writes_all_three(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(vars(umekit), "load", lambda path=None, **_: Oracle(["sum"]))
    readme, out = tmp_path / "README.md", tmp_path / "r.json"
    readme.write_text(f"x\n{START}\n{END}\ny\n")
    call = ["evaluate", "digit-world", "--tasks", "sum", "--queries", str(QUERIES), "--quiet"]
    assert main([*call, "--out", str(out), "--readme", str(readme)]) == 0
    assert "1.0000" in capsys.readouterr().out
    report = load_report(out)
    assert report.conditions.command == f"umekit evaluate digit-world --tasks sum --queries {QUERIES}"
    assert readme.read_text() == f"x\n{START}\n{markdown_table(report)}\n{END}\ny\n"
    readme.write_text(f"x\n{START}\nstale\n{END}\ny\n")
    assert main(["evaluate", "digit-world", "--from", str(out), "--readme", str(readme), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["scores"][0]["task"] == "sum"
    assert "stale" not in readme.read_text()


def test_evaluate_refuses_before_it_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def load(*_: Any, **__: Any) -> Any:
        raise AssertionError("must not run")

    monkeypatch.setitem(vars(umekit), "load", load)
    (tmp_path / "README.md").write_text("no marks")
    for call in (
        ["--readme", str(tmp_path / "README.md")],
        ["--readme", str(tmp_path / "none.md")],
        ["--tasks", "hop"],
        ["--from", str(tmp_path / "README.md"), "--queries", "3"],
        ["--out", str(tmp_path / "none" / "r.json")],
    ):
        assert main(["evaluate", "digit-world", *call]) == 2
        assert len(capsys.readouterr().err.splitlines()) == 1


def test_results_beside_each_other(tmp_path: Path) -> None:
    """Modes and rerankers of DigitWorld in one table and one picture, cost beside quality."""
    from umekit.evaluation.beside import beside_rows, draw_beside
    from umekit.evaluation.fusing import Fusing

    class Letters:
        """Likes candidates that have letters in common with the query."""

        def rerank(self, query: Any, candidates: Any, **_: Any) -> np.ndarray:
            said = [len(set(str(query.get("text"))) & set(str(one.get("text")))) / 99 for one in candidates]
            return np.array(said, dtype=np.float32)

    plain = score(Guesser(), ["sum"])
    again = score(Guesser(), ["sum"], rerank=Fusing(Letters(), "letters", depth=5))
    assert again.conditions.settings["rerank"]["reranker"] == "letters"
    assert again.costs["all pairs"]["items"] == 5 * sum(one.n for one in again.scores)
    headers, rows = beside_rows({"plain": plain, "reranked": again})
    assert headers[:4] == ["result", "mode", f"mean of {len(plain.scores)} scores", TASKS["sum"].family]
    assert [row[0] for row in rows] == ["plain", "reranked"]
    assert rows[0][2] == pytest.approx(np.mean([one.value for one in plain.scores]))
    draw_beside({"plain": plain, "reranked": again}, tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(ValueError, match="no task in common"):
        beside_rows({"plain": plain, "other": score(Guesser(), ["qa_what"])})
