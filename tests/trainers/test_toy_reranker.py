"""The seam under a listwise reranker: two logits cross the batch, and a row's pairs may share what they begin with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from umekit.modeling.prefix import PrefixReader
from umekit.modeling.reranker import UmeForReranking, UmeScores
from umekit.processing.processor import UmeProcessor
from umekit.testing import save_tiny_reranker
from umekit.trainers.arguments import ItemTrainingArguments
from umekit.trainers.batches import ItemBatch, PreparedRow, gather_batch
from umekit.trainers.collating import ItemCollator
from umekit.trainers.dry_run import dry_run
from umekit.trainers.item_trainer import ItemTrainer
from umekit.trainers.model_with_objective import Metrics


@dataclass
class PairBatch:
    """Logits of yes and no, [n, c, 2], the right candidate first; bool [n, c]."""

    pairs: Tensor
    pair_mask: Tensor


class PairCollator(ItemCollator):
    def prepare_row(self, row: Mapping[str, Any]) -> PreparedRow:
        return PreparedRow({"pairs": self.processor.prepare_pairs(row["query"], row["candidates"])})


class Listwise(ItemTrainer):
    """Cross-entropy over a row's candidates."""

    collator_class = PairCollator

    def read(self, output: Any) -> Tensor:
        return output.logits

    def batch_backward(self, model: nn.Module, batch: ItemBatch) -> tuple[Tensor, Metrics]:
        def loss_of(values: Tensor) -> tuple[Tensor, Metrics]:
            rows = gather_batch(batch.split(values, PairBatch))
            scores = (rows.pairs[..., 0] - rows.pairs[..., 1]).masked_fill(~rows.pair_mask, float("-inf"))
            return F.cross_entropy(scores, torch.zeros(len(scores), dtype=torch.int64)), {}

        return self.backpropagate(model, batch, loss_of)


class Shared(Listwise):
    """A row's pairs are a chunk, and what they begin with is read once."""

    def training_chunks(self, batch: ItemBatch) -> list[list[int]]:
        counts = batch.counts["pairs"]
        assert counts is not None
        ends = torch.tensor(counts).cumsum(0).tolist()
        return [list(range(end - count, end)) for end, count in zip(ends, counts, strict=True)]

    def collate(self, batch: ItemBatch, indices: Sequence[int], dummies: Any = ()) -> dict[str, Any]:
        return {"rows": [batch.items[index] for index in indices]}

    def run(self, model: Any, inputs: Mapping[str, Any]) -> UmeScores:
        processor = self.processing_class
        reader = PrefixReader(model.backbone, model.settings, processor, model.vision_cache(processor))
        plan = reader.plan(inputs["rows"], 4096)
        assert plan.shared > 0
        return UmeScores(logits=model.answer_logits(reader.forward(plan)))


@pytest.fixture
def step(
    tmp_path: Path, tiny_backbone: Callable[[str], Path], pictures: list[Image.Image]
) -> Callable[..., tuple[Tensor, dict[str, Tensor]]]:
    folder = save_tiny_reranker(tmp_path / "reranker", tiny_backbone("qwen2_vl"))
    rows = [
        {
            "query": {"image": pictures[0], "text": "which"},
            "candidates": ["one", {"image": pictures[1]}, "two"],
        },
        {"query": "which of these is it", "candidates": ["the first of them", "another"]},
    ]

    def run(kind: type[ItemTrainer], chunk_tokens: int | None) -> tuple[Tensor, dict[str, Tensor]]:
        args = ItemTrainingArguments(
            output_dir=str(tmp_path),
            per_device_train_batch_size=2,
            chunk_tokens=chunk_tokens,
            report_to="none",
            use_cpu=True,
        )
        model = UmeForReranking.from_pretrained(folder, dtype=torch.float32)
        processor = UmeProcessor.from_pretrained(folder)
        trainer = kind(model, args, processing_class=processor, train_dataset=rows)
        if kind is Listwise:
            assert dry_run(trainer).rows == [0, 1]
        loss = trainer.training_step(trainer.model, trainer.data_collator(rows))
        return loss, {n: p.grad for n, p in trainer.model.named_parameters() if p.grad is not None}

    return run


@pytest.mark.parametrize("kind", [Listwise, Shared])
def test_chunks_and_shared_beginnings_have_the_gradient_of_one_forward(step: Any, kind: type) -> None:
    expected_loss, expected = step(Listwise, None)
    loss, found = step(kind, 300)
    torch.testing.assert_close(loss, expected_loss, rtol=1e-5, atol=1e-5)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        scale = max(1.0, value.abs().max().item())
        torch.testing.assert_close(found[name], value, rtol=0, atol=1e-5 * scale, msg=name)
