"""The linear probe: logistic regression that a plain twin agrees with, on states of prompts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import umekit
from umekit.encoding.probe_fitting import fit_probe, read_items
from umekit.modeling.strategies import Policy, ReadPrompts


def _data(n: int = 400, width: int = 6) -> tuple[Any, Any]:
    rng = np.random.default_rng(0)
    states = rng.normal(3, 2, (n, width)) * np.arange(1, width + 1)
    slope = rng.normal(size=width)
    likely = 1 / (1 + np.exp(-(((states - states.mean(0)) / states.std(0)) @ slope - 0.5)))
    return states, rng.random(n) < likely


def _scores(probe: Any, states: Any) -> Any:
    prompts = ReadPrompts([*range(len(states))], torch.as_tensor(states, dtype=torch.float32), torch.empty(0))
    return probe.scores(None, prompts).numpy()


@pytest.mark.parametrize("penalty", [0.1, 1.0, 50.0])
def test_it_is_the_minimum_that_gradient_descent_finds(penalty: float) -> None:
    states, pays = _data()
    x = (states - states.mean(axis=0)) / states.std(axis=0)
    weight, bias = np.zeros(x.shape[1]), 0.0
    for _ in range(20_000):
        error = 1 / (1 + np.exp(-(x @ weight + bias))) - pays
        weight -= 0.005 * (x.T @ error + penalty * weight) / len(x) * 10
        bias -= 0.005 * error.mean() * 10
    expected = 1 / (1 + np.exp(-(x @ weight + bias)))
    np.testing.assert_allclose(_scores(fit_probe(states, pays, penalty=penalty), states), expected, atol=1e-3)


def test_a_number_that_never_changes_says_nothing_and_separable_labels_do_no_harm() -> None:
    states, pays = _data()
    states[:, 2] = 7.0
    probe = fit_probe(states, pays)
    assert float(probe.weight[2]) == 0.0
    scores = _scores(fit_probe(states, states[:, 0] > 3), states)
    assert np.isfinite(scores).all()
    assert ((scores > 0.5) == (states[:, 0] > 3)).mean() > 0.97


def test_what_cannot_be_fitted_is_named() -> None:
    states, pays = _data(20)
    for labels, words in (
        (np.ones(20), "helps every item"),
        (np.zeros(20), "helps no item"),
        (pays[:5], "labels"),
    ):
        with pytest.raises(ValueError, match=words):
            fit_probe(states, labels)
    with pytest.raises(ValueError, match="penalty"):
        fit_probe(states, pays, penalty=0)


def test_items_are_read_in_their_order_and_nothing_is_thought(
    tiny_checkpoint: Callable[..., Path], mixed_items: list[Any]
) -> None:
    encoder = umekit.load(tiny_checkpoint("qwen2_vl", role="adaptive"), device="cpu")
    items = [*mixed_items, mixed_items[2]]
    read = read_items(encoder, items, Policy(), role="query")
    rows = encoder.processor.prepare_all(items, mode="adaptive", role="query")
    for place, row in enumerate(rows):
        with torch.no_grad():
            states = encoder.model(**encoder.processor.collate([row])).last_hidden_state[0, -1]
        np.testing.assert_allclose(read.states[place], states.numpy(), atol=1e-4)
    np.testing.assert_allclose(read.direct, encoder.encode_query(items, mode="discriminative"), atol=1e-5)
    scores = encoder.encode_query(items, kappa=1, return_details=True).reason_scores
    np.testing.assert_allclose(read.scores, scores, atol=1e-6)
