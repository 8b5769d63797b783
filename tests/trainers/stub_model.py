"""A small model and processor with the interfaces that the trainers use: fast, float32 or float64, with
dropout."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from umekit.trainers import ContrastiveTrainer, ContrastiveTrainingArguments

torch.set_num_threads(1)


@dataclass
class StubPrepared:
    """Token ids int64 [L] and, for an image, patches float32 [P, 4]."""

    input_ids: np.ndarray
    patches: np.ndarray | None = None

    @property
    def length(self) -> int:
        return len(self.input_ids) + (0 if self.patches is None else len(self.patches))


class StubProcessor:
    """Words to ids by checksum; a dict item may hold ``image`` as an array [P, 4], or a picture (one patch)."""

    def prepare(self, item: Any, role: str | None = None, instruction: str | None = None) -> StubPrepared:
        if not isinstance(item, (str, dict)):
            raise TypeError(f"not an item: {type(item).__name__}")
        text = item if isinstance(item, str) else item.get("text", "")
        ids = [zlib.crc32(word.encode()) % 97 + 1 for word in [str(role), *text.split()]]
        image = None if isinstance(item, str) else item.get("image")
        if isinstance(image, Image.Image):
            image = np.ones((1, 4))
        return StubPrepared(np.array(ids), None if image is None else np.asarray(image, dtype=np.float32))

    def collate(self, prepared: list[StubPrepared], padding_side: str | None = None) -> dict[str, Tensor]:
        longest = max(len(p.input_ids) for p in prepared)
        ids = torch.zeros(len(prepared), longest, dtype=torch.int64)
        for row, entry in enumerate(prepared):
            ids[row, : len(entry.input_ids)] = torch.from_numpy(entry.input_ids)
        batch = {"input_ids": ids, "attention_mask": (ids > 0).long()}
        images = [(row, p.patches) for row, p in enumerate(prepared) if p.patches is not None]
        if images:
            batch["pixel_values"] = torch.cat([torch.from_numpy(p) for _, p in images])
            batch["image_row"] = torch.cat([torch.full((len(p),), row) for row, p in images])
        return batch

    def save_pretrained(self, folder: str) -> None:
        (Path(folder) / "processor_config.json").write_text("{}\n")


class StubBackbone(nn.Module):
    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.embed = nn.Embedding(98, width)
        self.vision = nn.Linear(4, width)
        self.hidden = nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)
        self.norm = nn.LayerNorm(width)
        self.lm_head = nn.Linear(width, 98, bias=False)

    def get_input_embeddings(self) -> nn.Module:
        return self.embed

    def get_output_embeddings(self) -> nn.Module:
        return self.lm_head


class StubModel(nn.Module):
    def __init__(self, width: int = 16, dropout: float = 0.0, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.backbone = StubBackbone(width, dropout)
        self.config = SimpleNamespace(name="stub")

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        pixel_values: Tensor | None = None,
        image_row: Tensor | None = None,
    ) -> Any:
        b = self.backbone
        states = b.dropout(torch.tanh(b.hidden(b.embed(input_ids))))
        pooled = (states * attention_mask[:, :, None]).sum(1) / attention_mask.sum(1, keepdim=True)
        if pixel_values is not None:
            pooled = pooled.index_add(0, image_row, torch.tanh(b.vision(pixel_values.to(pooled.dtype))))
        return SimpleNamespace(embeddings=nn.functional.normalize(b.norm(pooled), dim=-1))

    def save_pretrained(self, folder: str, state_dict: dict[str, Tensor] | None = None) -> None:
        tensors = state_dict if state_dict is not None else self.state_dict()
        native = {k.removeprefix("backbone."): v.contiguous() for k, v in tensors.items()}
        save_file(native, Path(folder) / "model.safetensors", metadata={"format": "pt"})
        (Path(folder) / "config.json").write_text("{}\n")

    def load_native_weights(self, folder: str) -> None:
        self.backbone.load_state_dict(load_file(Path(folder) / "model.safetensors"), strict=True)


COLOURS = ["red", "green", "blue", "black", "white", "pink"]
THINGS = ["car", "house", "dog", "tree", "boat", "chair"]


def stub_rows(
    count: int = 24, negatives: int = 1, images: bool = False, seed: int = 3
) -> list[dict[str, Any]]:
    """Rows of text, of which every third positive holds an image if asked; 0 to ``negatives`` hard
    negatives."""
    rng = np.random.default_rng(seed)
    rows: list[dict[str, Any]] = []
    for i in range(count):
        colour, thing = COLOURS[i % 6], THINGS[(i // 6) % 6]
        positive: Any = f"a photo of one {colour} {thing} " + "here " * (i % 4)
        if images and i % 3 == 0:
            positive = {"text": positive, "image": rng.normal(size=(3 + i % 2, 4)).astype(np.float32)}
        hard = [f"a {COLOURS[(i + j + 1) % 6]} {thing}" for j in range(i % (negatives + 1))]
        rows.append({"query": f"{colour} {thing} {i}", "positive": positive, "negatives": hard})
    return rows


def stub_trainer(
    folder: str | Path, *, dropout: float = 0.1, rows: Any = None, **settings: Any
) -> ContrastiveTrainer:
    """A trainer on CPU with all the settings that matter to exactness on; ``settings`` are training
    arguments."""
    extra = {k: settings.pop(k) for k in ("eval_dataset", "callbacks", "objective") if k in settings}
    defaults: dict[str, Any] = {
        "per_device_train_batch_size": 8,
        "learning_rate": 1e-2,
        "weight_decay": 0.01,
        "num_train_epochs": 2,
        "logging_steps": 1,
        "save_strategy": "no",
        "learnable_temperature": True,
        "temperature": 0.05,
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
    }
    args = ContrastiveTrainingArguments(output_dir=str(folder), **{**defaults, **settings})
    rows = stub_rows() if rows is None else rows
    return ContrastiveTrainer(
        StubModel(dropout=dropout), args, processing_class=StubProcessor(), train_dataset=rows, **extra
    )
