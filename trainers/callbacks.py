"""Keeping a learned temperature within its bounds."""

from __future__ import annotations

from typing import Any

from transformers import TrainerCallback

from .objectives.module import ContrastiveObjective


class ClampTemperature(TrainerCallback):
    """Projects the learned temperature into its bounds after each optimiser step."""

    def __init__(self, objective: ContrastiveObjective) -> None:
        self.objective = objective

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.objective.temperature.clamp_()
