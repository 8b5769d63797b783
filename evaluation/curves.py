"""What thinking where it pays would cost and score at every threshold, from one encoding in each mode.

Decisions change and vectors do not, so a hit at once and a hit after a thought of each query are all that is needed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

POINTS = 41
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Outcomes:
    """Of ``n`` queries, each both at once and after a thought.

    Attributes:
        at_once, reasoned: hits, 0 or 1, float64 ``[n]``.
        tokens: of each thought ``[n]``.
    """

    at_once: Floats
    reasoned: Floats
    tokens: Floats

    def point(self, thinks: NDArray[np.bool_], kappa: float | None = None) -> dict[str, Any]:
        """What is scored and spent where these queries are thought about."""
        hits = np.where(thinks, self.reasoned, self.at_once)
        return {
            "kappa": kappa,
            "invocation_ratio": round(float(thinks.mean()), 6),
            "tokens_per_item": round(float((self.tokens * thinks).mean()), 4),
            "score": round(float(hits.mean()), 6),
        }

    def never(self) -> dict[str, Any]:
        return self.point(np.zeros(len(self.tokens), dtype=bool))

    def always(self) -> dict[str, Any]:
        return self.point(np.ones(len(self.tokens), dtype=bool))

    def ideal(self) -> dict[str, Any]:
        """Who knows beforehand thinks only where a thought turns a miss into a hit: the oracle, and its share."""
        return self.point(self.reasoned > self.at_once)

    def sweep(self, scores: Floats) -> list[dict[str, Any]]:
        """Points of a strategy with these scores ``[n]``, from never to always, at thresholds between its scores."""
        steps = np.unique(np.quantile(scores, np.linspace(0, 1, POINTS), method="inverted_cdf"))
        kappas = [*steps[::-1].tolist(), float(np.nextafter(steps[0], -np.inf))]
        return [self.point(scores > kappa, kappa) for kappa in kappas]

    def helps(self) -> NDArray[np.bool_]:
        """Where a thought turned a miss into a hit."""
        return np.asarray(self.reasoned > self.at_once)
