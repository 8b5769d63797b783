"""The student of ume-tiny's own cascade: made, and opened again."""

from __future__ import annotations

import sys
from pathlib import Path

import distil_ume_tiny
import pytest

import umekit


@pytest.mark.slow
def test_a_student_of_the_cascade_is_an_embedder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distil_ume_tiny, "POOL", 16)
    monkeypatch.setattr(distil_ume_tiny, "WEIGHTS", {"retrieve_scene": 1, "paraphrase": 1})
    out = tmp_path / "student"
    monkeypatch.setattr(sys, "argv", ["distil_ume_tiny", "--out", str(out), "--rows", "16", "--steps", "2"])
    assert distil_ume_tiny.main() == 0
    student, start = umekit.load(out, device="cpu"), umekit.load(device="cpu")
    told = [one.encode([{"text": "a red 4 in the upper left"}], role="query") for one in (student, start)]
    assert 0.5 < float(told[0][0] @ told[1][0]) < 1 - 1e-6  # it has learned, and little in two steps
