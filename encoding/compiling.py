"""``torch.compile`` for the layers of a language model, which are alike: one compilation serves them all."""

from __future__ import annotations

from typing import Any

from torch import nn


def compile_layers(model: Any, **options: Any) -> int:
    """Compile each layer for batches of any shape; the number of layers.

    The first batches wait for the compiler (``benchmarks/attention.py``), so it is for long runs. In place: names of
    weights stay, and saving writes what it wrote before. The vision tower is left alone: where its pictures begin is
    data, and breaks graphs.

    Args:
        model: a discriminative model of ours, with another kernel than ``packed_sdpa``, whose loop breaks graphs.
        options: of ``torch.compile`` (``backend``, ``mode`` ...).

    Raises:
        ValueError: a model of another kind. Its layers write to a cache, each to its own entry, so that each would be
            compiled anew, and most of them not at all once torch's limit is reached.
    """
    if model.settings.kind != "discriminative":
        raise ValueError(
            f"compile=True is for models that embed at once; this one's role is {model.settings.kind!r}"
        )
    layers: list[nn.Module] = list(model.backbone.get_decoder().layers)
    for layer in layers:
        layer.compile(dynamic=True, **options)
    return len(layers)
