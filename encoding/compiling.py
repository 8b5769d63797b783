"""``torch.compile`` of a model's repeated layers, in place."""

from __future__ import annotations

from typing import Any

from ..modeling.backbone_ume import base_of


def compile_layers(model: Any) -> int:
    """Compile every layer of the language model, for batches of any shape; returns how many.

    The layers share one graph, so that it is compiled once and not for each of them. The vision tower, whose
    attention depends on the sizes of the pictures in a batch, is left as it is. Names of weights do not change.

    Raises:
        ValueError: the backbone's layers are not where those of known families are.
    """
    language = getattr(base_of(model.backbone), "language_model", None)
    layers = getattr(language, "layers", None)
    if not layers:
        raise ValueError(f"{model.config.model_type}: no language_model.layers to compile")
    for layer in layers:
        layer.compile(dynamic=True)
    return len(layers)
