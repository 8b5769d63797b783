"""Pairs of many rows are read in few forwards, and their states are those of each pair by itself."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import umekit
from umekit.modeling.pooling import DIRECT_SLOT, pool
from umekit.modeling.settings import LINEAR_ATTENTION_FAMILIES
from umekit.testing import save_tiny_reranker
from umekit.trainers.shared_beginnings import RowsReader, read_rows

QUERY = "a red kitten rests on the wooden bench near the old harbor"


def rows(processor: Any, pictures: list[Image.Image]) -> list[list[Any]]:
    """Beginnings of several lengths, with and without a picture; an equal pair; a row of one pair."""
    asked: list[tuple[Any, list[Any]]] = [
        (QUERY, ["a short text", "a longer text about what is seen there", "a short text"]),
        ({"image": pictures[0], "text": QUERY}, ["a text", {"image": pictures[1]}]),
        ({"text": QUERY, "image": pictures[1]}, [{"image": pictures[0], "text": "with a text"}, "a text"]),
        ("a query", ["a text alone"]),
        (QUERY + " at night", [{"image": pictures[0]}, {"image": pictures[2]}]),
    ]
    return [processor.prepare_pairs(query, candidates) for query, candidates in asked]


def one_by_one(model: Any, processor: Any, pairs: list[list[Any]]) -> torch.Tensor:
    found = []
    for pair in (pair for row in pairs for pair in row):
        batch = processor.collate([pair])
        output = model(**batch)
        found.append(pool(output.last_hidden_state, batch["pooling_slots"], DIRECT_SLOT)[0])
    return torch.stack(found)


def test_states_are_those_of_each_pair(
    family: str, tiny_backbone: Callable[[str], Path], tmp_path: Path, pictures: list[Image.Image]
) -> None:
    if family in LINEAR_ATTENTION_FAMILIES:
        pytest.skip("does not go on from a cache with a gradient")
    reranker = umekit.load(save_tiny_reranker(tmp_path / "reranker", tiny_backbone(family)))
    model, pairs = reranker.model, rows(reranker.processor, pictures)
    wanted = one_by_one(model, reranker.processor, pairs).detach()
    output = read_rows(model, reranker.processor, pairs)
    assert (output.last_hidden_state[:, 0] - wanted).abs().max() <= 1e-5 * wanted.abs().max()
    assert output.logits.requires_grad
    shuffled = read_rows(model, reranker.processor, pairs[::-1]).last_hidden_state[:, 0]
    counts = [len(row) for row in pairs]
    again = torch.cat(shuffled.split(counts[::-1])[::-1])
    np.testing.assert_allclose(again.detach(), wanted, atol=1e-5 * float(wanted.abs().max()))


def test_rows_do_not_cost_a_forward_each(
    tiny_backbone: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reranker = umekit.load(save_tiny_reranker(tmp_path / "reranker", tiny_backbone("qwen2_vl")))
    query = QUERY + " and"
    pairs = [
        reranker.processor.prepare_pairs(f"{query} {word}", ["a text", "a word", "a boat"])
        for word in ("one", "two", "three", "four", "five", "six")
    ]
    model: Any = reranker.model
    reader = RowsReader(
        model.backbone, model.settings, reranker.processor, model.vision_cache(reranker.processor)
    )
    calls: list[int] = []
    own = reader.base.forward

    def counted(*args: Any, **kwargs: Any) -> Any:
        calls.append(len(kwargs["input_ids"]))
        return own(*args, **kwargs)

    monkeypatch.setattr(reader.base, "forward", counted)
    reader.read(pairs)
    assert calls == [6, 18]
