"""LoRA and QLoRA: gradients reach the chosen parts and nothing else, and the gradient cache stays exact."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from adapter_folders import save_adapter
from peft import PeftModel
from PIL import Image
from transformers import BitsAndBytesConfig

import umekit
from umekit.modeling.backbone import UNQUANTISED_MODULES
from umekit.modeling.batching import plan_batches
from umekit.modeling.discriminative import UmeForDiscriminativeEmbedding
from umekit.processing.processor import UmeProcessor
from umekit.testing import save_tiny_backbone, save_tiny_checkpoint
from umekit.trainers import ContrastiveTrainer, ContrastiveTrainingArguments
from umekit.trainers.lora import add_lora, linear_layers, part_of, target_pattern

BUDGET = 110


@pytest.fixture(scope="module")
def rows(pictures: list[Image.Image]) -> list[dict[str, Any]]:
    """Text, an image, several images in an item, video, and hard negatives."""
    return [
        {"query": "the first text", "positive": {"image": pictures[0], "text": "a picture"}},
        {"query": {"images": pictures[1:4], "text": "compare"}, "positive": "a text", "negatives": ["the"]},
        {"query": "what happens in it", "positive": {"video": pictures[:2] * 2, "text": "a video"}},
        {"query": {"image": pictures[4]}, "positive": {"image": pictures[5]}, "negatives": ["a", "b"]},
    ]


def open_model(folder: Path, dtype: torch.dtype = torch.float32, **kwargs: Any) -> Any:
    return UmeForDiscriminativeEmbedding.from_pretrained(folder, dtype=dtype, **kwargs)


def trainer_of(model: Any, checkpoint: Path, folder: Path, rows: Any, **settings: Any) -> ContrastiveTrainer:
    defaults: dict[str, Any] = {
        "per_device_train_batch_size": 4,
        "max_steps": 2,
        "learning_rate": 1e-2,
        "learnable_temperature": True,
        "temperature": 0.05,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
    }
    return ContrastiveTrainer(
        model,
        ContrastiveTrainingArguments(output_dir=str(folder), **{**defaults, **settings}),
        processing_class=UmeProcessor.from_pretrained(checkpoint),
        train_dataset=rows,
    )


@pytest.mark.parametrize("parts", [("language",), ("vision",), ("merger",), ("vision", "language")])
def test_gradients_reach_exactly_the_chosen_parts(
    tiny_checkpoint: Callable[..., Path], tmp_path: Path, rows: Any, family: str, parts: tuple[str, ...]
) -> None:
    model = open_model(tiny_checkpoint(family))
    report = add_lora(model, rank=4, alpha=8, parts=parts, init_lora_weights=False)
    trainer = trainer_of(model, tiny_checkpoint(family), tmp_path, rows)
    trainer.training_step(trainer.model, trainer.data_collator(rows))
    moved = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    assert moved.keys() == {n for n, _ in model.named_parameters() if "lora_" in n}
    moved = {name: gradient for name, gradient in moved.items() if gradient.any()}
    assert {part_of(name) for name in moved} == set(parts)
    expected = {
        layer for part in parts for layer in linear_layers(open_model(tiny_checkpoint(family)).backbone, part)
    }
    reached = {name.partition(".lora_")[0].removeprefix("backbone.") for name in moved}
    assert reached <= expected
    assert len(reached) > 0.6 * len(expected)  # in two random layers, a few change no state that is pooled
    assert report.layers.keys() == set(parts)
    assert sum(report.layers.values()) == len(expected)
    assert report.trainable == sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert f"{report.trainable:,} of" in str(report)


@pytest.mark.parametrize(
    ("settings", "tolerance"),
    [
        ({}, 1e-5),
        ({"activation_checkpointing": True}, 1e-5),
        ({"bf16": True}, 2e-2),
    ],
    ids=["float32", "checkpointing", "autocast"],
)
def test_the_cache_is_exact_under_dropout(
    tiny_checkpoint: Callable[..., Path],
    tmp_path: Path,
    rows: Any,
    settings: dict[str, Any],
    tolerance: float,
) -> None:
    torch.manual_seed(0)
    model = open_model(tiny_checkpoint("qwen3_vl"))
    add_lora(model, rank=4, alpha=8, dropout=0.3, parts=("language", "vision"), init_lora_weights=False)
    trainer = trainer_of(model, tiny_checkpoint("qwen3_vl"), tmp_path, rows, chunk_tokens=BUDGET, **settings)
    if trainer.args.activation_checkpointing:
        model.activation_checkpointing_enable()
        assert model.is_activation_checkpointing
    module: Any = trainer.model
    inputs = trainer.data_collator(rows)
    batch = inputs["batch"]
    chunks = trainer.training_chunks(batch)
    assert chunks != plan_batches(batch.lengths, BUDGET)  # the tower is adapted and has its share
    assert len(chunks) > 3
    module.train()
    torch.manual_seed(5)  # the whole graph over the same chunks, nothing cached
    with trainer.compute_loss_context_manager():
        parts = torch.cat([module(trainer.collate(batch, chunk)) for chunk in chunks])
        order = torch.tensor([i for chunk in chunks for i in chunk])
        loss, _ = trainer.representation_loss(parts[order.argsort()], batch)
    loss.backward()
    expected = {n: p.grad.clone() for n, p in module.named_parameters() if p.grad is not None}
    module.zero_grad()
    torch.manual_seed(5)
    cached = trainer.training_step(module, inputs)
    assert cached.item() == pytest.approx(loss.item(), rel=tolerance)
    found = {n: p.grad for n, p in module.named_parameters() if p.grad is not None}
    assert found.keys() == expected.keys()
    assert {part_of(name) for name in found} == {"language", "vision", None}  # None: the temperature
    for name, value in expected.items():
        scale = max(1.0, value.abs().max().item())
        torch.testing.assert_close(found[name], value, rtol=0, atol=tolerance * scale, msg=name)


def test_a_half_precision_backbone_has_a_float32_adapter(
    tiny_checkpoint: Callable[..., Path], tmp_path: Path, rows: Any
) -> None:
    model = open_model(tiny_checkpoint(), torch.bfloat16)
    add_lora(model, rank=2, alpha=4)
    trained = [p for p in model.parameters() if p.requires_grad]
    assert all(p.dtype == torch.float32 for p in trained)
    before = [p.detach().clone() for p in trained]
    trainer_of(model, tiny_checkpoint(), tmp_path, rows, bf16=True).train()
    assert any(not torch.equal(a, b) for a, b in zip(before, trained, strict=True))
    assert model.dtype == torch.bfloat16


def test_a_loaded_adapter_in_half_precision_is_trained_in_float32(
    tiny_checkpoint: Callable[..., Path], tmp_path: Path, rows: Any, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoint = tiny_checkpoint()
    adapter = save_adapter(checkpoint, tmp_path / "adapter", lora_dropout=0.0)
    encoder = umekit.load(checkpoint, adapter=adapter, dtype="bfloat16", device="cpu")
    vectors = encoder.encode(["a text"])
    trained = [p for p in encoder.model.parameters() if p.requires_grad]
    assert {p.dtype for p in trained} == {torch.bfloat16}, "loading alone keeps the dtype that was asked for"
    trainer = trainer_of(encoder.model, checkpoint, tmp_path / "run", rows, bf16=True, learning_rate=1e-6)
    assert "trained in float32" in caplog.text
    assert {p.dtype for p in trained} == {torch.float32}
    np.testing.assert_allclose(encoder.encode(["a text"]), vectors, rtol=0, atol=2e-2)
    before = [p.detach().clone() for p in trained]
    trainer.train()
    for old, new in zip(before, trained, strict=True):
        assert not torch.equal(old, new), "an update below bfloat16's precision counts"
    assert encoder.model.dtype == torch.bfloat16


@pytest.mark.parametrize("dora", [False, True])
def test_the_saved_adapter_loads_into_the_plain_backbone(
    tiny_checkpoint: Callable[..., Path], tmp_path: Path, rows: Any, dora: bool
) -> None:
    checkpoint = tiny_checkpoint("qwen3_vl")
    options: dict[str, Any] = {"save_strategy": "steps", "save_steps": 1}
    model = open_model(checkpoint)
    add_lora(model, rank=4, alpha=8, parts=("language", "vision", "merger"), dora=dora)
    trainer = trainer_of(model, checkpoint, tmp_path, rows, **options)
    trainer.train()
    vectors = model.eval().encode(["a text", rows[1]["query"]], processor=trainer.processing_class)
    plain = open_model(checkpoint)
    untrained = plain.encode(["a text", rows[1]["query"]], processor=trainer.processing_class)
    assert not torch.allclose(vectors, untrained, atol=1e-3)
    plain.backbone = PeftModel.from_pretrained(plain.backbone, tmp_path / "checkpoint-2").merge_and_unload()
    merged = plain.encode(["a text", rows[1]["query"]], processor=trainer.processing_class)
    torch.testing.assert_close(merged, vectors, rtol=0, atol=1e-5)
    resumed_model = open_model(checkpoint)
    add_lora(resumed_model, rank=4, alpha=8, parts=("language", "vision", "merger"), dora=dora)
    resumed = trainer_of(resumed_model, checkpoint, tmp_path, rows, **options)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-1"))
    for key, value in resumed.model.state_dict().items():
        assert torch.equal(value, trainer.model.state_dict()[key]), key


@pytest.mark.parametrize("bits", [4, 8])
def test_qlora_trains_a_quantised_model(tmp_path: Path, rows: Any, bits: int) -> None:
    pytest.importorskip("bitsandbytes")
    # Feature sizes must be multiples of bitsandbytes' block of 64.
    checkpoint = save_tiny_checkpoint(
        tmp_path / "c", save_tiny_backbone(tmp_path / "b", "qwen2_vl", hidden=128)
    )
    quantisation = BitsAndBytesConfig(
        load_in_8bit=bits == 8,
        load_in_4bit=bits == 4,
        llm_int8_skip_modules=list(UNQUANTISED_MODULES),
        bnb_4bit_quant_type="nf4",
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
    model = open_model(checkpoint, torch.bfloat16, quantization_config=quantisation)
    torch.manual_seed(0)
    report = add_lora(model, rank=4, alpha=8, parts=("language", "vision"))
    kinds = {name: type(m).__name__ for name, m in model.named_modules()}
    assert "Linear4bit" in kinds.values() if bits == 4 else "Linear8bitLt" in kinds.values()
    norms = [m for n, m in model.named_modules() if kinds[n].endswith("Norm") and part_of(n) == "language"]
    assert norms
    assert all(norm.weight.dtype == torch.float32 for norm in norms)
    assert report.total > report.trainable * 5
    settings = {"chunk_tokens": BUDGET, "max_steps": 5, "bf16": True, "logging_steps": 1}
    settings |= {"activation_checkpointing": True, "learnable_temperature": False}
    trainer = trainer_of(model, checkpoint, tmp_path, rows, **settings)
    frozen = {n: p.detach().clone() for n, p in model.named_parameters() if not p.requires_grad}
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert losses[-1] < losses[0]
    for name, value in frozen.items():
        assert torch.equal(model.get_parameter(name), value), name


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"parts": ("language", "audio")}, "unknown part 'audio'"),
        ({"parts": "language"}, "distinct names"),
        ({"parts": ()}, "distinct names"),
        ({"rank": 0}, "rank"),
        ({"alpha": 0.0}, "alpha"),
        ({"dropout": 1.0}, "dropout"),
    ],
)
def test_what_makes_no_sense_raises(
    tiny_checkpoint: Callable[..., Path], change: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        add_lora(open_model(tiny_checkpoint()), **{"rank": 4, "alpha": 8, **change})


def test_a_part_that_matches_nothing_and_a_second_adapter_raise(tiny_checkpoint: Callable[..., Path]) -> None:
    model = open_model(tiny_checkpoint())
    language = model.backbone.model.language_model
    with pytest.raises(ValueError, match="no linear layer in its 'vision' part"):
        target_pattern(torch.nn.ModuleDict({"language_model": language}), ["language", "vision"])
    add_lora(model, rank=2, alpha=2)
    with pytest.raises(ValueError, match="adapter already"):
        add_lora(model, rank=2, alpha=2)
