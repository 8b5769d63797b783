"""A model whose vectors stand in a table: what a trainer makes of given vectors, and the gradient of each."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from stub_model import StubModel, StubPrepared
from torch import Tensor, nn


class TableProcessor:
    """An item is the number of a vector, as text; its length differs, so that chunks do."""

    def prepare(self, item: Any, role: str | None = None) -> StubPrepared:
        return StubPrepared(np.full(1 + int(item) % 3, int(item)))

    def collate(self, prepared: list[StubPrepared], padding_side: str | None = None) -> dict[str, Tensor]:
        return {"input_ids": torch.tensor([one.input_ids[0] for one in prepared])}


class TableModel(StubModel):
    def __init__(self, vectors: np.ndarray) -> None:
        super().__init__()
        self.backbone.embed = nn.Embedding.from_pretrained(torch.tensor(vectors), freeze=False)

    def forward(self, input_ids: Tensor) -> Any:  # type: ignore[override]
        return SimpleNamespace(embeddings=self.backbone.embed(input_ids))


def step(kind: Any, vectors: Any, rows: Any, folder: Path, **settings: Any) -> tuple[float, Tensor, float]:
    """Loss, gradients of the vectors and that of the temperature of one step."""
    args = kind.arguments_class(
        output_dir=str(folder), learnable_temperature=True, report_to="none", use_cpu=True, **settings
    )
    table = np.concatenate([np.asarray(one).reshape(-1, one.shape[-1]) for one in vectors])
    trainer = kind(TableModel(table), args, processing_class=TableProcessor(), train_dataset=rows)
    loss = trainer.training_step(trainer.model, trainer.data_collator(rows)).item()
    log_temperature = trainer.objective_module.temperature.log_temperature
    tau = log_temperature.exp().item()
    grad = trainer.native_model.backbone.embed.weight.grad
    return loss, grad, log_temperature.grad.item() / tau  # by tau, not its logarithm


def numbers(start: int, *shape: int) -> list[Any]:
    """Items from ``start`` on in a nested list."""
    return np.arange(start, start + int(np.prod(shape))).reshape(shape).astype(str).tolist()
