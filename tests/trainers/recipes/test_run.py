"""A recipe from end to end: steps, mined rows, a soup; resumed, refused, and with finished steps left alone."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import umekit
from umekit.evaluation.digit_world.dataset import open_digit_world
from umekit.trainers.recipes import FORMATS, RecipeError, dry_run_recipe, read_recipe, run, run_recipe
from umekit.trainers.recipes.steps import StepContext, build_trainer

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


def small(tmp_path: Path, *changes: tuple[str, str]) -> Any:
    """A recipe of one training, with some of its text replaced."""
    text = RECIPE[: RECIPE.index("  - kind: train\n    name: two")]
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    file = tmp_path / "one.yaml"
    file.write_text(text, encoding="utf-8")
    return read_recipe(file)


def test_accumulation_reads_new_rows(tmp_path: Path) -> None:
    recipe = small(tmp_path, ("max_steps: 2", "max_steps: 2\n      gradient_accumulation_steps: 3"))
    trainer = build_trainer(
        recipe.steps[0], StepContext(recipe, tmp_path, tmp_path / "one", FORMATS_HERE, False)
    )
    assert len(trainer.train_dataset) == 2 * 3 * 4
    recipe = small(tmp_path, ("max_steps: 2", "num_train_epochs: 1\n      gradient_accumulation_steps: 30"))
    with pytest.raises(RecipeError, match="make no step"):
        run_recipe(recipe, tmp_path / "run", formats=FORMATS_HERE)


def test_the_seed_makes_the_adapter(tmp_path: Path) -> None:
    recipe = small(tmp_path)
    context = StepContext(recipe, tmp_path, tmp_path / "one", FORMATS_HERE, False)
    first, second = (
        {
            name: value.clone()
            for name, value in build_trainer(recipe.steps[0], context).native_model.state_dict().items()
            if "lora_A" in name
        }
        for _ in range(2)
    )
    assert first
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_killed_step_goes_on_and_ends_the_same(tmp_path: Path) -> None:
    recipe = small(tmp_path, ("max_steps: 2", "max_steps: 4\n      save_steps: 2"))
    whole = run_recipe(recipe, tmp_path / "whole", formats=FORMATS_HERE)[0]
    run_recipe(recipe, tmp_path / "killed", formats=FORMATS_HERE)
    folder = tmp_path / "killed" / "one"  # as it was after two steps
    (folder / "done.json").unlink()
    shutil.rmtree(folder / "adapter")
    shutil.rmtree(folder / "trainer" / "checkpoint-4")
    resumed = run_recipe(recipe, tmp_path / "killed", formats=FORMATS_HERE, resume=True)[0]
    name = "adapter_model.safetensors"
    expected, found = load_file(whole.folder / name), load_file(resumed.folder / name)
    assert all(torch.equal(expected[key], found[key]) for key in expected)

    (folder / "done.json").unlink()
    for file in folder.glob("trainer/checkpoint-*/optimizer.pt"):
        file.unlink()
    with pytest.raises(RecipeError, match="cut off"):
        run_recipe(recipe, tmp_path / "killed", formats=FORMATS_HERE, resume=True)


def test_a_killed_step_does_not_go_on_with_other_batches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The file of a source grew, or twice as many processes run: another plan, in which step 2 is another."""
    recipe = small(tmp_path, ("max_steps: 2", "max_steps: 4\n      save_steps: 2"))
    data = tmp_path / "data"
    rows = [{"query": f"query {n}", "positive": f"positive {n}"} for n in range(66)]

    def formats(count: int) -> Any:
        return {**FORMATS, "digit-world": lambda path, options: rows[:count]}

    run_recipe(recipe, data, formats=formats(64))
    folder = data / "one"
    (folder / "done.json").unlink()
    shutil.rmtree(folder / "trainer" / "checkpoint-4")
    with pytest.raises(
        RecipeError, match=r"source 'text' has 66 rows, and had 64 rows\. Put back .*, or remove"
    ):
        run_recipe(recipe, data, formats=formats(66), resume=True)
    plan = json.loads((folder / "plan.json").read_text())
    (folder / "plan.json").write_text(
        json.dumps({**plan, "fingerprint": "of two processes", "processes": 2, "rows of a batch": 8})
    )
    with pytest.raises(
        RecipeError, match="there are 1 processes, and were 2; there are 4 rows of a batch, and were 8"
    ):
        run_recipe(recipe, data, formats=formats(64), resume=True)
    (folder / "plan.json").unlink()
    run_recipe(recipe, data, formats=formats(64), resume=True)
    assert "no plan.json" in caplog.text


def test_other_ranks_wait_for_the_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = small(tmp_path)
    root = tmp_path / "run"
    root.mkdir()
    (root / "recipe.partial").write_text("{")  # what rank 0 is writing
    seen: list[Path] = []

    def wait(file: Path) -> None:
        seen.append(file)
        file.write_text(json.dumps(recipe.model_dump(mode="json")))

    monkeypatch.setenv("RANK", "1")
    monkeypatch.setattr(run, "_wait_for", wait)
    run._open_run(root, recipe, False)
    assert seen == [root / "recipe.json"]


def test_dry_run_reports_the_longest_batch(tmp_path: Path) -> None:
    file = tmp_path / "small.yaml"
    file.write_text(RECIPE, encoding="utf-8")
    report = dry_run_recipe(read_recipe(file), formats=FORMATS_HERE)
    assert report["step"] == "one"
    assert len(report["rows"]) == 4
    assert report["peak_bytes"] > 0
