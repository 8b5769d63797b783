"""UME-R1 in small by recipe: a cold start, RL from it, and DUME on the same rows; what each leaves."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import umekit
from umekit.evaluation.digit_world.dataset import open_digit_world
from umekit.trainers.recipes import FORMATS, RecipeError, read_recipe, run_recipe
from umekit.trainers.recipes.sources import open_sources
from umekit.trainers.recipes.step_specs import DataSpec

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


def test_rows_with_bad_thoughts_are_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = [
        {"query": f"q{n}", "positive": "p", "positive_thought": "a", "positive_answer": "p"} for n in range(4)
    ]
    for row, thought in zip(rows, ("so", "no " * 40, "so it is", "one two three four five six"), strict=True):
        row |= {"query_thought": thought, "answer": "p"}
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    tokenizer = umekit.load().processor.tokenizer

    def opened(**options: object) -> list[str]:
        source = {"name": "own", "path": str(file), "filter_thoughts": options}
        (found,) = open_sources(DataSpec(sources=(source,)), FORMATS, Path, tokenizer)
        return [found.rows[place]["query"] for place in range(len(found))]

    assert opened(repeats=16) == ["q0", "q2", "q3"]
    assert "'own': thoughts of rows {'kept': 3, 'repetition': 1}" in caplog.text
    assert opened(max_tokens=12) == ["q0", "q2"]
    with pytest.raises(RecipeError, match="'own': filter_thoughts leaves none of 4 rows"):
        opened(max_tokens=1)
    with pytest.raises(RecipeError, match="'own'"):
        opened(least=1)
