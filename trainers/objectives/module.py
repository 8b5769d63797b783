"""ContrastiveObjective: InfoNCE together with the temperature it learns, as a module to be trained."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .contrastive import ContrastiveRows, contrastive_rows, temperature_tensor
from .saving import SavedObjective
from .temperature import LearnableTemperature


class ContrastiveObjective(SavedObjective):
    """``info_nce`` with its options fixed and its temperature at home.

    The arguments are those of :func:`info_nce` and :class:`LearnableTemperature`. Its one parameter is
    ``temperature.log_temperature`` (float32 [tasks]).
    """

    def __init__(
        self,
        *,
        temperature: float = 0.02,
        learnable_temperature: bool = False,
        temperature_bounds: Sequence[float] = (0.005, 0.2),
        tasks: Sequence[str] | None = None,
        directions: Sequence[str] = ("q2p",),
        hardness_alpha: float = 0.0,
        detach_hardness: bool = True,
        false_negative_delta: float | None = None,
        negatives_shared: bool = False,
    ) -> None:
        super().__init__()
        low, high = temperature_bounds
        self.settings = {
            "temperature": temperature,
            "learnable_temperature": learnable_temperature,
            "temperature_bounds": [low, high],
            "tasks": None if tasks is None else list(tasks),
            "directions": list(directions),
            "hardness_alpha": hardness_alpha,
            "detach_hardness": detach_hardness,
            "false_negative_delta": false_negative_delta,
            "negatives_shared": negatives_shared,
        }
        self.temperature = LearnableTemperature(
            temperature, tasks=tasks, bounds=(low, high), learnable=learnable_temperature
        )
        self.directions = tuple(directions)
        self.hardness_alpha = hardness_alpha
        self.detach_hardness = detach_hardness
        self.false_negative_delta = false_negative_delta
        self.negatives_shared = negatives_shared

    def forward(
        self,
        query: Tensor,
        positive: Tensor,
        negatives: Tensor | None = None,
        tasks: Sequence[str] | Tensor | None = None,
        positive_ids: Tensor | None = None,
        negative_mask: Tensor | None = None,
        targets_offset: int = 0,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss (0-d, with gradient) and metrics (detached 0-d tensors).

        query [n, d], positive [m, d], negatives [n, k, d]; tasks: n names or int64 [n]; the rest as in
        ``info_nce``.
        Metrics are over the first direction: temperature, positive_similarity, negative_similarity (mean
        cosine of the negatives that count; 0 if there are none), false_negatives_dropped (a count),
        accuracy (share of rows whose positive beats every negative that counts; a tie is a miss).
        """
        index = tasks if isinstance(tasks, Tensor) or tasks is None else self.temperature.index(tasks)
        with torch.autocast(query.device.type, enabled=False):
            rows = contrastive_rows(
                query,
                positive,
                negatives,
                directions=self.directions,
                false_negative_delta=self.false_negative_delta,
                positive_ids=positive_ids,
                negative_mask=negative_mask,
                negatives_shared=self.negatives_shared,
                targets_offset=targets_offset,
            )
            tau = temperature_tensor(self.temperature(index), rows[0].similarity)
            losses = [row.loss(tau, self.hardness_alpha, self.detach_hardness) for row in rows]
            loss = torch.stack(losses).mean()
        return loss, {**self.temperature.values(), **row_metrics(rows[0])}


@torch.no_grad()
def row_metrics(rows: ContrastiveRows) -> dict[str, Tensor]:
    """What a batch of rows looks like, as 0-d tensors; names as in :meth:`ContrastiveObjective.forward`."""
    similarity = rows.similarity.detach()
    own = rows.positive_mask()
    counted = rows.keep & ~own
    positive = similarity.gather(1, rows.target[:, None]).squeeze(1)
    best = similarity.masked_fill(~counted, float("-inf")).amax(dim=1)
    metrics = {
        "positive_similarity": positive.mean(),
        "false_negatives_dropped": rows.dropped.sum().to(similarity.dtype),
        "accuracy": (positive > best).to(similarity.dtype).mean(),
    }
    total = counted.sum()
    metrics["negative_similarity"] = similarity.masked_fill(~counted, 0.0).sum() / total.clamp(min=1)
    return metrics
