"""What a benchmark reports beyond scores: three readings of ties, the parts' means, and what it cost."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ..report import MissingTaskError, Report
from ..score import Score
from ..tables import table
from .definition import load_benchmark


@dataclass(frozen=True, kw_only=True)
class BenchmarkScore(Score):
    """A score, and what it would be if ties counted otherwise.

    Attributes:
        optimistic, official: the same metric with ties for the model, and as the official code sorts them; None where
            several results are combined.
        wrong_modality: share of the first k candidates that are not of the modality that was asked for; None where a
            pool has one modality.
        failed: queries and candidates that could not be encoded; such a query scores 0.
    """

    optimistic: float | None = None
    official: float | None = None
    wrong_modality: float | None = None
    failed: int = 0

    def extra_cells(self) -> dict[str, str]:
        wrong = "-" if self.wrong_modality is None else f"{self.wrong_modality:.3f}"
        same = self.official is None or self.official == self.value
        return {"wrong modality": wrong, "official order": "-" if same else f"{self.official:.3f}"}


@dataclass(frozen=True)
class BenchmarkReport(Report):
    """A run of MMEB, M-BEIR or the zero-shot sets."""

    score_class: ClassVar[type[Score]] = BenchmarkScore

    @property
    def title(self) -> str:
        return load_benchmark(self.benchmark).title

    @property
    def coverage(self) -> str:
        """``12 of 78 tasks``."""
        return f"{len({score.task for score in self.scores})} of {len(self.complete)} tasks"

    def group_mean(self, group: str) -> float:
        """Plain mean over the tasks of a part (image, video, visdoc).

        Raises:
            MissingTaskError: a task of it was not run, or the whole benchmark has no such part.
        """
        names = load_benchmark(self.benchmark).groups.get(group)
        if not names:
            raise MissingTaskError(f"{self.title} has no part {group!r}")
        families = {self.complete[name].get("family", "") for name in names}
        if missing := [line for family in sorted(families) for line in self.missing(family)]:
            raise MissingTaskError(f"no mean of {group}: {', '.join(missing)} not run")
        means = [self.family_mean(family) for family in sorted(families)]
        return float(np.sum([mean.value * len(mean.tasks) for mean in means]) / len(names))

    def group_means(self) -> dict[str, float]:
        """Of the parts that were run completely."""
        found: dict[str, float] = {}
        for group in load_benchmark(self.benchmark).groups:
            try:
                found[group] = self.group_mean(group)
            except MissingTaskError:
                continue  # extra_tables says nothing of what is not there; missing() names it
        return found

    def pool_means(self) -> dict[str, float]:
        """Plain means over all tasks in each further kind of pools; :meth:`mean` is of the first. Nothing where a task
        is missing."""
        kinds = dict.fromkeys(kind for facts in self.complete.values() for kind in facts.get("kinds", [])[1:])
        if self.missing():
            return {}
        return {
            kind: float(np.mean([score.value for score in self.scores if score.kind == kind]))
            for kind in kinds
        }

    def extra_tables(self) -> list[str]:
        tables = []
        means = self.group_means()
        means |= {f"{self.total}, {kind} pool": value for kind, value in self.pool_means().items()}
        if means:
            rows = [[group, f"{value:.3f}"] for group, value in means.items()]
            tables.append(table(["part", "mean"], rows, left=1))
        if splits := [
            [task.name, task.split]
            for task in load_benchmark(self.benchmark).tasks
            if task.split and any(score.task == task.name for score in self.scores)
        ]:
            tables.append(table(["task", "which data"], splits, left=2))
        return tables
