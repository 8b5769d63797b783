"""Recipes: every packaged file is valid, and what is wrong with another one is said."""

from __future__ import annotations

from pathlib import Path

import pytest

from umekit.trainers.recipes import PROMPTS, RecipeError, launch_line, read_recipe
from umekit.trainers.recipes.step_specs import TrainStep

FOLDER = Path(__file__).parents[3] / "examples" / "recipes"
RECIPE = """
name: try
source: section 1
steps:
  - kind: train
    name: one
    source: section 2
    data: {sources: [{name: a, path: a.jsonl}]}
    arguments: {max_steps: 3}
  - kind: mine
    name: mined
    source: section 3
    data: {sources: [{name: a, path: a.jsonl}]}
  - kind: train
    name: two
    source: section 4
    start: one
    data: {sources: [{name: m, step: mined}]}
"""


@pytest.mark.parametrize("file", sorted(FOLDER.glob("*.yaml")), ids=lambda file: file.stem)
def test_packaged_recipes_are_valid_and_name_their_papers(file: Path) -> None:
    recipe = read_recipe(file)
    assert recipe.name == file.stem
    assert "arXiv" in recipe.source
    for step in recipe.steps:
        assert step.source, f"{step.name} names no section"
        if isinstance(step, TrainStep) and step.prompt is not None and step.prompt.name is not None:
            assert step.prompt.name in PROMPTS


def write(folder: Path, text: str) -> Path:
    file = folder / "recipe.yaml"
    file.write_text(text, encoding="utf-8")
    return file


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("max_steps", "max_steps", None),
        ("start: one", "start: other", "starts from 'other'"),
        ("start: one", "start: mined", "starts from 'mined'"),
        ("start: one", "objective_from: start", "objective_from"),
        (
            "max_steps: 3}",
            "max_steps: 3}\n    lora: {rank: 1, alpha: 1}\n    keep: adapter",
            "adapter of 'one'",
        ),
        (
            "  - kind: mine",
            "  - {kind: soup, name: s, source: x, of: [start, one]}\n  - kind: mine",
            "averages",
        ),
        ("source: section 1", "source: section 1\nmodel: {quantize: 4bit}", "only a lora"),
        ("step: mined", "step: one", "reads the rows of 'one'"),
        ("name: two", "name: one", "two steps"),
        ("name: two", "name: ../two", "folder"),
        ("kind: mine", "kind: dig", "steps.1"),
        ("kind: train", "kind: train\n    trainer: magic", "no trainer 'magic'"),
        ("source: section 2", "sauce: section 2", "sauce"),
        ("steps:", "steps: [", "not YAML"),
    ],
)
def test_wrong_entries_are_named(tmp_path: Path, old: str, new: str, message: str | None) -> None:
    file = write(tmp_path, RECIPE.replace(old, new))
    if message is None:
        assert [step.name for step in read_recipe(file).steps] == ["one", "mined", "two"]
    else:
        with pytest.raises(RecipeError, match=message):
            read_recipe(file)


def test_changes_by_name_and_by_number(tmp_path: Path) -> None:
    file = write(tmp_path, RECIPE)
    changes = {"steps.one.arguments.max_steps": 7, "steps.2.arguments.learning_rate": 0.5, "seed": 4}
    recipe = read_recipe(file, changes)
    assert recipe.seed == 4
    assert [getattr(step, "arguments", None) for step in recipe.steps] == [
        {"max_steps": 7},
        None,
        {"learning_rate": 0.5},
    ]
    with pytest.raises(RecipeError, match="no entry"):
        read_recipe(file, {"steps.three.name": "x"})


def test_numbers_are_numbers(tmp_path: Path) -> None:
    arguments = "{learning_rate: 2e-4, weight_decay: 1E-2, temperature: 0.05, run_name: 2e-4x}"
    recipe = read_recipe(write(tmp_path, RECIPE.replace("{max_steps: 3}", arguments)))
    step = recipe.steps[0]
    assert isinstance(step, TrainStep)
    assert list(step.arguments.values()) == [2e-4, 1e-2, 0.05, "2e-4x"]


def test_shortened_never_lengthens(tmp_path: Path) -> None:
    recipe = read_recipe(write(tmp_path, RECIPE)).shortened(5)
    steps = [step.arguments["max_steps"] for step in recipe.steps if isinstance(step, TrainStep)]
    assert steps == [3, 5]


def test_launch_line() -> None:
    line = launch_line(["r.yaml", "--out", "a b"], 8)
    assert (
        line == "torchrun --standalone --nproc-per-node 8 --module umekit.cli.main train r.yaml --out 'a b'"
    )
    assert "--nnodes 2" in launch_line([], 8, nodes=2)
    with pytest.raises(ValueError, match="positive"):
        launch_line([], 0)
