"""A reranker and a distilled model after two steps, run by ``test_stage_three.py`` on one rank and on two."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from PIL import Image
from torch import Tensor

import umekit
from umekit.trainers import DistillationTrainer, RerankerTrainer

GOLDEN = Path(__file__).parent.parent / "golden"


def pair_rows() -> list[dict[str, Any]]:
    """Lists of different lengths; one has a picture, and the other rank's forwards then need one, too."""
    rows: list[dict[str, Any]] = []
    for i in range(8):
        negatives: list[Any] = [f"no {i} {j}" for j in range(1 + i % 3)]
        rows.append({"query": f"which {i}", "positive": f"it is {i}", "negatives": negatives})
    rows[1]["negatives"][0] = {"image": Image.new("RGB", (56, 84), "red")}
    return rows


def scored_rows() -> list[dict[str, Any]]:
    rows = [{**row, "candidates": [row["positive"], *row["negatives"], "neither"]} for row in pair_rows()]
    for row in rows:
        row["teacher_scores"] = [1.0 - 0.2 * place for place in range(len(row["candidates"]))]
    return rows


CASES: dict[str, tuple[Any, str, Any, dict[str, Any]]] = {
    "reranker": (RerankerTrainer, "umarvel_reranker", pair_rows, {"listwise_weight": 0.5}),
    "turn": (RerankerTrainer, "umarvel_reranker", pair_rows, {"loss_span": "turn", "positions": "1d"}),
    "distillation": (DistillationTrainer, "umarvel_qwen2vl", scored_rows, {"infonce_weight": 0.5}),
}


def trained(name: str, folder: Path, world: int, chunk_tokens: int | None) -> dict[str, Tensor]:
    """What was learnt, the losses, and the evaluation."""
    kind, checkpoint, rows, settings = CASES[name]
    preset = "u-marvel" if checkpoint == "umarvel_qwen2vl" else "u-marvel-reranker"
    loaded = umekit.load(GOLDEN / checkpoint / "checkpoint", preset=preset, device="cpu")
    loaded.model.train()
    args = kind.arguments_class(
        output_dir=str(folder),
        per_device_train_batch_size=4 // world,
        per_device_eval_batch_size=8 // world,
        max_steps=2,
        learning_rate=0.01,
        optim="sgd",
        max_grad_norm=0.0,
        chunk_tokens=chunk_tokens,
        train_sampling_strategy="sequential",
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
        train_lm_head=kind is RerankerTrainer,
        ddp_find_unused_parameters=False,
        **settings,
    )
    trainer = kind(
        loaded.model, args, processing_class=loaded.processor, train_dataset=rows(), eval_dataset=rows()[:7]
    )
    trainer.train()
    learned = {n: p.detach() for n, p in trainer.model.named_parameters() if p.requires_grad}
    losses = torch.tensor([one["loss"] for one in trainer.state.log_history[:2]])
    kept = {
        n: torch.tensor(v) for n, v in trainer.evaluate().items() if not n.endswith(("second", "runtime"))
    }
    return {**learned, "loss": losses, **kept}


def run(folder: Path, world: int) -> dict[str, dict[str, Tensor]]:
    """Every case, whole and in chunks."""
    return {f"{name}-{size}": trained(name, folder, world, size) for name in CASES for size in (None, 200)}


if __name__ == "__main__":
    dist.init_process_group("gloo")
    outcome = run(Path(sys.argv[1]), dist.get_world_size())
    torch.save(outcome, Path(sys.argv[1]) / f"rank-{dist.get_rank()}.pt")
    dist.barrier()
    dist.destroy_process_group()
