"""Oracle, for ``evaluate.load``: a module that the library copies elsewhere, hence the absolute import."""

from typing import Any

import datasets
import evaluate

import umekit.evaluation.rows as rows

DESCRIPTION = "Share of queries that one of several modes gets right: predictions are each mode's answers."


class Oracle(evaluate.Metric):  # type: ignore[misc]
    """Oracle."""

    def _info(self) -> Any:
        return evaluate.MetricInfo(
            description=DESCRIPTION,
            citation="",
            inputs_description=rows.INPUTS,
            features=datasets.Features(rows.SAMPLES),
        )

    def _compute(self, predictions: Any, references: Any) -> dict[str, float]:
        return {"oracle": rows.any_right(predictions, references)}
