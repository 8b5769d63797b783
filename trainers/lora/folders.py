"""LoRA adapter folders, read from their files: factors, scales, and what they were trained on top of.

Only plain LoRA can be averaged: its change of a weight is ``scale * B @ A``, linear in the product. Whatever
breaks that (DoRA's norm, a base that was altered at the start, weights trained whole) is refused by name.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from ...modeling.adapters import CONFIG_FILE, PEFT_PREFIX, WEIGHTS_FILE

# Entries of adapter_config.json that make the change of a weight something else than scale * B @ A.
NOT_LINEAR = {
    "use_dora": "DoRA divides by the norm of the changed weight, so its change is no product that can be averaged",
    "use_qalora": "its factors act on pooled inputs",
    "use_bdlora": "its factors are block-diagonal",
    "layer_replication": "it changes the layers of the model",
    "alora_invocation_tokens": "it acts from a token on and cannot be merged",
    "target_parameters": "it adapts bare parameters, which are not read here",
    "trainable_token_indices": "it holds rows of the embedding and not factors",
    "modules_to_save": "it holds whole weights beside the factors",
    "arrow_config": "it routes between adapters",
    "kasa_config": "its change is no plain product",
    "monteclora_config": "its change is no plain product",
    "lora_bias": "it has biases beside the factors",
    "fan_in_fan_out": "its weights are stored transposed",
}
# Starts that move part of the base weight into the factors: the delta is then relative to another base.
ALTERED_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")
FACTORS = {  # key endings of A and B
    ".lora_A.weight": "A",
    ".lora_B.weight": "B",
    ".lora_embedding_A": "A",
    ".lora_embedding_B": "B",
}


class SoupError(ValueError):
    """Adapters or checkpoints cannot be combined as asked; the message says which and why."""


@dataclass(frozen=True)
class LoraModule:
    """One adapted module: its name in the backbone, keys of the factors, shapes, and scale (alpha / r or / sqrt r)."""

    name: str
    key_a: str
    key_b: str
    shape_a: tuple[int, ...]
    shape_b: tuple[int, ...]
    scale: float

    @property
    def rank(self) -> int:
        return self.shape_a[0]

    @property
    def outer(self) -> tuple[tuple[int, ...], int]:
        """What adapters of one module share whatever their ranks: inputs of A, outputs of B."""
        return self.shape_a[1:], self.shape_b[0]


@dataclass(frozen=True)
class LoraFolder:
    """A checked adapter folder. ``modules`` by module name; tensors are read when asked for."""

    path: Path
    config: dict[str, Any]
    modules: dict[str, LoraModule]

    @property
    def base(self) -> str:
        return str(self.config.get("base_model_name_or_path") or "")

    def factors(self, name: str) -> tuple[Tensor, Tensor]:
        """A [r, ...] and B [out, r] of a module in float32, unscaled."""
        module = self.modules[name]
        with safe_open(self.path / WEIGHTS_FILE, framework="pt") as file:
            a, b = file.get_tensor(module.key_a).float(), file.get_tensor(module.key_b).float()
        if not (torch.isfinite(a).all() and torch.isfinite(b).all()):
            raise SoupError(f"{self.path}: the factors of {name} hold NaN or infinity")
        return a, b

    def delta(self, name: str, shape: Sequence[int]) -> Tensor:
        """``scale * B @ A`` in the shape of the module's weight, float32.

        Raises:
            SoupError: the product does not fit that shape.
        """
        module = self.modules[name]
        a, b = self.factors(name)
        product = module.scale * (b.flatten(1) @ a.flatten(1))
        if module.key_a.endswith("lora_embedding_A"):
            product = product.T
        if product.numel() != math.prod(shape) or product.shape[0] != shape[0]:
            raise SoupError(
                f"{self.path}: {name} changes a weight of {tuple(product.shape)}, the base has {tuple(shape)}"
            )
        return product.reshape(tuple(shape))


def is_adapter(folder: Path) -> bool:
    return (folder / CONFIG_FILE).is_file()


def read_lora_folder(path: str | Path) -> LoraFolder:
    """Read and check a LoRA adapter folder.

    Raises:
        FileNotFoundError: no adapter_config.json or adapter_model.safetensors there (a pickled .bin is not read).
        SoupError: not LoRA, a kind of it whose change is no ``scale * B @ A``, or an unpaired or unknown tensor.
    """
    folder = Path(path)
    for name in (CONFIG_FILE, WEIGHTS_FILE):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder} is not an adapter folder: it has no {name}")
    try:
        config = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
    except ValueError as error:
        raise SoupError(f"{folder / CONFIG_FILE} is not JSON: {error}") from None
    _check_config(folder, config)
    modules: dict[str, dict[str, Any]] = {}
    with safe_open(folder / WEIGHTS_FILE, framework="pt") as file:
        for key in sorted(file.keys()):
            ending = next((ending for ending in FACTORS if key.endswith(ending)), None)
            if ending is None:
                raise SoupError(f"{folder}: the tensor {key} is no LoRA factor; merge this adapter instead")
            name = key.removeprefix(PEFT_PREFIX).removesuffix(ending)
            side = FACTORS[ending].lower()
            modules.setdefault(name, {}).update(
                {f"key_{side}": key, f"shape_{side}": tuple(file.get_slice(key).get_shape())}
            )
    found = {name: _module(folder, config, name, facts) for name, facts in modules.items()}
    if not found:
        raise SoupError(f"{folder}: {WEIGHTS_FILE} holds no tensor")
    return LoraFolder(folder, config, found)


def _check_config(folder: Path, config: dict[str, Any]) -> None:
    if config.get("peft_type") != "LORA":
        raise SoupError(f"{folder} is a {config.get('peft_type')} adapter; only LoRA can be averaged")
    for name, reason in NOT_LINEAR.items():
        if config.get(name):
            raise SoupError(f"{folder} has {name}: {reason}; merge it into its base and soup the checkpoints")
    if config.get("bias", "none") != "none":
        raise SoupError(
            f"{folder} trained biases (bias={config['bias']!r}): merge it and soup the checkpoints"
        )
    start = config.get("init_lora_weights")
    if isinstance(start, str) and start.lower().startswith(ALTERED_BASE):
        raise SoupError(
            f"{folder} began with init_lora_weights={start!r}, which alters the base: save it converted "
            "(peft's path_initial_model_for_weight_conversion) first"
        )


def _module(folder: Path, config: dict[str, Any], name: str, facts: dict[str, Any]) -> LoraModule:
    from peft.utils.other import get_pattern_key

    if len(facts) != 4:
        raise SoupError(f"{folder}: {name} has one LoRA factor and not the other")
    ranks, alphas = config.get("rank_pattern") or {}, config.get("alpha_pattern") or {}
    rank = ranks.get(get_pattern_key(list(ranks), name), config["r"])
    alpha = alphas.get(get_pattern_key(list(alphas), name), config["lora_alpha"])
    if facts["shape_a"][0] != rank or facts["shape_b"][1] != rank:
        raise SoupError(
            f"{folder}: {name} has factors {facts['shape_a']} and {facts['shape_b']}, "
            f"its configuration says rank {rank}"
        )
    scale = alpha / math.sqrt(rank) if config.get("use_rslora") else alpha / rank
    return LoraModule(name=name, scale=float(scale), **facts)
