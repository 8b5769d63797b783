"""pass@k, for ``evaluate.load``: a module that the library copies elsewhere, hence the absolute import."""

from typing import Any

import datasets
import evaluate

import umekit.evaluation.rows as rows

DESCRIPTION = "Unbiased pass@k: predictions are the samples of a query, references the right answer."


class PassAtK(evaluate.Metric):  # type: ignore[misc]
    """pass@k."""

    def _info(self) -> Any:
        return evaluate.MetricInfo(
            description=DESCRIPTION,
            citation="",
            inputs_description=rows.INPUTS,
            features=datasets.Features(rows.SAMPLES),
        )

    def _compute(self, predictions: Any, references: Any, k: int = 1) -> dict[str, float]:
        return {"pass_at_k": rows.pass_at(k, predictions, references)}
