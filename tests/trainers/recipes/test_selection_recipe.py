"""The re-derived MMEmb-R1 by recipe: an evaluator, selected thoughts, joint training; and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from transformers import HfArgumentParser

import umekit
from umekit.evaluation.digit_world.dataset import open_digit_world
from umekit.trainers.recipes import FORMATS, RecipeError, read_recipe, run_recipe
from umekit.trainers.recipes.row_steps import selection_settings
from umekit.trainers.registry import trainer_class

EXAMPLES = Path(__file__).parents[3] / "examples" / "recipes"
FORMATS_HERE = {**FORMATS, "digit-world": open_digit_world}
FEW = {"max_steps": 1, "per_device_train_batch_size": 4, "disable_tqdm": True, "use_cpu": True}


def test_from_pools_to_a_model(tmp_path: Path) -> None:
    changes = {
        f"steps.{step}.arguments.{name}": value
        for step in ("sees", "evaluator", "joint")
        for name, value in FEW.items()
    }
    changes |= {f"steps.select.data.sources.{n}.options.rows": 4 for n in range(4)}
    changes |= {
        f"steps.{step}.arguments.warmup_steps": 0 for step in ("sees", "evaluator")
    }  # a first step of a warm-up changes nothing
    changes |= {"steps.joint.eval_data.sources.0.options.rows": 4, "steps.select.settings.margin": -100}
    recipe = read_recipe(EXAMPLES / "mmemb-r1-digit-world.yaml", changes)
    results = run_recipe(recipe, tmp_path, formats=FORMATS_HERE)
    assert [one.kind for one in results] == ["train", "train", "select", "train"]
    told = results[2].metrics["statistics"]["query"]
    assert told["rows"] == told["reason"] == 16
    assert set(told["workers"]) == {"careful", "confused", "generic"}
    assert all(one["candidates"] == 16 for one in told["workers"].values())
    assert {"eval_disc_recall@1", "eval_gen_disc_recall@1", "eval_recall@1"} <= set(results[3].metrics)
    encoder = umekit.load(results[3].folder)
    assert encoder.model.settings.kind == "adaptive"
    for mode in ("adaptive", "generative", "discriminative"):
        more = {} if mode == "discriminative" else {"max_new_tokens": 4}
        assert np.isfinite(encoder.encode(["walk from p1 h2"], mode=mode, **more)).all()
    logged = json.loads(
        next((tmp_path / "joint" / "trainer").glob("checkpoint-*/trainer_state.json")).read_text()
    )
    assert logged["global_step"] == 1
    assert run_recipe(recipe, tmp_path, formats=FORMATS_HERE, resume=True)[2].ran is False


def test_the_published_size_is_a_recipe(tmp_path: Path) -> None:
    select, joint = read_recipe(EXAMPLES / "mmemb-r1-qwen3vl-4b.yaml").steps
    assert selection_settings(select).negatives == 4
    assert [worker.name for worker in select.workers] == ["instruct", "instruct-warm", "thinking"]
    kind = trainer_class(joint.trainer).arguments_class
    given = {**joint.arguments, "output_dir": str(tmp_path), "use_cpu": True, "bf16": False}
    (args,) = HfArgumentParser(kind).parse_dict(given)
    assert (args.cross_weight, args.action_weight, args.thoughtless_rows) == (1.0, 1.0, True)


def recipe(tmp_path: Path, *changes: tuple[str, str]) -> Path:
    text = (EXAMPLES / "mmemb-r1-digit-world.yaml").read_text(encoding="utf-8")
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    (tmp_path / "try.yaml").write_text(text, encoding="utf-8")
    return tmp_path / "try.yaml"


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("evaluator: {step: evaluator}", "evaluator: {step: joint}", "'joint' is no training before it"),
        ("evaluator: {step: evaluator}", "evaluator: {}", "name a step or a path"),
        ("pools: true}}", "pools: true}, filter_thoughts: {}}", "after thoughts are chosen"),
        (
            "{name: selected, step: select}",
            "{name: selected, step: evaluator}",
            "no mining, scoring or selecting",
        ),
    ],
)
def test_wrong_references_are_told(tmp_path: Path, old: str, new: str, said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        read_recipe(recipe(tmp_path, (old, new)))


def test_a_wrong_setting_is_told_before_anything_runs(tmp_path: Path) -> None:
    file = recipe(tmp_path, ("choice: pair-aware", "choice: best"))
    with pytest.raises(RecipeError, match="step select: settings: choice is 'best'"):
        run_recipe(read_recipe(file), tmp_path / "out", formats=FORMATS_HERE)
    file = recipe(tmp_path, ("margin: 0.1", "margins: 0.1"))
    with pytest.raises(RecipeError, match=r"step select: settings: .*margins"):
        run_recipe(read_recipe(file), tmp_path / "out", formats=FORMATS_HERE)
