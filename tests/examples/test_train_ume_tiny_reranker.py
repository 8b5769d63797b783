"""Rows that the packaged reranker learns from: mined by the embedder, a function of their number."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import umekit
from umekit.encoding.packaged import packaged_model
from umekit.evaluation.digit_world import DigitWorld
from umekit.evaluation.digit_world.pools import Pool
from umekit.evaluation.metrics import similarity
from umekit.examples import train_ume_tiny_reranker as example
from umekit.examples.train_ume_tiny_reranker import MinedRows

SIZE, DEPTH = 16, 4
TASKS = ("edit_scene", "retrieve_clip", "edit_scene")


@pytest.fixture(autouse=True)
def few_are_mined(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(example, "DEPTH", DEPTH)


@pytest.fixture(scope="module")
def encoder() -> Any:
    return umekit.load(packaged_model(), device="cpu")


def first_wrong(encoder: Any, pool: Pool, query: int) -> list[int]:
    """The ``DEPTH`` wrong candidates of the highest cosine."""
    asked = encoder.encode([pool.queries[query]], role="query", show_progress=False)
    scores = similarity(asked, encoder.encode(pool.candidates, role="document", show_progress=False))[0]
    order = [int(one) for one in np.argsort(-scores) if one != pool.positives[query]]
    return order[:DEPTH]


def test_wrong_candidates_are_what_the_embedder_ranks_first(encoder: Any) -> None:
    rows = MinedRows(encoder, 6, 8, seed=3, tasks=("edit_scene",), wrong=3, easy=0.5, size=SIZE)
    pool = DigitWorld("train", 3).pool("edit_scene", SIZE, SIZE, "hard", index=2)
    for number in range(4 * 8, 6 * 8):  # the third pool, past the easy half
        row = rows[number]
        query = pool.queries.index(row["query"])
        wrong = [pool.candidates.index(one) for one in row["negatives"]]
        assert row["positive"] == pool.candidates[pool.positives[query]]
        assert len(set(wrong)) == 3
        assert set(wrong) <= set(first_wrong(encoder, pool, query))


def test_the_first_batches_have_any_and_ask_no_embedder() -> None:
    rows = MinedRows(None, 4, 8, tasks=("edit_scene",), easy=0.5, size=SIZE)  # type: ignore[arg-type]
    pool = DigitWorld("train", 0).pool("edit_scene", SIZE, SIZE, "hard")
    told = [rows[number] for number in range(8)]
    families = [
        {pool.families[pool.candidates.index(one)] for one in (row["positive"], *row["negatives"])}
        for row in told
    ]
    assert {len(one) for one in families} == {2}  # of two families in the pool, the other one


def test_tasks_take_turns_and_every_query_comes_once(encoder: Any) -> None:
    rows = MinedRows(encoder, 6, 8, tasks=TASKS, size=SIZE)
    batches = [[rows[8 * number + place] for place in range(8)] for number in range(6)]
    assert [{row["task"] for row in batch} for batch in batches] == [{task} for task in TASKS * 2]
    edits = [row["positive_id"] for number in (0, 2, 3, 5) for row in batches[number]]
    assert [len(set(edits[:SIZE])), len(set(edits[SIZE:]))] == [
        SIZE,
        SIZE,
    ]  # two batches of a task are a pool
    assert not set(edits[:SIZE]) & set(edits[SIZE:])


def test_a_row_is_a_function_of_its_number(encoder: Any) -> None:
    rows = MinedRows(encoder, 6, 8, tasks=TASKS, easy=0.0, size=SIZE)
    told = [rows[number] for number in range(48)]
    again = MinedRows(encoder, 6, 8, tasks=TASKS, easy=0.0, size=SIZE)
    assert [again[number] for number in reversed(range(48))] == told[::-1]


def test_pools_that_do_not_fit_are_refused(encoder: Any) -> None:
    with pytest.raises(ValueError, match="batch of 5 rows does not divide a pool of 16"):
        MinedRows(encoder, 1, 5, size=SIZE)
    with pytest.raises(ValueError, match="a pool of 4 has no 4 wrong candidates"):
        MinedRows(encoder, 1, 2, size=DEPTH)
