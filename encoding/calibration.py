"""How far a reranker's scores are probabilities, and how well they tell right from wrong."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike


@dataclass(frozen=True)
class Calibration:
    """Of scores in 0..1 against what is so.

    Attributes:
        auc: how often a relevant pair's score is above that of another one, ties counted half; NaN without both.
        brier: mean of ``(score - truth)^2``.
        error: mean over pairs of how far their bin's share of relevant pairs is from its mean score.
        curve: of each bin that has pairs: mean score, share of relevant pairs, pairs.
    """

    auc: float
    brier: float
    error: float
    curve: list[tuple[float, float, int]]


def calibration(scores: ArrayLike, relevant: ArrayLike, bins: int = 10) -> Calibration:
    """The report on scores ``[n]`` and what is relevant, bool ``[n]``; ``bins`` of equal width.

    Raises:
        ValueError: no scores, other shapes, or scores that are not in 0..1.

    >>> calibration([0.9, 0.2], [True, False]).auc
    1.0
    """
    values, truth = np.asarray(scores, dtype=np.float64), np.asarray(relevant, dtype=bool)
    if values.ndim != 1 or values.shape != truth.shape or not len(values) or bins < 1:
        raise ValueError(f"two [n] expected, got {values.shape} and {truth.shape}")
    if not ((values >= 0) & (values <= 1)).all():
        raise ValueError("scores are probabilities: numbers in 0..1")
    places = np.minimum((values * bins).astype(int), bins - 1)
    curve = [
        (float(values[own].mean()), float(truth[own].mean()), int(own.sum()))
        for one in range(bins)
        if (own := places == one).any()
    ]
    error = sum(abs(mean - share) * count for mean, share, count in curve) / len(values)
    return Calibration(auc(values, truth), float(((values - truth) ** 2).mean()), error, curve)


def auc(scores: np.ndarray, relevant: np.ndarray) -> float:
    """Area under the ROC curve, by ranks; NaN where all pairs are of one kind."""
    yes = int(relevant.sum())
    no = len(relevant) - yes
    if not yes or not no:
        return float("nan")
    _, places, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[places]
    return float((ranks[relevant].sum() - yes * (yes + 1) / 2) / (yes * no))
