"""Two reports of one benchmark beside each other: which conditions differ, and by how much each score moved.

Notable: only the same task under the same metric in the same kind of pools is compared; an interval is given
where both reports hold the values of the same queries.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from .metrics import paired_bootstrap
from .report import Report
from .score import Score

_NO_CONDITION = ("scores", "alarms", "complete", "costs", "seconds", "command", "created")


@dataclass(frozen=True)
class Change:
    """Of one score; ``interval`` is the paired 95 % one, None without values of the same queries."""

    task: str
    kind: str
    metric: str
    before: float
    after: float
    interval: tuple[float, float] | None = None

    @property
    def difference(self) -> float:
        return self.after - self.before


@dataclass(frozen=True)
class Comparison:
    """``conditions``: name -> both values, where they differ; ``means``: of families complete in both."""

    conditions: dict[str, tuple[Any, Any]]
    changes: list[Change]
    means: list[Change]
    only_before: list[str]
    only_after: list[str]

    def to_dict(self) -> dict[str, Any]:
        changes = {
            name: [asdict(one) | {"difference": one.difference} for one in getattr(self, name)]
            for name in ("changes", "means")
        }
        return asdict(self) | changes


def compare(before: Report, after: Report) -> Comparison:
    """Raises ValueError: the reports are of two benchmarks."""
    if before.benchmark != after.benchmark:
        raise ValueError(f"{before.benchmark} and {after.benchmark} can't be compared")
    old, new = (facts_of(report) for report in (before, after))
    left, right = ({_name(score): score for score in report.scores} for report in (before, after))
    means, now = ({mean.family: mean for mean in report.family_means()} for report in (before, after))
    data = all(
        value == after.conditions.data.get(name)
        for name, value in before.conditions.data.items()
        if name != before.revision_name  # over all tasks, where each has its own; others may have been run
    )

    def same_data(name: str) -> bool:
        return data and before.revision_of(left[name]) == after.revision_of(right[name])

    return Comparison(
        {name: (old.get(name), new.get(name)) for name in old | new if old.get(name) != new.get(name)},
        [_change(left[name], right[name], same_data(name)) for name in left if name in right],
        [
            Change(family, "", ", ".join(mean.metrics), mean.value, now[family].value)
            for family, mean in means.items()
            if family in now and (mean.tasks, mean.metrics) == (now[family].tasks, now[family].metrics)
        ],
        [name for name in left if name not in right],
        [name for name in right if name not in left],
    )


def facts_of(report: Report) -> dict[str, Any]:
    """`settings.queries` -> 2000, of everything that may explain a difference."""
    return dict(_flat(report.to_dict()))


def _name(score: Score) -> str:
    return f"{score.label} {score.metric}"


def _change(before: Score, after: Score, same_data: bool) -> Change:
    interval = None
    if same_data and before.n == after.n and before.per_query and after.per_query:
        found = paired_bootstrap(after.query_values(), before.query_values(), resamples=2000)
        interval = (found.low, found.high)
    return Change(before.task, before.kind, before.metric, before.value, after.value, interval)


def _flat(block: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in block.items():
        if isinstance(value, dict) and name not in _NO_CONDITION:
            yield from _flat(value, f"{prefix}{name}.")
        elif prefix or name not in _NO_CONDITION:
            yield prefix + name, value
