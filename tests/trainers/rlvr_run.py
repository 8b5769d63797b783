"""Steps of RLVRTrainer on the published pairs, in one process or two; what ``test_rlvr.py`` runs."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from reasoning_reference import CHECKPOINT, rows
from reasoning_run import Gradients, give_lora

import umekit
from umekit.modeling.adaptive import UmeForAdaptiveEmbedding
from umekit.trainers import (
    AdaptiveRLVRTrainer,
    AdaptiveRLVRTrainingArguments,
    RLVRTrainer,
    RLVRTrainingArguments,
)

DEFAULTS: dict[str, Any] = {
    "max_steps": 1,
    "num_generations": 4,
    "max_completion_length": 12,
    "learning_rate": 0.003,
    "optim": "sgd",
    "max_grad_norm": 0.0,
    "min_deviation": 0.01,  # rewards that differ by rounding alone would be blown up
    "lr_scheduler_type": "constant",
    "train_sampling_strategy": "sequential",
    "logging_steps": 1,
    "save_strategy": "no",
    "report_to": "none",
    "disable_tqdm": True,
    "use_cpu": True,
}


def rlvr_trainer(
    folder: Path,
    world: int = 1,
    lora: bool = False,
    checkpoint: Path = CHECKPOINT,
    preset: str | None = "ume-r1",
    thought_end: str = "forced",
    train_dataset: Any = None,
    trainer: dict[str, Any] | None = None,
    adaptive: bool = False,
    **settings: Any,
) -> Any:
    """One step over the four pairs. trainer: more of its arguments. adaptive: of a model that decides, and its kind."""
    encoder = umekit.load(checkpoint, preset=preset, device="cpu", attn_implementation="eager")
    encoder.model.settings = replace(encoder.model.settings, thought_end=thought_end)
    if adaptive:
        encoder.model = deciding(encoder.model)
    if lora:
        give_lora(encoder.model)
    settings = {**DEFAULTS, "per_device_train_batch_size": 4 // world, **settings}
    arguments = AdaptiveRLVRTrainingArguments if adaptive else RLVRTrainingArguments
    args = arguments(output_dir=str(folder), **settings)
    return (AdaptiveRLVRTrainer if adaptive else RLVRTrainer)(
        encoder.model,
        args,
        processing_class=encoder.processor,
        train_dataset=rows() if train_dataset is None else train_dataset,
        callbacks=[Gradients()],
        **(trainer or {}),
    )


def deciding(model: Any) -> UmeForAdaptiveEmbedding:
    """A model that thinks as one that decides; two tokens that are used for nothing else stand for the actions."""
    tokens = {**model.settings.tokens, "direct": 97, "reason": 98}
    return UmeForAdaptiveEmbedding(
        model.config, model.backbone, replace(model.settings, kind="adaptive", tokens=tokens)
    )


def taken(trainer: RLVRTrainer) -> dict[str, Any]:
    """What a training logs in each step, gradients of the last and weights after it."""
    trainer.train()
    seen = next(one for one in trainer.callback_handler.callbacks if isinstance(one, Gradients))
    model = trainer.accelerator.unwrap_model(trainer.model)
    return {
        "logged": [one for one in trainer.state.log_history if "loss" in one],
        "gradients": seen.found,
        "weights": {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad},
    }


CASES: dict[str, dict[str, Any]] = {
    "whole": {"anchor_weight": 0.1, "temperature": 0.1},
    "chunks": {"anchor_weight": 0.1, "temperature": 0.1, "chunk_tokens": 400},
    "lora": {"max_steps": 2, "lora": True, "chunk_tokens": 400},
    "updates": {"max_steps": 4, "num_iterations": 2, "loss_norm": "token"},
    "greedy": {"targets": "greedy", "loss_norm": "sequence"},
    "adaptive": {
        "adaptive": True,
        "max_steps": 2,
        "action_warmup_steps": 1,
        "action_weight": 3.0,
        "anchor_weight": 0.1,
        "chunk_tokens": 400,
        "num_iterations": 1,
    },
}


def run(folder: Path, world: int = 1) -> dict[str, dict[str, Any]]:
    """All cases."""
    return {
        name: taken(rlvr_trainer(folder / name.replace(" ", "-"), world, **settings))
        for name, settings in CASES.items()
    }


if __name__ == "__main__":
    dist.init_process_group("gloo")
    torch.save(
        run(Path(sys.argv[1]), dist.get_world_size()), Path(sys.argv[1]) / f"rank-{dist.get_rank()}.pt"
    )
    dist.barrier()
    dist.destroy_process_group()
