"""The temperature's home: learned per task, bounded, float32, saved and reloaded strictly."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from umekit.trainers.objectives import ContrastiveObjective, LearnableTemperature, info_nce


def test_tasks_have_their_own_temperature() -> None:
    temperature = LearnableTemperature(0.05, tasks=["image", "video"])
    with torch.no_grad():
        temperature.log_temperature[1] = torch.tensor(0.1).log()
    tau = temperature(temperature.index(["video", "image", "video"]))
    torch.testing.assert_close(tau, torch.tensor([0.1, 0.05, 0.1]))
    with pytest.raises(ValueError, match="audio"):
        temperature.index(["audio"])
    with pytest.raises(ValueError, match="name their task"):
        temperature()


def test_bounds_are_a_projection_that_does_not_stop_the_gradient() -> None:
    temperature = LearnableTemperature(0.02, bounds=(0.01, 0.05))
    with torch.no_grad():
        temperature.log_temperature.fill_(0.0)
    temperature.clamp_()
    tau = temperature()
    assert tau.item() == pytest.approx(0.05)
    tau.backward()
    assert temperature.log_temperature.grad is not None
    assert temperature.log_temperature.grad.item() != 0


def test_casting_a_model_leaves_the_temperature_in_float32() -> None:
    objective = ContrastiveObjective(temperature=0.03, learnable_temperature=True)
    before = objective.temperature.log_temperature.detach().clone()
    objective.to(torch.bfloat16)
    assert objective.temperature.log_temperature.dtype == torch.float32
    assert torch.equal(objective.temperature.log_temperature, before)


@pytest.mark.parametrize(
    "bad", [{"temperature": 0.0}, {"bounds": (0.1, 0.01)}, {"temperature": 1.0}, {"tasks": []}]
)
def test_settings_that_make_no_sense_raise(bad: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"temperature|tasks"):
        LearnableTemperature(**bad)  # type: ignore[arg-type]


def test_objective_is_info_nce_with_metrics() -> None:
    torch.manual_seed(0)
    q, p, h = torch.randn(4, 8), torch.randn(4, 8), torch.randn(4, 2, 8)
    options = {"hardness_alpha": 2.0, "false_negative_delta": 0.9, "directions": ("q2p", "p2q")}
    objective = ContrastiveObjective(temperature=0.05, **options)  # type: ignore[arg-type]
    ids = torch.tensor([1, 2, 1, 3])
    loss, metrics = objective(q, p, h, positive_ids=ids)
    tau = objective.temperature()
    torch.testing.assert_close(loss, info_nce(q, p, h, temperature=tau, positive_ids=ids, **options))  # type: ignore[arg-type]
    assert metrics["temperature"].item() == pytest.approx(0.05)
    assert metrics["false_negatives_dropped"].item() == 2
    cosines = torch.cosine_similarity(q, p)
    torch.testing.assert_close(metrics["positive_similarity"], cosines.mean())
    assert all(not value.requires_grad and value.ndim == 0 for value in metrics.values())


def test_a_tie_is_no_hit_and_no_negatives_are_no_nan() -> None:
    objective = ContrastiveObjective()
    p = torch.ones(2, 3)
    _, metrics = objective(torch.ones(2, 3), p)
    assert metrics["accuracy"].item() == 0
    loss, metrics = objective(torch.ones(1, 3), torch.ones(1, 3))
    assert loss.item() == 0
    assert metrics["negative_similarity"].item() == 0


def test_save_and_load(tmp_path: Path) -> None:
    objective = ContrastiveObjective(
        temperature=0.05, learnable_temperature=True, tasks=["a", "b"], hardness_alpha=9.0
    )
    with torch.no_grad():
        objective.temperature.log_temperature[1] += 0.3
    objective.save_pretrained(tmp_path)
    again = ContrastiveObjective.from_pretrained(tmp_path)
    assert again.settings == objective.settings
    assert torch.equal(again.temperature.log_temperature, objective.temperature.log_temperature)
    with pytest.raises(ValueError, match="tasks"):
        ContrastiveObjective(tasks=["b", "a"]).load_weights(tmp_path)
    tensors = load_file(tmp_path / "objective.safetensors")
    save_file({"temperature.log_temperature": torch.zeros(3)}, tmp_path / "objective.safetensors")
    with pytest.raises(RuntimeError, match="misshapen"):
        objective.load_weights(tmp_path)
    save_file(tensors, tmp_path / "objective.safetensors")
    settings = json.loads((tmp_path / "objective.json").read_text())
    (tmp_path / "objective.json").write_text(json.dumps({**settings, "schema": 99}))
    with pytest.raises(ValueError, match="newer"):
        ContrastiveObjective.from_pretrained(tmp_path)
    (tmp_path / "objective.json").write_text(json.dumps({**settings, "objective": "Other"}))
    with pytest.raises(ValueError, match="Other"):
        ContrastiveObjective.from_pretrained(tmp_path)
