"""A step of JointReasoningTrainer over rows of both actions, in one process or two; for ``test_joint_reasoning``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from PIL import Image
from reasoning_run import Gradients

import umekit
from umekit.trainers import JointReasoningTrainer, JointReasoningTrainingArguments

PARTS = (
    *(f"{name}_loss" for name in ("disc", "gen", "disc_gen", "gen_disc")),
    *(f"{role}{kind}_ce" for role in ("query", "positive") for kind in ("", "_action")),
    "loss",
)
WEIGHTS = {"disc_weight": 0.7, "gen_weight": 1.3, "cross_weight": 0.5, "action_weight": 2.0}
CASES: dict[str, dict[str, Any]] = {
    "whole": {},
    "chunks": {"chunk_tokens": 120},
    "one by one": {"chunk_tokens": 1, "media_per_chunk": True},
}


def rows() -> list[dict[str, Any]]:
    """Thinks on both sides; on one; on the other; on neither."""
    pictures = [Image.new("RGB", (56, 56), colour) for colour in ("red", "green", "blue")]
    return [
        {
            "query": {"image": pictures[0], "text": "red"},
            "positive": {"image": pictures[1]},
            "query_thought": "p1 red 4 p4 gold 2",
            "answer": "gold 2",
            "positive_thought": "p2 blue 1",
            "positive_answer": "blue 1",
            "query_action": "reason",
            "positive_action": "reason",
            "negatives": ["red 3", {"image": pictures[2]}],
        },
        {
            "query": {"image": pictures[2]},
            "positive": "gold 7",
            "query_thought": "p5 gold 7",
            "answer": "gold 7",
        },
        {
            "query": "the digit",
            "positive": {"image": pictures[2], "text": "p1"},
            "query_thought": "not learned, as its label says",
            "answer": "9",
            "query_action": "direct",
            "positive_thought": "p3 cyan 8",
            "positive_answer": "cyan 8",
        },
        {"query": "odd or even", "positive": "odd", "query_action": "direct", "positive_action": "direct"},
        {
            "query": {"image": pictures[1], "text": "walk"},
            "positive": {"image": pictures[0], "text": "p9"},
            "query_thought": "p9 red 4 p4 pink 5",
            "answer": "pink 5",
            "positive_thought": "p9 pink 5",
            "positive_answer": "pink 5",
        },
        {"query": "green 4", "positive": {"image": pictures[1], "text": "p8"}},
    ]


def trainer_of(folder: Path, world: int = 1, **settings: Any) -> JointReasoningTrainer:
    """One step over all rows."""
    encoder = umekit.load(role="generative", device="cpu", attn_implementation="eager")
    defaults: dict[str, Any] = {
        "per_device_train_batch_size": 6 // world,
        "max_steps": 1,
        "learning_rate": 0.0,
        "optim": "sgd",
        "max_grad_norm": 0.0,
        "temperature": 0.1,
        "trained_parts": None,
        "train_sampling_strategy": "sequential",
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
    }
    args = JointReasoningTrainingArguments(output_dir=str(folder), **{**defaults, **WEIGHTS, **settings})
    return JointReasoningTrainer(
        encoder.model,
        args,
        processing_class=encoder.processor,
        train_dataset=rows(),
        callbacks=[Gradients()],
    )


def taken(trainer: JointReasoningTrainer) -> dict[str, Any]:
    """Parts of the loss as they are logged, and gradients."""
    trainer.train()
    seen = next(one for one in trainer.callback_handler.callbacks if isinstance(one, Gradients))
    logged = trainer.state.log_history[0]
    return {"parts": {name: logged[name] for name in PARTS}, "gradients": seen.found}


def run(folder: Path, world: int = 1) -> dict[str, dict[str, Any]]:
    """All cases."""
    return {name: taken(trainer_of(folder, world, **settings)) for name, settings in CASES.items()}


if __name__ == "__main__":
    dist.init_process_group("gloo")
    torch.save(
        run(Path(sys.argv[1]), dist.get_world_size()), Path(sys.argv[1]) / f"rank-{dist.get_rank()}.pt"
    )
    dist.barrier()
    dist.destroy_process_group()
