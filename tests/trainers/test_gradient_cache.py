"""Cached gradients are the gradients: text, images, dropout, the temperature, accumulation, surplus
chunks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from stub_model import stub_rows, stub_trainer

from umekit.modeling.batching import plan_batches
from umekit.trainers.gradient_cache import Chunks, cached_backward
from umekit.trainers.model_with_objective import ModelWithObjective


def step_gradients(folder: Path, rows: Any, **settings: Any) -> tuple[float, dict[str, torch.Tensor]]:
    trainer = stub_trainer(folder, rows=rows, **settings)
    inputs = trainer.data_collator(rows)
    torch.manual_seed(5)
    loss = trainer.training_step(trainer.model, inputs)
    return loss.item(), {n: p.grad for n, p in trainer.model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("images", [False, True])
@pytest.mark.parametrize("negatives", [0, 2])
@pytest.mark.parametrize("budget", [1, 30, 10_000])
def test_cached_equals_uncached(tmp_path: Path, images: bool, negatives: int, budget: int) -> None:
    rows = stub_rows(12, negatives=negatives, images=images)
    options: dict[str, Any] = {"dropout": 0.0, "directions": ["q2p", "p2q"], "hardness_alpha": 3.0}
    loss, expected = step_gradients(tmp_path, rows, **options)
    cached_loss, gradients = step_gradients(tmp_path, rows, chunk_tokens=budget, **options)
    assert cached_loss == pytest.approx(loss, abs=1e-6)
    assert gradients.keys() == expected.keys()
    assert "objective.temperature.log_temperature" in gradients
    assert ("model.backbone.vision.weight" in gradients) == images
    for name, value in expected.items():
        torch.testing.assert_close(gradients[name], value, rtol=1e-5, atol=1e-6, msg=name)


def test_with_dropout_the_second_forward_is_the_first(tmp_path: Path) -> None:
    rows = stub_rows(12, negatives=2, images=True)
    trainer = stub_trainer(tmp_path, rows=rows, dropout=0.5, chunk_tokens=40)
    inputs = trainer.data_collator(rows)
    module: ModelWithObjective = trainer.model  # type: ignore[assignment]
    batch = inputs["batch"]
    chunks = plan_batches(batch.lengths, 40)
    assert len(chunks) > 3
    module.train()
    torch.manual_seed(5)  # the whole graph over the same chunks, nothing cached
    parts = torch.cat([module(trainer.collate(batch, chunk)) for chunk in chunks])
    order = torch.tensor([i for chunk in chunks for i in chunk])
    loss, _ = trainer.representation_loss(parts[order.argsort()], batch)
    loss.backward()
    after = torch.rand(3)
    expected = {n: p.grad.clone() for n, p in module.named_parameters() if p.grad is not None}
    module.zero_grad()
    torch.manual_seed(5)
    cached = trainer.training_step(module, inputs)
    assert torch.equal(torch.rand(3), after), "the generators must end where one forward leaves them"
    assert cached.item() == pytest.approx(loss.item(), abs=1e-6)
    for name, parameter in module.named_parameters():
        if name in expected:
            torch.testing.assert_close(parameter.grad, expected[name], rtol=1e-5, atol=1e-6)


def test_surplus_chunks_change_nothing_but_are_run(tmp_path: Path) -> None:
    rows = stub_rows(6)
    trainer = stub_trainer(tmp_path, rows=rows, dropout=0.0)
    inputs = trainer.data_collator(rows)
    module: ModelWithObjective = trainer.model  # type: ignore[assignment]
    batch = inputs["batch"]
    chunks = plan_batches(batch.lengths, 30)
    results = []
    for count in (None, len(chunks) + 3):
        module.zero_grad()
        calls: list[torch.Tensor] = []

        def backward(loss: torch.Tensor, calls: list[torch.Tensor] = calls) -> None:
            calls.append(loss)
            loss.backward()

        cached_backward(
            Chunks(module, chunks, lambda indices: trainer.collate(batch, indices), count=count or 0),
            lambda embeddings: trainer.representation_loss(embeddings, batch),
            backward=backward,
            objective_parameters=lambda: dict(trainer.objective_module.named_parameters()),
        )
        assert len(calls) == (count or len(chunks))
        results.append([p.grad.clone() for p in module.parameters() if p.grad is not None])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b)


def test_under_autocast_the_cache_is_exact_and_the_loss_in_float32(tmp_path: Path) -> None:
    rows = stub_rows(12, negatives=2, images=True)
    states = []
    for budget in (None, 40):
        trainer = stub_trainer(
            tmp_path, rows=rows, dropout=0.0, bf16=True, chunk_tokens=budget, max_steps=3, optim="sgd"
        )
        trainer.train()
        assert trainer.state.log_history[0]["loss"] > 0
        states.append(trainer.model.state_dict())
    for name, value in states[0].items():
        assert value.dtype == torch.float32
        torch.testing.assert_close(states[1][name], value, rtol=1e-3, atol=1e-4, msg=name)
