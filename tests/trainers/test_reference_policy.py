"""The policy that a trained one is held close to is how it began, whatever it began with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import rlvr_run
import torch

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
    with reference.of(model, model):
        for name, value in before.items():
            assert torch.equal(model.get_parameter(name), value)
    for name, value in before.items():
        assert torch.equal(model.get_parameter(name), value + 1.0)
    model.delete_adapter("default")
    with pytest.raises(RuntimeError, match="merge it first"), reference.of(model, model):
        pass
