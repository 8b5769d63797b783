"""Adapter folders of tiny checkpoints, as a training run leaves them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig

import umekit


def save_adapter(checkpoint: Path, folder: Path, seed: int = 0, **config: Any) -> Path:
    """Put a random LoRA on a checkpoint's backbone and save adapter, settings, processor and code."""
    encoder = umekit.load(checkpoint, device="cpu")
    settings = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"], **config}
    encoder.model.backbone.add_adapter(LoraConfig(**settings))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in encoder.model.backbone.named_parameters():
            if "lora_A" in name or "lora_B" in name or "lora_embedding" in name:
                weight.copy_(0.1 * torch.randn(weight.shape, generator=generator))
    encoder.model.save_pretrained(folder)
    encoder.processor.save_pretrained(folder)
    return folder
