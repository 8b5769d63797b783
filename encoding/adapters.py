"""Put a LoRA adapter on a model's backbone, and make sure that all of it went there."""

from __future__ import annotations

from typing import Any

import torch


class AdapterError(RuntimeError):
    """An adapter does not fit the model: a tensor found no place, or none changes anything."""


def add_adapter(model: Any, source: str) -> None:
    """Load an adapter onto ``model.backbone``.

    Raises:
        ImportError: peft is not installed.
        AdapterError: a tensor of the file matches no module, or the adapter changes nothing.
    """
    try:
        from peft import load_peft_weights
        from peft.utils import get_peft_model_state_dict
    except ImportError:
        raise ImportError("adapters need peft: pip install umekit[train]") from None
    backbone = model.backbone
    backbone.load_adapter(source)
    wanted = {key.removeprefix("base_model.model.") for key in load_peft_weights(source, device="cpu")}
    name = backbone.active_adapters()[0]
    placed = get_peft_model_state_dict(backbone, adapter_name=name)
    found = {key.removeprefix("base_model.model.") for key in placed}
    lost = sorted(wanted - found)
    if lost:
        raise AdapterError(
            f"{source}: {len(lost)} of {len(wanted)} adapter tensors match no module of this backbone ({lost[0]}, ...)"
        )
    if not any(bool(torch.count_nonzero(value)) for key, value in placed.items() if "lora_B" in key):
        raise AdapterError(f"{source}: the adapter is all zeros and changes nothing")
