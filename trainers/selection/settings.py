"""What a selection is asked for, and what it reports."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from ...encoding.rationales import RATIONALE, check_template
from .contribution import CONFIDENCES, Confidence

CHOICES = ("pair-aware", "random", "none")
Choice = Literal["pair-aware", "random", "none"]
SIDES = ("query", "positive")


@dataclass(frozen=True)
class SelectionSettings:
    """How thoughts are weighed and chosen. All of it is a re-derivation of MMEmb-R1, see ``contribution``.

    Attributes:
        choice: ``"pair-aware"``: the likeliest thought by its contribution; ``"random"``: thoughts drawn from the
            pools, until they have as many tokens as the pair-aware ones; ``"none"``: no selection, one drawn for
            everyone.
        negatives: K, hard negatives of an instance; 0 for the plain form.
        confidence: what a thought may add to: ``"logit"``, the evaluator's margin, as published; or
            ``"log-likelihood"``, of its right answers in nats, to which little can be added where it is sure and right.
        temperature: T of the posterior; 0 for the largest contribution.
        margin: a thought is kept if its contribution is above it.
        priors: of workers by name; others have 1.
        sides: whose thoughts are chosen.
        query_template, positive_template: how the evaluator reads a thought of that side, after the candidate; with
            ``{thought}`` and perhaps ``{answer}``.
        instruction: of the evaluator's pairs; None for its default, and a query's own wins over both.
        seed: of whatever is drawn: negatives of positives, and thoughts of the other two choices.

    Raises:
        ValueError: a value that cannot be meant.
    """

    choice: Choice = "pair-aware"
    negatives: int = 4
    confidence: Confidence = "logit"
    temperature: float = 1.0
    margin: float = 0.0
    priors: Mapping[str, float] = field(default_factory=dict)
    sides: tuple[str, ...] = SIDES
    query_template: str = RATIONALE
    positive_template: str = RATIONALE
    instruction: str | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.choice not in CHOICES:
            raise ValueError(f"choice is {self.choice!r}; use one of {', '.join(CHOICES)}")
        if self.confidence not in CONFIDENCES:
            raise ValueError(f"confidence is {self.confidence!r}; use one of {', '.join(CONFIDENCES)}")
        if self.negatives < 0 or self.seed < 0:
            raise ValueError(f"negatives is {self.negatives} and seed {self.seed}; need at least 0")
        if not self.temperature >= 0 or math.isinf(self.temperature):
            raise ValueError(f"temperature is {self.temperature}; it is a number from 0 on")
        if not math.isfinite(self.margin):
            raise ValueError(f"margin is {self.margin}; it is a finite number")
        if not self.sides or not set(self.sides) <= set(SIDES) or len(set(self.sides)) != len(self.sides):
            raise ValueError(f"sides is {self.sides}; give one or both of {', '.join(SIDES)}")
        for name, prior in self.priors.items():
            if not (math.isfinite(prior) and prior >= 0):
                raise ValueError(f"the prior of {name!r} is {prior}; it is a number from 0 on")
        check_template(self.query_template)
        check_template(self.positive_template)

    def template(self, side: str) -> str:
        """How the evaluator reads a thought of a side."""
        return self.query_template if side == "query" else self.positive_template

    def prior(self, worker: str) -> float:
        """Of a worker."""
        return float(self.priors.get(worker, 1.0))

    def weighing(self) -> dict[str, Any]:
        """What the evaluator's margins depend on; with the same, they are not computed again."""
        templates = ("query_template", "positive_template")
        names = ("negatives", "confidence", "sides", *templates, "instruction", "seed")
        return {name: getattr(self, name) for name in names}

    def choosing(self) -> dict[str, Any]:
        """What is done with them."""
        return {
            "choice": self.choice,
            "temperature": self.temperature,
            "margin": self.margin,
            "priors": dict(sorted(self.priors.items())),
        }


@dataclass(frozen=True)
class SelectionReport:
    """What a selection did.

    Attributes:
        file: the rows, ``selected.jsonl`` or ``selected.parquet``.
        media_root: folder that the media paths of ``file`` are relative to; None where it names no files.
        sheet: the page of samples for people.
        rows: rows written. failed_rows: left out, because they could not be scored.
        failed_pairs: pairs that could not be scored, in rows that were written.
        statistics: by side, see ``statistics``.
    """

    file: str
    media_root: str | None
    sheet: str
    rows: int
    failed_rows: int
    failed_pairs: int
    statistics: dict[str, Any]
