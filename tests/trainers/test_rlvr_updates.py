"""Several updates on the same rollouts: which rows are drawn, after a resume and in a recipe, and what is written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

import umekit
from umekit.encoding.packaged import packaged_model
from umekit.evaluation.digit_world.dataset import open_digit_world
from umekit.trainers import RLVRTrainer, RLVRTrainingArguments
from umekit.trainers.recipes import FORMATS, read_recipe, run_recipe

SETTINGS: dict[str, Any] = {
    "per_device_train_batch_size": 2,
    "num_generations": 2,
    "max_completion_length": 2,
    "num_iterations": 2,
    "beta": 0.0,
    "use_cpu": True,
    "report_to": "none",
    "disable_tqdm": True,
}


def row(number: int) -> dict[str, Any]:
    return {"query": {"text": f"p{number}"}, "positive": {"text": f"gold {number}"}}


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, tuple[str, ...]]]:
    """Of every draw of any trainer, its step and the names of its rows."""
    found: list[tuple[int, tuple[str, ...]]] = []
    draw = RLVRTrainer.draw

    def noted(self: RLVRTrainer, model: Any, batch: Any) -> Any:
        found.append((self.state.global_step, tuple(batch.names)))
        return draw(self, model, batch)

    monkeypatch.setattr(RLVRTrainer, "draw", noted)
    return found


def trainer_of(folder: Path, **settings: Any) -> RLVRTrainer:
    encoder = umekit.load(role="generative", device="cpu")
    arguments = RLVRTrainingArguments(output_dir=str(folder), **{**SETTINGS, **settings})
    rows = [row(number) for number in range(1, 7)]
    return RLVRTrainer(encoder.model, arguments, processing_class=encoder.processor, train_dataset=rows)


def test_a_resumed_run_draws_what_the_unbroken_one_does(tmp_path: Path, drawn: list[Any]) -> None:
    """Also after the first epoch, whose order is another one than that of the second."""
    settings = {"num_train_epochs": 3, "save_strategy": "steps", "save_steps": 8}
    trainer_of(tmp_path, **settings).train()
    unbroken = [*drawn]
    assert [step for step, _ in unbroken] == [*range(0, 18, 2)]
    epochs = [unbroken[place : place + 3] for place in (0, 3, 6)]
    rows = [[name for _, names in epoch for name in names] for epoch in epochs]
    assert all(sorted(one) == sorted(set(rows[0])) for one in rows)  # each row once an epoch
    assert rows[0] != rows[1] != rows[2]
    drawn.clear()
    trainer_of(tmp_path, **settings).train(resume_from_checkpoint=str(tmp_path / "checkpoint-8"))
    assert drawn == unbroken[4:]


def test_an_epoch_of_a_recipe_draws_every_row(tmp_path: Path, drawn: list[Any]) -> None:
    sources = [{"name": "walks", "format": "digit-world", "options": {"task": "walk", "rows": 8}}]
    step = {
        "kind": "train",
        "name": "rl",
        "trainer": "rlvr",
        "source": "made up",
        "data": {"sources": sources},
        "arguments": {
            **{name: value for name, value in SETTINGS.items() if name != "use_cpu"},
            "num_train_epochs": 1,
            "save_strategy": "no",
        },
    }
    model = {"path": str(packaged_model()), "role": "generative"}
    file = tmp_path / "recipe.yaml"
    file.write_text(
        yaml.safe_dump({"name": "rl", "source": "made up", "seed": 0, "model": model, "steps": [step]})
    )
    run_recipe(read_recipe(file), tmp_path / "out", formats={**FORMATS, "digit-world": open_digit_world})
    assert [step for step, _ in drawn] == [0, 2, 4, 6]
    assert len({name for _, names in drawn for name in names}) == 8


def test_rollouts_are_written_for_every_step_that_asks(tmp_path: Path) -> None:
    trainer_of(tmp_path, max_steps=10, save_strategy="no", log_completions_steps=3).train()
    written = sorted(path.name for path in (tmp_path / "completions").iterdir())
    assert written == [f"step-{step:06d}.jsonl" for step in (0, 2, 6, 8)]  # for steps 0, 3, 6 and 9
