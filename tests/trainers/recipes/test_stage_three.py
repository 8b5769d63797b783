"""A reranker and a distilled model as steps of recipes: trained with a LoRA, merged, opened again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import umekit
from umekit.trainers.recipes import FORMATS, read_recipe, run_recipe

GOLDEN = Path(__file__).parents[2] / "golden"
RECIPE = """
name: small
source: a test
model: {{path: {model}, preset: {preset}}}
steps:
  - kind: train
    name: stage
    source: a test
    trainer: {trainer}
    lora: {{rank: 2, alpha: 4}}
    data: {{sources: [{{name: rows, path: {rows}}}]}}
    eval_data: {{sources: [{{name: rows, path: {rows}}}]}}
    arguments: {{per_device_train_batch_size: 2, max_steps: 2, learning_rate: 0.01, {arguments}}}
"""
CASES = {
    "reranker": ("umarvel_reranker", "u-marvel-reranker", "max_negatives: 1, negative_depth: 2"),
    "distillation": ("umarvel_qwen2vl", "u-marvel", "temperature: 0.05, teacher_scale: 0.5"),
}


@pytest.mark.parametrize("trainer", CASES)
def test_a_step_of_each(tmp_path: Path, trainer: str) -> None:
    model, preset, arguments = CASES[trainer]
    rows = [
        {
            "query": f"which {i}",
            "positive": f"it is {i}",
            "negatives": [f"no {i}", "neither"],
            "candidates": [f"it is {i}", f"no {i}"],
            "teacher_scores": [1.5, 0.3],
        }
        for i in range(4)
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "small.yaml").write_text(
        RECIPE.format(
            model=GOLDEN / model / "checkpoint",
            preset=preset,
            trainer=trainer,
            rows=tmp_path / "rows.jsonl",
            arguments=arguments,
        )
    )
    run_recipe(read_recipe(tmp_path / "small.yaml"), tmp_path / "run", formats=FORMATS)
    done = json.loads((tmp_path / "run" / "stage" / "done.json").read_text())
    assert done["steps"] == 2
    assert {"eval_loss", "train_loss"} <= done.keys()
    loaded = umekit.load(tmp_path / "run" / "stage" / done["result"])
    if trainer == "reranker":
        assert loaded.rerank("which 0", ["it is 0", "no 0"]).shape == (2,)
        assert done["eval_auc"] >= 0
    else:
        assert loaded.encode(["which 0"]).shape == (1, 64)
        assert done["temperature"]["temperature"] == pytest.approx(0.05, rel=0.1)
