"""A fingerprint tells models apart that differ anywhere, and is the same for one model wherever it runs."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import umekit
from umekit.encoding.fingerprint import VERSION, check_fingerprint, former_model_hash, model_hash
from umekit.encoding.index.exact import Index, IndexMismatchError
from umekit.modeling.weights_hash import SAMPLES


def model_of(**weights: torch.Tensor) -> Any:
    settings = SimpleNamespace(to_dict=lambda: {"role": "discriminative"})
    return SimpleNamespace(settings=settings, backbone=SimpleNamespace(state_dict=lambda: weights))


SHAPES = {
    "small": (1023,),  # of such a one, version 1 looked at the first half only
    "scalar": (),
    "square": (300, 300),
    "rows": (3 * SAMPLES, 5),
    "odd": (2, SAMPLES + 1),
}


@pytest.mark.parametrize("name", [name for name in SHAPES if name != "scalar"])
def test_every_part_of_every_weight_counts(name: str) -> None:
    torch.manual_seed(0)
    weights = {name: torch.randn(shape) for name, shape in SHAPES.items()}
    before = model_hash(model_of(**weights))
    assert before.startswith(VERSION)
    flat = weights[name].reshape(-1)
    count = flat.numel()
    for part in (
        *(slice(tenth * count // 10, (tenth + 1) * count // 10) for tenth in range(10)),
        slice(0, 1),
        slice(count - 1, count),
    ):
        kept = flat[part].clone()
        flat[part] += 1
        assert model_hash(model_of(**weights)) != before, part
        flat[part] = kept
    assert model_hash(model_of(**weights)) == before


def test_every_row_of_an_embedding_counts() -> None:
    matrix = torch.zeros(3 * SAMPLES, 5)
    before = model_hash(model_of(embedding=matrix))
    for row in (0, 1, 77, SAMPLES + 1, len(matrix) - 1):
        matrix[row] = 1
        assert model_hash(model_of(embedding=matrix)) != before
        matrix[row] = 0


def test_one_model_has_one_hash_in_every_dtype_that_holds_it() -> None:
    weights = {name: torch.randn(shape).bfloat16() for name, shape in SHAPES.items()}
    assert model_hash(model_of(**weights)) == model_hash(
        model_of(**{n: w.float() for n, w in weights.items()})
    )


def test_wide_models_take_well_under_a_second() -> None:
    """The widths of a 2B model, a tenth of its layers: 28 of them are 0.2 s on one thread."""
    layers = {
        f"{layer}.{name}": torch.zeros(6144, 2048, dtype=torch.bfloat16)
        for layer in range(3)
        for name in "gud"
    }
    model = model_of(embedding=torch.zeros(151_936, 2048, dtype=torch.bfloat16), **layers)
    model_hash(model)
    started = time.perf_counter()
    model_hash(model)
    assert time.perf_counter() - started < 1.0


def test_a_model_that_is_trained_further_is_another_one() -> None:
    encoder = umekit.load(device="cpu")
    before = encoder.fingerprint()
    assert encoder.fingerprint() == before
    index = Index(dim=encoder.dim, fingerprint=before)
    index.add(["a"], encoder.encode(["a"]))
    encoder.search(["a"], index, k=1)
    matrix = encoder.model.get_input_embeddings().weight
    for half in (slice(0, len(matrix) // 2), slice(len(matrix) // 2, None)):
        kept = matrix[half].detach().clone()
        with torch.no_grad():
            matrix[half] *= 1.5
        assert encoder.fingerprint()["model"] != before["model"]
        with pytest.raises(IndexMismatchError, match="made with model 2:"):
            encoder.search(["a"], index, k=1)
        with torch.no_grad():
            matrix[half] = kept
    assert encoder.fingerprint() == before


def test_an_index_of_an_earlier_version_is_taken_with_a_word() -> None:
    encoder = umekit.load(device="cpu")
    now = encoder.fingerprint()
    former = {"model": former_model_hash(encoder.model), "processor": now["processor"], "dim": now["dim"]}
    index = Index(dim=encoder.dim, fingerprint=former)
    index.add(["a"], np.eye(1, encoder.dim))
    with pytest.warns(UserWarning, match="made by an earlier umekit.*index anew"):
        encoder.search(["a"], index, k=1)
    with pytest.raises(IndexMismatchError):
        check_fingerprint("it", former | {"model": "0" * 64}, now)
    check_fingerprint("it", {"model": "m"}, {"model": "m"})
