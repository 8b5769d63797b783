"""Runs the scenarios of ``test_two_ranks.py``; alone as one process, under torchrun as several."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from stub_model import StubModel, StubProcessor, stub_rows, stub_trainer
from torch import Tensor

from umekit.trainers import ContrastiveTrainer
from umekit.trainers.bad_rows import TooManyBadRows
from umekit.trainers.finite import NonFiniteError

ROWS = 8  # of one contrastive batch, over all ranks
OPTIONS: dict[str, Any] = {
    "dropout": 0.0,
    "optim": "sgd",
    "learning_rate": 0.5,
    "max_grad_norm": 0.0,
    "directions": ["q2p", "p2q"],
    "hardness_alpha": 2.0,
    "train_sampling_strategy": "sequential",
    "learnable_temperature": True,
}


class WithLocal(ContrastiveTrainer):
    """A loss of each item by itself, on both ranks added up."""

    def local_loss(self, model: Any, output: Any, batch: Any) -> Tensor:
        return output.embeddings[: batch["local_rows"], 0].sum() / ROWS


class WithHead(WithLocal):
    """The local loss alone trains the output matrix."""

    def local_loss(self, model: Any, output: Any, batch: Any) -> Tensor:
        logits = model.backbone.lm_head(output.embeddings[: batch["local_rows"]])
        return logits.pow(2).mean(1).sum() / ROWS


class WithBroken(WithLocal):
    """The local loss of the last rank alone is NaN in the second step."""

    def local_loss(self, model: Any, output: Any, batch: Any) -> Tensor:
        loss = super().local_loss(model, output, batch)
        last = not dist.is_initialized() or dist.get_rank() == dist.get_world_size() - 1
        return loss * float("nan") if last and self.state.global_step == 1 else loss


def uneven_rows(count: int = 24) -> list[dict[str, Any]]:
    """Images, long texts and hard negatives only in rows that the first of two ranks gets."""
    rows = stub_rows(count, negatives=2, images=True)
    for i, row in enumerate(rows):
        if i % ROWS >= ROWS // 2:
            row["negatives"] = []
            if isinstance(row["positive"], dict):
                row["positive"] = row["positive"]["text"]
        else:
            row["query"] = row["query"] + " long" * 9
    return rows


def one_sided_rows(count: int = 24) -> list[dict[str, Any]]:
    """Text only in rows that the first of two ranks gets, images in those of the second."""
    rows = stub_rows(count, negatives=1)
    for i, row in enumerate(rows):
        if i % ROWS >= ROWS // 2:
            row["positive"] = {"text": row["positive"], "image": np.full((2, 4), float(i), dtype=np.float32)}
    return rows


def shared_rows(count: int = 24) -> list[dict[str, Any]]:
    """Negatives of the first of two ranks are positives of the second's rows: some by content, some by id."""
    rows = stub_rows(count)
    for i, row in enumerate(rows):
        row["positive_id"] = i
        if i % ROWS < ROWS // 2:
            row["negatives"] = [rows[i + ROWS // 2]["positive"], f"{i} in other words"][: 1 + i % 2]
            row["negative_ids"] = [None, i + ROWS // 2][: 1 + i % 2]
    return rows


def broken_rows(count: int = 24) -> list[dict[str, Any]]:
    """Bad rows here and there, and for once all rows of the second of two ranks."""
    rows = one_sided_rows(count)
    for i in (2, ROWS + 4, ROWS + 5, ROWS + 6, ROWS + 7, 2 * ROWS + 6):
        rows[i] = {"query": 3, "positive": "b"}
    return rows


# Every trained parameter must get a gradient in every step: DDP waits for it.
STRICT: dict[str, Any] = {"ddp_find_unused_parameters": False, "weight_decay": 0.0, "num_train_epochs": 2}
SCENARIOS: dict[str, tuple[Callable[[], list[dict[str, Any]]], dict[str, Any]]] = {
    "whole": (uneven_rows, {}),
    "cached": (uneven_rows, {"chunk_tokens": 60}),
    "accumulated": (
        uneven_rows,
        {"chunk_tokens": 60, "gradient_accumulation_steps": 3, "num_train_epochs": 3},
    ),
    "shared": (shared_rows, {**STRICT, "negatives_shared": True}),
    "one_sided": (one_sided_rows, STRICT),
    "one_sided_cached": (one_sided_rows, {**STRICT, "chunk_tokens": 20}),
    "text_only": (stub_rows, STRICT),
    "text_only_cached": (stub_rows, {**STRICT, "chunk_tokens": 60}),
    "each": (  # every chunk synchronises
        stub_rows,
        {
            **STRICT,
            "chunk_tokens": 60,
            "gradient_accumulation_steps": 3,
            "accelerator_config": {
                "dispatch_batches": False,
                "gradient_accumulation_kwargs": {"sync_each_batch": True},
            },
        },
    ),
    "broken": (broken_rows, {**STRICT, "max_bad_rows": 6}),
    "broken_cached": (broken_rows, {**STRICT, "max_bad_rows": 6, "chunk_tokens": 60}),
}

_HEAD = {**STRICT, "train_lm_head": True}
LOCAL: dict[str, tuple[type[WithLocal], Callable[[], list[dict[str, Any]]], dict[str, Any]]] = {
    "local": (WithLocal, uneven_rows, {}),
    "local_cached": (WithLocal, uneven_rows, {"chunk_tokens": 60}),
    "head": (WithHead, stub_rows, _HEAD),
    "head_cached": (WithHead, stub_rows, {**_HEAD, "chunk_tokens": 60}),
    "broken_loss": (WithBroken, uneven_rows, {"max_steps": 3, "max_skipped_steps": 1}),
    "broken_loss_cached": (
        WithBroken,
        uneven_rows,
        {"max_steps": 3, "max_skipped_steps": 1, "chunk_tokens": 60, "max_grad_norm": 1.0},
    ),
    "head_unused": (WithHead, stub_rows, {**_HEAD, "ddp_find_unused_parameters": True}),
}


def run(folder: Path, world: int) -> dict[str, Any]:
    """All scenarios; the result is the same whatever ``world`` is."""
    size = ROWS // world
    result: dict[str, Any] = {}

    def weights(trainer: ContrastiveTrainer) -> dict[str, Tensor]:
        return {k: v.detach().clone() for k, v in trainer.model.state_dict().items()}

    for name, (rows, extra) in SCENARIOS.items():
        options = {**OPTIONS, "num_train_epochs": 1, "per_device_train_batch_size": size, **extra}
        trainer = stub_trainer(folder / name, rows=rows(), **options)
        trainer.train()
        result[name] = weights(trainer)
        result[f"{name}_logs"] = [
            {
                k: v
                for k, v in entry.items()
                if k
                in (
                    "loss",
                    "accuracy",
                    "temperature",
                    "negative_similarity",
                    "false_negatives_dropped",
                    "bad_rows",
                )
            }
            for entry in trainer.state.log_history
        ]

    def with_local(name: str, **more: Any) -> ContrastiveTrainer:
        kind, rows, extra = LOCAL[name]
        options = {**OPTIONS, "max_steps": 2, "per_device_train_batch_size": size, **extra, **more}
        processor = StubProcessor()
        return kind(
            StubModel(),
            stub_trainer(folder / name, **options).args,
            processing_class=processor,
            train_dataset=rows(),
        )

    for name in LOCAL:
        trainer = with_local(name)
        trainer.train()
        result[name] = weights(trainer)
        result[f"{name}_skipped"] = trainer.finite.skipped
    try:
        with_local("broken_loss", max_skipped_steps=0).train()
    except NonFiniteError as error:
        result["not_finite"] = (str(error), error.step, error.rows)
    over = stub_trainer(
        folder / "over",
        rows=broken_rows(),
        **{**OPTIONS, "per_device_train_batch_size": size, "max_bad_rows": 4},
    )
    try:
        over.train()
    except TooManyBadRows as error:
        result["too_many"] = str(error)
    evaluated = stub_trainer(folder / "eval", per_device_eval_batch_size=size)
    metrics = evaluated.evaluate(stub_rows(21, negatives=2))
    result["evaluation"] = {k: metrics[k] for k in ("eval_loss", "eval_recall@1")}
    return result


def resumed(folder: Path, world: int) -> bool:
    """Whether a run resumed from its second step is the unbroken one, on every rank."""
    options = {"per_device_train_batch_size": ROWS // world, "chunk_tokens": 60, "save_strategy": "steps"}
    whole = stub_trainer(folder, rows=uneven_rows(), save_steps=2, **options)
    whole.train()
    again = stub_trainer(folder, rows=uneven_rows(), save_steps=2, **options)
    again.train(resume_from_checkpoint=str(folder / "checkpoint-2"))
    pairs = zip(whole.model.state_dict().values(), again.model.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


if __name__ == "__main__":
    target = Path(sys.argv[1])
    dist.init_process_group("gloo")
    outcome = run(target / "two", dist.get_world_size())
    outcome["resumed"] = resumed(target / "resumed", dist.get_world_size())
    torch.save(outcome, target / f"rank-{dist.get_rank()}.pt")
    dist.barrier()
    dist.destroy_process_group()
