"""A linear probe that says before a thought whether it will pay: fitted in seconds, on the states of prompts.

The baseline that a learned policy has to beat: logistic regression on the last state of a prompt. It needs no training
of the model, so any generative checkpoint becomes an adaptive one by it. Ours, as MMEmb-R1 compares with no probe.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from ..modeling.strategies import Probe, ReadPrompts, Strategy
from .deduplication import first_occurrences

STEPS = 100  # of Newton, far more than it takes


class ReadStates(Strategy):
    """Scores as another strategy does, 0 where there is none, and keeps the states that a decision is made on.

    Attributes:
        states: index of an item -> float32 ``[H]``.
    """

    def __init__(self, scoring: Strategy | None = None) -> None:
        self.scoring = scoring
        self.states: dict[int, NDArray[np.float32]] = {}

    def scores(self, model: Any, prompts: ReadPrompts) -> Tensor:
        for index, state in zip(prompts.indices, prompts.state.float().cpu().numpy(), strict=True):
            self.states[index] = state
        return torch.zeros(len(prompts)) if self.scoring is None else self.scoring.scores(model, prompts)


@dataclass(frozen=True)
class ReadItems:
    """What decisions are made on; ``n`` items.

    Attributes:
        states: of the last token of each prompt, float32 ``[n, H]``.
        direct: the vectors of the discriminative mode, float32 ``[n, d]``.
        scores: of the strategy, float64 ``[n]``.
    """

    states: NDArray[np.float32]
    direct: NDArray[np.float32]
    scores: NDArray[np.float64]

    def prompts(self) -> ReadPrompts:
        """As a strategy is shown them."""
        numbers = list(range(len(self.states)))
        return ReadPrompts(numbers, torch.from_numpy(self.states), torch.from_numpy(self.direct))


def read_items(
    encoder: Any, items: Sequence[Any], strategy: Strategy | None = None, **options: Any
) -> ReadItems:
    """Read items' prompts, each once, and think of none.

    Args:
        encoder: an :class:`umekit.Encoder` of an adaptive checkpoint.
        items: to read.
        strategy: whose scores are wanted.
        options: go to ``encode``.
    """
    read = ReadStates(strategy)
    details = {"show_progress": False, "return_details": True}
    found = encoder.encode(items, mode="adaptive", strategy=read, kappa=1, **details, **options)
    firsts = first_occurrences(items)  # of equal ones, the encoder reads one
    return ReadItems(
        np.stack([read.states[first] for first in firsts]),
        found.embeddings,
        np.asarray(found.reason_scores, dtype=np.float64),
    )


def fit_probe(states: ArrayLike, pays: ArrayLike, *, penalty: float = 1.0) -> Probe:
    """Logistic regression by Newton's method, on states that are brought to mean 0 and deviation 1.

    Minimises ``sum log(1 + exp(-y (x . w + b))) + penalty / 2 |w|^2`` with ``y`` in {-1, 1}; what standardises is
    folded into the weight, so that the probe reads states as they are.

    Args:
        states: ``[n, H]``, from :func:`read_items`.
        pays: ``[n]``, whether a thought turned out to help.
        penalty: of the weights.

    Raises:
        ValueError: shapes that do not fit, or all items have the same label, so that there is nothing to tell apart.
    """
    table = np.asarray(states, dtype=np.float64)
    wanted = np.asarray(pays).astype(bool)
    if table.ndim != 2 or wanted.shape != (len(table),) or not np.isfinite(table).all():
        raise ValueError(
            f"states are finite and [n, H], labels [n]; these are {table.shape} and {wanted.shape}"
        )
    if wanted.all() or not wanted.any():
        what = "every item" if wanted.all() else "no item"
        raise ValueError(
            f"a thought helps {what} of {len(wanted)}: there is nothing that a probe could tell apart"
        )
    if not penalty > 0:
        raise ValueError(f"penalty is {penalty!r}; give a number over 0")
    mean, deviation = table.mean(axis=0), table.std(axis=0)
    deviation[deviation < 1e-8] = np.inf  # what never changes says nothing
    x = np.concatenate([(table - mean) / deviation, np.ones((len(table), 1))], axis=1)
    y = wanted.astype(np.float64)
    ridge = np.full(x.shape[1], penalty)
    ridge[-1] = 1e-6  # the bias is free
    weight = np.zeros(x.shape[1])
    for _ in range(STEPS):
        likely = 1 / (1 + np.exp(-np.clip(x @ weight, -500, 500)))
        gradient = x.T @ (likely - y) + ridge * weight
        curvature = (x * (likely * (1 - likely))[:, None]).T @ x + np.diag(ridge)
        step = np.linalg.solve(curvature, gradient)
        weight -= step * min(1.0, 5.0 / max(float(np.abs(step).max()), 1e-12))
        if np.abs(step).max() < 1e-9:
            break
    slope = weight[:-1] / deviation
    return Probe(slope, weight[-1] - float(slope @ mean))
