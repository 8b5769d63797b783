"""What mteb's tasks score, which is not always a mean over queries."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from .report import Report
from .score import Score


@dataclass(frozen=True)
class MtebScore(Score):
    """A task's main score: a share, or a correlation or a change of ranks (p-MRR), which may be below 0."""

    lowest: ClassVar[float] = -1.0

    @property
    def lower_bound(self) -> float:
        """As of a share; what is below 0 has none but itself."""
        return super().lower_bound if self.value >= 0 else self.value


@dataclass(frozen=True)
class MtebReport(Report):
    """A run of tasks of mteb."""

    score_class: ClassVar[type[Score]] = MtebScore
