"""A recipe run and scored by one command, which goes on where it was stopped."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

RECIPE = """
name: small
source: a test
model: {{path: {start}}}
steps:
  - kind: train
    name: stage
    source: a test
    lora: {{rank: 2, alpha: 4}}
    data: {{sources: [{{name: texts, format: digit-world, options: {{task: paraphrase, rows: 64}}}}]}}
    arguments: {{per_device_train_batch_size: 4, max_steps: 2, learning_rate: 0.01, temperature: 0.05}}
"""


def never(*_: object) -> None:
    raise AssertionError("it was scored already")


def test_steps_and_models_are_in_the_result(
    start: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import recipe

    (tmp_path / "small.yaml").write_text(RECIPE.format(start=start))
    monkeypatch.setattr(recipe, "POOL", 16)
    words = [str(tmp_path / "small.yaml"), "--runs", str(tmp_path / "runs"), "--tasks", "paraphrase"]
    monkeypatch.setattr(
        sys, "argv", ["recipe.py", *words, "--queries", "16", "--out", str(tmp_path / "r.json")]
    )
    assert recipe.main() == 0
    found = json.loads((tmp_path / "r.json").read_text())
    assert found["steps"]["stage"]["steps"] == 2
    assert list(found["models"]) == ["start", "stage"]
    for one in found["models"].values():
        assert 0 <= one["recall@1"]["paraphrase"] == one["mean"] <= 1
    assert found["models"]["start"]["fingerprint"] != found["models"]["stage"]["fingerprint"]
    before = (tmp_path / "r.json").read_bytes()
    monkeypatch.setattr(recipe, "recall", never)  # nor is anything trained again
    assert recipe.main() == 0
    assert (tmp_path / "r.json").read_bytes() == before
