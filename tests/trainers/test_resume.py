"""A killed run that is resumed is the unbroken run, weight for weight; nothing that is missing is passed
over."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from stub_model import stub_rows, stub_trainer
from transformers import TrainerCallback

from umekit.trainers.checkpoints import check_checkpoint, last_complete_checkpoint


class Killed(Exception):
    """Raised in place of a crash."""


class KillAt(TrainerCallback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.step + 1:  # the step after the last save is lost, as in a real crash
            raise Killed


def weights(trainer: Any) -> dict[str, torch.Tensor]:
    return {k: v.clone() for k, v in trainer.accelerator.unwrap_model(trainer.model).state_dict().items()}


def assert_same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert a.keys() == b.keys()
    different = [k for k in a if not torch.equal(a[k], b[k])]
    assert not different


SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "cached": {"chunk_tokens": 40},
    "accumulated": {
        "gradient_accumulation_steps": 2,
        "per_device_train_batch_size": 4,
        "num_train_epochs": 3,
    },
    "evaluated": {"eval_strategy": "epoch", "chunk_tokens": 60},
}


@pytest.mark.parametrize("name", SETTINGS)
def test_killed_and_resumed_is_unbroken(tmp_path: Path, name: str) -> None:
    settings = {"save_strategy": "steps", "save_steps": 1, **SETTINGS[name]}
    rows = stub_rows(20, images=True)
    if name == "evaluated":
        settings["eval_dataset"] = stub_rows(7, seed=9)
    whole = stub_trainer(tmp_path / "whole", rows=rows, **dict(settings))
    whole.train()
    total = whole.state.global_step
    expected = weights(whole)
    assert expected["objective.temperature.log_temperature"].item() != pytest.approx(
        torch.tensor(0.05).log().item()
    )
    for step in range(1, total, 1 if name == "cached" else 2):
        folder = tmp_path / f"killed-{step}"
        with pytest.raises(Killed):
            stub_trainer(folder, rows=rows, callbacks=[KillAt(step)], **dict(settings)).train()
        resumed = stub_trainer(folder, rows=rows, **dict(settings))
        resumed.train(resume_from_checkpoint=str(folder / f"checkpoint-{step}"))
        assert resumed.state.global_step == total
        assert_same(expected, weights(resumed))
        shutil.rmtree(folder)


def test_resume_true_passes_over_a_checkpoint_that_was_cut_off(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"save_strategy": "steps", "save_steps": 1}
    whole = stub_trainer(tmp_path, **settings)
    whole.train()
    expected, last = weights(whole), whole.state.global_step
    (tmp_path / f"checkpoint-{last}" / "trainer_state.json").write_text("{")
    (tmp_path / f"checkpoint-{last - 1}" / "optimizer.pt").unlink()
    assert last_complete_checkpoint(tmp_path).endswith(f"checkpoint-{last - 2}")
    resumed = stub_trainer(tmp_path, **settings)
    resumed.train(resume_from_checkpoint=True)
    assert_same(expected, weights(resumed))


def test_resume_true_without_any_checkpoint_raises(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no complete checkpoint"):
        stub_trainer(tmp_path).train(resume_from_checkpoint=True)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    stub_trainer(folder, save_strategy="steps", save_steps=2, max_steps=2).train()
    return folder / "checkpoint-2"


@pytest.mark.parametrize(
    "name",
    [
        "optimizer.pt",
        "scheduler.pt",
        "rng_state.pth",
        "trainer_state.json",
        "objective.json",
        "objective.safetensors",
    ],
)
def test_a_missing_file_raises(checkpoint: Path, tmp_path: Path, name: str) -> None:
    broken = shutil.copytree(checkpoint, tmp_path / "checkpoint-2")
    (broken / name).unlink()
    with pytest.raises(FileNotFoundError, match=name):
        stub_trainer(tmp_path).train(resume_from_checkpoint=str(broken))


def test_a_checkpoint_is_of_as_many_processes_as_wrote_it(checkpoint: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(checkpoint, tmp_path / "checkpoint-2")
    (folder / "rng_state.pth").unlink()
    for rank in range(8):
        (folder / f"rng_state_{rank}.pth").touch()
    assert last_complete_checkpoint(tmp_path, 8) == str(folder)
    for processes in (1, 2, 4, 16):
        with pytest.raises(FileNotFoundError, match="rng_state"):
            check_checkpoint(folder, processes)
        with pytest.raises(FileNotFoundError, match="no complete checkpoint"):
            last_complete_checkpoint(tmp_path, processes)
    (folder / "rng_state.pth").touch()
    with pytest.raises(FileNotFoundError, match=r"rng_state_0\.pth.*not of a run of 1 process"):
        check_checkpoint(folder, 1)


def test_written_again_by_fewer_processes_it_is_theirs(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"save_strategy": "steps", "save_steps": 2, "max_steps": 2}
    folder = tmp_path / "checkpoint-2"
    folder.mkdir()
    (folder / "rng_state_1.pth").touch()  # left by two processes that were killed
    stub_trainer(tmp_path, **settings).train()
    assert last_complete_checkpoint(tmp_path) == str(folder)


@pytest.mark.parametrize(
    ("name", "key"),
    [("model.safetensors", "hidden.weight"), ("objective.safetensors", "temperature.log_temperature")],
)
def test_a_missing_key_raises(checkpoint: Path, tmp_path: Path, name: str, key: str) -> None:
    broken = shutil.copytree(checkpoint, tmp_path / "checkpoint-2")
    tensors = load_file(broken / name)
    value = tensors.pop(key)
    save_file({**tensors, "other": value}, broken / name, metadata={"format": "pt"})
    with pytest.raises(RuntimeError, match=key):
        stub_trainer(tmp_path).train(resume_from_checkpoint=str(broken))


def test_other_tasks_raise(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="tasks"):
        stub_trainer(tmp_path, tasks=["a", "b"]).train(resume_from_checkpoint=str(checkpoint))


class RememberBest(TrainerCallback):
    def __init__(self) -> None:
        self.trainer: Any = None
        self.best: dict[str, torch.Tensor] = {}
        self.metric = float("inf")

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Any = None, **kwargs: Any) -> None:
        if metrics["eval_recall@1"] < self.metric:  # the best is the lowest in this test
            self.metric = metrics["eval_recall@1"]
            self.best = weights(self.trainer)


def test_load_best_restores_weights_and_temperature(tmp_path: Path) -> None:
    remember = RememberBest()
    trainer = stub_trainer(
        tmp_path,
        eval_dataset=stub_rows(24, seed=5),
        eval_strategy="steps",
        eval_steps=1,
        save_strategy="steps",
        save_steps=1,
        load_best_model_at_end=True,
        greater_is_better=False,  # so that an early step is the one to come back to
        callbacks=[remember],
    )
    remember.trainer = trainer
    assert trainer.args.metric_for_best_model == "eval_recall@1"
    trainer.train()
    best = Path(str(trainer.state.best_model_checkpoint))
    assert best.name != f"checkpoint-{trainer.state.global_step}", "the last step must not be the best here"
    assert_same(remember.best, weights(trainer))


class StepsTaken(TrainerCallback):
    def __init__(self) -> None:
        self.steps: list[int] = []

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.steps.append(state.global_step)


@pytest.mark.parametrize(
    ("settings", "last"),
    [
        ({"max_steps": 2}, 2),  # in the middle of an epoch of 3 steps
        ({"max_steps": 4}, 4),
        ({"max_steps": 3}, 3),  # at its end
        ({"num_train_epochs": 2}, 6),
        ({"num_train_epochs": 1.5}, 5),
        ({"max_steps": 2, "ignore_data_skip": True}, 2),
        ({"max_steps": 1, "gradient_accumulation_steps": 2}, 1),
    ],
)
def test_a_finished_run_that_is_resumed_trains_nothing_and_says_so(
    tmp_path: Path, settings: dict[str, Any], last: int, caplog: pytest.LogCaptureFixture
) -> None:
    settings = {"save_strategy": "steps", "save_steps": 1, "chunk_tokens": 60, **settings}
    finished = stub_trainer(tmp_path, **settings)
    finished.train()
    assert finished.state.global_step == last
    kept = sorted(path.name for path in tmp_path.glob("checkpoint-*"))
    for _ in range(2):
        taken = StepsTaken()
        again = stub_trainer(tmp_path, callbacks=[taken], **settings)
        caplog.clear()
        output = again.train(resume_from_checkpoint=True)
        assert taken.steps == []
        assert (again.state.global_step, output.global_step) == (last, last)
        assert f"nothing is left to train: {tmp_path / f'checkpoint-{last}'}" in caplog.text
        assert_same(weights(again), weights(finished))
        assert sorted(path.name for path in tmp_path.glob("checkpoint-*")) == kept


def test_a_run_that_went_too_far_or_is_to_end_earlier_trains_nothing(tmp_path: Path) -> None:
    settings = {"save_strategy": "steps", "save_steps": 1}
    stub_trainer(tmp_path, max_steps=4, **settings).train()
    taken = StepsTaken()
    stub_trainer(tmp_path, callbacks=[taken], max_steps=2, **settings).train(resume_from_checkpoint=True)
    assert taken.steps == []


def test_more_steps_than_before_are_trained(tmp_path: Path) -> None:
    settings = {"save_strategy": "steps", "save_steps": 1}
    stub_trainer(tmp_path, max_steps=2, **settings).train()
    taken = StepsTaken()
    stub_trainer(tmp_path, callbacks=[taken], max_steps=4, **settings).train(resume_from_checkpoint=True)
    assert taken.steps == [3, 4]
