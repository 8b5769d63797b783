"""Trainers by the name that a recipe gives them; none is imported before it is asked for."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .item_trainer import ItemTrainer

TRAINERS = {
    "adaptive-rlvr": (".adaptive_rlvr", "AdaptiveRLVRTrainer"),
    "contrastive": (".contrastive", "ContrastiveTrainer"),
    "distillation": (".distillation", "DistillationTrainer"),
    "reranker": (".reranker", "RerankerTrainer"),
    "reasoning": (".reasoning", "ReasoningTrainer"),
    "joint-reasoning": (".joint_reasoning", "JointReasoningTrainer"),
    "rlvr": (".rlvr", "RLVRTrainer"),
}


def trainer_class(name: str) -> type[ItemTrainer]:
    """The trainer of a name. Raises ValueError, with the names that there are, for another one."""
    if name not in TRAINERS:
        raise ValueError(f"there is no trainer {name!r}; known are {', '.join(sorted(TRAINERS))}")
    module, kind = TRAINERS[name]
    found: type[ItemTrainer] = getattr(importlib.import_module(module, __package__), kind)
    return found
