"""ContrastiveObjective: InfoNCE together with the temperature it learns, as a module to be trained."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .contrastive import temperature_tensor
from .cross_entropies import CrossEntropy, check_margin
from .matryoshka import check_matryoshka, contrastive_prefixes, prefixes_loss
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
        false_negative_margin: float | None = None,
        matryoshka_dims: Sequence[int] | None = None,
        matryoshka_weights: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        check_margin(false_negative_margin)
        check_matryoshka(matryoshka_dims, matryoshka_weights)
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
            "false_negative_margin": false_negative_margin,
            "matryoshka_dims": None if matryoshka_dims is None else list(matryoshka_dims),
            "matryoshka_weights": None if matryoshka_weights is None else list(matryoshka_weights),
        }
        self.temperature = LearnableTemperature(
            temperature, tasks=tasks, bounds=(low, high), learnable=learnable_temperature
        )
        self.directions = tuple(directions)
        self.hardness_alpha = hardness_alpha
        self.detach_hardness = detach_hardness
        self.false_negative_delta = false_negative_delta
        self.negatives_shared = negatives_shared
        self.false_negative_margin = false_negative_margin
        self.matryoshka_dims = matryoshka_dims
        self.matryoshka_weights = matryoshka_weights

    def clamp_(self) -> None:
        """The temperature into its bounds."""
        self.temperature.clamp_()

    def values(self) -> dict[str, Tensor]:
        """The temperatures."""
        return self.temperature.values()

    def forward(
        self,
        query: Tensor,
        positive: Tensor,
        negatives: Tensor | None = None,
        tasks: Sequence[str] | Tensor | None = None,
        positive_ids: Tensor | None = None,
        negative_mask: Tensor | None = None,
        targets_offset: int = 0,
        negative_ids: Tensor | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss (0-d, with gradient) and metrics (detached 0-d tensors).

        query [n, d], positive [m, d], negatives [n, k, d]; tasks: n names or int64 [n]; the rest as in
        ``info_nce``.
        Metrics are over the first direction and the whole vectors: temperature, positive_similarity,
        negative_similarity (mean cosine of the negatives that count; 0 if there are none),
        hardest_negative_similarity (mean over rows of the largest of them), false_negatives_dropped (a count),
        accuracy (share of rows whose positive beats every negative that counts; a tie is a miss) and, where
        hardness_alpha is not 0, mean_hardness_weight (mean of exp(alpha * cosine) over those negatives).
        """
        index = tasks if isinstance(tasks, Tensor) or tasks is None else self.temperature.index(tasks)
        with torch.autocast(query.device.type, enabled=False):
            whole, prefixes = contrastive_prefixes(
                query,
                positive,
                negatives,
                directions=self.directions,
                false_negative_delta=self.false_negative_delta,
                positive_ids=positive_ids,
                negative_mask=negative_mask,
                negatives_shared=self.negatives_shared,
                targets_offset=targets_offset,
                false_negative_margin=self.false_negative_margin,
                matryoshka_dims=self.matryoshka_dims,
                matryoshka_weights=self.matryoshka_weights,
                negative_ids=negative_ids,
            )
            tau = temperature_tensor(self.temperature(index), whole[0].similarity)
            loss = prefixes_loss(prefixes, tau, self.hardness_alpha, self.detach_hardness)
        metrics = {**self.temperature.values(), **row_metrics(whole[0])}
        if self.hardness_alpha:
            metrics["mean_hardness_weight"] = mean_hardness_weight(whole[0], self.hardness_alpha)
        return loss, metrics


def _counted_negatives(rows: CrossEntropy) -> Tensor:
    """bool [n, c]: the columns in the denominator beside the positive."""
    return rows.keep & ~rows.positive_mask()


@torch.no_grad()
def mean_hardness_weight(rows: CrossEntropy, alpha: float) -> Tensor:
    """Mean of ``exp(alpha * cos)`` over all negatives that count, 0-d; 1 if there are none."""
    similarity, counted = rows.similarity.detach(), _counted_negatives(rows)
    if not counted.any():
        return similarity.new_ones(())
    return (alpha * similarity[counted]).exp().mean()


@torch.no_grad()
def row_metrics(rows: CrossEntropy) -> dict[str, Tensor]:
    """What a batch of rows looks like, as 0-d tensors; names as in :meth:`ContrastiveObjective.forward`."""
    similarity, counted = rows.similarity.detach(), _counted_negatives(rows)
    positive = similarity.gather(1, rows.target[:, None]).squeeze(1)
    best = similarity.masked_fill(~counted, float("-inf")).amax(dim=1)
    opposed = counted.any(dim=1)
    return {
        "positive_similarity": positive.mean(),
        "negative_similarity": similarity.masked_fill(~counted, 0.0).sum() / counted.sum().clamp(min=1),
        "hardest_negative_similarity": best.masked_fill(~opposed, 0.0).sum() / opposed.sum().clamp(min=1),
        "false_negatives_dropped": rows.dropped.sum().to(similarity.dtype),
        "accuracy": (positive > best).to(similarity.dtype).mean(),
    }
