"""One arm's training, by the trainers of the package."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PrinterCallback, TrainerCallback

import umekit
from umekit.encoding.encoder import Encoder
from umekit.trainers import (
    ReasoningTrainer,
    ReasoningTrainingArguments,
    RLVRTrainer,
    RLVRTrainingArguments,
)
from umekit.trainers.rollout_rewards import Reward, RolloutGroups, embedding_reward

from .records import Arm
from .rows import Mixture, prompts

# The losses of UME-R1 but for its temperature, which is that of ume-tiny.
COMMON: dict[str, Any] = {
    "weight_decay": 0.05,
    "adam_beta2": 0.98,
    "max_grad_norm": 1.0,
    "temperature": 0.05,
    "trained_parts": None,
    "train_sampling_strategy": "sequential",
    "use_cpu": True,
    "logging_steps": 10,
    "save_steps": 100,
    "save_total_limit": 1,
    "report_to": "none",
    "disable_tqdm": True,
}
# DUME: nothing of a thought is learned, so none is read.
GLANCE: dict[str, Any] = {
    "gen_weight": 0.0,
    "query_ce_weight": 0.0,
    "positive_ce_weight": 0.0,
    "thoughtless_rows": True,
}
ROLLOUTS: dict[str, Any] = {
    "num_generations": 8,
    "max_completion_length": 96,
    "beta": 0.02,
    "targets": "greedy",
    "log_completions_steps": 20,
}
PROMPTS = 12  # of an RL step


class Log(TrainerCallback):  # type: ignore[misc]
    """A line of JSON for every log, in a file that can be watched."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        shown = {
            name: float(f"{value:.4g}") if isinstance(value, float) else value for name, value in logs.items()
        }
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": state.global_step, **shown}) + "\n")


def train(arm: Arm, seed: int, start: Path, out: Path, work: Path) -> list[dict[str, Any]]:
    """Train an arm from the checkpoint ``start``, save it in ``out``; what was logged.

    work: of this training alone; one that was stopped goes on where it was last saved there.
    """
    torch.manual_seed(seed)
    encoder = umekit.load(start, role="generative", device="cpu", dtype=torch.float32)
    add_layers(encoder.model.backbone, arm.added_layers)
    work.mkdir(parents=True, exist_ok=True)
    begun = any(work.glob("checkpoint-*"))
    log = work / "log.jsonl"
    if not begun:
        log.write_text("", encoding="utf-8")
    make = reinforcing if arm.kind == "rl" else teaching
    trainer = make(arm, seed, encoder, work)
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(Log(log))
    trainer.train(resume_from_checkpoint=True if begun else None)
    encoder.model.save_pretrained(out)
    encoder.processor.save_pretrained(out)
    lines = map(json.loads, log.read_text(encoding="utf-8").splitlines())
    return [line for line in lines if "loss" in line]


def teaching(arm: Arm, seed: int, encoder: Encoder, work: Path) -> Any:
    """A cold start, or DUME: the same trainer with the direct vector's loss alone."""
    rows = Mixture(
        arm.steps,
        seed,
        teacher=arm.teacher,
        first=arm.first,
        growing=arm.growing,
        thoughts=arm.kind != "glance",
    )
    args = ReasoningTrainingArguments(
        output_dir=str(work),
        per_device_train_batch_size=rows.batch,
        max_steps=arm.steps,
        learning_rate=arm.rate,
        lr_scheduler_type="cosine",
        warmup_steps=min(100, arm.steps // 10),
        seed=seed,
        **COMMON,
        **(GLANCE if arm.kind == "glance" else {}),
        **arm.arguments,
    )
    return ReasoningTrainer(encoder.model, args, processing_class=encoder.processor, train_dataset=rows)


def reinforcing(arm: Arm, seed: int, encoder: Encoder, work: Path) -> Any:
    """RLVR on the query side of walks; labels are thought about once, greedily."""
    args = RLVRTrainingArguments(
        output_dir=str(work),
        per_device_train_batch_size=PROMPTS,
        max_steps=arm.steps,
        learning_rate=arm.rate,
        lr_scheduler_type="constant",
        seed=seed,
        **{**COMMON, **ROLLOUTS, **arm.arguments, "logging_steps": 1},
    )
    embed: Reward = shuffled(embedding_reward) if arm.shuffled else embedding_reward
    trainer = RLVRTrainer(
        encoder.model,
        args,
        processing_class=encoder.processor,
        train_dataset=prompts(arm.steps * PROMPTS, seed, arm.first),
        rewards={"embed": (embed, 1.0)},
    )
    trainer.rewards["format"] = (trainer.format_reward, 1.0)
    return trainer


def shuffled(reward: Reward) -> Reward:
    """The same rewards, dealt out at random within each group: what is left is noise of the same size."""

    def dealt(groups: RolloutGroups) -> torch.Tensor:
        values = reward(groups)
        chance = torch.Generator().manual_seed(abs(hash(groups.seed)) % 2**31)
        order = torch.rand(values.shape, generator=chance).argsort(dim=1).to(values.device)
        return values.gather(1, order)

    return dealt


def add_layers(backbone: Any, count: int) -> None:
    """Layers on top of the language model that begin as the identity: their outputs are multiplied by zero."""
    if not count:
        return
    text: Any = backbone.base_model.language_model
    config = backbone.config.get_text_config()
    build: Callable[..., nn.Module] = type(text.layers[0])
    for place in range(len(text.layers), len(text.layers) + count):
        config.num_hidden_layers = place + 1
        config.layer_types = [*config.layer_types[:1], *config.layer_types][: place + 1]
        config.max_window_layers = place + 1
        layer: Any = build(config, place)
        layer.apply(backbone._init_weights)
        nn.init.zeros_(layer.self_attn.o_proj.weight)
        nn.init.zeros_(layer.mlp.down_proj.weight)
        text.layers.append(layer)
