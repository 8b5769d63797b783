"""Keeping what an objective learns within its bounds."""

from __future__ import annotations

from typing import Any

from transformers import TrainerCallback

from .objectives.saving import SavedObjective


class ClampObjective(TrainerCallback):
    """Projects what the objective learns into its bounds after each optimiser step."""

    def __init__(self, objective: SavedObjective) -> None:
        self.objective = objective

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.objective.clamp_()
