"""One training of an arm, by the trainers of the package."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import PrinterCallback

import umekit
from umekit.encoding.presets.u_marvel_reranker import U_MARVEL_RERANKER_SHORT
from umekit.trainers import (
    AdaptiveRLVRTrainer,
    AdaptiveRLVRTrainingArguments,
    JointReasoningTrainer,
    JointReasoningTrainingArguments,
    RerankerTrainer,
    RerankerTrainingArguments,
)

from .records import Arm
from .rows import TRAINED, Batches, Row, evaluator_rows, rl_rows

MAX_TOKENS = 96  # of a thought; no thought of the mix has more
LOGGED = (
    *("step", "loss", "accuracy", "query_ce", "query_action_ce", "disc_loss", "gen_disc_loss"),
    *("query_reward", "query_delta", "query_invocation_ratio", "query_thought_tokens", "query_collapse"),
)
COMMON: dict[str, Any] = {
    "adam_beta2": 0.98,
    "max_grad_norm": 1.0,
    "train_sampling_strategy": "sequential",
    "use_cpu": True,
    "save_strategy": "no",
    "report_to": "none",
    "disable_tqdm": True,
}
JUDGING: dict[str, Any] = {
    "trained_parts": ["language", "merger"],
    "pointwise_weight": 1.0,
    "listwise_weight": 1.0,
    "lr_scheduler_type": "cosine",
    "logging_steps": 50,
}
EMBEDDING: dict[str, Any] = {
    "weight_decay": 0.05,
    "temperature": 0.05,
    "trained_parts": None,  # the vision tower, too: digits inside thoughts are what fails first
}
REWARDED: dict[str, Any] = {
    "num_generations": 8,
    "max_completion_length": MAX_TOKENS,
    "beta": 0.02,
    "targets": "greedy",  # words: the queries are trained
    "min_deviation": 0.01,  # rewards that differ by next to nothing are not blown up
    "reasoning_cost": 0.1,
    "action_weight": 10.0,  # as many tokens as half a thought
    "collapse_window": 20,
    "log_completions_steps": 0,
}

ANCHOR = 0.1  # weight of InfoNCE of both vectors


def train_evaluator(arm: Arm, seed: int, start: Path, out: Path) -> dict[str, Any]:
    """Teach the checkpoint ``start`` to answer whether a candidate is right, save it in ``out``; what was logged."""
    torch.manual_seed(seed)
    opened = umekit.load(start, device="cpu", dtype=torch.float32)
    model, processor = U_MARVEL_RERANKER_SHORT.put_on(opened.model, opened.processor)
    with tempfile.TemporaryDirectory() as scratch:
        arguments = RerankerTrainingArguments(**_common(arm, seed, scratch), **JUDGING, warmup_steps=50)
        trainer = RerankerTrainer(
            model,
            arguments,
            processing_class=processor,
            train_dataset=evaluator_rows(arm.steps, seed),
        )
        log = _run(trainer)
    _save(model, processor, out)
    return {"log": log}


def train(
    arm: Arm, seed: int, start: Path, out: Path, selected: list[list[Row]] | None = None
) -> dict[str, Any]:
    """Train an embedder from the checkpoint ``start``, save it in ``out``; what was logged.

    selected: by part, the rows of a joint training.
    """
    torch.manual_seed(seed)
    encoder = umekit.load(start, role="adaptive", device="cpu", dtype=torch.float32)
    # What was learned of deciding elsewhere, by a probe for instance, is no part of this.
    encoder.model.settings = replace(
        encoder.model.settings,
        default_mode="adaptive",
        strategy="policy",
        kappa=0.5,
        max_new_tokens=MAX_TOKENS,
    )
    with tempfile.TemporaryDirectory() as scratch:
        common = {**_common(arm, seed, scratch), **EMBEDDING}
        trainer: Any
        if arm.kind in ("rl", "anchored-rl"):
            trainer = AdaptiveRLVRTrainer(
                encoder.model,
                AdaptiveRLVRTrainingArguments(
                    **common,
                    **REWARDED,
                    anchor_weight=ANCHOR if arm.kind == "anchored-rl" else 0.0,
                    lr_scheduler_type="constant",
                    action_warmup_steps=arm.steps // 3,
                    logging_steps=1,
                ),
                processing_class=encoder.processor,
                train_dataset=rl_rows(arm.steps, arm.batch, seed),
            )
        else:
            assert selected is not None
            trainer = JointReasoningTrainer(
                encoder.model,
                JointReasoningTrainingArguments(
                    **common,
                    lr_scheduler_type="cosine",
                    warmup_steps=max(1, arm.steps // 10),
                    logging_steps=10,
                ),
                processing_class=encoder.processor,
                train_dataset=Batches(selected, TRAINED, arm.steps, seed),
            )
        log = _run(trainer)
    _save(encoder.model, encoder.processor, out)
    return {"log": log}


def _common(arm: Arm, seed: int, scratch: str) -> dict[str, Any]:
    return {
        "output_dir": scratch,
        "per_device_train_batch_size": arm.batch,
        "max_steps": arm.steps,
        "learning_rate": arm.rate,
        "seed": seed,
        **COMMON,
    }


def _run(trainer: Any) -> list[dict[str, Any]]:
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    return [_short(line) for line in trainer.state.log_history if "loss" in line]


def _save(model: Any, processor: Any, out: Path) -> None:
    model.eval().save_pretrained(out)
    processor.save_pretrained(out)


def _short(line: dict[str, Any]) -> dict[str, Any]:
    return {name: float(f"{float(line[name]):.4g}") for name in LOGGED if name in line}
