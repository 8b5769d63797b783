"""Data to checkpoint: objectives, gradient caching, the Trainer subclasses, mining, souping, recipes."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .adaptive_rlvr import AdaptiveRLVRTrainer, AdaptiveRLVRTrainingArguments
    from .arguments import ContrastiveTrainingArguments
    from .collating import ContrastiveCollator
    from .contrastive import ContrastiveTrainer
    from .distillation import DistillationTrainer, DistillationTrainingArguments
    from .joint_reasoning import JointReasoningTrainer, JointReasoningTrainingArguments
    from .lora import add_lora
    from .lora.merging import merge
    from .lora.souping import soup
    from .memory import estimate_memory
    from .mining import mine
    from .objectives.module import ContrastiveObjective
    from .reasoning import ReasoningTrainer, ReasoningTrainingArguments
    from .reranker import RerankerTrainer, RerankerTrainingArguments
    from .rlvr import RLVRTrainer
    from .rlvr_arguments import RLVRTrainingArguments
    from .selection import select

_PUBLIC = {
    "AdaptiveRLVRTrainer": ".adaptive_rlvr",
    "AdaptiveRLVRTrainingArguments": ".adaptive_rlvr",
    "ContrastiveCollator": ".collating",
    "ContrastiveObjective": ".objectives.module",
    "ContrastiveTrainer": ".contrastive",
    "ContrastiveTrainingArguments": ".arguments",
    "DistillationTrainer": ".distillation",
    "DistillationTrainingArguments": ".distillation",
    "JointReasoningTrainer": ".joint_reasoning",
    "JointReasoningTrainingArguments": ".joint_reasoning",
    "RLVRTrainer": ".rlvr",
    "RLVRTrainingArguments": ".rlvr_arguments",
    "RerankerTrainer": ".reranker",
    "RerankerTrainingArguments": ".reranker",
    "ReasoningTrainer": ".reasoning",
    "ReasoningTrainingArguments": ".reasoning",
    "add_lora": ".lora",
    "estimate_memory": ".memory",
    "merge": ".lora.merging",
    "mine": ".mining",
    "select": ".selection",
    "soup": ".lora.souping",
}

__all__ = [
    "AdaptiveRLVRTrainer",
    "AdaptiveRLVRTrainingArguments",
    "ContrastiveCollator",
    "ContrastiveObjective",
    "ContrastiveTrainer",
    "ContrastiveTrainingArguments",
    "DistillationTrainer",
    "DistillationTrainingArguments",
    "JointReasoningTrainer",
    "JointReasoningTrainingArguments",
    "RLVRTrainer",
    "RLVRTrainingArguments",
    "ReasoningTrainer",
    "ReasoningTrainingArguments",
    "RerankerTrainer",
    "RerankerTrainingArguments",
    "add_lora",
    "estimate_memory",
    "merge",
    "mine",
    "select",
    "soup",
]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    importlib.import_module("..modeling.versions", __name__).need_transformers()
    return getattr(importlib.import_module(_PUBLIC[name], __name__), name)
