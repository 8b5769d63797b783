"""The recipe that trains when to think, from the packaged model in place of what joint training leaves."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

import umekit
from umekit.evaluation.digit_world.dataset import open_digit_world
from umekit.trainers.recipes import FORMATS, read_recipe, run_recipe

RECIPE = Path(__file__).parents[3] / "examples" / "recipes" / "mmemb-r1-rl-digit-world.yaml"
FEW = {
    "max_steps": 2,
    "per_device_train_batch_size": 3,
    "num_generations": 4,
    "max_completion_length": 8,
    "action_warmup_steps": 1,
    "collapse_window": 2,
    "log_completions_steps": 1,
    "disable_tqdm": True,
    "use_cpu": True,
}


def test_from_both_actions_to_a_model_that_decides(tmp_path: Path) -> None:
    changes: dict[str, object] = {f"steps.rl.arguments.{name}": value for name, value in FEW.items()}
    changes |= {f"steps.rl.data.sources.{n}.options.rows": 6 for n in range(3)}
    changes |= {f"steps.rl.eval_data.sources.{n}.options.rows": 3 for n in range(2)}
    changes |= {"model.path": None}
    recipe = read_recipe(RECIPE, changes)
    [done] = run_recipe(recipe, tmp_path, formats={**FORMATS, "digit-world": open_digit_world})
    assert {"eval_recall@1", "eval_invocation_ratio"} <= set(done.metrics)
    state = next((tmp_path / "rl" / "trainer").glob("checkpoint-*/trainer_state.json"))
    logged = [one for one in json.loads(state.read_text())["log_history"] if "loss" in one]
    names = ("reason_probability", "invocation_ratio", "thought_tokens", "delta", "break_even", "collapse")
    assert len(logged) == 2
    assert all({f"query_{name}" for name in names} <= one.keys() for one in logged)
    lines = (tmp_path / "rl" / "trainer" / "completions" / "step-000000.jsonl").read_text().splitlines()
    first = [json.loads(line) for line in lines if json.loads(line)["row"] == 0]
    assert sum(one["text"] == "<direct>" for one in first) == len(first) / 2 == 2
    assert {"reward_format", "reward_embed", "reward_adaptive", "advantage", "action_advantage"} <= first[
        0
    ].keys()
    encoder = umekit.load(done.folder)
    assert encoder.model.kind == "adaptive"
    found = encoder.encode(["walk from p1 h2"] * 2, mode="adaptive", max_new_tokens=4, return_details=True)
    assert np.isfinite(found.embeddings).all()
