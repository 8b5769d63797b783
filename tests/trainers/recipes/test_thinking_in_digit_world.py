"""UME-R1 in small by recipe: a cold start, RL from it, and DUME on the same rows; what each leaves."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import umekit
from umekit.evaluation.digit_world.dataset import open_digit_world
from umekit.trainers.recipes import FORMATS, read_recipe, run_recipe

EXAMPLES = Path(__file__).parents[3] / "examples" / "recipes"
FORMATS_HERE = {**FORMATS, "digit-world": open_digit_world}
FEW = {"max_steps": 1, "per_device_train_batch_size": 4, "disable_tqdm": True, "use_cpu": True}


def test_a_cold_start_and_rl(tmp_path: Path) -> None:
    changes = {f"steps.{step}.arguments.{name}": value for step in (0, 1) for name, value in FEW.items()}
    changes |= {"steps.1.arguments.max_completion_length": 6, "steps.1.arguments.num_generations": 2}
    changes |= {"steps.0.eval_data.sources.0.options.rows": 4, "steps.1.arguments.log_completions_steps": 1}
    run_recipe(read_recipe(EXAMPLES / "ume-r1-digit-world.yaml", changes), tmp_path, formats=FORMATS_HERE)
    done = json.loads((tmp_path / "cold-start" / "done.json").read_text())
    assert {"eval_gen_recall@1", "eval_disc_recall@1"} <= set(done)
    encoder = umekit.load(tmp_path / "rl" / "model")
    vectors = encoder.encode(["walk from p1 h2"], mode="both", max_new_tokens=4)
    assert all(np.isfinite(one).all() for one in vectors.values())
    assert list((tmp_path / "rl" / "trainer").rglob("*.jsonl"))


def test_dume_sees_the_same_rows() -> None:
    (dume,) = read_recipe(EXAMPLES / "dume-digit-world.yaml").steps
    cold, _ = read_recipe(EXAMPLES / "ume-r1-digit-world.yaml").steps
    assert dume.data == cold.data
    weights = {"gen_weight", "query_ce_weight", "positive_ce_weight"}
    assert {k: v for k, v in dume.arguments.items() if k not in weights} == cold.arguments
    assert {dume.arguments[name] for name in weights} == {0.0}


def test_an_unknown_role_is_refused(tmp_path: Path) -> None:
    text = (EXAMPLES / "dume-digit-world.yaml").read_text().replace("role: generative", "role: thinker")
    (tmp_path / "try.yaml").write_text(text)
    with pytest.raises(ValueError, match="role"):
        read_recipe(tmp_path / "try.yaml")
