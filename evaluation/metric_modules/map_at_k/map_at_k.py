"""mAP@k, for ``evaluate.load``: a module that the library copies elsewhere, hence the absolute import."""

from typing import Any

import datasets
import evaluate

import umekit.evaluation.rows as rows

DESCRIPTION = "Mean average precision at k, over min(relevant, k) as in CIRCO."


class MapAtK(evaluate.Metric):  # type: ignore[misc]
    """mAP@k."""

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
        return {"map_at_k": rows.ranked("map", k, predictions, references, ties)}
