"""What a model scores in one task, and how sure one may be of it.

Notable: rates in a file are checked against each other when it is read.
"""

from __future__ import annotations

import base64
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .metrics import wilson_lower_bound

CONFIDENCE = 0.99


class ResultFormatError(ValueError):
    """Not a result file, one of another schema, without provenance, or whose numbers contradict each other."""


@dataclass(frozen=True)
class Score:
    """One task under one metric, in candidate pools of one kind.

    Attributes:
        metric: as the benchmark calls it: ``hit@1``, ``ndcg@5``, ``R@10``.
        value: mean over the queries, in 0..1, ties counted against the model.
        n: queries.
        family, kind: the task's group, and the kind of its pools (``local``, ``hard``), "" where there is one.
        candidates: of a pool.
        chance: what guessing scores under this metric; None where nobody knows, which is an alarm.
        per_query: the queries' own values as :func:`pack` writes them, for paired comparisons of two files.
        revision: of the task's data, where each task has its own.
    """

    task: str
    metric: str
    value: float
    n: int
    family: str = ""
    kind: str = ""
    candidates: int | None = None
    chance: float | None = None
    per_query: str = ""
    revision: str = ""

    lowest: ClassVar[float] = 0.0

    def __post_init__(self) -> None:
        if not self.lowest <= self.value <= 1 or not isinstance(self.n, int) or self.n < 1:
            raise ValueError(
                f"{self.label}: {self.value} of {self.n} queries is no mean in {self.lowest:.0f}..1"
            )

    @classmethod
    def of_queries(cls, task: str, metric: str, values: ArrayLike, **facts: Any) -> Self:
        """The mean of the queries' values [n]."""
        found = np.asarray(values, dtype=np.float64)
        return cls(task, metric, float(found.mean()), len(found), per_query=pack(found), **facts)

    @property
    def label(self) -> str:
        return f"{self.task} ({self.kind})" if self.kind else self.task

    @property
    def lower_bound(self) -> float:
        """One-sided 99 % bound (Wilson). No mean of values in 0..1 varies more than a share, so it holds for all."""
        return wilson_lower_bound(self.value * self.n, self.n, CONFIDENCE)

    @property
    def baseline(self) -> float | None:
        """What can be had without reading the items."""
        return self.chance

    @property
    def ratio(self) -> float | None:
        return self.value / self.baseline if self.baseline else None

    @property
    def at_chance(self) -> bool:
        """Whether the bound does not even clear the baseline."""
        return self.baseline is not None and self.lower_bound <= self.baseline

    def query_values(self) -> NDArray[np.float64]:
        """float64 [n], in the order of the queries."""
        return unpack(self.per_query, self.n)

    def entries(self) -> list[tuple[str, float]]:
        """Names and values of what a model card's metadata lists."""
        return [(self.metric, self.value)]

    def extra_cells(self) -> dict[str, str]:
        """Columns of a table that only this benchmark has."""
        return {}

    def to_dict(self) -> dict[str, Any]:
        """The fields, and the rates that follow from them for those who read the file."""
        return asdict(self) | self.rates()

    def rates(self) -> dict[str, float]:
        found = {"lower_bound_99": self.lower_bound, "baseline": self.baseline, "ratio": self.ratio}
        return {name: round(value, 6) for name, value in found.items() if value is not None}

    @classmethod
    def from_dict(cls, block: dict[str, Any]) -> Self:
        """Raises ResultFormatError where the entries contradict each other."""
        names = ("recall_at_1", "lower_bound_99", "baseline", "ratio")
        score = cls(**cls.fields_of({name: value for name, value in block.items() if name not in names}))
        wrong = [
            name
            for name, value in score.rates().items()
            if block.get(name) is None or abs(block[name] - value) > 1e-5
        ]
        if score.per_query:
            values = score.query_values()
            rounding = 1e-9 if np.isin(values, (0, 1)).all() else 1e-3
            if abs(float(values.mean()) - score.value) > rounding:
                wrong.append("the queries' values")
        if wrong:
            raise ResultFormatError(f"{score.label}: {', '.join(wrong)} contradict the counts")
        return score

    @classmethod
    def fields_of(cls, block: dict[str, Any]) -> dict[str, Any]:
        """Entries of the file as arguments."""
        return block


def pack(values: ArrayLike) -> str:
    """[n] -> base64 of bits where all are 0 or 1, else of float16."""
    found = np.asarray(values, dtype=np.float64)
    bits = bool(np.isin(found, (0, 1)).all())
    return base64.b64encode(
        (np.packbits(found.astype(bool)) if bits else found.astype("<f2")).tobytes()
    ).decode()


def unpack(packed: str, n: int) -> NDArray[np.float64]:
    """What :func:`pack` was given, to three digits."""
    raw = base64.b64decode(packed)
    if len(raw) == 2 * n:
        return np.frombuffer(raw, dtype="<f2").astype(np.float64)
    if len(raw) != (n + 7) // 8:
        raise ValueError(f"{len(raw)} bytes are not the values of {n} queries")
    return np.unpackbits(np.frombuffer(raw, dtype=np.uint8), count=n).astype(np.float64)
