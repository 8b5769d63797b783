"""Bad thoughts are left out, named and counted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from umekit.testing import train_tokenizer
from umekit.trainers.formats import read_ume_r1
from umekit.trainers.thought_filters import filter_thoughts, most_repeated

GOOD = "first the cat, then the table, and so the cat is on it"


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return train_tokenizer([f"{GOOD} a b c"] * 4, 400, ())


def row(**changes: Any) -> dict[str, Any]:
    sides = {"query_thought": GOOD, "answer": "a cat", "positive_thought": GOOD, "positive_answer": "a table"}
    return {"query": "q", "positive": "p", **sides, **changes}


def test_reasons_and_counts(tokenizer: Any) -> None:
    rows = [
        row(),
        row(query_thought="cat " * 40),
        row(positive_thought="so the cat, " * 20),
        row(positive_thought=f"<think>{GOOD}</think> a table"),
        row(answer=None),
        row(positive_answer=" "),
        row(query_thought=" ".join(f"{a} the {b}" for a in "abcdefgh" for b in "qrstuvwx")),
        row(query_thought=f"<think>{GOOD}</think><answer>a cat</answer><gen_emb>", answer=None),
        row(query_thought=None),
    ]
    found = filter_thoughts(rows, tokenizer, max_tokens=150)
    assert found.kept.tolist() == [0, 7]
    assert [(one.index, one.reason) for one in found.dropped] == [
        (1, "repetition"),
        (2, "repetition"),
        (3, "format"),
        (4, "format"),
        (5, "format"),
        (6, "long"),
        (8, "format"),
    ]
    assert found.counts() == {"kept": 2, "repetition": 2, "format": 4, "long": 1}
    assert "positive: 19 times the same 4 tokens" in found.dropped[1].detail
    assert filter_thoughts(rows, tokenizer, max_tokens=150, sides=["query"]).counts()["kept"] == 5
    assert 5 in filter_thoughts(rows, tokenizer, empty=True).kept


def test_records_that_cannot_be_read_are_counted(tokenizer: Any, tmp_path: Path) -> None:
    def side(answer: str) -> dict[str, Any]:
        said = [{"from": "human", "value": "find\n<disc_emb>\nthink"}, {"from": "gpt", "value": answer}]
        return {"conversations": said}

    good = side(f"<think>{GOOD}</think><answer>a cat<gen_emb>")
    records = [{"qry": good, "pos": good}, {"qry": good, "pos": side("a cat<gen_emb>")}]
    (tmp_path / "sft.json").write_text(json.dumps(records))
    found = filter_thoughts(read_ume_r1(tmp_path / "sft.json"), tokenizer)
    assert found.counts() == {"kept": 1, "format": 1}
    assert "sft.json" in found.dropped[0].detail


@pytest.mark.parametrize("period", [1, 2, 5, 40])
def test_copies_are_counted_as_by_hand(period: int) -> None:
    rng = np.random.default_rng(period)
    for length in (0, 1, 2, 3, 9, 30):
        for _ in range(20):
            ids = rng.integers(0, 3, length)
            best = min(length, 1)
            for size in range(1, period + 1):
                for start in range(length):
                    piece, copies = ids[start : start + size].tolist(), 0
                    while len(piece) == size and ids[start + copies * size :][:size].tolist() == piece:
                        copies += 1
                    best = max(best, copies)
            assert most_repeated(ids, period)[0] == best
