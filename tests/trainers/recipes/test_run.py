"""A recipe from end to end: steps, mined rows, a soup; resumed, refused, and with finished steps left alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import umekit
from umekit.evaluation.digit_world.dataset import open_digit_world
from umekit.trainers.recipes import FORMATS, RecipeError, dry_run_recipe, read_recipe, run_recipe

FORMATS_HERE = {**FORMATS, "digit-world": open_digit_world}
RECIPE = """
name: small
source: a test
model: {}
steps:
  - kind: train
    name: one
    source: a test
    prompt: {name: rzenembed}
    lora: {rank: 2, alpha: 4, parts: [language]}
    keep: adapter
    data: &data {sources: [{name: text, format: digit-world, options: {task: paraphrase, rows: 64}}]}
    arguments: &arguments
      per_device_train_batch_size: 4
      max_steps: 2
      learning_rate: 0.01
      temperature: 0.05
      disable_tqdm: true
  - kind: train
    name: two
    source: a test
    start: start
    prompt: {name: rzenembed}
    lora: {rank: 3, alpha: 4, parts: [language]}
    keep: adapter
    data: *data
    arguments: *arguments
  - {kind: soup, name: both, source: a test, of: [one, two]}
  - kind: mine
    name: mined
    source: a test
    data: {sources: [{name: text, format: digit-world, options: {task: paraphrase, rows: 12, start: 64}}]}
    options: {k: 2, max_similarity: 1.0, show_progress: false}
  - kind: train
    name: hard
    source: a test
    lora: {rank: 2, alpha: 4}
    data: {sources: [{name: mined, step: mined}]}
    eval_data: {sources: [{name: text, format: digit-world, options: {task: paraphrase, rows: 8, split: validation}}]}
    arguments: {per_device_train_batch_size: 4, num_train_epochs: 1, learning_rate: 0.01, temperature: 0.05}
    learning_rate_rule: {batch: 16}
"""


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path, list[Any]]:
    folder = tmp_path_factory.mktemp("recipe")
    file = folder / "small.yaml"
    file.write_text(RECIPE, encoding="utf-8")
    recipe = read_recipe(file)
    return recipe, folder / "run", run_recipe(recipe, folder / "run", formats=FORMATS_HERE)


def test_every_step_leaves_its_result(finished: tuple[Any, Path, list[Any]]) -> None:
    _, root, results = finished
    assert [(r.name, r.folder.name) for r in results] == [
        ("one", "adapter"),
        ("two", "adapter"),
        ("both", "model"),
        ("mined", "rows"),
        ("hard", "model"),
    ]
    assert all(r.ran for r in results)
    by_name = {r.name: r for r in results}
    assert by_name["hard"].metrics["steps"] == 3  # one pass over twelve rows, four at a time
    assert 0 <= by_name["hard"].metrics["eval_recall@1"] <= 1
    args = json.loads((root / "hard" / "trainer" / "checkpoint-3" / "trainer_state.json").read_text())
    assert args["max_steps"] == 3


def test_the_result_is_a_checkpoint_with_the_recipes_prompt(finished: tuple[Any, Path, list[Any]]) -> None:
    _, _, results = finished
    final = umekit.load(results[-1].folder)
    assert "Represent the given text in one word." in final.processor.explain("hello")["text"]
    base = umekit.load().encode(["hello"])
    assert not np.allclose(final.encode(["hello"]), base, atol=1e-3)


def test_finished_steps_are_not_run_again(finished: tuple[Any, Path, list[Any]]) -> None:
    recipe, root, _ = finished
    again = run_recipe(recipe, root, formats=FORMATS_HERE, resume=True)
    assert not any(result.ran for result in again)


def test_another_recipe_or_a_run_without_resume_is_refused(finished: tuple[Any, Path, list[Any]]) -> None:
    recipe, root, _ = finished
    with pytest.raises(RecipeError, match="resume"):
        run_recipe(recipe, root, formats=FORMATS_HERE)
    with pytest.raises(RecipeError, match="another recipe"):
        run_recipe(recipe.shortened(1), root, formats=FORMATS_HERE, resume=True)


def test_unknown_formats_and_arguments_are_named(tmp_path: Path) -> None:
    file = tmp_path / "small.yaml"
    file.write_text(RECIPE.replace("format: digit-world", "format: nothing"), encoding="utf-8")
    with pytest.raises(RecipeError, match=r"source 'text': no format 'nothing'"):
        run_recipe(read_recipe(file), tmp_path / "a", formats=FORMATS_HERE)
    file.write_text(RECIPE.replace("temperature: 0.05", "temprature: 0.05"), encoding="utf-8")
    with pytest.raises(RecipeError, match="temprature"):
        run_recipe(read_recipe(file), tmp_path / "b", formats=FORMATS_HERE)


def test_dry_run_reports_the_longest_batch(tmp_path: Path) -> None:
    file = tmp_path / "small.yaml"
    file.write_text(RECIPE, encoding="utf-8")
    report = dry_run_recipe(read_recipe(file), formats=FORMATS_HERE)
    assert report["step"] == "one"
    assert len(report["rows"]) == 4
    assert report["peak_bytes"] > 0
