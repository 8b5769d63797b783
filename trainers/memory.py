"""How much memory a training needs, by arithmetic: before a GPU is rented, not instead of a dry run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from transformers import AutoModelForImageTextToText

from .lora import linear_layers

GIB = 2**30
# Bytes a weight in NF4: four bits, and a float32 constant for each block of 64 (recipes do not quantise the
# constants again, which would make it 0.5 + (1 + 4 / 256) / 64).
FOUR_BIT = 0.5 + 4 / 64


@dataclass(frozen=True)
class MemoryEstimate:
    """GiB by part: ``weights``, ``adapter``, ``gradients``, ``optimiser`` (AdamW), ``activations`` of one chunk."""

    weights: float
    adapter: float
    gradients: float
    optimiser: float
    activations: float

    @property
    def total(self) -> float:
        """GiB, without the allocator's slack (count on a tenth more)."""
        return self.weights + self.adapter + self.gradients + self.optimiser + self.activations


def patch_cost(config: Any) -> float:
    """What a patch keeps in the vision tower, in tokens of the language model; 0 without a tower.

    By layers times width, which is what gradient checkpointing keeps: 0.95 for Qwen2-VL-2B, so that a visual token,
    which is made of four patches, takes 4.8 times the memory of a word.
    """
    vision = getattr(config, "vision_config", None)
    if vision is None:
        return 0.0
    text = config.get_text_config()
    width = getattr(vision, "embed_dim", None) or vision.hidden_size
    return float(vision.depth * width / (text.num_hidden_layers * text.hidden_size))


def estimate_memory(
    config: Any,
    *,
    method: Literal["full", "lora", "qlora"] = "lora",
    rank: int = 64,
    parts: Sequence[str] = ("language",),
    chunk_tokens: int = 8192,
) -> MemoryEstimate:
    """Memory of contrastive training with bfloat16 weights, gradient checkpointing and gradient caching.

    The contrastive batch does not appear: with ``chunk_tokens`` set, only a chunk's activations are held. Counted are
    parameters of a model on the meta device; one checkpoint per layer (hidden states in bfloat16) and the widest
    layer's working set are the activations.

    Args:
        config: of the backbone (``AutoConfig.from_pretrained(...)``).
        method: ``full`` keeps float32 gradients and moments of every weight; ``qlora`` holds the adapted linear layers
            in four bits (plain NF4).
        rank: of the LoRA; parts: of the backbone that are adapted.
        chunk_tokens: of one forward, as ``ContrastiveTrainingArguments`` counts them.
    """
    with torch.device("meta"):
        backbone = AutoModelForImageTextToText.from_config(config)
    total = sum(p.numel() for p in backbone.parameters())
    modules = dict(backbone.named_modules())
    layers = [modules[name] for part in parts for name in linear_layers(backbone, part)]
    adapted = sum(layer.weight.numel() for layer in layers)
    extra = sum(rank * (layer.in_features + layer.out_features) for layer in layers)
    weights = 2.0 * total
    if method == "qlora":
        weights = 2.0 * (total - adapted) + FOUR_BIT * adapted
    trained = total if method == "full" else extra
    text = config.get_text_config()
    width = 2 * text.hidden_size * text.num_hidden_layers + 2 * (
        3 * text.intermediate_size + 8 * text.hidden_size
    )
    return MemoryEstimate(
        weights=weights / GIB,
        adapter=0.0 if method == "full" else 4.0 * extra / GIB,
        gradients=4.0 * trained / GIB,
        optimiser=8.0 * trained / GIB,
        activations=chunk_tokens * width / GIB,
    )
