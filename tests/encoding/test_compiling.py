"""Compiled layers: one graph for all of them, the same vectors, and a refusal where it would not be so."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import umekit
from umekit.encoding.compiling import compile_layers


def with_layers(encoder: umekit.Encoder, count: int) -> umekit.Encoder:
    """More layers than torch would compile one by one."""
    layers = encoder.model.backbone.get_decoder().layers
    for number in range(len(layers), count):
        layer = copy.deepcopy(layers[number % 2])
        layer.self_attn.layer_idx = number
        layers.append(layer)
    encoder.model.config.get_text_config().layer_types = ["full_attention"] * count
    return encoder


def test_one_graph_serves_every_layer_and_length(tiny_checkpoint: Callable[..., Path]) -> None:
    folder = tiny_checkpoint("qwen2_vl")
    expected, compiled = (
        with_layers(umekit.load(folder, device="cpu", attn_implementation="sdpa"), 12) for _ in range(2)
    )
    graphs: list[int] = []

    def backend(graph: Any, _: Any) -> Any:
        graphs.append(len(graph.graph.nodes))
        return graph.forward

    torch._dynamo.reset()
    assert compile_layers(compiled.model, backend=backend) == len(
        compiled.model.backbone.get_decoder().layers
    )
    for items in (["one text", "another, longer text"], ["a text " * 9, "b", "c " * 30]):
        np.testing.assert_allclose(compiled.encode(items), expected.encode(items), atol=1e-6)
    assert len(graphs) <= 2  # one, and perhaps one more for a batch without padding
    assert compiled.arithmetic == "cpu, float32, sdpa, compiled"
    assert expected.arithmetic == "cpu, float32, sdpa"


def test_it_is_an_option_of_load(
    tiny_checkpoint: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled: list[Any] = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self, **_: compiled.append(self))
    encoder = umekit.load(tiny_checkpoint("qwen2_vl"), device="cpu", compile=True)
    assert compiled == list(encoder.model.backbone.get_decoder().layers)
    assert encoder.arithmetic == "cpu, float32, sdpa"  # a loop over sequences would break the graphs


@pytest.mark.parametrize("kind", ["generative", "reranker"])
def test_kinds_that_keep_a_cache_are_refused(kind: str) -> None:
    model = SimpleNamespace(settings=SimpleNamespace(kind=kind))
    with pytest.raises(ValueError, match=f"role is '{kind}'"):
        compile_layers(model)
