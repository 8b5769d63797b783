"""Data to checkpoint: objectives, collation, gradient caching and the Trainer subclasses."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .arguments import ContrastiveTrainingArguments
    from .contrastive import ContrastiveTrainer
    from .data import ContrastiveCollator
    from .objectives.module import ContrastiveObjective

_PUBLIC = {
    "ContrastiveCollator": ".data",
    "ContrastiveObjective": ".objectives.module",
    "ContrastiveTrainer": ".contrastive",
    "ContrastiveTrainingArguments": ".arguments",
}

__all__ = [
    "ContrastiveCollator",
    "ContrastiveObjective",
    "ContrastiveTrainer",
    "ContrastiveTrainingArguments",
]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_PUBLIC[name], __name__), name)
