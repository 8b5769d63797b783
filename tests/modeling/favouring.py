"""Random models that like some tokens more: thoughts of different lengths, that end, or that do not."""

from __future__ import annotations

from typing import Any

from torch import Tensor


def favour(model: Any, favours: dict[int, float]) -> None:
    """Add to the logits of some tokens."""
    plain = type(model).logits_of

    def logits_of(states: Tensor) -> Tensor:
        logits = plain(model, states).clone()
        for token, favour in favours.items():
            logits[..., token] += favour
        return logits

    model.logits_of = logits_of
