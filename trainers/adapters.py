"""Loading the adapter (LoRA) of a checkpoint into a backbone that has it, in place and strictly."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

ADAPTER_FILE = "adapter_model.safetensors"
PREFIX = "base_model.model."


def load_adapter_weights(backbone: Any, folder: str | Path) -> None:
    """Copy ``adapter_model.safetensors`` of ``folder`` into the active adapter of a transformers backbone.

    Raises FileNotFoundError without that file, RuntimeError for a missing, unexpected or misshapen tensor.
    """
    path = Path(folder) / ADAPTER_FILE
    if not path.is_file():
        raise FileNotFoundError(f"the model has an adapter but {folder} holds no {ADAPTER_FILE}")
    tensors = {key.removeprefix(PREFIX): value for key, value in load_file(path).items()}
    own = backbone.get_adapter_state_dict()  # the parameters themselves, not copies
    missing, extra = sorted(own.keys() - tensors.keys()), sorted(tensors.keys() - own.keys())
    shapes = sorted(key for key in own.keys() & tensors.keys() if own[key].shape != tensors[key].shape)
    if missing or extra or shapes:
        raise RuntimeError(f"{path} does not fit: missing {missing}, unexpected {extra}, misshapen {shapes}")
    with torch.no_grad():
        for key, value in tensors.items():
            own[key].copy_(value)
