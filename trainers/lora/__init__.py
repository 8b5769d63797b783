"""LoRA and QLoRA on chosen parts of a backbone: language model, vision tower, merger.

The adapter goes on ``model.backbone``, so that what the trainer saves also loads into the plain backbone. U-MARVEL
adapts every linear layer of the language model (rank 64 or 128, alpha twice that, dropout 0.05), RzenEmbed those
of the vision tower, too (rank 64, section 4.2). The output matrix is never adapted: no vector depends on it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn

from ...modeling.adapters import PEFT_PREFIX, WEIGHTS_FILE, remember_base
from ...modeling.versions import need_peft

PARTS = ("language", "vision", "merger")
HALVES = (torch.bfloat16, torch.float16)


def part_of(name: str) -> str | None:
    """The part of a backbone that a module or parameter belongs to, by its name; None for the output matrix.

    >>> part_of("model.visual.deepstack_merger_list.0.linear_fc1")
    'merger'
    """
    segments = name.split(".")
    if "visual" in segments:
        return "merger" if any("merger" in segment for segment in segments) else "vision"
    return "language" if "language_model" in segments else None


@dataclass(frozen=True)
class LoraReport:
    """What :func:`add_lora` did. layers: adapted linear layers by part; trainable and total: parameters, those of
    the adapter counted in both."""

    layers: dict[str, int]
    trainable: int
    total: int

    def __str__(self) -> str:
        parts = ", ".join(f"{part} {count}" for part, count in self.layers.items())
        share = 100 * self.trainable / self.total
        return (
            f"LoRA on {sum(self.layers.values())} linear layers ({parts}): {self.trainable:,} of "
            f"{self.total:,} parameters are trained ({share:.2f} %)"
        )


def linear_layers(backbone: nn.Module, part: str) -> list[str]:
    """Names of the linear layers (quantised ones, too) of a part. Raises ValueError for an unknown part."""
    if part not in PARTS:
        raise ValueError(f"unknown part {part!r}; known are {PARTS}")
    return [
        name
        for name, module in backbone.named_modules()
        if isinstance(module, nn.Linear) and part_of(name) == part
    ]


def target_pattern(backbone: nn.Module, parts: Sequence[str]) -> str:
    """One pattern for PEFT's ``target_modules`` that fully matches the linear layers of ``parts`` and nothing else.

    It has one alternative for the layers that differ only in the number of their block; hundreds of names would
    make an ``adapter_config.json`` that nobody can read. Raises ValueError for an unknown part, one without
    linear layers, or none at all.
    """
    if isinstance(parts, str) or not parts or len(set(parts)) != len(parts):
        raise ValueError(f"parts must be distinct names of {PARTS}, got {parts!r}")
    alternatives: dict[str, None] = {}
    for part in parts:
        names = linear_layers(backbone, part)
        if not names:
            raise ValueError(
                f"the backbone ({type(backbone).__name__}) has no linear layer in its {part!r} part"
            )
        alternatives |= {re.sub(r"\\\.\d+(?=\\\.)", r"\\.\\d+", re.escape(name)): None for name in names}
    return "|".join(alternatives)


def add_lora(
    model: Any,
    *,
    rank: int,
    alpha: int,
    dropout: float = 0.05,
    parts: Sequence[str] = ("language",),
    dora: bool = False,
    **config: Any,
) -> LoraReport:
    """Put a LoRA adapter on every linear layer of the chosen parts; all other parameters are frozen.

    model: an embedding model with a stock ``backbone``; quantised by bitsandbytes (QLoRA) or not. The adapter is
        float32 whatever the backbone is. In a quantised language model, the norms become float32, too.
    parts: of "language", "vision", "merger". alpha: the update is scaled by ``alpha / rank``.
    dora: magnitude and direction apart (arXiv 2402.09353).
    config: more fields of ``peft.LoraConfig`` (``use_rslora``, ``init_lora_weights``, ``bias`` ...).

    Returns what was adapted. The adapter's first matrices are drawn from torch's generator.
    Raises ImportError without a peft that the installed transformers takes, ValueError for a rank, dropout or part
    that makes no sense or matches nothing, or a backbone that has an adapter already.
    """
    try:
        from peft import LoraConfig
    except ImportError:
        raise ImportError("LoRA needs peft: pip install umekit[train]") from None
    need_peft()
    if rank < 1 or not alpha > 0 or not 0 <= dropout < 1:
        raise ValueError(
            f"rank must be at least 1, alpha positive, dropout in [0, 1): {rank}, {alpha}, {dropout}"
        )
    backbone = model.backbone
    if getattr(backbone, "_hf_peft_config_loaded", False):
        raise ValueError("the backbone has an adapter already: merge it first, or load without it")
    pattern = target_pattern(backbone, parts)
    layers = {part: len(linear_layers(backbone, part)) for part in parts}
    if is_quantised(backbone):
        norms_in_float32(backbone)
    remember_base(backbone)
    backbone.add_adapter(
        LoraConfig(
            r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules=pattern, use_dora=dora, **config
        )
    )
    adapter_in_float32(backbone)
    trainable = sum(p.numel() for p in backbone.parameters() if p.requires_grad)
    return LoraReport(layers, trainable, int(backbone.num_parameters()))


def adapter_in_float32(backbone: Any) -> int:
    """Make what is trained of an adapted backbone float32, in place; returns how many parameters were not.

    An adapter takes over a half precision of the backbone or of its file, in which small updates are lost.
    """
    if not getattr(backbone, "_hf_peft_config_loaded", False):
        return 0
    half = [one for one in backbone.parameters() if one.requires_grad and one.dtype in HALVES]
    for parameter in half:
        parameter.data = parameter.data.float()
    return len(half)


def load_adapter_weights(backbone: Any, folder: str | Path) -> None:
    """Copy ``adapter_model.safetensors`` of ``folder`` into the active adapter of a transformers backbone.

    Raises FileNotFoundError without that file, RuntimeError for a missing, unexpected or misshapen tensor.
    """
    path = Path(folder) / WEIGHTS_FILE
    if not path.is_file():
        raise FileNotFoundError(f"the model has an adapter but {folder} holds no {WEIGHTS_FILE}")
    tensors = {key.removeprefix(PEFT_PREFIX): value for key, value in load_file(path).items()}
    own = backbone.get_adapter_state_dict()  # the parameters themselves, not copies
    missing, extra = sorted(own.keys() - tensors.keys()), sorted(tensors.keys() - own.keys())
    shapes = sorted(key for key in own.keys() & tensors.keys() if own[key].shape != tensors[key].shape)
    if missing or extra or shapes:
        raise RuntimeError(f"{path} does not fit: missing {missing}, unexpected {extra}, misshapen {shapes}")
    with torch.no_grad():
        for key, value in tensors.items():
            own[key].copy_(value)


def is_quantised(backbone: Any) -> bool:
    """Whether bitsandbytes holds the backbone's matrices in 4 or 8 bits."""
    return bool(
        getattr(backbone, "is_loaded_in_4bit", False) or getattr(backbone, "is_loaded_in_8bit", False)
    )


def norms_in_float32(backbone: nn.Module) -> None:
    """Make the language model's norms float32, in place, as QLoRA does (arXiv 2305.14314).

    The vision tower is left as it is: it is not quantised, and its layers want one dtype.
    """
    for name, module in backbone.named_modules():
        if part_of(name) == "language" and type(module).__name__.endswith("Norm"):
            module.to(torch.float32)
