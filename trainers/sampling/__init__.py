"""Which rows make which batch: sources, weights, caps and an exact plan, made once and read in order."""

from __future__ import annotations

from .convergence import convergence_weights, loss_history
from .planned_rows import PlannedRows
from .planner import SourceReport
from .planning import Plan, plan_epochs
from .source import Source, Subset, split_sources
from .targets import target_codes

__all__ = [
    "Plan",
    "PlannedRows",
    "Source",
    "SourceReport",
    "Subset",
    "convergence_weights",
    "loss_history",
    "plan_epochs",
    "split_sources",
    "target_codes",
]
