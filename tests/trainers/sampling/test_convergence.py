"""Weights from losses: what converges early is read less."""

from __future__ import annotations

import numpy as np
import pytest

from umekit.trainers.sampling import Source, convergence_weights, loss_history, plan_epochs


def falling(name: str, shape: str, count: int = 80, scale: float = 1.0) -> list[tuple[int, str, float]]:
    time = np.linspace(0, 1, count)
    curve = {"early": np.exp(-12 * time), "straight": 1 - time, "flat": np.ones(count), "late": 1 - time**3}[
        shape
    ]
    return [(step, name, float(scale * value + 2)) for step, value in enumerate(curve)]


def test_the_formula() -> None:
    history = falling("video", "early") + falling("image", "straight", scale=5.0)
    weights = convergence_weights(history)
    left = []
    for name in ("video", "image"):
        losses = np.array([loss for _, one, loss in history if one == name])
        early, middle, late = losses[:20].mean(), losses[30:50].mean(), losses[60:].mean()
        left.append(1 - (early - middle) / (early - late) + 0.1)
    expected = np.clip(np.array(left) / np.mean(left), 0.5, 2.0)
    assert [weights["video"], weights["image"]] == pytest.approx(expected.tolist())
    assert weights["video"] < 1 < weights["image"]


def test_scale_and_offset_of_the_loss_and_the_order_of_records_do_not_count() -> None:
    history = falling("a", "early") + falling("b", "late")
    moved = [(step, name, 7 * loss + 3 if name == "a" else loss) for step, name, loss in history]
    assert convergence_weights(moved[::-1]) == pytest.approx(convergence_weights(history))


def test_strength_limit_and_base() -> None:
    history = falling("a", "early") + falling("b", "late")
    assert convergence_weights(history, strength=0) == {"a": 1.0, "b": 1.0}
    assert convergence_weights(history, strength=9, base={"a": 3.0}) == {"a": 1.5, "b": 2.0}


def test_a_loss_that_did_not_fall_keeps_its_weight() -> None:
    weights = convergence_weights(falling("a", "straight") + falling("flat", "flat"), base={"flat": 0.7})
    assert weights == {"a": 1.0, "flat": 0.7}


def test_bad_histories() -> None:
    with pytest.raises(ValueError, match="is empty"):
        convergence_weights([])
    with pytest.raises(ValueError, match="'a' has 7 losses"):
        convergence_weights(falling("a", "early", count=7))
    with pytest.raises(ValueError, match="the loss of 'a' at step 3 is nan"):
        convergence_weights([(3, "a", float("nan"))])
    with pytest.raises(ValueError, match="limit at least 1"):
        convergence_weights(falling("a", "early"), limit=0.5)


def test_the_history_of_a_run_names_the_source_of_each_step() -> None:
    sources = [Source(name, [{"positive": f"{name}{i}"} for i in range(12)]) for name in "ab"]
    plan = plan_epochs(sources, 4, seed=0)
    logs = [{"step": step, "loss": 1.0 / step} for step in range(1, 7)]
    history = loss_history([*logs, {"step": 6, "train_runtime": 1.0}], plan)
    assert [name for _, name, _ in history] == [plan.names[number] for number in plan.source[:, 0]]
    assert history[1][2] == 0.5
    pairs = [plan.source[2 * step : 2 * step + 2, 0] for step in range(3)]
    halves = loss_history(logs[:3], plan, accumulation=2)
    assert [step for step, _, _ in halves] == [i + 1 for i, pair in enumerate(pairs) if pair[0] == pair[1]]
    with pytest.raises(ValueError, match="logging_steps=1"):
        loss_history(logs[1:], plan)
