"""Equal targets have one number, over all sources; ids of different sources never meet by accident."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from umekit.evaluation.digit_world import DigitWorld
from umekit.trainers.sampling import Source, Subset, split_sources, target_codes
from umekit.trainers.sampling.targets import join, text_of


def codes(*sources: Source) -> list[list[int]]:
    return [found.tolist() for found in target_codes(sources)]


def test_equal_texts_are_one_target_and_equal_ids_of_different_sources_are_not() -> None:
    digits = [{"positive": "7", "positive_id": "a"}, {"positive": "8", "positive_id": "b"}]
    counts = [
        {"positive": {"text": "7", "image": None}, "positive_id": "b"},
        {"positive": "9", "positive_id": "a"},
    ]
    (d7, d8), (c7, c9) = codes(Source("digits", digits), Source("counts", counts))
    assert d7 == c7
    assert len({d7, d8, c9}) == 3


def test_equal_ids_of_one_source_are_one_target_whatever_their_text() -> None:
    rows = [
        {"positive": "a seven", "positive_id": 7},
        {"positive": "the digit 7", "positive_id": 7},
        {"positive": {"image": b"..."}, "positive_id": 7},
        {"positive": {"image": b"..."}, "positive_id": 8},
    ]
    other = [{"positive": "the digit 7"}]
    (first, again, image, eight), (copy,) = codes(Source("a", rows), Source("b", other))
    assert first == again == image == copy != eight


def test_pictures_without_an_id_are_unknown() -> None:
    rows = [{"positive": {"image": b"x"}}, {"positive": {"text": "t", "image": b"x"}}, {"positive": "t"}]
    (found,) = codes(Source("a", rows))
    assert found[:2] == [-1, -1]
    assert found[2] >= 0


def test_an_instruction_is_part_of_the_target() -> None:
    assert text_of({"text": "a", "instruction": "b"}) != text_of({"text": "a"}) == text_of("a")
    assert text_of({"text": "a", "video": ["x"]}) is None
    assert text_of(7) is None


def test_columns_of_a_dataset_give_the_same_numbers_without_decoding() -> None:
    rows: list[dict[str, Any]] = [
        {"query": "q", "positive": {"text": str(i % 3), "image": None}, "positive_id": None} for i in range(9)
    ]
    rows += [{"query": "q", "positive": {"text": None, "image": b"no picture"}, "positive_id": "x"}] * 2
    rows += [{"query": "q", "positive": {"text": "0", "image": b"no picture"}, "positive_id": None}]
    table = Dataset.from_list(rows)
    assert codes(Source("a", table)) == codes(Source("a", rows))
    texts = [{"positive": "a"}, {"positive": "b"}, {"positive": "a"}]
    assert codes(Source("a", Dataset.from_list(texts))) == codes(Source("a", texts)) == [[0, 1, 0]]
    with pytest.raises(ValueError, match="no column 'positive'"):
        codes(Source("a", Dataset.from_list([{"text": "a"}])))


def test_own_keys() -> None:
    rows = [{"positive": "x", "doc": i % 2} for i in range(4)]
    for key in ("doc", lambda row: row["doc"], [0, 1, 0, 1], np.array([0, 1, 0, 1])):
        assert codes(Source("a", rows, key=key)) == [[0, 1, 0, 1]]
    assert codes(Source("a", Dataset.from_list(rows), key="doc")) == [[0, 1, 0, 1]]
    with pytest.raises(ValueError, match="row 0 has no 'id'"):
        codes(Source("a", rows, key="id"))
    with pytest.raises(ValueError, match="3 keys for 4 rows"):
        codes(Source("a", rows, key=[1, 2, 3]))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=30))
def test_join_is_the_closure_of_both_relations(pairs: list[tuple[int, int]]) -> None:
    a, b = (np.array(column) for column in zip(*pairs, strict=True))
    linked = (a[:, None] == a) | (b[:, None] == b)
    for _ in pairs:
        linked = (linked.astype(int) @ linked.astype(int)) > 0
    found = join(a, b)
    assert np.array_equal(found[:, None] == found, linked)


def test_labels_of_digit_world_are_shared_between_its_tasks() -> None:
    world = DigitWorld("train", 0)
    sources = [Source(task, world.rows(task, 20)) for task in ("classify_digit", "classify_count")]
    rows = [row for source in sources for row in source.rows]
    found = np.concatenate(target_codes(sources))
    texts = np.array([text_of(row["positive"]) for row in rows])
    assert np.array_equal(found[:, None] == found, texts[:, None] == texts)


def test_split_sources() -> None:
    rows = [{"dataset": name, "positive": str(i)} for i, name in enumerate("abcab")]
    for given_rows in (rows, Dataset.from_list(rows)):
        sources = split_sources(given_rows, weight=2.0)
        assert [(source.name, len(source), source.weight) for source in sources] == [
            ("a", 2, 2.0),
            ("b", 2, 2.0),
            ("c", 1, 2.0),
        ]
        assert sources[0].rows[1]["positive"] == "3"
    with pytest.raises(ValueError, match="row 1 has no 'dataset'"):
        split_sources([{"dataset": "a"}, {"dataset": None}])
    with pytest.raises(IndexError):
        Subset(rows, [0, 5])
