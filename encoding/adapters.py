"""Put a LoRA adapter on a model's backbone, and make sure that all of it went there."""

from __future__ import annotations

from typing import Any

from ..modeling import adapters as adapters_module
from ..modeling.adapters import AdapterError, merge_adapter

__all__ = ["AdapterError", "add_adapter", "merge_adapter"]


def add_adapter(model: Any, source: str) -> None:
    """Load an adapter onto ``model.backbone``.

    Raises:
        ImportError: peft is not installed.
        AdapterError: a tensor of the file matches no module, or the adapter changes nothing.
    """
    adapters_module.add_adapter(model.backbone, source)
