"""The fuzz counts every item once, as read or as refused for a reason."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import fuzz
import pytest


def test_a_few_items_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "fuzz.json"
    monkeypatch.setattr(sys, "argv", ["fuzz.py", "--items", "40", "--out", str(out)])
    assert fuzz.main() == 0
    found = json.loads(out.read_text())
    assert found["fault"] is None
    assert found["items"] == found["read"] + found["refused"] == 40
    assert sum(found["reasons"].values()) == found["refused"] > 0
    assert found["read"] > 0


@pytest.mark.parametrize(
    ("words", "known"),
    [
        ("the file is empty", "no such file, or none that is read"),
        ("not a picture that Pillow knows", "damaged or of an unknown kind"),
        ("nobody has said this", "other words of a decoder"),
    ],
)
def test_reasons_by_their_words(words: str, known: str) -> None:
    assert fuzz.reason(ValueError(words)) == known
