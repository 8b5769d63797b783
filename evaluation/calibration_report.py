"""How far a reranker's scores of labelled pairs are probabilities, as a report: reliability curve, AUC, Brier score."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray
from tqdm.auto import tqdm

from ..encoding.calibration import calibration
from .report import Report
from .score import ResultFormatError, Score

BENCHMARK = "calibration"
METRIC = "hit@1"
ALL = "all pairs"
BINS = 10


class Rows(Protocol):
    """Rows by number."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Mapping[str, Any]: ...


@dataclass(frozen=True)
class Labelled:
    """A query's pairs: ``scores`` float32 [c] in 0..1, and which are right, ``relevant`` bool [c]."""

    task: str | None
    scores: NDArray[np.float32]
    relevant: NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class CalibrationScore(Score):
    """Of the pairs of a task; the value is the share of queries with a right pair as the best of their own.

    Attributes:
        pairs, right: how many, and how many of them are right.
        auc: how often a right pair's score is above that of another one, ties counted half.
        brier: mean of ``(score - truth)^2``.
        error: mean over pairs of how far their bin's share of right pairs is from its mean score (ECE).
        curve: of each bin that has pairs: mean score, share of right pairs, pairs.
    """

    pairs: int
    right: int
    auc: float
    brier: float
    error: float
    curve: list[list[float]]

    @classmethod
    def of(cls, task: str, rows: Sequence[Labelled], bins: int = BINS) -> CalibrationScore:
        """Raises ValueError where all pairs are of one kind, or a score is no probability."""
        scores, truth = (
            np.concatenate([getattr(row, name) for row in rows]) for name in ("scores", "relevant")
        )
        if truth.all() or not truth.any():
            raise ValueError(
                f"{task}: all {len(truth)} pairs are of one kind; right and wrong ones are needed"
            )
        found = calibration(scores, truth, bins)
        both = [row for row in rows if row.relevant.any() and not row.relevant.all()]
        if not both:
            raise ValueError(f"{task}: no query has right and wrong pairs")
        hits = [row.scores[row.relevant].max() > row.scores[~row.relevant].max() for row in both]
        return cls.of_queries(
            task,
            METRIC,
            hits,
            chance=float(np.mean([row.relevant.mean() for row in both])),
            pairs=len(truth),
            right=int(truth.sum()),
            auc=found.auc,
            brier=found.brier,
            error=found.error,
            curve=[list(one) for one in found.curve],
        )

    def entries(self) -> list[tuple[str, float]]:
        return [
            *super().entries(),
            ("AUC", self.auc),
            ("Brier", self.brier),
            ("calibration error", self.error),
        ]

    def extra_cells(self) -> dict[str, str]:
        numbers = {"AUC": self.auc, "Brier": self.brier, "calibration error": self.error}
        return {"pairs": f"{self.pairs:,}"} | {name: f"{value:.3f}" for name, value in numbers.items()}

    @classmethod
    def fields_of(cls, block: dict[str, Any]) -> dict[str, Any]:
        """Raises ResultFormatError where curve and counts contradict each other."""
        curve = block.get("curve") or []
        sound = all(len(one) == 3 and 0 <= one[0] <= 1 and 0 <= one[1] <= 1 for one in curve)
        if not sound or sum(one[2] for one in curve) != block.get("pairs"):
            raise ResultFormatError(f"{block.get('task')}: the curve's bins do not hold its pairs")
        return block


@dataclass(frozen=True)
class CalibrationReport(Report):
    """A reranker's scores against what is so."""

    score_class: ClassVar[type[Score]] = CalibrationScore
    baseline_words: ClassVar[str] = "any pair of a query"

    @property
    def title(self) -> str:
        return "Calibration"

    def extra_tables(self) -> list[str]:
        """The reliability curve of all pairs."""
        score = self.overall
        lines = ["| mean score of a bin | right pairs | pairs |", "| ---: | ---: | ---: |"]
        lines += [f"| {mean:.3f} | {share:.3f} | {int(count):,} |" for mean, share, count in score.curve]
        return ["\n".join(lines)]

    @property
    def overall(self) -> CalibrationScore:
        """Of all pairs."""
        score = self.scores[-1]
        assert isinstance(score, CalibrationScore)
        return score


def calibration_scores(rows: Iterable[Labelled], bins: int = BINS) -> list[CalibrationScore]:
    """Of each task, and last of all pairs.

    Raises:
        ValueError: no pairs, or all of one kind.
    """
    tasks: dict[str, list[Labelled]] = {}
    for row in rows:
        tasks.setdefault(row.task or ALL, []).append(row)
    if not tasks:
        raise ValueError("there are no pairs")
    every = [row for members in tasks.values() for row in members]
    own = [CalibrationScore.of(task, members, bins) for task, members in tasks.items() if task != ALL]
    return [*own, CalibrationScore.of(ALL, every, bins)]


def labelled_by(reranker: Any, rows: Rows, show_progress: bool | None = None) -> Iterator[Labelled]:
    """Rows with ``query``, ``positive``, perhaps ``positives``, and ``negatives``, scored by a reranker.

    Raises:
        ValueError: a row without negatives. And what the reranker raises for an item; the row is named.
    """
    visible = sys.stderr.isatty() if show_progress is None else show_progress
    for number in tqdm(range(len(rows)), unit="query", desc="rerank", disable=not visible):
        row = rows[number]
        right = [row["positive"], *(row.get("positives") or ())]
        wrong = list(row.get("negatives") or ())
        if not wrong:
            raise ValueError(f"row {number}: no 'negatives', so there is no wrong pair")
        try:
            scores = reranker.rerank(row["query"], [*right, *wrong], show_progress=False)
        except ValueError as error:
            raise ValueError(f"row {number}: {error}") from error
        yield Labelled(row.get("task"), scores, np.arange(len(scores)) < len(right))


def rows_revision(rows: Rows) -> str:
    """sha256 of what rows ask for; of media that are files, of their names."""
    digest = hashlib.sha256()
    for number in range(len(rows)):
        digest.update(json.dumps(rows[number], sort_keys=True, default=repr).encode())
    return digest.hexdigest()


def draw_reliability(report: CalibrationReport, path: Path) -> None:
    """Share of right pairs over the mean score, a line for each task, points as large as their bins, the diagonal.

    Raises:
        ImportError: without matplotlib.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(5.2, 4.6), layout="constrained")
    axes.plot([0, 1], [0, 1], color="grey", linestyle="--", linewidth=1)
    for score in report.scores:
        assert isinstance(score, CalibrationScore)
        means, shares, counts = zip(*score.curve, strict=True)
        label = f"{score.task}: AUC {score.auc:.3f}, Brier {score.brier:.3f}"
        [line] = axes.plot(means, shares, linewidth=1, label=label)
        sizes = [10 + 90 * count / score.pairs for count in counts]
        axes.scatter(means, shares, s=sizes, color=line.get_color())
    axes.set_xlabel("score")
    axes.set_ylabel("share of right pairs")
    axes.set_title(report.conditions.model)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=150, metadata={"Software": None})
    pyplot.close(figure)
