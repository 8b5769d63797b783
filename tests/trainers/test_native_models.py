"""The trainer on real (tiny, random) backbones: exact caching and resume, native checkpoints, strict
loading."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText, TrainerCallback

from umekit.modeling.discriminative import UmeForDiscriminativeEmbedding
from umekit.processing.processor import UmeProcessor
from umekit.trainers import ContrastiveTrainer, ContrastiveTrainingArguments
from umekit.trainers.memory import patch_cost


@pytest.fixture(scope="module")
def rows(pictures: list[Image.Image]) -> list[dict[str, Any]]:
    made: list[dict[str, Any]] = []
    for i in range(8):
        positive: Any = (
            {"text": f"number {i}", "image": pictures[i % 6]} if i % 2 else f"the number {i} " * (i + 1)
        )
        made.append(
            {"query": f"find {i}", "positive": positive, "negatives": ["nothing"] if i % 3 == 0 else []}
        )
    return made


def make_trainer(
    checkpoint: Path, folder: Path, rows: Any, dropout: float = 0.0, adapter: bool = False, **settings: Any
) -> ContrastiveTrainer:
    model = UmeForDiscriminativeEmbedding.from_pretrained(checkpoint, dtype=torch.float32)
    if adapter:
        torch.manual_seed(0)
        model.backbone.add_adapter(
            LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
        )
    for module in model.modules():
        if hasattr(module, "attention_dropout"):
            module.attention_dropout = dropout
    defaults: dict[str, Any] = {
        "per_device_train_batch_size": 4,
        "max_steps": 3,
        "learning_rate": 1e-3,
        "learnable_temperature": True,
        "temperature": 0.05,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
    }
    callbacks = settings.pop("callbacks", None)
    return ContrastiveTrainer(
        model,
        ContrastiveTrainingArguments(output_dir=str(folder), **{**defaults, **settings}),
        processing_class=UmeProcessor.from_pretrained(checkpoint),
        train_dataset=rows,
        eval_dataset=rows,
        callbacks=callbacks,
    )


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_5"])
def test_cached_equals_uncached(
    tiny_checkpoint: Callable[..., Path], tmp_path: Path, rows: list[dict[str, Any]], family: str
) -> None:
    results = []
    for budget in (None, 200):
        trainer = make_trainer(tiny_checkpoint(family), tmp_path, rows, chunk_tokens=budget)
        loss = trainer.training_step(trainer.model, trainer.data_collator(rows))
        results.append((loss, {n: p.grad for n, p in trainer.model.named_parameters() if p.grad is not None}))
    (expected_loss, expected), (loss, gradients) = results
    torch.testing.assert_close(loss, expected_loss, rtol=1e-5, atol=1e-5)
    assert gradients.keys() == expected.keys()
    assert any("visual" in name for name in gradients)
    for name, value in expected.items():
        torch.testing.assert_close(gradients[name], value, rtol=1e-4, atol=1e-5, msg=name)


def test_activation_checkpointing_changes_no_gradient(
    tiny_checkpoint: Callable[..., Path], tmp_path: Path, rows: list[dict[str, Any]]
) -> None:
    results = []
    for on in (False, True):
        trainer = make_trainer(
            tiny_checkpoint(),
            tmp_path / str(on),
            rows,
            chunk_tokens=200,
            max_steps=2,
            activation_checkpointing=on,
        )
        trainer.train()
        results.append(trainer.native_model.state_dict())
    for name, value in results[0].items():
        torch.testing.assert_close(results[1][name], value, rtol=1e-4, atol=1e-5, msg=name)


def test_patches_count_where_the_tower_is_trained(
    tiny_checkpoint: Callable[..., Path], tmp_path: Path, rows: list[dict[str, Any]]
) -> None:
    def costs(trainer: ContrastiveTrainer) -> list[float]:
        batch = trainer.data_collator(rows)["batch"]
        share = patch_cost(trainer.native_model.config)
        found = []
        for chunk in trainer.training_chunks(batch):
            tokens = len(chunk) * max(batch.lengths[index] for index in chunk)
            found.append(tokens + sum(math.ceil(share * batch.patches[index]) for index in chunk))
        return found

    budget = 200
    trainer = make_trainer(tiny_checkpoint(), tmp_path, rows, chunk_tokens=budget)
    assert max(costs(trainer)) <= budget
    frozen = make_trainer(tiny_checkpoint(), tmp_path, rows, chunk_tokens=budget)
    for name, parameter in frozen.native_model.backbone.named_parameters():
        parameter.requires_grad_("visual" not in name)
    assert max(costs(frozen)) > budget


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl"])
def test_a_frozen_tower_keeps_nothing_under_checkpointing(
    tiny_checkpoint: Callable[..., Path], tmp_path: Path, rows: list[dict[str, Any]], family: str
) -> None:
    trainer = make_trainer(tiny_checkpoint(family), tmp_path, rows, adapter=True)
    trainer.model.activation_checkpointing_enable()  # as the Trainer does
    assert trainer.native_model.backbone.is_activation_checkpointing
    base = trainer.native_model.backbone.base_model
    batch = trainer.collate(trainer.data_collator(rows)["batch"], range(16))
    base.train()
    features = base.get_image_features(batch["pixel_values"], batch["image_grid_thw"], return_dict=True)
    assert not any(one.requires_grad for one in features.pooler_output)
    loss = trainer.training_step(trainer.model, trainer.data_collator(rows))
    assert torch.isfinite(loss)
    grown = [
        name for name, p in trainer.model.named_parameters() if p.grad is not None and p.grad.abs().max() > 0
    ]
    assert any("lora_A" in name for name in grown)


class Killed(Exception):
    """Raised in place of a crash."""


class KillAfter(TrainerCallback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.step:
            raise Killed


@pytest.mark.parametrize("adapter", [False, True])
def test_killed_and_resumed_is_unbroken(
    tiny_checkpoint: Callable[..., Path], tmp_path: Path, rows: list[dict[str, Any]], adapter: bool
) -> None:
    options: dict[str, Any] = {"save_strategy": "steps", "save_steps": 1, "chunk_tokens": 200, "dropout": 0.2}
    options["adapter"] = adapter
    whole = make_trainer(tiny_checkpoint(), tmp_path / "whole", rows, **options)
    whole.train()
    expected = whole.model.state_dict()
    with pytest.raises(Killed):
        make_trainer(tiny_checkpoint(), tmp_path / "run", rows, callbacks=[KillAfter(2)], **options).train()
    resumed = make_trainer(tiny_checkpoint(), tmp_path / "run", rows, **options)
    resumed.train(resume_from_checkpoint=True)
    for name, value in resumed.model.state_dict().items():
        assert torch.equal(value, expected[name]), name


@pytest.fixture(scope="module")
def saved(
    tiny_checkpoint: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, Any]]
) -> tuple[Path, ContrastiveTrainer]:
    folder = tmp_path_factory.mktemp("native")
    trainer = make_trainer(tiny_checkpoint(), folder, rows, max_steps=1, save_strategy="steps", save_steps=1)
    trainer.train()
    return folder / "checkpoint-1", trainer


def test_a_training_checkpoint_is_a_complete_native_folder(
    saved: tuple[Path, ContrastiveTrainer], tiny_checkpoint: Callable[..., Path]
) -> None:
    folder, trainer = saved
    native, info = AutoModelForImageTextToText.from_pretrained(folder, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    for name, value in trainer.native_model.backbone.state_dict().items():
        assert torch.equal(native.state_dict()[name], value), name
    again = UmeForDiscriminativeEmbedding.from_pretrained(folder)
    vector = again.encode("a text", processor=UmeProcessor.from_pretrained(folder))
    torch.testing.assert_close(
        vector, trainer.native_model.eval().encode("a text", processor=trainer.processing_class)
    )
    before = json.loads((tiny_checkpoint() / "config.json").read_text())
    after = json.loads((folder / "config.json").read_text())
    assert after["ume"] == before["ume"]
    assert after["architectures"] == before["architectures"]
    assert after.get("use_cache") == before.get("use_cache")


def test_a_missing_native_key_raises_on_resume(
    saved: tuple[Path, ContrastiveTrainer],
    tiny_checkpoint: Callable[..., Path],
    tmp_path: Path,
    rows: list[dict[str, Any]],
) -> None:
    broken = shutil.copytree(saved[0], tmp_path / "checkpoint-1")
    tensors = load_file(broken / "model.safetensors")
    name = next(key for key in tensors if "q_proj.weight" in key)
    tensors.pop(name)
    save_file(tensors, broken / "model.safetensors", metadata={"format": "pt"})
    trainer = make_trainer(tiny_checkpoint(), tmp_path, rows)
    with pytest.raises(Exception, match="q_proj"):
        trainer.train(resume_from_checkpoint=str(broken))


def test_load_best_is_exact(
    tiny_checkpoint: Callable[..., Path], tmp_path: Path, rows: list[dict[str, Any]]
) -> None:
    trainer = make_trainer(
        tiny_checkpoint(),
        tmp_path,
        rows,
        save_strategy="steps",
        save_steps=1,
        eval_strategy="steps",
        eval_steps=1,
        load_best_model_at_end=True,
        metric_for_best_model="eval_loss",
        greater_is_better=True,
        learning_rate=1e-2,
        chunk_tokens=200,
    )
    trainer.train()
    best = Path(str(trainer.state.best_model_checkpoint))
    assert best.name != "checkpoint-3"
    expected = UmeForDiscriminativeEmbedding.from_pretrained(best).state_dict()
    for name, value in trainer.native_model.state_dict().items():
        assert torch.equal(value, expected[name]), name


def test_an_adapter_is_all_that_learns_and_a_missing_key_of_it_raises(
    tiny_checkpoint: Callable[..., Path], tmp_path: Path, rows: list[dict[str, Any]]
) -> None:
    options: dict[str, Any] = {
        "adapter": True,
        "save_strategy": "steps",
        "save_steps": 2,
        "learning_rate": 0.01,
    }
    trainer = make_trainer(tiny_checkpoint(), tmp_path, rows, max_steps=2, **options)
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    trainer.train()
    changed = {n for n, v in trainer.model.state_dict().items() if not torch.equal(v, before[n])}
    assert changed
    assert all("lora_" in name or name == "objective.temperature.log_temperature" for name in changed)
    path = tmp_path / "checkpoint-2" / "adapter_model.safetensors"
    tensors = load_file(path)
    name = next(iter(tensors))
    tensors.pop(name)
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(RuntimeError, match="missing"):
        make_trainer(tiny_checkpoint(), tmp_path, rows, **options).train(resume_from_checkpoint=True)
