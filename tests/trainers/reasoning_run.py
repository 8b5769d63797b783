"""Steps of ReasoningTrainer on the published pairs, in one process or two; what ``test_reasoning.py`` runs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from reasoning_reference import CHECKPOINT, rows
from torch import Tensor
from transformers import TrainerCallback

import umekit
from umekit.trainers import ReasoningTrainer, ReasoningTrainingArguments, add_lora

PARTS = ("disc_loss", "gen_loss", "query_ce", "positive_ce", "loss")


class Gradients(TrainerCallback):
    """Keeps what a step is taken with."""

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        model = getattr(model, "module", model)
        self.found = {
            name.removeprefix("model.backbone."): parameter.grad.clone()
            for name, parameter in model.named_parameters()
            if parameter.grad is not None
        }


def give_lora(model: Any) -> None:
    """An adapter that changes something."""
    torch.manual_seed(0)
    add_lora(model, rank=4, alpha=8, dropout=0.0, parts=("language", "merger"), init_lora_weights=False)


def reasoning_trainer(
    folder: Path,
    world: int = 1,
    lora: bool = False,
    checkpoint: Path = CHECKPOINT,
    preset: str | None = "ume-r1",
    train_dataset: Any = None,
    **settings: Any,
) -> ReasoningTrainer:
    """One step over the four pairs."""
    encoder = umekit.load(checkpoint, preset=preset, device="cpu", attn_implementation="eager")
    if lora:
        give_lora(encoder.model)
    defaults: dict[str, Any] = {
        "per_device_train_batch_size": 4 // world,
        "max_steps": 1,
        "learning_rate": 0.01,
        "optim": "sgd",
        "max_grad_norm": 0.0,
        "train_sampling_strategy": "sequential",
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
    }
    args = ReasoningTrainingArguments(output_dir=str(folder), **{**defaults, **settings})
    return ReasoningTrainer(
        encoder.model,
        args,
        processing_class=encoder.processor,
        train_dataset=rows() if train_dataset is None else train_dataset,
        callbacks=[Gradients()],
    )


def stepped(folder: Path, world: int = 1, lora: bool = False, **settings: Any) -> dict[str, Any]:
    """Parts of the loss as they are logged, and gradients."""
    return taken(reasoning_trainer(folder, world, lora, **settings))


def taken(trainer: ReasoningTrainer) -> dict[str, Any]:
    """The same of a trainer."""
    trainer.train()
    seen = next(one for one in trainer.callback_handler.callbacks if isinstance(one, Gradients))
    logged = trainer.state.log_history[0]
    gradients: dict[str, Tensor] = seen.found
    return {"parts": {name: logged[name] for name in PARTS}, "gradients": gradients}


CASES: dict[str, dict[str, Any]] = {
    "whole": {},
    "chunks": {"chunk_tokens": 400},
    "one by one": {"chunk_tokens": 1},
    "lora": {"lora": True, "chunk_tokens": 400},
    "lora whole": {"lora": True},
    "per rank": {"ce_per_rank": True, "chunk_tokens": 400},
}


def run(folder: Path, world: int = 1) -> dict[str, dict[str, Any]]:
    """All cases."""
    return {name: stepped(folder, world, **settings) for name, settings in CASES.items()}


if __name__ == "__main__":
    dist.init_process_group("gloo")
    torch.save(
        run(Path(sys.argv[1]), dist.get_world_size()), Path(sys.argv[1]) / f"rank-{dist.get_rank()}.pt"
    )
    dist.barrier()
    dist.destroy_process_group()
