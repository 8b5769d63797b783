"""Which rows make which batch: sources, weights, caps and an exact plan, made once and read in order."""

from __future__ import annotations

from .convergence import convergence_weights, loss_history
from .dealing import deal
from .planner import SourceReport
from .planning import Plan, plan_batches
from .rows import PlannedRows
from .source import Source, Subset, split_sources
from .targets import target_codes

__all__ = [
    "Plan",
    "PlannedRows",
    "Source",
    "SourceReport",
    "Subset",
    "convergence_weights",
    "deal",
    "loss_history",
    "plan_batches",
    "split_sources",
    "target_codes",
]
