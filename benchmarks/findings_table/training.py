"""One arm's training: the trainer of the package, in short."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import PrinterCallback

from umekit.examples.train_ume_tiny import speed_up
from umekit.examples.ume_tiny_model import build_model
from umekit.modeling.discriminative import UmeForDiscriminativeEmbedding
from umekit.processing.processor import UmeProcessor
from umekit.trainers.arguments import ContrastiveTrainingArguments
from umekit.trainers.contrastive import ContrastiveTrainer
from umekit.trainers.lora import add_lora
from umekit.trainers.objectives.module import ContrastiveObjective

from .context import Context
from .prompts import put_on
from .records import Arm, Phase
from .rows import DATA, BatchRows

# U-MARVEL's temperature can move by 0.07 in its 346 steps of 4e-4; a logarithm in 80 steps of 1e-3 could not move at
# all. This factor gives it the same reach.
TEMPERATURE_RATE = 20.0


@dataclass
class Trained:
    """A trained model under its prompt. ``history``: (step, data set of the batch's first row, loss)."""

    model: Any
    processor: Any
    steps: int = 0
    history: list[tuple[int, str, float]] = field(default_factory=list)
    temperature: dict[str, float] = field(default_factory=dict)


def open_start(folder: Path, seed: int) -> tuple[UmeForDiscriminativeEmbedding, UmeProcessor]:
    """The tiny model with the weights of a folder, made fast on a CPU, and its processor."""
    processor = UmeProcessor.from_pretrained(folder)
    model = build_model(processor.tokenizer, seed)
    model.load_native_weights(folder)
    speed_up(model)
    return model, processor


def train_arm(arm: Arm, context: Context, rate: float, divide: int = 1) -> Trained:
    """All phases of an arm, at ``1 / divide`` of its rows."""
    torch.manual_seed(context.seed)
    plain, processor = open_start(context.start, context.seed)
    if arm.lora is not None:
        parts = ("language", "vision", "merger")
        add_lora(plain, rank=arm.lora.rank, alpha=arm.lora.alpha, dropout=0.0, parts=parts)
    model, processor = put_on(plain, processor, arm.prompt)
    trained = Trained(model, processor)
    for phase in arm.phases:
        _train_phase(arm, phase, trained, context, rate, divide)
    model.eval()
    return trained


def _train_phase(
    arm: Arm, phase: Phase, trained: Trained, context: Context, rate: float, divide: int
) -> None:
    steps = arm.steps(phase, divide)
    with tempfile.TemporaryDirectory() as scratch:
        args = _arguments(arm, steps, rate, context.seed, scratch)
        objective = ContrastiveObjective(**args.objective_settings())
        rows = BatchRows(DATA[phase.data], context, steps, arm.batch, first=trained.steps)
        trainer = ContrastiveTrainer(
            model=trained.model,
            args=args,
            processing_class=trained.processor,
            objective=objective,
            train_dataset=rows,
            optimizers=(_optimizer(trained.model, objective, args), None),
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    losses = [float(entry["loss"]) for entry in trainer.state.log_history if "loss" in entry]
    for number, loss in enumerate(losses):
        trained.history.append((trained.steps + number + 1, rows.sets[number], round(loss, 4)))
    trained.steps += steps
    trained.temperature = {
        name: round(float(value), 4) for name, value in objective.temperature.values().items()
    }


def _arguments(arm: Arm, steps: int, rate: float, seed: int, scratch: str) -> ContrastiveTrainingArguments:
    settings: dict[str, Any] = {
        "temperature": 0.05,
        "directions": ["q2p", "p2q"],
        **arm.arguments,
    }
    return ContrastiveTrainingArguments(
        output_dir=scratch,
        per_device_train_batch_size=arm.batch,
        max_steps=steps,
        learning_rate=rate,
        lr_scheduler_type="cosine",
        warmup_steps=max(1, steps // 10),
        weight_decay=0.05,
        adam_beta2=0.98,
        max_grad_norm=1.0,
        train_sampling_strategy="sequential",
        bf16=True,
        use_cpu=True,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        seed=seed,
        **settings,
    )


def _optimizer(model: Any, objective: ContrastiveObjective, args: Any) -> torch.optim.Optimizer:
    """AdamW with decay on matrices only, and a rate of its own for the temperature."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    temperature = [parameter for parameter in objective.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": args.weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
        {"params": temperature, "weight_decay": 0.0, "lr": args.learning_rate * TEMPERATURE_RATE},
    ]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=args.learning_rate,
        betas=(args.adam_beta1, args.adam_beta2),
    )
