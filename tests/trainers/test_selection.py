"""umekit.trainers.selection: against plain NumPy, with workers that see one side, through kills, and by people."""

from __future__ import annotations

import hashlib
import json
import math
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

import umekit
from umekit.encoding.rationales import with_rationale
from umekit.modeling.prefix import PrefixReader
from umekit.processing.items import TextPart, parse_item
from umekit.testing import save_tiny_reranker
from umekit.trainers.actions import action_of
from umekit.trainers.formats import read_rows
from umekit.trainers.formats.made import made_rows
from umekit.trainers.selection import SelectionSettings, Worker, select
from umekit.trainers.selection.choosing import random_within
from umekit.trainers.selection.contribution import best, confidences, contributions, posterior
from umekit.trainers.selection.sheet import sampled

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]


def text_of(item: Any) -> str:
    return "".join(part.text for part in parse_item(item).parts if isinstance(part, TextPart))


def margin_of(query: str, target: str) -> float:
    """Any number that depends on every letter."""
    return int(hashlib.sha256(f"{query}|{target}".encode()).hexdigest()[:8], 16) / 2**32 * 10 - 5


class StubEvaluator:
    """Margins by the texts of a pair; ``stop_after`` calls raise, as a kill would; BROKEN candidates fail."""

    processor = SimpleNamespace(
        tokenizer=lambda text, add_special_tokens: SimpleNamespace(input_ids=text.split())
    )

    def __init__(self, stop_after: int | None = None, name: str = "e") -> None:
        self.calls, self.stop_after, self.name = 0, stop_after, name

    def fingerprint(self) -> dict[str, str]:
        return {"model": self.name}

    def rerank_many(self, queries: Sequence[Any], lists: Sequence[Any], **options: Any) -> list[Any]:
        assert options["on_error"] == "skip"
        assert options["return_details"]
        self.calls += 1
        if self.stop_after is not None and self.calls > self.stop_after:
            raise KeyboardInterrupt
        return [self._one(query, items) for query, items in zip(queries, lists, strict=True)]

    def _one(self, query: Any, items: Sequence[Any]) -> Any:
        if "UNREADABLE" in text_of(query):
            raise ValueError("no such query")
        texts = [text_of(item) for item in items]
        bad = [place for place, text in enumerate(texts) if "BROKEN" in text]
        margins = np.array([margin_of(text_of(query), text) for text in texts], np.float32)
        margins[bad] = np.nan
        return SimpleNamespace(margins=margins, errors=[(place, ValueError("no")) for place in bad])


def pool(name: str, count: int = 3) -> list[dict[str, str]]:
    return [
        {"worker": "abc"[n], "thought": f"{name} {'so ' * n}it is", "answer": f"{name} {n}"}
        for n in range(count)
    ]


def rows_with_pools(count: int = 12) -> list[dict[str, Any]]:
    return [
        {
            "query": f"query {n}",
            "positive": f"target {n}",
            "negatives": [f"target {n + 7 * step}" for step in (1, 2, 3)],
            "query_thoughts": pool(f"q{n}"),
            "positive_thoughts": pool(f"p{n}", n % 4),  # some have none
            "task": "ab"[n % 2],
            "label": n,
        }
        for n in range(count)
    ]


def lines(report: Any) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(report.file).read_text(encoding="utf-8").splitlines()]


# ---- the formulas ------------------------------------------------------------------------------------


def test_contribution_is_the_formula_sum_by_sum() -> None:
    margins = np.random.default_rng(0).normal(size=(4, 6)).astype(np.float32)
    margins[2, 3], margins[3, 0] = np.nan, np.nan
    for thought, value in enumerate(contributions(margins)):
        own = float(margins[0, 1 + thought]) - float(margins[0, 0])
        others = []
        for negative in (1, 2, 3):
            lift = float(margins[negative, 1 + thought]) - float(margins[negative, 0])
            if not np.isnan(lift):
                others.append(lift)
        assert value == pytest.approx(own - sum(others) / len(others), abs=1e-6)
    np.testing.assert_allclose(contributions(margins[:1]), margins[0, 1:] - margins[0, 0], rtol=1e-6)
    # a thought that lifts whatever is shown contributes nothing
    lifted = np.array([[1.0, 3.0], [-2.0, 0.0], [-4.0, -2.0]])
    np.testing.assert_allclose(contributions(lifted), [0.0])
    with pytest.raises(ValueError, match="1 \\+ negatives"):
        contributions(np.zeros(3))


def test_log_likelihood_is_that_of_right_answers() -> None:
    margins = np.random.default_rng(1).normal(scale=3, size=(3, 4)).astype(np.float32)
    margins[2, 1] = np.nan

    def right(row: int, place: int) -> float:
        """log P(yes) of the pair, log P(no) of a negative."""
        yes = 1 / (1 + math.exp(-float(margins[row, place])))
        return math.log(yes if row == 0 else 1 - yes)

    for thought, value in enumerate(contributions(confidences(margins, "log-likelihood"))):
        others = [row for row in (1, 2) if not np.isnan(margins[row, 1 + thought])]
        gained = [right(row, 1 + thought) - right(row, 0) for row in others]
        asked = right(0, 1 + thought) - right(0, 0) + sum(gained) / len(gained)
        assert value == pytest.approx(asked, abs=1e-6)
    assert confidences(margins, "logit") is margins
    sure = np.array([[8.0, 12.0, -90.0], [-9.0, -9.0, 900.0]])  # right without; no further, and led astray
    found = contributions(confidences(sure, "log-likelihood"))
    assert 0 < found[0] < 1e-3
    assert found[1] == pytest.approx(-90 - 900, rel=1e-3)


def test_posterior_is_the_formula() -> None:
    delta, prior = np.array([1.0, -2.0, 0.5]), np.array([1.0, 3.0, 2.0])
    for heat in (0.1, 1.0, 7.0):
        expected = prior * np.exp(delta / heat)
        np.testing.assert_allclose(posterior(delta, prior, heat), expected / expected.sum(), rtol=1e-12)
    np.testing.assert_allclose(posterior(delta, prior, 1e9), prior / prior.sum(), rtol=1e-6)
    np.testing.assert_allclose(posterior(delta, prior, 0.0), [1, 0, 0])
    np.testing.assert_allclose(posterior(np.array([2.0, 2.0]), np.array([1.0, 3.0]), 0.0), [0.25, 0.75])
    np.testing.assert_allclose(posterior(1e4 * delta, prior, 0.1), [1, 0, 0])
    np.testing.assert_allclose(posterior(np.array([np.nan, 1.0, 9.0]), np.array([1.0, 1, 0]), 1.0), [0, 1, 0])
    assert not posterior(np.array([np.nan]), np.ones(1), 1.0).any()
    with pytest.raises(ValueError, match="temperature is -1"):
        posterior(delta, prior, -1.0)
    with pytest.raises(ValueError, match="prior"):
        posterior(delta, -prior, 1.0)


def test_the_best_is_kept_above_the_margin_alone() -> None:
    delta = np.array([0.5, 2.0])
    assert best(posterior(delta, np.ones(2), 1.0), delta, 1.9) == 1
    assert best(posterior(delta, np.ones(2), 1.0), delta, 2.0) == -1
    # a prior can prefer another, which must be above the margin itself
    prior = np.array([1.0, 1e-6])
    assert best(posterior(delta, prior, 1.0), delta, 0.4) == 0
    assert best(posterior(delta, prior, 1.0), delta, 1.0) == -1
    assert best(np.zeros(0), np.zeros(0), 0.0) == -1


def test_random_thoughts_have_as_many_tokens() -> None:
    rng = np.random.default_rng(3)
    sizes = rng.integers(0, 5, 400)
    ends = np.concatenate([[0], np.cumsum(sizes)])
    tokens = rng.integers(1, 30, ends[-1])
    chosen = random_within(tokens, ends, 2000, np.random.default_rng(0))
    kept = np.flatnonzero(chosen >= 0)
    assert (chosen[kept] < sizes[kept]).all()
    assert abs(tokens[ends[kept] + chosen[kept]].sum() - 2000) <= 15
    assert 0 < len(kept) < (sizes > 0).sum()
    assert not (random_within(tokens, ends, 0, rng) >= 0).any()
    everyone = random_within(tokens, ends, 10**9, rng)
    assert ((everyone >= 0) == (sizes > 0)).all()


# ---- a run -------------------------------------------------------------------------------------------


def plain_selection(row: dict[str, Any], settings: SelectionSettings) -> tuple[list[float], int]:
    """Contributions of a row's query thoughts and the place of what is kept, in plain Python."""
    found = []
    for one in row["query_thoughts"]:
        added = f"\nRationale: {one['thought']} {one['answer']}"

        def lift(target: str, added: str = added) -> float:
            return margin_of(row["query"], target + added) - margin_of(row["query"], target)

        others = [lift(target) for target in row["negatives"][: settings.negatives]]
        found.append(lift(row["positive"]) - (sum(others) / len(others) if others else 0.0))
    place = max(range(len(found)), key=lambda n: found[n])
    return found, place if found[place] > settings.margin else -1


@pytest.mark.parametrize(("negatives", "margin"), [(0, 0.0), (2, 0.0), (3, 2.5)])
def test_rows_are_those_of_plain_python(tmp_path: Path, negatives: int, margin: float) -> None:
    rows, settings = rows_with_pools(), SelectionSettings(negatives=negatives, margin=margin)
    report = select(StubEvaluator(), rows, out=tmp_path / "out", settings=settings)
    assert report is not None
    assert report.rows == 12
    kept = 0
    for row, found in zip(rows, lines(report), strict=True):
        expected, place = plain_selection(row, settings)
        told = found["query_thoughts"]
        np.testing.assert_allclose([one["contribution"] for one in told], expected, atol=1e-5)
        assert [one["kept"] for one in told] == [n == place for n in range(3)]
        assert sum(one["posterior"] for one in told) == pytest.approx(1)
        assert found["label"] == row["label"]
        if place < 0:
            assert (found["query_action"], found["query_thought"], found["answer"]) == ("direct", None, None)
        else:
            kept += 1
            said = row["query_thoughts"][place]
            assert found["query_action"] == "reason"
            assert (found["query_thought"], found["answer"]) == (said["thought"], said["answer"])
        if not row["positive_thoughts"]:
            assert found["positive_action"] == "direct"
        assert action_of(found, "query") == found["query_action"]
    told = report.statistics["query"]
    assert told["reason"] == kept
    assert told["direct"] == 12 - kept
    assert 0 < kept < 12
    assert sum(one["kept"] for one in told["workers"].values()) == kept
    assert set(told["workers"]) == {"a", "b", "c"}
    assert told["without_negatives"] == (36 if negatives == 0 else 0)


def test_a_positive_is_weighed_against_other_queries(tmp_path: Path) -> None:
    rows = rows_with_pools()
    for row in rows[:6]:
        row["negative_queries"] = ["query 100", "query 200"]
    report = select(
        StubEvaluator(),
        rows,
        out=tmp_path / "out",
        settings=SelectionSettings(negatives=2, sides=("positive",)),
    )
    assert report is not None
    for number, (row, found) in enumerate(zip(rows, lines(report), strict=True)):
        assert "query_action" not in found
        for one in found["positive_thoughts"]:
            added = f"\nRationale: {one['thought']} {one['answer']}"

            def lift(query: str, row: Any = row, added: str = added) -> float:
                return margin_of(query, row["positive"] + added) - margin_of(query, row["positive"])

            if number < 6:
                expected = lift(row["query"]) - (lift("query 100") + lift("query 200")) / 2
                assert one["contribution"] == pytest.approx(expected, abs=1e-5)
            else:  # two other queries of its task
                lifts = [lift(f"query {n}") for n in range(number % 2, 12, 2) if n != number]
                pairs = [(a + b) / 2 for a in lifts for b in lifts]
                taken = lift(row["query"]) - one["contribution"]
                assert min(abs(taken - pair) for pair in pairs) < 1e-4


@pytest.mark.parametrize("choice", ["random", "none"])
def test_the_baselines(tmp_path: Path, choice: Any) -> None:
    rows, work = rows_with_pools(60), tmp_path / "work"
    settings = SelectionSettings(margin=1.0)
    pair_aware = select(StubEvaluator(), rows, out=tmp_path / "a", settings=settings, work=work)
    quiet = StubEvaluator()
    drawn = select(
        quiet, rows, out=tmp_path / "b", settings=SelectionSettings(margin=1.0, choice=choice), work=work
    )
    assert quiet.calls == 0  # the margins are there
    assert pair_aware is not None
    assert drawn is not None
    for side in ("query", "positive"):
        first, second = pair_aware.statistics[side], drawn.statistics[side]
        if choice == "random":
            assert abs(first["tokens"] - second["tokens"]) <= 5
        else:
            assert second["reason"] == second["with_pool"]
        assert first["contribution"] == second["contribution"]
        kept = [one["kept_contribution"]["0.5"] for one in (first, second)]
        assert kept[0] > kept[1]


def test_priors_and_zero_temperature(tmp_path: Path) -> None:
    rows = rows_with_pools()
    settings = SelectionSettings(priors={"a": 0.0, "b": 0.0}, temperature=0.0, sides=("query",), margin=-99)
    report = select(StubEvaluator(), rows, out=tmp_path, settings=settings)
    assert report is not None
    assert {name: one["kept"] for name, one in report.statistics["query"]["workers"].items()} == {
        "a": 0, "b": 0, "c": 12,
    }  # fmt: skip


# ---- workers -----------------------------------------------------------------------------------------


class StubThinker:
    """Thinks of texts, and remembers what it was shown."""

    model = SimpleNamespace(modes=("generative",))

    def __init__(self, word: str) -> None:
        self.word, self.seen, self.roles = word, [], set()

    def fingerprint(self) -> dict[str, str]:
        return {"model": self.word}

    def encode(self, items: Sequence[Any], **options: Any) -> Any:
        self.seen += [text_of(item) for item in items]
        self.roles.add(options["role"])
        count = options["num_samples"]
        texts = [
            [f"<think>{self.word} {n} {text_of(one)}</think><answer>{n}" for n in range(count)]
            for one in items
        ]
        errors = [(place, ValueError("no")) for place, one in enumerate(items) if "query 3" in text_of(one)]
        if count == 1:
            texts = [one for [one] in texts]  # type: ignore[misc]
        return SimpleNamespace(
            thoughts=texts, thought_tokens=[5] * len(items), forced=[False] * len(items), errors=errors
        )


def plain_rows(count: int = 12) -> list[dict[str, Any]]:
    names = ("query", "positive", "negatives", "task")
    return [{name: row[name] for name in names} for row in rows_with_pools(count)]


def test_every_worker_sees_one_side_of_a_row_at_a_time(tmp_path: Path) -> None:
    rows, both, one = plain_rows(), StubThinker("both"), StubThinker("one")
    workers = [Worker("both", both, samples=2), Worker("one", one, sides=("query",))]
    report = select(StubEvaluator(), rows, out=tmp_path, workers=workers, shard_size=16)
    assert report is not None
    assert one.roles == {"query"}
    assert all("target" not in text for text in one.seen)  # neither the positive nor a negative
    assert both.roles == {"query", "document"}
    assert sorted(both.seen) == sorted([*(row["query"] for row in rows), *(row["positive"] for row in rows)])
    found = lines(report)
    assert [thought["worker"] for thought in found[0]["query_thoughts"]] == ["both", "both", "one"]
    assert found[0]["positive_thoughts"][1]["thought"] == "both 1 target 0"
    assert found[3]["query_thoughts"] == []  # it could not be read
    assert found[3]["query_action"] == "direct"


def test_a_worker_is_never_handed_a_row() -> None:
    from umekit.trainers.selection.workers import OneSide

    source = OneSide(plain_rows(3), "query", np.arange(3), None)
    items = [row.item for sample in source.samples() for row in sample.rows()]
    assert items == ["query 0", "query 1", "query 2"]


def test_thoughts_of_another_form_are_counted(tmp_path: Path) -> None:
    thinker = StubThinker("x")
    told = thinker.encode

    def cut(items: Sequence[Any], **options: Any) -> Any:
        found = told(items, **options)
        found.thoughts[0] = "<think>it was cut off"
        return found

    thinker.encode = cut  # type: ignore[method-assign]
    settings = SelectionSettings(sides=("query",))
    report = select(
        StubEvaluator(), plain_rows(), out=tmp_path, workers=[Worker("w", thinker)], settings=settings
    )
    assert report is not None
    assert report.statistics["malformed"] == {"w": 1}
    assert lines(report)[0]["query_thoughts"] == []


def test_models_are_opened_one_after_the_other(tmp_path: Path) -> None:
    """A function that opens one is called when it is its turn; before the next, nobody holds the former."""
    order: list[str] = []

    class Watched(StubThinker):
        def __init__(self, word: str) -> None:
            super().__init__(word)
            order.append(f"open {word}")

        def __del__(self) -> None:
            order.append(f"free {self.word}")

    def judge() -> StubEvaluator:
        order.append("evaluator")
        return StubEvaluator()

    workers = [Worker("a", lambda: Watched("a")), Worker("b", lambda: Watched("b"))]
    report = select(judge, plain_rows(), out=tmp_path, workers=workers)
    assert order == ["open a", "free a", "open b", "free b", "evaluator"]
    assert select(judge, plain_rows(), out=tmp_path, workers=workers) == report
    wrong = [Worker("a", lambda: SimpleNamespace(model=SimpleNamespace(modes=())))]
    with pytest.raises(TypeError, match="'a' writes no thoughts"):
        select(judge, plain_rows(), out=tmp_path / "wrong", workers=wrong)


def test_what_is_no_worker() -> None:
    with pytest.raises(ValueError, match="worker's name"):
        Worker("a/b", StubThinker("x"))
    with pytest.raises(TypeError, match="'e' writes no thoughts"):
        Worker("e", SimpleNamespace(model=SimpleNamespace(modes=("discriminative",))))
    with pytest.raises(ValueError, match="sides is"):
        Worker("w", StubThinker("x"), sides=("document",))


# ---- stops, processes, faults ------------------------------------------------------------------------


@pytest.mark.parametrize("stop", [0, 1, 7, 20])
def test_a_stopped_run_goes_on_to_the_same_bytes(tmp_path: Path, stop: int) -> None:
    rows, options = plain_rows(), {"block_size": 2, "shard_size": 4}

    def run(out: Path, evaluator: Any, thinker: StubThinker) -> Any:
        return select(evaluator, rows, out=out, workers=[Worker("w", thinker)], **options)

    whole = run(tmp_path / "whole", StubEvaluator(), StubThinker("w"))
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "killed", StubEvaluator(stop), StubThinker("w"))
    again, thinker = StubEvaluator(), StubThinker("w")
    report = run(tmp_path / "killed", again, thinker)
    assert thinker.seen == []  # thoughts were all there
    assert again.calls <= 23 - max(0, stop - 4)
    for name in ("selected.jsonl", "samples.html"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert sorted(path.name for path in (tmp_path / "killed").iterdir()) == [
        "README.md", "samples.html", "selected.jsonl", "selection.json",
    ]  # fmt: skip
    quiet = StubEvaluator()
    assert run(tmp_path / "killed", quiet, StubThinker("w")) == report
    assert quiet.calls == 0
    assert whole.statistics == report.statistics


KILLED = """
import os, signal, sys
sys.path[:0] = [{root!r}, {here!r}]
import test_selection as t
class Dying(t.StubEvaluator):
    def rerank_many(self, *args, **options):
        if self.calls == 9:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().rerank_many(*args, **options)
t.select(Dying(), t.rows_with_pools(), out=sys.argv[1], block_size=2, shard_size=4)
"""


def test_a_killed_process_leaves_what_is_gone_on_from(tmp_path: Path) -> None:
    code = KILLED.format(root=str(ROOT), here=str(HERE))
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "out")], timeout=300, check=False)
    assert done.returncode == -signal.SIGKILL
    again = StubEvaluator()
    report = select(again, rows_with_pools(), out=tmp_path / "out", block_size=2, shard_size=4)
    whole = select(StubEvaluator(), rows_with_pools(), out=tmp_path / "whole", block_size=2, shard_size=4)
    assert again.calls < 21
    assert report is not None
    assert whole is not None
    assert Path(report.file).read_bytes() == Path(whole.file).read_bytes()


def test_several_processes_do_parts_of_it(tmp_path: Path) -> None:
    rows, options = plain_rows(), {"block_size": 2, "shard_size": 4}
    whole = select(
        StubEvaluator(), rows, out=tmp_path / "one", workers=[Worker("w", StubThinker("w"))], **options
    )
    seen = []
    for rank in (2, 0, 1):
        thinker = StubThinker("w")
        workers = [Worker("w", thinker)]
        assert (
            select(
                StubEvaluator(), rows, out=tmp_path / "many", workers=workers, rank=rank, world=3, **options
            )
            is None
        )
        seen.append(len(thinker.seen))
    last, thinker = StubEvaluator(), StubThinker("w")
    report = select(last, rows, out=tmp_path / "many", workers=[Worker("w", thinker)], **options)
    assert seen == [8, 8, 8]
    assert last.calls == len(thinker.seen) == 0
    assert whole is not None
    assert report is not None
    assert Path(report.file).read_bytes() == Path(whole.file).read_bytes()


def test_what_cannot_be_scored_is_counted_or_ends_the_run(tmp_path: Path) -> None:
    rows = rows_with_pools(6)
    rows[1]["negatives"][0] = "BROKEN negative"
    rows[2]["query_thoughts"][1]["thought"] = "BROKEN thought"
    rows[3]["query"] = "UNREADABLE query"
    rows[4]["positive"] = "BROKEN positive"
    with pytest.raises(ValueError, match=r"max_failed=0: row 1, query, pair 1"):
        select(StubEvaluator(), rows, out=tmp_path / "strict")
    report = select(StubEvaluator(), rows, out=tmp_path / "out", max_failed=99)
    assert report is not None
    assert (report.rows, report.failed_rows) == (4, 2)
    assert report.failed_pairs > 0
    found = lines(report)
    assert [row["label"] for row in found] == [0, 1, 2, 5]  # whatever other rows' queries were like
    broken = found[2]["query_thoughts"][1]
    assert (broken["contribution"], broken["posterior"], broken["kept"]) == (None, 0.0, False)
    assert "BROKEN thought" in (tmp_path / "out" / "samples.html").read_text()


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"query": "q"}, "row 1: no 'positive'"),
        ({"query": "q", "positive": "p", "query_thoughts": "one"}, "row 1: query_thoughts is a list"),
        ({"query": "q", "positive": "p", "query_thoughts": [3]}, r"row 1: query_thoughts\[0\] is a text"),
        (
            {"query": "q", "positive": "p", "query_thoughts": ["no tags"]},
            "row 1: a thought without its answer",
        ),
    ],
)
def test_bad_rows_are_named(tmp_path: Path, row: dict[str, Any], said: str) -> None:
    with pytest.raises((ValueError, TypeError), match=said):
        select(StubEvaluator(), [*rows_with_pools(1), row], out=tmp_path)


def test_other_arguments_need_another_folder(tmp_path: Path) -> None:
    rows = rows_with_pools(3)
    select(StubEvaluator(), rows, out=tmp_path)
    with pytest.raises(FileExistsError, match="other evaluator"):
        select(StubEvaluator(name="f"), rows, out=tmp_path)
    with pytest.raises(FileExistsError, match="other choosing"):
        select(StubEvaluator(), rows, out=tmp_path, settings=SelectionSettings(margin=1.0))
    with pytest.raises(ValueError, match="multiple of block_size"):
        select(StubEvaluator(), rows, out=tmp_path / "x", block_size=3, shard_size=4)
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "samples.html").write_text("mine")
    with pytest.raises(FileExistsError, match="not written by umekit"):
        select(StubEvaluator(), rows, out=tmp_path / "foreign")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"choice": "best"}, "choice is 'best'"),
        ({"confidence": "probability"}, "confidence is 'probability'"),
        ({"temperature": -1.0}, "temperature is -1"),
        ({"negatives": -1}, "negatives is -1"),
        ({"margin": float("nan")}, "margin is nan"),
        ({"priors": {"w": -1.0}}, "prior of 'w'"),
        ({"sides": ("document",)}, "sides is"),
        ({"query_template": "Rationale"}, "no {thought}"),
    ],
)
def test_settings_that_cannot_be_meant(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)):
        SelectionSettings(**given)


# ---- the page, and real models -----------------------------------------------------------------------


def test_the_page_shows_thoughts_as_text_and_pictures(tmp_path: Path, pictures: list[Image.Image]) -> None:
    row = rows_with_pools(1)[0]
    row["query"] = {"image": pictures[0], "text": "<b>which</b>"}
    row["query_thoughts"][0]["thought"] = "<script>alert(1)</script>"
    report = select(StubEvaluator(), [row], out=tmp_path, format="parquet")
    assert report is not None
    page = Path(report.sheet).read_text(encoding="utf-8")
    assert "<script>" not in page
    assert "&lt;script&gt;" in page
    assert "&lt;b&gt;which" in page
    assert page.count("data:image/png;base64,") == 1
    assert "contribution" in page


def test_samples_are_spread_over_contributions() -> None:
    best_of = np.array([np.nan, 5.0, 1.0, np.nan, 3.0, 4.0, 2.0])
    assert sampled(best_of, 3) == [1, 4, 2]
    assert sampled(best_of, 99) == [1, 5, 4, 6, 2]
    assert sampled(np.array([np.nan]), 3) == []


def test_a_rationale_stands_last_and_its_braces_stay(pictures: list[Image.Image]) -> None:
    item = with_rationale({"image": pictures[0], "text": "t"}, "a {answer}", "b")
    assert [type(part).__name__ for part in item.parts] == ["ImagePart", "TextPart", "TextPart"]
    assert item.parts[-1].text == "\nRationale: a {answer} b"  # type: ignore[union-attr]


def test_real_models_and_pictures(
    tmp_path: Path,
    tiny_backbone: Callable[[str], Path],
    pictures: list[Image.Image],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Contributions are those of pairs that are scored one by one, and datasets opens what is written."""
    datasets = pytest.importorskip("datasets")
    evaluator = umekit.load(save_tiny_reranker(tmp_path / "e", tiny_backbone("qwen3_vl")), device="cpu")
    rows = [
        {
            "query": {"image": pictures[0], "text": "which"},
            "positive": {"image": pictures[1]},
            "negatives": [{"image": one} for one in pictures[2:4]],
            "query_thoughts": pool("q"),
        },
        {"query": "no picture", "positive": "a text", "negatives": ["other"], "query_thoughts": pool("r", 1)},
    ]
    thinker = umekit.load(role="generative", device="cpu")
    shared: list[tuple[int, list[int]]] = []
    plan = PrefixReader.plan

    def planned(self: Any, rows: Any, *args: Any) -> Any:
        found = plan(self, rows, *args)
        shared.append((found.shared, [row.length for row in rows]))
        return found

    monkeypatch.setattr(PrefixReader, "plan", planned)
    report = select(
        evaluator,
        rows,
        out=tmp_path / "out",
        workers=[Worker("tiny", thinker, temperature=1.0, samples=2, max_new_tokens=4)],
        show_progress=False,
    )
    assert report is not None
    pooled = [(begun, lengths) for begun, lengths in shared if len(lengths) > 1]
    assert len(pooled) >= 5  # each pair and each counterfactual one of both rows
    for begun, lengths in pooled:  # all but the thoughts and the turn's end is read once
        assert begun >= min(lengths) - 8
    table = datasets.load_dataset(str(tmp_path / "out"), split="train", cache_dir=str(tmp_path / "cache"))
    assert {"query_action", "positive_action", "query_thought", "answer"} <= set(table.column_names)
    file, media = made_rows(tmp_path / "out")
    found = read_rows(file, media=media)[0]
    told = found["query_thoughts"]

    def margin(target: Any) -> float:
        return float(evaluator.rerank(rows[0]["query"], [target], return_details=True).margins[0])

    for one in told[:3]:
        lifts = [
            margin(with_rationale(target, one["thought"], one["answer"])) - margin(target)
            for target in (rows[0]["positive"], *rows[0]["negatives"])
        ]
        assert one["contribution"] == pytest.approx(lifts[0] - np.mean(lifts[1:]), abs=1e-4)
