"""Runs the step of ``test_sharded_ranks.py``; alone as one process, under torchrun with sharded parameters."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from PIL import Image
from torch.distributed.fsdp import fully_shard

from umekit.modeling.discriminative import UmeForDiscriminativeEmbedding
from umekit.processing.processor import UmeProcessor
from umekit.trainers import ContrastiveTrainer, ContrastiveTrainingArguments

ROWS = 8  # over all ranks
SHARDED = ("Qwen3VLTextDecoderLayer", "Qwen3VLVisionBlock")


def one_sided_rows() -> list[dict[str, Any]]:
    """Text only in the first half, images in the second, with texts of other lengths."""
    texts = [{"query": f"find {i}", "positive": "the text " * (i + 1)} for i in range(ROWS // 2)]
    pictures = [Image.new("RGB", (60 + 30 * i, 60), (i * 50, 30, 200)) for i in range(ROWS // 2)]
    return texts + [{"query": f"a {i}", "positive": {"image": p}} for i, p in enumerate(pictures)]


def step(checkpoint: Path, folder: Path, budget: int | None) -> dict[str, torch.Tensor]:
    """Whole gradients, and the loss, of one step; sharded by the blocks of both towers if there are ranks."""
    ranks = dist.get_world_size() if dist.is_initialized() else 1
    size = ROWS // ranks
    args = ContrastiveTrainingArguments(
        output_dir=str(folder), per_device_train_batch_size=size, chunk_tokens=budget, temperature=0.05,
        use_cpu=True, report_to="none", disable_tqdm=True,
    )  # fmt: skip
    trainer = ContrastiveTrainer(
        UmeForDiscriminativeEmbedding.from_pretrained(checkpoint, dtype=torch.float32),
        args,
        processing_class=UmeProcessor.from_pretrained(checkpoint),
    )
    module: Any = trainer.model
    if ranks > 1:
        for part in [m for m in module.modules() if type(m).__name__ in SHARDED]:
            fully_shard(part)
        fully_shard(module)
    first = size * (dist.get_rank() if ranks > 1 else 0)
    loss = trainer.training_step(module, trainer.data_collator(one_sided_rows()[first : first + size]))
    gradients = {n: p.grad for n, p in module.named_parameters() if p.grad is not None}
    whole = {n: g.full_tensor() if hasattr(g, "full_tensor") else g for n, g in gradients.items()}
    return {**whole, "loss": loss}


if __name__ == "__main__":
    source, target = Path(sys.argv[1]), Path(sys.argv[2])
    dist.init_process_group("gloo")
    for number, tokens in enumerate((None, 100)):
        torch.save(step(source, target, tokens), target / f"{number}-rank-{dist.get_rank()}.pt")
    dist.barrier()
    dist.destroy_process_group()
