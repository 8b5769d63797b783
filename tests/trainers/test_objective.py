"""The temperature's home: learned per task, bounded, float32, saved and reloaded strictly."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from umekit.trainers.formats.mmeb_tasks import TASK_GROUPS, group_names, group_of
from umekit.trainers.objectives import (
    ContrastiveObjective,
    LearnableTemperature,
    info_nce,
)


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
    options |= {"matryoshka_dims": [4, 8], "matryoshka_weights": [1.0, 2.0], "false_negative_margin": 5.0}
    objective = ContrastiveObjective(temperature=0.05, **options)  # type: ignore[arg-type]
    ids = torch.tensor([1, 2, 1, 3])
    loss, metrics = objective(q, p, h, positive_ids=ids)
    tau = objective.temperature()
    torch.testing.assert_close(loss, info_nce(q, p, h, temperature=tau, positive_ids=ids, **options))  # type: ignore[arg-type]
    assert metrics["temperature"].item() == pytest.approx(0.05)
    assert metrics["false_negatives_dropped"].item() == 2
    cosines = torch.cosine_similarity(q, p)
    torch.testing.assert_close(metrics["positive_similarity"], cosines.mean())
    counted = ~torch.eye(4, dtype=torch.bool)
    counted[0, 2] = counted[2, 0] = False
    scores = torch.cosine_similarity(q[:, None], p[None], dim=-1)
    hard = torch.cosine_similarity(q[:, None], h, dim=-1)
    hardest = torch.maximum(scores.masked_fill(~counted, -1).amax(1), hard.amax(1))
    torch.testing.assert_close(metrics["hardest_negative_similarity"], hardest.mean())
    weight = torch.cat([scores[counted], hard.flatten()]).mul(2.0).exp().mean()
    torch.testing.assert_close(metrics["mean_hardness_weight"], weight)
    assert all(not value.requires_grad and value.ndim == 0 for value in metrics.values())


def test_the_objective_counts_a_negative_that_is_the_target_as_dropped() -> None:
    q = torch.eye(3)
    objective = ContrastiveObjective(negatives_shared=True)
    ids, hard = torch.tensor([4, 5, 6]), torch.tensor([[1], [2], [0]])
    loss, metrics = objective(q, q, q[hard], positive_ids=ids, negative_ids=ids[hard])
    assert loss.item() == pytest.approx(0, abs=1e-6)
    assert metrics["false_negatives_dropped"].item() == 3
    assert metrics["accuracy"].item() == 1


def test_a_tie_is_no_hit_and_no_negatives_are_no_nan() -> None:
    objective = ContrastiveObjective()
    p = torch.ones(2, 3)
    _, metrics = objective(torch.ones(2, 3), p)
    assert metrics["accuracy"].item() == 0
    loss, metrics = objective(torch.ones(1, 3), torch.ones(1, 3))
    assert loss.item() == 0
    assert metrics["negative_similarity"].item() == 0
    assert metrics["hardest_negative_similarity"].item() == 0
    assert "mean_hardness_weight" not in metrics
    _, metrics = ContrastiveObjective(hardness_alpha=9.0)(torch.ones(1, 3), torch.ones(1, 3))
    assert metrics["mean_hardness_weight"].item() == 1


def test_save_and_load(tmp_path: Path) -> None:
    objective = ContrastiveObjective(
        temperature=0.05,
        learnable_temperature=True,
        tasks=["a", "b"],
        hardness_alpha=9.0,
        false_negative_margin=0.95,
        matryoshka_dims=(4, 8),
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


def test_every_data_set_of_the_benchmark_has_one_of_seven_groups() -> None:
    assert len(group_names("rzenembed")) == 7
    assert set(TASK_GROUPS["rzenembed"].values()) == set(group_names("rzenembed"))
    assert group_of("Visual7W", "rzenembed") == "image_qa"
    assert group_of("vidore/colpali_train_set", "rzenembed") == "document_retrieval"
    assert group_of("video_qa", "rzenembed") == "video_qa"
    with pytest.raises(ValueError, match="'DigitWorld' belongs to no group"):
        group_of("DigitWorld", "rzenembed")
    with pytest.raises(ValueError, match="known are"):
        group_names("other")


@pytest.mark.parametrize(
    "bad", [{"false_negative_margin": -1.0}, {"matryoshka_dims": []}, {"matryoshka_weights": [1.0]}]
)
def test_an_objective_that_makes_no_sense_raises_when_it_is_made(bad: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"margin|matryoshka"):
        ContrastiveObjective(**bad)  # type: ignore[arg-type]


@pytest.mark.parametrize(("theta", "used"), [(-9.0, 0.005), (0.0, 0.2), (math.log(0.03), 0.03)])
def test_a_temperature_outside_its_bounds_is_not_used(theta: float, used: float) -> None:
    """An optimiser with a copy of its own may bring it out again after :meth:`clamp_`."""
    temperature = LearnableTemperature(0.02)
    with torch.no_grad():
        temperature.log_temperature.fill_(theta)
    tau = temperature()
    tau.backward()
    assert tau.item() == pytest.approx(used, rel=1e-5)
    assert temperature.values()["temperature"].item() == tau.item()
    assert temperature.log_temperature.grad.item() == pytest.approx(used, rel=1e-5), "not cut off"


def test_a_fixed_temperature_may_be_outside_the_bounds() -> None:
    assert LearnableTemperature(1.0, learnable=False)().item() == 1.0
