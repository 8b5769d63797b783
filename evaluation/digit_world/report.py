"""What DigitWorld reports beyond scores: its pools, the baselines of blind guesses, and results by steps."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar

import numpy as np

from ..report import Report
from ..score import Score
from ..tables import table

BENCHMARK = "digit-world"
METRIC = "R@1"
# Names in the file of what every score has, and the order of its entries.
_IN_FILE = {"n": "queries", "per_query": "hits", "revision": "pools_sha256"}
_ENTRIES = (
    "task",
    "family",
    "kind",
    "n",
    "candidates",
    "pools",
    "correct",
    "optimistic",
    "chance",
    "majority",
    "question_only",
    "media_only",
    "by_steps",
    "per_query",
    "revision",
    "samples",
    "pass_at",
    "oracle",
)
_WHERE_MEASURED = ("samples", "pass_at", "oracle")  # not in the file otherwise  # fmt: skip


@dataclass(frozen=True)
class Share:
    """`correct` of `queries`."""

    correct: int
    queries: int

    @property
    def value(self) -> float:
        return self.correct / self.queries


@dataclass(frozen=True, kw_only=True)
class DigitWorldScore(Score):
    """Recall@1 of one task in pools of one kind (`labels`, `random` or `hard`).

    Attributes:
        pools: the number of pools that the queries are spread over.
        optimistic: queries whose positive is ranked first if ties count for the model.
        majority: recall@1 of the best constant answer.
        question_only, media_only: the same model without the query's media, without its text; None where not
            measured.
        by_steps: hops or terms -> share; empty where a task has no steps.
        samples: thoughts drawn for each query; 0 where no thought was drawn. Documents have one, the likeliest.
        pass_at: k -> unbiased chance that one of k of them puts the positive first.
        oracle: queries that are right at once, or after a thought, each mode with documents of its own; None where
            not measured.
        revision: sha256 of the pools' meanings, questions and positives.
    """

    pools: int
    optimistic: int
    majority: float
    question_only: Share | None = None
    media_only: Share | None = None
    by_steps: dict[str, Share] = field(default_factory=dict)
    samples: int = 0
    pass_at: dict[str, float] = field(default_factory=dict)
    oracle: Share | None = None

    @property
    def correct(self) -> int:
        """Queries whose positive is ranked first, ties counted against the model."""
        return round(self.value * self.n)

    @property
    def baseline(self) -> float:
        """The best of chance, the most frequent answer and, where measured, the question alone."""
        blind = self.question_only.value if self.question_only else 0.0
        return max(self.chance or 0.0, self.majority, blind)

    def extra_cells(self) -> dict[str, str]:
        return {"question only": _cell(self.question_only), "media only": _cell(self.media_only)}

    def rates(self) -> dict[str, float]:
        return {"recall_at_1": round(self.value, 6), **super().rates()}

    def to_dict(self) -> dict[str, Any]:
        facts = asdict(self) | {"correct": self.correct}
        entries = [name for name in _ENTRIES if facts[name] or name not in _WHERE_MEASURED]
        return {_IN_FILE.get(name, name): facts[name] for name in entries} | self.rates()

    @classmethod
    def fields_of(cls, block: dict[str, Any]) -> dict[str, Any]:
        fields = dict(block)
        for name, in_file in _IN_FILE.items():
            fields[name] = fields.pop(in_file)
        for name in ("question_only", "media_only", "oracle"):
            fields[name] = Share(**fields[name]) if fields.get(name) else None
        by_steps = {steps: Share(**share) for steps, share in fields.get("by_steps", {}).items()}
        value = fields.pop("correct") / fields["n"]
        return fields | {"by_steps": by_steps, "value": value, "metric": METRIC}


@dataclass(frozen=True)
class DigitWorldReport(Report):
    """A run of DigitWorld; the mean over all is that of the families, so that no family counts by its tasks."""

    scores: list[DigitWorldScore]

    score_class: ClassVar[type[Score]] = DigitWorldScore
    revision_name: ClassVar[str] = "definitions"
    total: ClassVar[str] = "all families"
    baseline_words: ClassVar[str] = (
        "the best of chance, the most frequent answer and, where measured, the model given the question alone"
    )

    @property
    def title(self) -> str:
        return "DigitWorld"

    @property
    def data_words(self) -> str:
        data = self.conditions.data
        return f"DigitWorld {data['split']} split, seed {data['seed']}, task definitions {data['definitions'][:12]}"

    def revision_of(self, score: Score) -> str:
        """The definitions: what a score has of its own is a hash of its pools."""
        return str(self.conditions.data["definitions"])

    def _mean(self) -> float:
        return float(np.mean([family.value for family in self.family_means()]))

    def extra_tables(self) -> list[str]:
        """Results by hops or terms; what several thoughts, and both modes, could score."""
        return [*self._by_steps(), *self._by_samples(), *self._oracles()]

    def _by_samples(self) -> list[str]:
        scores = [score for score in self.scores if score.pass_at]
        ks = sorted({int(k) for score in scores for k in score.pass_at})
        headers = [
            f"pass@k ({scores[0].samples} thoughts drawn for each query, one for each document)"
            if scores
            else "",
            *(f"pass@{k}" for k in ks),
        ]
        rows = [[score.label, *(f"{score.pass_at[str(k)]:.3f}" for k in ks)] for score in scores]
        return [table(headers, rows, left=1)] if rows else []

    def _oracles(self) -> list[str]:
        rows = [[score.label, _cell(score.oracle)] for score in self.scores if score.oracle]
        return [table(["oracle: right at once, or after a thought", "R@1"], rows, left=1)] if rows else []

    def _by_steps(self) -> list[str]:
        scores = [score for score in self.scores if score.by_steps]
        columns = sorted({int(steps) for score in scores for steps in score.by_steps})
        rows = [
            [score.task, *(_cell(score.by_steps.get(str(steps))) for steps in columns)] for score in scores
        ]
        headers = ["R@1 by hops (walk, until_gold) or terms (sum)", *map(str, columns)]
        return [table(headers, rows, left=1)] if rows else []


def _cell(share: Share | None) -> str:
    return "-" if share is None else f"{share.value:.3f}"
