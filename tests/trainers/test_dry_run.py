"""The dry run takes the longest batch, measures it, and leaves nothing behind."""

from __future__ import annotations

import mmap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from stub_model import StubModel, stub_rows, stub_trainer

import umekit
from umekit.trainers import ContrastiveTrainer, ContrastiveTrainingArguments
from umekit.trainers.dry_run import dry_run


def uneven(count: int = 40) -> list[dict[str, Any]]:
    rows = stub_rows(count, images=True)
    for index in (7, 21, 39):
        rows[index]["query"] += " word" * (300 + index)
    return rows


@pytest.mark.parametrize("budget", [None, 400])
def test_it_takes_the_longest_rows_and_reports_memory(tmp_path: Path, budget: int | None) -> None:
    trainer = stub_trainer(tmp_path, rows=uneven(), per_device_train_batch_size=3, chunk_tokens=budget)
    report = dry_run(trainer)
    assert report.rows == [39, 21, 7]
    assert report.longest > 330
    assert report.tokens > 900
    assert report.device == "cpu"
    assert report.peak_bytes >= report.resting_bytes > 1_000_000
    trained = sum(p.numel() for p in trainer.model.parameters() if p.requires_grad)
    assert report.optimizer_bytes == 8 * trained
    assert "3 rows" in str(report)


def test_more_memory_is_a_higher_peak(tmp_path: Path) -> None:
    trainer = stub_trainer(tmp_path, rows=uneven())
    small = dry_run(trainer)
    original = trainer.representation_loss

    def hungry(*args: Any) -> Any:
        with mmap.mmap(-1, 120_000_000) as fresh:  # not from what malloc has kept of earlier tests
            fresh.write(b"1" * len(fresh))
        return original(*args)

    trainer.representation_loss = hungry  # type: ignore[method-assign]
    large = dry_run(trainer)
    assert large.peak_bytes - large.resting_bytes > small.peak_bytes - small.resting_bytes + 60_000_000


def test_nothing_is_touched(tmp_path: Path) -> None:
    trained = stub_trainer(tmp_path / "plain", rows=uneven(), chunk_tokens=400)
    torch.manual_seed(3)
    trained.train()
    trainer = stub_trainer(tmp_path / "dry", rows=uneven(), chunk_tokens=400)
    trainer.model.eval()
    first = next(trainer.model.parameters())
    first.grad = torch.ones_like(first)
    torch.manual_seed(3)
    np.random.seed(3)
    before = {k: v.clone() for k, v in trainer.model.state_dict().items()}
    states = torch.get_rng_state(), np.random.get_state()[1].copy()
    dry_run(trainer)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert np.array_equal(np.random.get_state()[1], states[1])
    assert not trainer.model.training
    assert trainer._sums == {}
    assert trainer.optimizer is None
    assert torch.equal(first.grad, torch.ones_like(first))
    assert all(p.grad is None for p in list(trainer.model.parameters())[1:])
    assert all(torch.equal(v, before[k]) for k, v in trainer.model.state_dict().items())
    first.grad = None
    trainer.train()  # and the run that follows is the run without it
    for key, value in trainer.model.state_dict().items():
        assert torch.equal(value, trained.model.state_dict()[key]), key


@pytest.mark.parametrize("budget", [None, 400])
def test_it_tries_what_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, budget: int | None
) -> None:
    """Every forward is under autocast and with checkpointing, given the arguments of the training; neither stays."""
    seen: list[tuple[bool, bool]] = []
    enabled: list[dict[str, Any]] = []
    forward = StubModel.forward

    def watched(self: StubModel, *args: Any, **kwargs: Any) -> Any:
        seen.append(
            (torch.is_autocast_enabled("cpu"), getattr(self.backbone, "gradient_checkpointing", False))
        )
        return forward(self, *args, **kwargs)

    def enable(self: StubModel, **options: Any) -> None:
        enabled.append(options)
        self.backbone.gradient_checkpointing = True  # type: ignore[assignment]

    monkeypatch.setattr(StubModel, "forward", watched)
    monkeypatch.setattr(StubModel, "activation_checkpointing_enable", enable, raising=False)
    settings: dict[str, Any] = {
        "bf16": True,
        "activation_checkpointing": True,
        "activation_checkpointing_kwargs": {"every_n_layers": 2, "use_reentrant": False},
        "max_steps": 1,
        "chunk_tokens": budget,
    }
    trainer = stub_trainer(tmp_path, rows=uneven(), **settings)
    trainer.model.model.backbone.norm.eval()  # one part in another mode than the whole
    before = {name: dict(vars(module)) for name, module in trainer.model.named_modules()}
    dry_run(trainer)
    assert set(seen) == {(True, True)}
    assert {name: dict(vars(module)) for name, module in trainer.model.named_modules()} == before
    seen.clear()
    trainer.train()
    assert set(seen) == {(True, True)}
    assert enabled[0] == enabled[1]


def test_real_checkpointing_is_on_and_off_again(tmp_path: Path) -> None:
    loaded = umekit.load(device="cpu")
    arguments: dict[str, Any] = {"activation_checkpointing": True, "use_cpu": True, "report_to": "none"}
    args = ContrastiveTrainingArguments(output_dir=str(tmp_path), per_device_train_batch_size=2, **arguments)
    rows = [{"query": f"query {n}", "positive": f"positive {n}"} for n in range(2)]
    trainer = ContrastiveTrainer(loaded.model, args, processing_class=loaded.processor, train_dataset=rows)
    on: list[bool] = []
    loaded.model.register_forward_pre_hook(lambda module, _: on.append(module.is_activation_checkpointing))
    dry_run(trainer)
    assert set(on) == {True}
    assert not loaded.model.is_activation_checkpointing


@pytest.mark.parametrize("name", ["is_fsdp_enabled", "is_deepspeed_enabled"])
def test_sharded_training_is_refused(tmp_path: Path, name: str) -> None:
    trainer = stub_trainer(tmp_path)
    setattr(trainer, name, True)
    with pytest.raises(ValueError, match="FSDP or DeepSpeed"):
        dry_run(trainer)


def test_rows_that_cannot_be_prepared(tmp_path: Path) -> None:
    rows = uneven()
    rows[39] = {"query": 3, "positive": "b"}
    with pytest.raises(ValueError, match="row 39"):
        dry_run(stub_trainer(tmp_path, rows=rows))
    tolerant = stub_trainer(tmp_path, rows=rows, max_bad_rows=1, per_device_train_batch_size=2)
    assert dry_run(tolerant).rows == [21, 7]
    assert tolerant.bad_rows.count == 0


def test_a_dataset_without_rows_raises(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="0 rows"):
        dry_run(stub_trainer(tmp_path, rows=[]))
    with pytest.raises(ValueError, match="sample is 0"):
        dry_run(stub_trainer(tmp_path), sample=0)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_it_reports_the_memory_of_the_device(tmp_path: Path) -> None:
    trainer = stub_trainer(tmp_path, rows=uneven(), use_cpu=False, bf16=True, chunk_tokens=400)
    report = dry_run(trainer)
    assert report.device.startswith("cuda")
    assert 0 < report.resting_bytes < report.peak_bytes
