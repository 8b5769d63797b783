"""Result files: what was measured, of what, on what and under which conditions; and the tables made of them.

Notable: a file holds counts, and every rate in it is checked against them when it is read; a mean is refused
where a task is missing; a score that is no better than guessing says so in a line of its own.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..encoding.checked_files import read_object
from ..encoding.manifest import write_atomically
from .metrics import wilson_lower_bound

SCHEMA = 1
KIND = "umekit-results"
CONFIDENCE = 0.99


class ResultFormatError(ValueError):
    """Not a result file, one of another schema, or one whose numbers contradict each other."""


class MissingTaskError(ValueError):
    """A mean was asked for, but tasks that belong to it were not run."""


@dataclass(frozen=True)
class Share:
    """`correct` of `queries`."""

    correct: int
    queries: int

    @property
    def value(self) -> float:
        return self.correct / self.queries


@dataclass(frozen=True)
class Score:
    """One task in pools of one kind (`labels`, `random` or `hard`).

    Attributes:
        candidates, pools: candidates of a pool, and the number of pools that the queries are spread over.
        correct: queries whose positive is ranked first, ties counted against the model.
        optimistic: the same, ties counted for it.
        chance, majority: recall@1 of guessing blindly, and of the best constant answer.
        question_only, media_only: the same model without the query's media, without its text; None where not
            measured.
        by_steps: hops or terms -> share; empty where a task has no steps.
        hits: which queries were right, base64 of packed bits, for paired comparisons of two files.
        pools_sha256: of the pools' meanings, questions and positives.
    """

    task: str
    family: str
    kind: str
    queries: int
    candidates: int
    pools: int
    correct: int
    optimistic: int
    chance: float
    majority: float
    question_only: Share | None = None
    media_only: Share | None = None
    by_steps: dict[str, Share] = field(default_factory=dict)
    hits: str = ""
    pools_sha256: str = ""

    @property
    def recall_at_1(self) -> float:
        return self.correct / self.queries

    @property
    def lower_bound(self) -> float:
        """One-sided 99 % bound of recall@1 (Wilson)."""
        return wilson_lower_bound(self.correct, self.queries, CONFIDENCE)

    @property
    def baseline(self) -> float:
        """The best of chance, the most frequent answer and, where measured, the question alone."""
        return max(self.chance, self.majority, self.question_only.value if self.question_only else 0.0)

    @property
    def ratio(self) -> float:
        return self.recall_at_1 / self.baseline

    @property
    def at_chance(self) -> bool:
        """Whether the bound does not even clear the baseline."""
        return self.lower_bound <= self.baseline

    def hit_rows(self) -> NDArray[np.bool_]:
        """bool [queries], in the order of the pools."""
        packed = np.frombuffer(base64.b64decode(self.hits), dtype=np.uint8)
        return np.unpackbits(packed, count=self.queries).astype(bool)

    def to_dict(self) -> dict[str, Any]:
        """Counts, and the rates that follow from them for those who read the file."""
        return {**asdict(self), **self._rates()}

    def _rates(self) -> dict[str, float]:
        rates = {"recall_at_1": self.recall_at_1, "lower_bound_99": self.lower_bound}
        rates |= {"baseline": self.baseline, "ratio": self.ratio}
        return {name: round(value, 6) for name, value in rates.items()}

    @classmethod
    def from_dict(cls, block: dict[str, Any]) -> Score:
        block = dict(block)
        rates = {
            name: block.pop(name, None) for name in ("recall_at_1", "lower_bound_99", "baseline", "ratio")
        }
        for name in ("question_only", "media_only"):
            block[name] = Share(**block[name]) if block.get(name) else None
        block["by_steps"] = {steps: Share(**share) for steps, share in block.get("by_steps", {}).items()}
        score = cls(**block)
        wrong = [
            name
            for name, value in score._rates().items()
            if rates[name] is None or abs(rates[name] - value) > 1e-5
        ]
        if score.hits and int(score.hit_rows().sum()) != score.correct:
            wrong.append("hits")
        if wrong:
            raise ResultFormatError(f"{score.task} ({score.kind}): {', '.join(wrong)} contradict the counts")
        return score


def pack_hits(hits: Iterable[bool]) -> str:
    """bool [n] -> base64 of packed bits."""
    return base64.b64encode(np.packbits(np.asarray(list(hits), dtype=bool)).tobytes()).decode()


@dataclass(frozen=True)
class FamilyMean:
    """Plain means over the tasks of a family; `hard` over those that have hard pools, None where none has."""

    family: str
    tasks: tuple[str, ...]
    recall_at_1: float
    baseline: float
    all_above: bool
    hard: float | None

    @property
    def ratio(self) -> float:
        return self.recall_at_1 / self.baseline


@dataclass(frozen=True)
class DigitWorldReport:
    """A run of DigitWorld.

    Attributes:
        complete: every task of DigitWorld -> its family and the kinds of pools of a complete run.
        model: name of the model, for people; `fingerprint` is what identifies it.
        settings: queries, size, kinds, mode ...
        data: split, seed, sha256 of the task definitions.
        machine, seconds, command, created: the conditions of the run.
        alarms: what a reader must know before believing a number.
    """

    scores: list[Score]
    complete: dict[str, dict[str, Any]]
    model: str
    fingerprint: dict[str, Any]
    settings: dict[str, Any]
    data: dict[str, Any]
    versions: dict[str, str]
    machine: str
    seconds: float
    command: str
    created: str
    alarms: list[str] = field(default_factory=list)
    benchmark: str = "digit-world"

    def score(self, task: str, kind: str) -> Score | None:
        """The score of a task in pools of a kind, or None."""
        return next((one for one in self.scores if (one.task, one.kind) == (task, kind)), None)

    def missing(self, family: str | None = None) -> list[str]:
        """`task/kind` of what a complete run has and this one lacks."""
        return [
            f"{task}/{kind}"
            for task, facts in self.complete.items()
            for kind in facts["kinds"]
            if family in (None, facts["family"]) and self.score(task, kind) is None
        ]

    def family_mean(self, family: str) -> FamilyMean:
        """Raises MissingTaskError where a task of the family was not run in each of its kinds of pools."""
        if missing := self.missing(family):
            raise MissingTaskError(f"no mean of {family}: {', '.join(missing)} not run")
        scores = [score for score in self.scores if score.family == family]
        if not scores:
            raise MissingTaskError(f"there is no family {family!r}")
        easy = [score for score in scores if score.kind != "hard"]
        hard = [score for score in scores if score.kind == "hard"]
        return FamilyMean(
            family,
            tuple(score.task for score in easy),
            float(np.mean([score.recall_at_1 for score in easy])),
            float(np.mean([score.baseline for score in easy])),
            not any(score.at_chance for score in scores),
            float(np.mean([score.recall_at_1 for score in hard])) if hard else None,
        )

    def family_means(self) -> list[FamilyMean]:
        """The families that were run completely, in DigitWorld's order."""
        families = dict.fromkeys(facts["family"] for facts in self.complete.values())
        return [self.family_mean(family) for family in families if not self.missing(family)]

    def mean(self) -> float:
        """Mean over families. Raises MissingTaskError where anything is missing."""
        if missing := self.missing():
            raise MissingTaskError(f"no mean over families: {', '.join(missing)} not run")
        return float(np.mean([family.recall_at_1 for family in self.family_means()]))

    def to_dict(self) -> dict[str, Any]:
        facts = {name: value for name, value in vars(self).items() if name != "scores"}
        return {"kind": KIND, "schema": SCHEMA, **facts, "scores": [score.to_dict() for score in self.scores]}

    @classmethod
    def from_dict(cls, block: Any) -> DigitWorldReport:
        """Raises ResultFormatError: another kind of file or schema, missing or contradicting entries."""
        if not isinstance(block, dict) or block.get("kind") != KIND:
            raise ResultFormatError("this is not a result file of umekit")
        if block.get("schema") != SCHEMA:
            raise ResultFormatError(f"result schema {block.get('schema')!r}; this umekit reads {SCHEMA}")
        facts = {name: value for name, value in block.items() if name not in ("kind", "schema", "scores")}
        for name in ("fingerprint", "settings", "data", "versions", "complete"):
            if not isinstance(facts.get(name), dict):
                raise ResultFormatError(f"{name!r} is missing or not an object")
        try:
            return cls(scores=[Score.from_dict(one) for one in block["scores"]], **facts)
        except (KeyError, TypeError, AttributeError, ZeroDivisionError) as error:
            raise ResultFormatError(
                f"the result file is incomplete or has unknown entries: {error}"
            ) from None


def save_report(report: DigitWorldReport, path: Path) -> None:
    """Write the result file in one step of the file system."""
    write_atomically(path, (json.dumps(report.to_dict(), indent=1, ensure_ascii=False) + "\n").encode())


def load_report(path: Path) -> DigitWorldReport:
    """Raises ResultFormatError: not JSON, or not a result file that can be trusted."""
    raw = read_object(path, ResultFormatError)
    try:
        return DigitWorldReport.from_dict(raw)
    except ResultFormatError as error:
        raise ResultFormatError(f"{path}: {error}") from None
