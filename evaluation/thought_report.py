"""What a report of thoughts says beyond scores: how far a vector moves when its thought is another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike

from .report import Report
from .score import Score

BENCHMARK = "thoughts"
METRIC = "R@1"
OWN, OTHER, FILLER, EMPTY, NONE = "own", "another's", "filler", "empty", "none"
CONDITIONS = {
    OWN: "what the model wrote for the item",
    OTHER: "what it wrote for another item of the same task",
    FILLER: "as many tokens as its own, all of them dots between the tags",
    EMPTY: "the tags with nothing between them",
    NONE: "<gen_emb> right after the prompt",
}
PERCENTILES = (5, 50, 95)
UNREAD = 0.99  # of a cosine: a vector that moves less than this does not hold what the thought says


@dataclass(frozen=True, kw_only=True)
class ThoughtScore(Score):
    """Recall@1 of one task with one kind of thought (``kind``) on the queries' side.

    Attributes:
        cosine: mean over the queries, between its vector and that with its own thought.
        percentiles: of these cosines; percent -> value.
        tokens: mean of the thoughts'.
    """

    cosine: float
    percentiles: dict[str, float]
    tokens: float

    @classmethod
    def of(
        cls, task: str, hits: ArrayLike, cosines: ArrayLike, tokens: ArrayLike, **facts: Any
    ) -> ThoughtScore:
        """From the queries' hits, cosines with their own thought's vector, and tokens of a thought, [n] each."""
        found = np.asarray(cosines, dtype=np.float64)
        percentiles = {str(one): float(np.percentile(found, one)) for one in PERCENTILES}
        rest = {
            "cosine": float(found.mean()),
            "percentiles": percentiles,
            "tokens": float(np.asarray(tokens).mean()),
        }
        return cls.of_queries(task, METRIC, hits, **rest, **facts)

    def extra_cells(self) -> dict[str, str]:
        cells = {"cosine with own": f"{self.cosine:.3f}"}
        cells |= {f"{percent} %": f"{value:.3f}" for percent, value in self.percentiles.items()}
        return cells | {"tokens": f"{self.tokens:.1f}"}


@dataclass(frozen=True)
class ThoughtReport(Report):
    """How much the vectors of queries depend on their thoughts; documents always have their own."""

    score_class: ClassVar[type[Score]] = ThoughtScore

    @property
    def title(self) -> str:
        return "Thought sensitivity"

    @property
    def data_words(self) -> str:
        data = self.conditions.data
        where = f"{data['name']}, {data['split']} split, revision {str(data['revision'])[:12]}"
        kinds = "; ".join(f"{name}: {words}" for name, words in CONDITIONS.items())
        return f"{where}. Thoughts of the queries are changed ({kinds}), those of the documents are their own"

    @property
    def alarms(self) -> list[str]:
        """Of other thoughts than the own it is no alarm that they are at chance; but that they change nothing is."""
        unread = [
            f"thoughts are not read: {score.label} has a cosine of {score.cosine:.4f} with the own thought's vector"
            for score in self.scores
            if isinstance(score, ThoughtScore) and score.kind == OTHER and score.cosine > UNREAD
        ]
        chance = [line for line in super().alarms if not line.startswith("at chance: ") or f"({OWN})" in line]
        return [*chance, *(line for line in unread if line not in chance)]

    @property
    def own_scores(self) -> Sequence[Score]:
        """Those with the model's own thoughts."""
        return [score for score in self.scores if score.kind == OWN]
