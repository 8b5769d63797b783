"""hit@k, for ``evaluate.load``: a module that the library copies elsewhere, hence the absolute import."""

from typing import Any

import datasets
import evaluate

import umekit.evaluation.rows as rows

DESCRIPTION = "Share of queries with a relevant candidate among the first k."


class HitAtK(evaluate.Metric):  # type: ignore[misc]
    """hit@k."""

    def _info(self) -> Any:
        return evaluate.MetricInfo(
            description=DESCRIPTION,
            citation="",
            inputs_description=rows.INPUTS,
            features=datasets.Features(rows.RANKED),
        )

    def _compute(
        self, predictions: Any, references: Any, k: int = 1, ties: str = "pessimistic"
    ) -> dict[str, float]:
        return {"hit_at_k": rows.ranked("hit", k, predictions, references, ties)}
