"""One report for every benchmark: what was scored, of which model, on which data and under which conditions.

Notable: a mean is refused where a task is missing or was run on another number of queries; a score that is no
better than guessing says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self, TypedDict

import numpy as np

from .conditions import Conditions
from .score import ResultFormatError, Score

SCHEMA = 1
KIND = "umekit-results"


class MissingTaskError(ValueError):
    """A mean was asked for, but tasks that belong to it were not run."""


class TaskFacts(TypedDict, total=False):
    """A task of a complete run.

    ``family`` is the group it is averaged in; ``kinds`` are its kinds of candidate pools, the one that means are
    taken of first (default: one without a name); ``metric`` is the one that means are taken of (default: the only
    one); ``queries`` is how many there must be (default: any number).
    """

    family: str
    kinds: list[str]
    metric: str
    queries: int


@dataclass(frozen=True)
class FamilyMean:
    """Plain means over the tasks of a family, in each task's first kind of pools; ``others``: in the other kinds.

    ``baseline`` and ``all_above`` are None where a task's chance is not known.
    """

    family: str
    tasks: tuple[str, ...]
    metrics: tuple[str, ...]
    value: float
    baseline: float | None
    all_above: bool | None
    others: dict[str, float]

    @property
    def ratio(self) -> float | None:
        return self.value / self.baseline if self.baseline else None


@dataclass(frozen=True)
class Report:
    """A run of a benchmark.

    Attributes:
        fingerprint: of the encoder, as its ``fingerprint()`` gives it.
        complete: every task of a complete run; without it there are no means.
        notes: what the run itself noticed, ties for instance; :attr:`alarms` has them too.
        costs: what was encoded -> items, seconds, thoughts and their tokens, as ``Cost.to_dict`` writes them.
    """

    benchmark: str
    scores: Sequence[Score]
    fingerprint: dict[str, Any]
    conditions: Conditions
    complete: dict[str, TaskFacts] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    costs: dict[str, dict[str, Any]] = field(default_factory=dict)

    score_class: ClassVar[type[Score]] = Score
    revision_name: ClassVar[str] = "revision"  # in conditions.data
    total: ClassVar[str] = "all tasks"
    baseline_words: ClassVar[str] = "what guessing scores"

    def __post_init__(self) -> None:
        keys = [(score.label, score.metric) for score in self.scores]
        if not keys or len(set(keys)) < len(keys):
            raise ValueError(f"a report has scores, each once: {keys}")

    @property
    def title(self) -> str:
        return self.benchmark

    @property
    def data_words(self) -> str:
        """Which data, for a reader."""
        data = self.conditions.data
        return f"{self.title} {data['split']} split, revision {data['revision'][:12]}"

    def revision_of(self, score: Score) -> str:
        """Of the data of a score: the task's own, or that of all."""
        return score.revision or str(self.conditions.data[self.revision_name])

    @property
    def metrics(self) -> list[str]:
        return list(dict.fromkeys(score.metric for score in self.scores))

    @property
    def alarms(self) -> list[str]:
        """What a reader must know before believing a number."""
        lines = [
            f"at chance: {score.label} has {score.metric} {score.value:.3f} (99 % lower bound "
            f"{score.lower_bound:.3f}), guessing has {score.baseline:.3f}"
            for score in self.scores
            if score.at_chance
        ]
        if unknown := [f"{score.label} {score.metric}" for score in self.scores if score.baseline is None]:
            lines.append(
                f"what guessing scores is not known, so these may be at chance: {', '.join(unknown)}"
            )
        return [*(note for note in self.notes if note not in lines), *lines]

    def score(self, task: str, kind: str = "", metric: str | None = None) -> Score | None:
        """The score of a task in pools of a kind, under a metric (default: the one that means are taken of)."""
        wanted = metric or self.complete.get(task, {}).get("metric")
        for score in self.scores:
            if (score.task, score.kind) == (task, kind) and wanted in (None, score.metric):
                return score
        return None

    def missing(self, family: str | None = None) -> list[str]:
        """`task/kind` of what a complete run has and this one lacks, or has for another number of queries."""
        found = []
        for task, facts in self._facts(family).items():
            for kind in _kinds(facts):
                score, queries = self.score(task, kind), facts.get("queries")
                name = f"{task}/{kind}" if kind else task
                if score is None:
                    found.append(name)
                elif queries is not None and score.n != queries:
                    found.append(f"{name} ({score.n:,} of {queries:,} queries)")
        return found

    def family_mean(self, family: str) -> FamilyMean:
        """Raises MissingTaskError where a task of the family was not run in each of its kinds of pools."""
        if missing := self.missing(family):
            raise MissingTaskError(f"no mean of {family}: {', '.join(missing)} not run")
        facts = self._facts(family)
        if not facts:
            raise MissingTaskError(f"there is no family {family!r}")
        main = self._main_scores(family)
        baselines = [score.baseline for score in main if score.baseline is not None]
        known = len(baselines) == len(main)
        others: dict[str, list[float]] = {}
        for task, one in facts.items():
            for kind in _kinds(one)[1:]:
                others.setdefault(kind, []).append(self._scored(task, kind).value)
        return FamilyMean(
            family,
            tuple(facts),
            tuple(dict.fromkeys(score.metric for score in main)),
            float(np.mean([score.value for score in main])),
            float(np.mean(baselines)) if known else None,
            not any(score.at_chance for score in self.scores if score.task in facts) if known else None,
            {kind: float(np.mean(values)) for kind, values in others.items()},
        )

    def family_means(self) -> list[FamilyMean]:
        """The families that were run completely, in the benchmark's order."""
        families = dict.fromkeys(facts.get("family", "") for facts in self.complete.values())
        return [self.family_mean(family) for family in families if not self.missing(family)]

    def mean(self) -> float:
        """Plain mean over tasks. Raises MissingTaskError where anything is missing."""
        if missing := self.missing():
            raise MissingTaskError(f"no mean over {self.total}: {', '.join(missing)} not run")
        if not self.complete:
            raise MissingTaskError(f"no mean over {self.total}: the report does not say which these are")
        return self._mean()

    def _mean(self) -> float:
        return float(np.mean([score.value for score in self._main_scores()]))

    def _facts(self, family: str | None = None) -> dict[str, TaskFacts]:
        return {
            task: facts for task, facts in self.complete.items() if family in (None, facts.get("family", ""))
        }

    def _main_scores(self, family: str | None = None) -> list[Score]:
        """The score of each task that means are taken of."""
        return [self._scored(task, _kinds(facts)[0]) for task, facts in self._facts(family).items()]

    def _scored(self, task: str, kind: str) -> Score:
        score = self.score(task, kind)
        assert score is not None, "nothing is missing"
        return score

    def extra_tables(self) -> list[str]:
        """Markdown tables that only this benchmark has."""
        return []

    def to_dict(self) -> dict[str, Any]:
        """Raises ResultFormatError where the report does not say what was measured."""
        self._check_provenance()
        conditions = dict(vars(self.conditions))
        head = {"kind": KIND, "schema": SCHEMA, "complete": self.complete, "model": conditions.pop("model")}
        tail: dict[str, Any] = {"alarms": self.alarms, "benchmark": self.benchmark}
        if self.costs:
            tail["costs"] = self.costs
        return {
            **head, "fingerprint": self.fingerprint, **conditions, **tail,
            "scores": [score.to_dict() for score in self.scores],
        }  # fmt: skip

    @classmethod
    def from_dict(cls, block: dict[str, Any]) -> Self:
        """Raises ResultFormatError: missing or contradicting entries."""
        facts = {name: value for name, value in block.items() if name not in ("kind", "schema")}
        for name in ("fingerprint", "settings", "data", "versions", "complete"):
            if not isinstance(facts.get(name), dict):
                raise ResultFormatError(f"{name!r} is missing or not an object")
        try:
            scores = [cls.score_class.from_dict(one) for one in facts.pop("scores")]
            own = {name: facts.pop(name) for name in ("benchmark", "fingerprint", "complete")}
            own["costs"] = facts.pop("costs", {})
            report = cls(scores=scores, notes=facts.pop("alarms"), conditions=Conditions(**facts), **own)
        except ResultFormatError:
            raise
        except (KeyError, TypeError, AttributeError, ValueError, ZeroDivisionError) as error:
            raise ResultFormatError(
                f"the result file is incomplete or has unknown entries: {error}"
            ) from None
        report._check_provenance()
        return report

    def _check_provenance(self) -> None:
        conditions = self.conditions
        required = {
            "fingerprint": (self.fingerprint, ("model", "processor")),
            "settings": (conditions.settings, ("encoder",)),
            "data": (conditions.data, ("name", "split", self.revision_name)),
        }
        if absent := [
            f"{part}.{name}"
            for part, (block, names) in required.items()
            for name in names
            if not block.get(name)
        ]:
            raise ResultFormatError(f"a result must say what it is of: {', '.join(absent)} missing")


def _kinds(facts: TaskFacts) -> list[str]:
    return facts.get("kinds") or [""]
