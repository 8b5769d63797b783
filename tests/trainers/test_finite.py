"""A step that is not finite is never taken: the run ends and says where, or leaves the step out and counts it."""

from __future__ import annotations

import json
import logging
import math
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from stub_model import stub_rows, stub_trainer
from test_resume import assert_same, weights
from torch import Tensor
from transformers import TrainerCallback

from umekit.trainers.finite import FiniteSteps, NonFiniteError, nonfinite_weights
from umekit.trainers.native_trainer import NativeTrainer
from umekit.trainers.objectives.module import ContrastiveObjective

POISON = {"query": "poison", "positive": "poison too", "negatives": []}


class Poisonable(ContrastiveObjective):
    """A loss that is what ``broken`` makes of it in the batches of these numbers (from 0)."""

    broken: Any = staticmethod(lambda loss: loss * float("nan"))
    at: tuple[int, ...] = ()
    calls = 0

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        loss, metrics = super().forward(*args, **kwargs)
        if self.training and torch.is_grad_enabled():
            self.calls += 1
            if self.calls - 1 in self.at:
                loss = self.broken(loss)
        return loss, metrics


class _NaNGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, loss: Tensor) -> Tensor:
        return loss.view_as(loss)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return gradients[0] * float("nan")


KINDS = {
    "nan": lambda loss: loss * math.nan,
    "inf": lambda loss: loss + math.inf,
    "gradient": _NaNGradient.apply,
}


def poisoned(folder: Path, at: tuple[int, ...], broken: Any = KINDS["nan"], **settings: Any) -> Any:
    objective = Poisonable(temperature=0.05, learnable_temperature=True)
    objective.at, objective.broken = at, broken
    defaults = {"save_strategy": "steps", "save_steps": 1, "save_total_limit": 2, "dropout": 0.0}
    return stub_trainer(folder, objective=objective, **{**defaults, **settings})


@pytest.mark.parametrize("clip", [0.0, 1.0])
@pytest.mark.parametrize("tokens", [None, 60])
@pytest.mark.parametrize("kind", KINDS)
def test_the_run_ends_and_says_where(tmp_path: Path, kind: str, tokens: int | None, clip: float) -> None:
    trainer = poisoned(tmp_path, (4,), KINDS[kind], chunk_tokens=tokens, max_grad_norm=clip)
    with pytest.raises(NonFiniteError, match=r"step 5: .*not.*row \d+, .*checkpoint-4") as error:
        trainer.train()
    assert error.value.step == 5
    assert error.value.checkpoint == str(tmp_path / "checkpoint-4")
    assert len(error.value.rows) == 8
    assert {path.name for path in tmp_path.glob("checkpoint-*")} == {"checkpoint-3", "checkpoint-4"}
    assert not nonfinite_weights(trainer.model)
    saved = load_file(tmp_path / "checkpoint-4" / "model.safetensors")
    assert_same(saved, trainer.native_model.backbone.state_dict())


def test_under_accumulation_the_rows_are_those_of_the_broken_batch(tmp_path: Path) -> None:
    trainer = poisoned(tmp_path, (2,), gradient_accumulation_steps=2, per_device_train_batch_size=4)
    with pytest.raises(NonFiniteError) as error:
        trainer.train()
    assert error.value.step == 2  # the third batch is the first of the second step
    assert len(error.value.rows) == 4


def test_the_filter_of_logs_hides_nothing(tmp_path: Path) -> None:
    for hide in (True, False):
        trainer = poisoned(tmp_path / str(hide), (0,), logging_nan_inf_filter=hide, logging_steps=2)
        with pytest.raises(NonFiniteError, match=r"step 1: .*checkpoint: none"):
            trainer.train()
        assert not list((tmp_path / str(hide)).glob("checkpoint-*"))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tokens", [None, 60])
def test_steps_are_left_out_up_to_a_limit(
    tmp_path: Path, kind: str, tokens: int | None, caplog: pytest.LogCaptureFixture
) -> None:
    trainer = poisoned(
        tmp_path, (1, 3), KINDS[kind], chunk_tokens=tokens, max_skipped_steps=2, logging_steps=1
    )
    before: dict[int, Any] = {}
    trainer.add_callback(KeepWeights(trainer, before))
    with caplog.at_level(logging.WARNING):
        output = trainer.train()
    assert_same(before[1], before[2])  # nothing moved, nor by weight decay and momentum
    assert_same(before[3], before[4])
    assert any(not torch.equal(before[4][key], before[5][key]) for key in before[4])
    logs = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert [math.isfinite(entry["loss"]) for entry in logs] == [True, False, True, False, True, True]
    assert [entry.get("skipped_steps", 0) for entry in logs] == [0, 1, 1, 2, 2, 2]
    taken = [entry["loss"] for entry in logs if math.isfinite(entry["loss"])]
    assert output.training_loss == pytest.approx(sum(taken) / len(taken), rel=1e-4)
    assert output.metrics["skipped_steps"] == 2
    assert "left out step 2" in caplog.text
    assert "row " in caplog.text
    assert not nonfinite_weights(trainer.model)
    state = json.loads((tmp_path / "checkpoint-6" / "trainer_state.json").read_text())
    assert state["stateful_callbacks"]["FiniteSteps"]["attributes"]["skipped"] == [2, 4]


class KeepWeights(TrainerCallback):
    def __init__(self, trainer: Any, found: dict[int, Any]) -> None:
        self.trainer, self.found = trainer, found

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.found[state.global_step] = weights(self.trainer)


def test_a_window_of_logs_is_the_mean_of_the_steps_that_were_taken(tmp_path: Path) -> None:
    every = poisoned(tmp_path / "a", (1,), max_skipped_steps=1, logging_steps=1)
    every.train()
    one = poisoned(tmp_path / "b", (1,), max_skipped_steps=1, logging_steps=3)
    one.train()
    single = [entry["loss"] for entry in every.state.log_history if "loss" in entry][:3]
    window = next(entry["loss"] for entry in one.state.log_history if "loss" in entry)
    assert window == pytest.approx((single[0] + single[2]) / 2, rel=1e-4)


def test_one_more_than_the_limit_raises_also_over_a_resumed_run(tmp_path: Path) -> None:
    with pytest.raises(NonFiniteError, match="1 steps were left out before"):
        poisoned(tmp_path / "a", (1, 3), max_skipped_steps=1).train()
    first = poisoned(tmp_path / "b", (1,), max_skipped_steps=1, max_steps=3)
    first.train()
    second = poisoned(tmp_path / "b", (0,), max_skipped_steps=1, max_steps=6)
    with pytest.raises(NonFiniteError, match=r"step 4: .*1 steps were left out before"):
        second.train(resume_from_checkpoint=True)


def test_weights_that_are_not_finite_are_saved_nowhere(tmp_path: Path) -> None:
    trainer = stub_trainer(tmp_path / "run", save_strategy="steps", save_steps=1, max_steps=2)
    trainer.train()
    next(trainer.native_model.parameters()).data.view(-1)[0] = float("inf")
    with pytest.raises(NonFiniteError, match=r"nothing is saved.*checkpoint-2"):
        trainer.save_model(str(tmp_path / "final"))
    assert not (tmp_path / "final").exists()
    # An optimiser that breaks the weights with finite gradients: the step is over when it shows.
    broken = stub_trainer(
        tmp_path / "other", save_strategy="steps", save_steps=2, learning_rate=1e38, max_steps=4
    )
    with pytest.raises(NonFiniteError):
        broken.train()
    for folder in (tmp_path / "other").glob("checkpoint-*"):
        assert all(value.isfinite().all() for value in load_file(folder / "model.safetensors").values())


def test_broken_weights_end_the_run_whatever_may_be_left_out(tmp_path: Path) -> None:
    trainer = stub_trainer(tmp_path, max_skipped_steps=100)
    trainer.native_model.backbone.embed.weight.data.fill_(float("nan"))
    with pytest.raises(NonFiniteError, match=r"step 1: .*weights of the step before are not finite"):
        trainer.train()


@pytest.mark.parametrize(
    ("norm", "scale", "wrong"),
    [
        (1.0, None, False),
        (math.nan, None, True),
        (math.inf, None, True),
        (math.inf, 65536.0, False),  # the scaler takes no step and scales less
        (math.nan, 1.0, False),
        (math.inf, 0.5, True),  # no scale is to blame any more
        (None, None, False),
        (torch.tensor(math.nan), None, True),
    ],
)
def test_gradients_that_overflow_by_their_scale_are_the_scalers(norm: Any, scale: Any, wrong: bool) -> None:
    watch = FiniteSteps()
    assert watch.saw(torch.tensor(1.0), ["row 1"])
    assert bool(watch.judge(norm, torch.device("cpu"), scale)) == wrong
    watch.forget_step()
    assert not watch.saw(torch.tensor(math.nan), ["row 2"])
    assert watch.judge(norm, torch.device("cpu"), scale)
    assert watch.rows(torch.device("cpu")) == ["row 2"]


def test_the_error_crosses_processes() -> None:
    error = pickle.loads(pickle.dumps(NonFiniteError("why", 3, ["row 1"], "there")))
    assert (str(error), error.step, error.rows, error.checkpoint) == ("why", 3, ["row 1"], "there")


def test_a_loss_of_evaluation_that_is_not_finite_is_told_and_never_the_best(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trainer = stub_trainer(
        tmp_path,
        eval_dataset=stub_rows(7, seed=9),
        eval_strategy="steps",
        eval_steps=1,
        save_strategy="steps",
        save_steps=1,
        max_steps=3,
        load_best_model_at_end=True,
        metric_for_best_model="eval_loss",
    )
    real = trainer.objective_module.forward

    def broken(*args: Any, **kwargs: Any) -> Any:
        loss, metrics = real(*args, **kwargs)
        first = not torch.is_grad_enabled() and trainer.state.global_step == 1
        return (loss * math.nan if first else loss), metrics

    trainer.objective_module.forward = broken
    with caplog.at_level(logging.WARNING):
        trainer.train()
    assert "the loss of eval batch 1 is nan; its rows: row 0" in caplog.text
    losses = [entry["eval_loss"] for entry in trainer.state.log_history if "eval_loss" in entry]
    assert math.isnan(losses[0])
    assert trainer.state.best_metric == min(losses[1:])


def test_deepspeed_takes_its_steps_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    create = NativeTrainer.create_accelerator_and_postprocess

    def as_deepspeed(self: Any) -> None:
        create(self)
        self.is_deepspeed_enabled = True

    monkeypatch.setattr(NativeTrainer, "create_accelerator_and_postprocess", as_deepspeed)
    with pytest.raises(ValueError, match="DeepSpeed"):
        stub_trainer(tmp_path, max_skipped_steps=1)


def test_limits_cannot_be_negative(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="max_skipped_steps"):
        stub_trainer(tmp_path, max_skipped_steps=-1)
