"""A reranker and a distilled model as steps of recipes: trained with a LoRA, merged, opened again."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

import umekit
from umekit.trainers.recipes import FORMATS, RecipeError, read_recipe, run_recipe
from umekit.trainers.recipes.sources import open_made, part_of

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


CHAIN = """
name: chain
source: a test
model: {{path: {model}, preset: u-marvel}}
steps:
  - {{kind: mine, name: lists, source: a test, data: {{sources: [{{name: rows, path: {rows}}}]}},
     options: {{k: 3, depth: 8, max_similarity: null}}}}
  - kind: train
    name: judge
    source: a test
    trainer: reranker
    start: start
    prompt: {{name: u-marvel-reranker-short, attention: causal}}
    lora: {{rank: 2, alpha: 4}}
    data: {{sources: [{{name: lists, step: lists}}]}}
    arguments: {{per_device_train_batch_size: 2, max_steps: 1, max_negatives: 2}}
  - kind: score
    name: scored
    source: a test
    start: start
    reranker: {reranker}
    data: {{sources: [{{name: lists, step: lists}}]}}
    options: {{alpha: 0.25, positive: always}}
  - kind: train
    name: distilled
    source: a test
    trainer: distillation
    start: start
    lora: {{rank: 2, alpha: 4}}
    data: {{sources: [{{name: scored, step: scored, fraction: 0.5}}]}}
    arguments: {{per_device_train_batch_size: 2, max_steps: 1}}
"""


def test_mined_judged_scored_and_distilled(tmp_path: Path) -> None:
    rows = [{"query": f"which {i}", "positive": f"it is {i}"} for i in range(8)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    model = GOLDEN / "umarvel_qwen2vl" / "checkpoint"
    recipe = tmp_path / "chain.yaml"
    recipe.write_text(CHAIN.format(model=model, rows=tmp_path / "rows.jsonl", reranker="lists"))
    with pytest.raises(RecipeError, match="'lists' is no training before it"):
        read_recipe(recipe)
    recipe.write_text(CHAIN.format(model=model, rows=tmp_path / "rows.jsonl", reranker="judge"))
    results = {step.name: step for step in run_recipe(read_recipe(recipe), tmp_path / "run", formats=FORMATS)}
    assert results["scored"].metrics["pairs"] == 8 * 4
    judge = umekit.load(results["judge"].folder)
    teacher = open_made(results["scored"].folder)
    again = judge.rerank(teacher[0]["query"], teacher[0]["candidates"])
    encoder = umekit.load(model, preset="u-marvel")
    query = encoder.encode([teacher[0]["query"]], role="query")
    cosines = (query @ encoder.encode(teacher[0]["candidates"], role="document").T)[0]
    assert teacher[0]["teacher_scores"] == pytest.approx(0.25 * cosines + 0.75 * again, abs=1e-5)
    assert results["distilled"].metrics["steps"] == 1


def test_a_fraction_is_the_same_rows_everywhere() -> None:
    tenth, fifth = part_of([""] * 1000, 0.1, seed=3), part_of([""] * 1000, 0.2, seed=3)
    assert len(tenth) == 100
    assert set(tenth) < set(fifth)
    assert part_of([""] * 1000, 0.1, seed=3) == tenth != part_of([""] * 1000, 0.1, seed=4)
    assert part_of([""] * 3, 0.01, seed=0) in ([0], [1], [2])
    tasks = ["few", *["many"] * 90, "few", *["some"] * 8]
    drawn = Counter(tasks[number] for number in part_of(tasks, 0.1, seed=0))
    assert drawn == {"many": 9, "few": 1, "some": 1}
