"""``torch.compile`` for the layers of a language model, which are alike: one compilation serves them all."""

from __future__ import annotations

from typing import Any

from torch import nn


def compile_layers(model: Any) -> int:
    """Compile each layer for batches of any shape; the number of layers.

    The first batches take a minute or more, so it pays for long runs. In place: names of weights stay, and saving
    writes what it wrote before. The vision tower is left alone: where its pictures begin is data, and breaks graphs.

    Args:
        model: an embedding model or reranker of ours.
    """
    layers: list[nn.Module] = list(model.backbone.get_decoder().layers)
    for layer in layers:
        layer.compile(dynamic=True)
    return len(layers)
