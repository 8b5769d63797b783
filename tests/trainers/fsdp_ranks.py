"""Runs of ``test_fsdp.py``: the Trainer with accelerate's FSDP2, on the CPU; alone as one process without it."""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from accelerate.state import PartialState
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin
from PIL import Image
from torch import Tensor
from torch.distributed.fsdp import FSDPModule
from transformers import Trainer

from umekit.modeling.discriminative import UmeForDiscriminativeEmbedding
from umekit.processing.processor import UmeProcessor
from umekit.trainers import ContrastiveTrainer, ContrastiveTrainingArguments

ROWS = 8  # of one contrastive batch, over all ranks


@dataclasses.dataclass(frozen=True)
class Scenario:
    """weights: dtype they are loaded in. tied: one matrix for both ends of the backbone."""

    rows: Callable[[], list[dict[str, Any]]]
    settings: dict[str, Any]
    weights: torch.dtype = torch.float32
    tied: bool = False


def text_rows() -> list[dict[str, Any]]:
    return [{"query": f"find {i}", "positive": "the text " * (i + 1)} for i in range(ROWS)]


def media_rows() -> list[dict[str, Any]]:
    """Both kinds of media, one item with both, on the first of two ranks, pictures and texts on the second."""
    picture = Image.new("RGB", (60, 60), "red")
    rows = text_rows()
    rows[0]["positive"] = {"video": [picture] * 4}
    rows[1]["positive"] = {"image": picture, "video": [picture] * 4}
    for row in (rows[2], rows[4], rows[5]):
        row["positive"] = {"image": picture}
    return rows


SCENARIOS = {
    "media": Scenario(media_rows, {"optim": "sgd", "max_grad_norm": 1.0, "learning_rate": 0.1}),
    "half": Scenario(text_rows, {"bf16": True}),
    "pure": Scenario(text_rows, {}, weights=torch.bfloat16, tied=True),
}


class Watching(ContrastiveTrainer):
    """Keeps what the loss was given: dtype of the vectors, and the temperature."""

    seen: tuple[torch.dtype, float] | None = None

    def representation_loss(self, embeddings: Tensor, rows: Any) -> Any:
        self.seen = (embeddings.dtype, self.objective_module.temperature().item())
        return super().representation_loss(embeddings, rows)


def allow_fsdp_without_gpus() -> None:
    """Put accelerate into the state in which it would be with several GPUs."""
    original = Trainer.create_accelerator_and_postprocess

    def create(self: Trainer) -> None:
        original(self)
        plugin = FullyShardedDataParallelPlugin(**self.args.fsdp_plugin_args)
        if self.accelerator.mixed_precision != "no":
            plugin.set_mixed_precision(self.accelerator.mixed_precision)
        self.accelerator.state.distributed_type = DistributedType.FSDP
        PartialState._shared_state["distributed_type"] = DistributedType.FSDP
        self.accelerator.state.fsdp_plugin = plugin
        self.is_fsdp_enabled = True

    Trainer.create_accelerator_and_postprocess = create  # type: ignore[method-assign]


def run(checkpoint: Path, folder: Path, scenario: Scenario, ranks: int = 1) -> dict[str, Any]:
    """Train two steps and save to ``folder``; what cannot be seen in the files is returned."""
    args = ContrastiveTrainingArguments(
        output_dir=str(folder), per_device_train_batch_size=ROWS // ranks, chunk_tokens=200, temperature=0.05,
        learnable_temperature=True, max_steps=2, save_strategy="no", logging_steps=1, use_cpu=True,
        report_to="none", disable_tqdm=True, fsdp=ranks > 1, train_sampling_strategy="sequential",
        **scenario.settings,
    )  # fmt: skip
    model = UmeForDiscriminativeEmbedding.from_pretrained(checkpoint, dtype=scenario.weights)
    if scenario.tied:
        model.backbone.config.tie_word_embeddings = True
        model.backbone.config.get_text_config().tie_word_embeddings = True
        model.backbone.lm_head.weight = model.backbone.get_input_embeddings().weight
    trainer = Watching(
        model,
        args,
        processing_class=UmeProcessor.from_pretrained(checkpoint),
        train_dataset=scenario.rows() * 2,
    )
    trainer.train()
    trainer.save_model(str(folder))
    names = dict(trainer.model.named_modules())  # type: ignore[union-attr]
    return {
        "seen": trainer.seen,
        "logs": [{k: v for k, v in log.items() if k != "step"} for log in trainer.state.log_history[:-1]],
        "groups": sorted(name for name, module in names.items() if isinstance(module, FSDPModule)),
        "dtypes": sorted({str(p.dtype) for p in trainer.model.parameters() if p.requires_grad}),  # type: ignore
        "temperature": trainer.objective_module.temperature().item(),
    }


if __name__ == "__main__":
    source, target = Path(sys.argv[1]), Path(sys.argv[2])
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    allow_fsdp_without_gpus()
    for key, wanted in SCENARIOS.items():
        found = run(source, target / key, wanted, dist.get_world_size())
        torch.save(found, target / f"{key}-rank-{os.environ['RANK']}.pt")
    dist.barrier()
    dist.destroy_process_group()
