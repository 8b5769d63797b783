"""Encoding never drops out, and every part of the model is afterwards in the mode that it was in."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import umekit
from umekit.modeling.evaluating import evaluating
from umekit.modeling.pooling import DegenerateVectorError
from umekit.processing.items import ItemError
from umekit.testing import save_tiny_reranker
from umekit.trainers.lora import add_lora

TEXTS = ["the text of a page", "a picture and a video, to compare", "the"]


def with_dropout(path: Path) -> Any:
    """An encoder or reranker whose vision tower and language model drop half of what a LoRA that does something sees.

    Every third part is in evaluation mode, so that a mode put back by ``train()`` would be seen.
    """
    encoder = umekit.load(path)
    add_lora(encoder.model, rank=4, alpha=8, dropout=0.5, parts=("language", "vision"))
    torch.manual_seed(0)
    for name, parameter in encoder.model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.3)
    return encoder


def mixed_modes(model: nn.Module) -> list[bool]:
    model.train()
    for number, part in enumerate(model.modules()):
        if number % 3 == 2 and not isinstance(part, nn.Dropout):
            part.training = False
    return modes(model)


def modes(model: nn.Module) -> list[bool]:
    return [part.training for part in model.modules()]


@pytest.mark.parametrize("settings", [{}, {"role": "generative"}])
def test_the_encoder_does_not_drop_out(
    tiny_checkpoint: Callable[..., Path], pictures: list[Any], settings: dict[str, Any]
) -> None:
    encoder = with_dropout(tiny_checkpoint("qwen2_vl", **settings))
    items = [*TEXTS, {"image": pictures[0], "text": "a"}, {"image": pictures[0], "text": "the page of text"}]
    encoder.model.eval()
    expected = encoder.encode(items)
    direct = encoder.model.encode(items, processor=encoder.processor)
    before = mixed_modes(encoder.model)
    assert (encoder.encode(items) == expected).all()
    assert modes(encoder.model) == before
    assert torch.equal(encoder.model.encode(items, processor=encoder.processor), direct)
    assert modes(encoder.model) == before


def test_a_forward_in_training_mode_does_drop_out(tiny_checkpoint: Callable[..., Path]) -> None:
    encoder = with_dropout(tiny_checkpoint("qwen2_vl"))
    batch = encoder.processor.encode_items(TEXTS)
    encoder.model.train()
    encoder.encode(TEXTS)
    assert not torch.equal(encoder.model(**batch).embeddings, encoder.model(**batch).embeddings)


def test_checkpointing_of_activations_does_not_reach_thoughts(tiny_checkpoint: Callable[..., Path]) -> None:
    encoder = with_dropout(tiny_checkpoint("qwen2_vl", role="generative"))
    expected = encoder.encode(TEXTS, mode="both", return_details=True)
    encoder.model.train()
    encoder.model.gradient_checkpointing_enable()
    found = encoder.encode(TEXTS, mode="both", return_details=True)
    assert found.thoughts == expected.thoughts
    assert (found.embeddings["generative"] == expected.embeddings["generative"]).all()
    assert encoder.model.is_gradient_checkpointing


def test_the_reranker_does_not_drop_out(tiny_backbone: Callable[[str], Path], tmp_path: Path) -> None:
    reranker = with_dropout(save_tiny_reranker(tmp_path / "reranker", tiny_backbone("qwen2_vl")))
    expected = reranker.rerank("the query", TEXTS)
    before = mixed_modes(reranker.model)
    assert (reranker.rerank("the query", TEXTS) == expected).all()
    scores = reranker.model.rerank("the query", TEXTS, processor=reranker.processor)
    assert np.allclose(scores.numpy(), expected, atol=1e-6)
    assert modes(reranker.model) == before


def test_modes_come_back_after_an_error(tiny_checkpoint: Callable[..., Path]) -> None:
    encoder = with_dropout(tiny_checkpoint("qwen2_vl"))
    before = mixed_modes(encoder.model)
    with pytest.raises(ItemError):
        encoder.encode(["fine", {"image": b"no picture"}])
    encoder.model.backbone.get_input_embeddings().weight.data.fill_(float("nan"))
    for broken in (
        lambda: encoder.encode(TEXTS),
        lambda: encoder.model.encode(TEXTS, processor=encoder.processor),
    ):
        with pytest.raises(DegenerateVectorError):
            broken()
        assert modes(encoder.model) == before


def test_threads_hold_a_model_until_the_last_has_left(tiny_checkpoint: Callable[..., Path]) -> None:
    encoder = with_dropout(tiny_checkpoint("qwen2_vl"))
    expected = encoder.encode(TEXTS)
    before = mixed_modes(encoder.model)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: encoder.encode(TEXTS), range(12)))
    assert all((vectors == expected).all() for vectors in found)
    assert modes(encoder.model) == before


def test_one_leaves_while_another_encodes() -> None:
    shared = nn.Dropout(0.5)
    first, second = nn.Sequential(shared), nn.Sequential(shared)  # two models of one backbone
    entered, left = threading.Event(), threading.Event()
    seen: list[bool] = []

    def other() -> None:
        with evaluating(second):
            entered.set()
            left.wait(10)
            seen.append(shared.training)

    thread = threading.Thread(target=other)
    with evaluating(first):
        thread.start()
        entered.wait(10)
    left.set()
    thread.join()
    assert seen == [False]
    assert all(part.training for part in (shared, first, second))
