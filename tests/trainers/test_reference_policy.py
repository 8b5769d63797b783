"""The policy that a trained one is held close to is how it began, whatever it began with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import rlvr_run
import torch

from umekit.trainers.lora import add_lora, load_adapter_weights
from umekit.trainers.reference_policy import ReferencePolicy

peft = pytest.importorskip("peft")


@pytest.mark.parametrize("trained_before", [False, True])
def test_the_first_step_is_at_no_distance(tmp_path: Path, trained_before: bool) -> None:
    """With a fresh adapter, which is switched off, as with one that was trained before."""
    trainer = rlvr_run.rlvr_trainer(tmp_path, beta=0.1, max_steps=2, min_deviation=0.0, learning_rate=0.1)
    model = trainer.native_model
    model.add_adapter(
        peft.LoraConfig(r=4, target_modules=r".*(q_proj|v_proj)", init_lora_weights=not trained_before)
    )
    trainer = type(trainer)(
        model,
        trainer.args,
        processing_class=trainer.processing_class,
        train_dataset=trainer.train_dataset,
        reference_model=None,
    )
    trainer.train()
    first, second = [one["query_kl"] for one in trainer.state.log_history if "query_kl" in one]
    assert first == pytest.approx(0.0, abs=1e-6)
    assert second > 1e-5


def test_a_trained_adapter_is_put_back(tmp_path: Path) -> None:
    model: Any = rlvr_run.rlvr_trainer(tmp_path, lora=True).native_model
    before = {name: value.clone() for name, value in model.named_parameters() if ".lora_" in name}
    assert any(value.count_nonzero() for name, value in before.items() if "lora_B" in name)
    reference = ReferencePolicy(model)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if ".lora_" in name:
                value.add_(1.0)

    def broken() -> None:
        with reference.of(model, model):
            for name, value in before.items():
                assert torch.equal(model.get_parameter(name), value)
            raise KeyError

    with pytest.raises(KeyError):
        broken()
    for name, value in before.items():
        assert torch.equal(model.get_parameter(name), value + 1.0)
    model.delete_adapter("default")
    with pytest.raises(RuntimeError, match="merge it first"), reference.of(model, model):
        pass


def test_biases_that_an_adapter_trains_are_of_the_reference(tmp_path: Path) -> None:
    """Switching an adapter off leaves them as they were trained."""
    model: Any = rlvr_run.rlvr_trainer(tmp_path).native_model
    add_lora(model, rank=2, alpha=2, dropout=0.0, bias="lora_only")
    trained = {name: value for name, value in model.named_parameters() if value.requires_grad}
    before = {name: value.detach().clone() for name, value in trained.items()}
    assert any(name.endswith("bias") for name in trained)
    reference = ReferencePolicy(model)
    with torch.no_grad():
        for value in trained.values():
            value.add_(1.0)
    with reference.of(model, model):
        assert all(torch.equal(trained[name], value) for name, value in before.items())
    assert all(torch.equal(trained[name], value + 1.0) for name, value in before.items())


@pytest.mark.parametrize("lora", [True, False])
def test_the_reference_of_a_resumed_run_is_that_of_its_beginning(tmp_path: Path, lora: bool) -> None:
    settings: dict[str, Any] = {"beta": 0.1, "max_steps": 2, "save_strategy": "steps", "save_steps": 1}
    settings |= {"lora": lora, "learning_rate": 0.1, "min_deviation": 0.0}

    def distance(trainer: Any) -> float:
        return next(one["query_kl"] for one in trainer.state.log_history if one["step"] == 2)

    whole = rlvr_run.rlvr_trainer(tmp_path, **settings)
    whole.train()
    assert distance(whole) > 1e-5
    checkpoint = str(tmp_path / "checkpoint-1")
    again = rlvr_run.rlvr_trainer(tmp_path / "again", **settings)
    again.train(resume_from_checkpoint=checkpoint)
    assert distance(again) == distance(whole)
    other = rlvr_run.rlvr_trainer(tmp_path / "other", **settings)
    model, beginning = other.native_model, ReferencePolicy(other.native_model)
    if lora:
        load_adapter_weights(model.backbone, checkpoint)
    else:
        model.load_native_weights(checkpoint)
    assert ReferencePolicy(model).begun != beginning.begun
    given = {"processing_class": other.processing_class, "train_dataset": other.train_dataset}
    late = type(other)(model, other.args, **given)
    with pytest.raises(ValueError, match="not what the training to be resumed began with"):
        late.train(resume_from_checkpoint=checkpoint)
    start = rlvr_run.rlvr_trainer(tmp_path / "start", **settings).native_model
    late = type(other)(model, other.args, reference_model=start, **given)
    late.train(resume_from_checkpoint=checkpoint)
    assert distance(late) == distance(whole)
