"""A trainer on the seam: two slots and a token loss from one forward; and what ``test_toy_trainer.py`` runs of it."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from umekit.modeling.generative import UmeForGenerativeEmbedding
from umekit.modeling.pooling import GENERATED_SLOT
from umekit.processing.processor import UmeProcessor
from umekit.trainers import ContrastiveCollator, ContrastiveTrainer, ContrastiveTrainingArguments, add_lora
from umekit.trainers.batches import ContrastiveBatch, ItemBatch, PreparedRow
from umekit.trainers.distributed import sum_over_ranks
from umekit.trainers.model_with_objective import Metrics, read_slots
from umekit.trainers.tokens import completion_labels, log_probabilities


class ThoughtCollator(ContrastiveCollator):
    """Appends ``query_thought`` and ``positive_thought``, where a row has them."""

    def prepare_row(self, row: Mapping[str, Any]) -> PreparedRow:
        found, tokenizer = super().prepare_row(row), self.processor.tokenizer
        for role in ("query", "positive"):
            if thought := row.get(f"{role}_thought"):
                ids = tokenizer(f"{thought}<gen_emb>", add_special_tokens=False).input_ids
                found.items[role] = found.items[role].continued(ids, GENERATED_SLOT)
        return found


class ToyTrainer(ContrastiveTrainer):
    """InfoNCE at both slots, and the mean cross-entropy of all thoughts' tokens."""

    collator_class = ThoughtCollator

    def read(self, output: Any) -> Tensor:
        return read_slots(output)

    def contrast(self, rows: ContrastiveBatch) -> tuple[Tensor, Metrics]:
        direct, metrics = super().contrast(rows.slot(0))
        generated, _ = super().contrast(rows.slot(1))
        return direct + generated, metrics

    def batch_backward(self, model: nn.Module, batch: ItemBatch) -> tuple[Tensor, Metrics]:
        self.tokens = sum_over_ranks(torch.tensor(sum(item.completion for item in batch.items)))
        return super().batch_backward(model, batch)

    def local_inputs(self, batch: ItemBatch, indices: Sequence[int], inputs: Any) -> dict[str, Any]:
        items = [batch.items[index] for index in indices]
        return {"labels": completion_labels(items, inputs["input_ids"], inputs["attention_mask"])}

    def local_loss(self, model: Any, output: Any, inputs: Mapping[str, Any]) -> Tensor:
        return -log_probabilities(model, output.last_hidden_state, inputs["local_labels"]).sum() / self.tokens


class SameForwards(ToyTrainer):
    """Chunks that are those of one forward, so that dropout draws the same."""

    def training_chunks(self, batch: ItemBatch) -> list[list[int]]:
        return self.whole_chunks(batch)


def rows() -> list[dict[str, Any]]:
    """Negatives without thoughts, one row without any, thoughts of different lengths."""
    found: list[dict[str, Any]] = []
    for i in range(16):
        row: dict[str, Any] = {"query": f"find {i}", "positive": f"the number {i} " * (1 + i % 3)}
        row |= {"query_thought": f"it is {i}", "positive_thought": "so it is " * (1 + i % 2)}
        found.append({**row, "negatives": ["nothing"] if i % 3 == 0 else []})
    found[5].pop("query_thought")
    return found


def trained(
    checkpoint: str, folder: Path, world: int, chunk_tokens: int | None, dropout: float, lora: bool
) -> dict[str, Tensor]:
    """What is trained, after two steps on 8 rows."""
    model = UmeForGenerativeEmbedding.from_pretrained(checkpoint, dtype=torch.float32)
    torch.manual_seed(0)
    if lora:
        add_lora(model, rank=4, alpha=8, dropout=dropout, init_lora_weights=False)
    args = ContrastiveTrainingArguments(
        output_dir=str(folder),
        mode="generative",
        per_device_train_batch_size=8 // world,
        max_steps=2,
        learning_rate=0.01,
        optim="sgd",
        max_grad_norm=0.0,
        temperature=0.1,
        learnable_temperature=True,
        train_lm_head=True,
        chunk_tokens=chunk_tokens,
        train_sampling_strategy="sequential",
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
    )
    kind = SameForwards if dropout else ToyTrainer
    processor = UmeProcessor.from_pretrained(checkpoint)
    trainer = kind(model, args, processing_class=processor, train_dataset=rows())
    trainer.train()
    learned = {n: p.detach() for n, p in trainer.model.named_parameters() if p.requires_grad}
    return {**learned, "loss": torch.tensor([one["loss"] for one in trainer.state.log_history[:2]])}


def run(checkpoint: str, folder: Path, world: int) -> dict[str, dict[str, Tensor]]:
    """Trained whole and in chunks: all weights, a LoRA, a LoRA with dropout."""
    cases = {"full": (0.0, False), "lora": (0.0, True), "dropout": (0.3, True)}
    return {
        f"{name}-{budget}": trained(checkpoint, folder, world, budget, dropout, lora)
        for name, (dropout, lora) in cases.items()
        for budget in (None, 200)
    }


if __name__ == "__main__":
    dist.init_process_group("gloo")
    outcome = run(sys.argv[1], Path(sys.argv[2]), dist.get_world_size())
    torch.save(outcome, Path(sys.argv[2]) / f"rank-{dist.get_rank()}.pt")
    dist.barrier()
    dist.destroy_process_group()
