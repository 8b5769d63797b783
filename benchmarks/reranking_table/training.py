"""One training of an arm, by the trainers of the package."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PrinterCallback

import umekit
from umekit.encoding.encoder import Encoder
from umekit.examples.train_ume_tiny import speed_up
from umekit.examples.train_ume_tiny_reranker import save as save_reranker
from umekit.examples.train_ume_tiny_reranker import train as train_adapter
from umekit.trainers import (
    ContrastiveTrainer,
    ContrastiveTrainingArguments,
    DistillationTrainer,
    DistillationTrainingArguments,
    add_lora,
)
from umekit.trainers.objectives.saving import SETTINGS_FILE

from .records import CONTRASTIVE, Arm
from .rows import Row, StudentRows, hard_negatives, scores, scores_and_positive, stage2_rows

RANK = 32
COMMON: dict[str, Any] = {
    "lr_scheduler_type": "cosine",
    "adam_beta2": 0.98,
    "max_grad_norm": 1.0,
    "temperature": 0.05,
    "learnable_temperature": True,
    "train_sampling_strategy": "sequential",
    "use_cpu": True,
    "logging_steps": 10,
    "save_strategy": "no",
    "report_to": "none",
    "disable_tqdm": True,
}
PARTS = ("language", "merger")


@dataclass
class Trained:
    """An embedder that was trained, at one learning rate.

    Attributes:
        trainer: saves it. encoder: embeds with it, in float32. rate: of the optimiser.
        losses: step and loss, as logged. temperature: what was learned of it.
    """

    trainer: Any
    encoder: Encoder
    rate: float
    losses: list[tuple[float, float]]
    temperature: dict[str, float]


def train_embedder(
    arm: Arm,
    seed: int,
    start: Path,
    rate: float,
    *,
    bf16: bool,
    scored: Sequence[Mapping[str, Any]] | None = None,
) -> Trained:
    """Stage 2 or a student. scored: the student's rows."""
    torch.manual_seed(seed)
    opened = umekit.load(start, device="cpu", dtype=torch.float32)
    if bf16:
        speed_up(opened.model)
    distils = arm.kind == "distilled"
    rows: Any
    if scored is None:
        miner = umekit.load(start, device="cpu", dtype=torch.float32)
        rows = stage2_rows(miner, arm.steps, arm.batch, seed)
    else:
        rows = StudentRows(scored, arm.steps, arm.batch, seed, reading_of(arm))
        add_lora(opened.model, rank=RANK, alpha=2 * RANK, dropout=0.0, parts=PARTS)
    arguments: dict[str, Any] = {} if distils else dict(CONTRASTIVE)
    make = DistillationTrainingArguments if distils else ContrastiveTrainingArguments
    trainer_class = DistillationTrainer if distils else ContrastiveTrainer
    with tempfile.TemporaryDirectory() as scratch:
        args = make(
            output_dir=scratch,
            per_device_train_batch_size=arm.batch,
            max_steps=arm.steps,
            learning_rate=rate,
            warmup_steps=max(1, arm.steps // 10),
            bf16=bf16,
            seed=seed,
            **{**COMMON, **arguments, **arm.arguments},
        )
        objective = trainer_class.make_objective(args)
        if (start / SETTINGS_FILE).is_file():  # the temperature of the stage before goes on
            objective.load_weights(start)
        trainer = trainer_class(
            opened.model,
            args,
            processing_class=opened.processor,
            objective=objective,
            train_dataset=rows,
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    opened.model.backbone.set_attn_implementation("sdpa")
    losses = [
        (line["step"], round(float(line["loss"]), 4)) for line in trainer.state.log_history if "loss" in line
    ]
    temperature = {name: round(float(value), 4) for name, value in trainer.objective_module.values().items()}
    encoder = Encoder(opened.model.eval(), opened.processor, workers=0)
    return Trained(trainer, encoder, rate, losses, temperature)


def reading_of(arm: Arm) -> Callable[[Row], Row]:
    """What a student reads of a scored row."""
    if arm.kind == "continued":
        return hard_negatives
    return scores_and_positive if arm.arguments.get("infonce_weight") else scores


def train_reranker(rows: Any, seed: int, start: Path, rate: float, out: Path, *, bf16: bool) -> None:
    """A LoRA on ``start`` in the folder ``out``, which names it by a relative path.

    rows: a data set of ``steps`` batches of ``batch`` rows, which are read in order.
    """
    options = argparse.Namespace(
        bf16=bf16,
        seed=seed,
        rank=RANK,
        out=out,
        batch=rows.batch,
        steps=rows.steps,
        learning_rate=rate,
    )
    model, processor = train_adapter(start, options, rows)
    save_reranker(model, processor, start, out)
