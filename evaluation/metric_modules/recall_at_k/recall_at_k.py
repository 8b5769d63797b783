"""recall@k, for ``evaluate.load``: a module that the library copies elsewhere, hence the absolute import."""

from typing import Any

import datasets
import evaluate

import umekit.evaluation.rows as rows

DESCRIPTION = "Mean share of the relevant candidates that are among the first k."


class RecallAtK(evaluate.Metric):  # type: ignore[misc]
    """recall@k."""

    def _info(self) -> Any:
        return evaluate.MetricInfo(
            description=DESCRIPTION,
            citation="",
            inputs_description=rows.INPUTS,
            features=datasets.Features(rows.RANKED),
        )

    def _compute(
        self, predictions: Any, references: Any, k: int = 5, ties: str = "pessimistic"
    ) -> dict[str, float]:
        return {"recall_at_k": rows.ranked("recall", k, predictions, references, ties)}
