"""MRR, for ``evaluate.load``: a module that the library copies elsewhere, hence the absolute import."""

from typing import Any

import datasets
import evaluate

import umekit.evaluation.rows as rows

DESCRIPTION = "Mean reciprocal rank of the first relevant candidate, 0 beyond rank k."


class Mrr(evaluate.Metric):  # type: ignore[misc]
    """MRR."""

    def _info(self) -> Any:
        return evaluate.MetricInfo(
            description=DESCRIPTION,
            citation="",
            inputs_description=rows.INPUTS,
            features=datasets.Features(rows.RANKED),
        )

    def _compute(
        self, predictions: Any, references: Any, k: int = 1_000_000, ties: str = "pessimistic"
    ) -> dict[str, float]:
        return {"mrr": rows.ranked("mrr", k, predictions, references, ties)}
