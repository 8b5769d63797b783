"""Candidate thoughts of DigitWorld: a third right, a third wrong, a third empty, each of one side of its row."""

from __future__ import annotations

import pytest

from umekit.evaluation.digit_world import DigitWorld
from umekit.evaluation.digit_world.dataset import TaskRows
from umekit.evaluation.digit_world.thought_pools import NOTHING, POOLS, WORKERS
from umekit.processing.items import TextPart, parse_item


@pytest.mark.parametrize("task", ["walk", "classify_digit", "retrieve_scene"])
def test_a_third_each(task: str) -> None:
    plain, pooled = TaskRows(task, 12), TaskRows(task, 12, pools=True)
    orders = set()
    for number in range(12):
        row, with_pools = plain[number], pooled[number]
        assert "query_thought" not in with_pools
        assert "answer" not in with_pools
        pool = {one["worker"]: (one["thought"], one["answer"]) for one in with_pools["query_thoughts"]}
        orders.add(tuple(pool))
        assert sorted(pool) == sorted(WORKERS)
        assert pool["careful"] == (row["query_thought"], row["answer"])
        assert (pool["confused"][1] != row["answer"]) == (task != "retrieve_scene")  # all of those are scenes
        assert pool["confused"][0] != row["query_thought"]
        assert pool["generic"] in NOTHING
        assert bool(with_pools["positive_thoughts"]) == bool(row["positive_thought"])
        assert with_pools["positive_id"] == row["positive_id"]
        assert pooled[number] == with_pools  # a function of its number
    assert len(orders) > 1  # a place tells nothing


def test_words_of_empty_thoughts_are_digit_worlds() -> None:
    import umekit

    tokenizer = umekit.load().processor.tokenizer
    for text in (text for pair in NOTHING for text in pair):
        words = text.split()
        assert len(tokenizer(" " + text).input_ids) <= 2 * len(words), text


def test_rows_for_an_evaluator_have_one_thought_behind_every_candidate() -> None:
    plain, told = TaskRows("walk", 200, negatives=3), TaskRows("walk", 200, negatives=3, rationales=0.75)
    said = 0
    seen: set[str] = set()
    for number in range(200):
        row, found = plain[number], told[number]
        assert all(found[name] == [] for name in POOLS.values())
        ends = {
            "".join(part.text for part in parse_item(after).parts if isinstance(part, TextPart))[
                len(before["text"]) :
            ]
            for before, after in zip(
                [row["positive"], *row["negatives"]], [found["positive"], *found["negatives"]], strict=True
            )
        }
        assert len(ends) == 1
        [end] = ends
        said += bool(end)
        seen.add("right" if row["query_thought"] in end else "other")
    assert 0.65 < said / 200 < 0.85
    assert seen == {"right", "other"}


def test_what_cannot_be_had() -> None:
    with pytest.raises(ValueError, match="near_duplicates have thoughts"):
        TaskRows("retrieve_scene", 4, near_duplicates=True, pools=True)
    with pytest.raises(ValueError, match="rationales is 2"):
        TaskRows("walk", 4, rationales=2.0)
    with pytest.raises(ValueError, match="instead of pools"):
        TaskRows("walk", 4, rationales=0.5, pools=True)


def test_the_row_of_a_world_has_its_own_thoughts() -> None:
    assert "query_thoughts" not in DigitWorld("train").row("walk", 0)
