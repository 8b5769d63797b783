"""JointReasoningTrainer: to think, to embed at once, and which of the two, in one space.

    L = disc_weight * L(d, d) + gen_weight * L(g, g) + cross_weight * (L(d, g) + L(g, d))
        + query_ce_weight * CE_query + positive_ce_weight * CE_positive + action_weight * (A_query + A_positive)

L(a, b) is InfoNCE of queries at slot a and targets at slot b: d is the prompt's ``<disc_emb>``, g the ``<gen_emb>``
after the thought. The crossed ones are there because each side decides for itself, so that a query which is embedded at
once must find a target that was thought about. CE is that of the thoughts' tokens, A one side's mean of -log p(action),
where p(reason) = sigmoid(logit of ``<reason>`` - logit of ``<direct>``) after the prompt. A side that is labelled
direct has part in L(d, .) and A alone.

The shape is MMEmb-R1's (arXiv 2604.06156: InfoNCE with and without reasoning, and next-token prediction), of which
neither code nor weights are public: the crossed losses, the actions and all weights are a re-derivation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from .actions import ACTION_COLUMNS, ActionCollator, action_margins, prompt_ends
from .batches import ItemBatch
from .distributed import sum_over_ranks, world_size
from .gradient_cache import Chunks
from .model_with_objective import LOCAL_WEIGHT, Metrics
from .reasoning import DISC, GEN, SIDES, ReasoningTrainer, ReasoningTrainingArguments, View


@dataclass
class JointReasoningTrainingArguments(ReasoningTrainingArguments):
    """Arguments of :class:`JointReasoningTrainer`; the defaults are ours, every weight 1."""

    thoughtless_rows: bool = field(
        default=True, metadata={"help": "Rows without a thought on a side are of the action `direct` there."}
    )
    cross_weight: float = field(
        default=1.0,
        metadata={"help": "Of each contrastive loss between what is embedded at once and after a thought."},
    )
    action_weight: float = field(
        default=1.0, metadata={"help": "Of the cross-entropy of each side's actions."}
    )

    def __post_init__(self) -> None:
        for name in ("cross_weight", "action_weight"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        super().__post_init__()


class JointReasoningTrainer(ReasoningTrainer):
    """Teaches a model both ways of embedding, and which to take; rows as in :class:`ActionCollator`.

    A log has, beside its parent's, ``disc_gen_loss`` and ``gen_disc_loss`` (queries first), ``query_action_ce`` and
    ``positive_action_ce``, each without its weight.
    """

    args: JointReasoningTrainingArguments
    arguments_class = JointReasoningTrainingArguments
    collator_class = ActionCollator

    def views(self) -> list[View]:
        """All four pairs of slots."""
        crossed = [("disc_gen", DISC, GEN), ("gen_disc", GEN, DISC)]
        return [*super().views(), *(View(*view, self.args.cross_weight) for view in crossed)]

    # ---- actions ---------------------------------------------------------------------------------

    def chunks(self, model: nn.Module, batch: ItemBatch, indices: Sequence[Sequence[int]]) -> Chunks:
        """As the parent's; counts each side's rows first, which a cross-entropy of actions is the mean over."""
        device = self.args.device
        spans, count = batch.spans(), torch.tensor(float(len(batch)), device=device)
        total = count * world_size() if self.args.ce_per_rank else sum_over_ranks(count)
        self._reasons = torch.zeros(len(batch.items), device=device)
        self._action_shares = torch.zeros(len(batch.items), len(SIDES), device=device)
        for side, role in enumerate(SIDES):
            self._reasons[spans[role]] = batch.columns[ACTION_COLUMNS[role]].to(self._reasons)
            self._action_shares[spans[role], side] = 1.0 / total.clamp(min=1)
        self._action_entropies = torch.zeros(len(SIDES), device=device)
        return super().chunks(model, batch, indices)

    def batch_backward(self, model: nn.Module, batch: ItemBatch) -> tuple[Tensor, Metrics]:
        """Of all losses."""
        loss, metrics = super().batch_backward(model, batch)
        values = sum_over_ranks(self._action_entropies)
        return loss, {
            **metrics,
            **{f"{role}_action_ce": value for role, value in zip(SIDES, values, strict=True)},
        }

    def local_inputs(self, batch: ItemBatch, indices: Sequence[int], inputs: Any) -> dict[str, Any]:
        """The parent's, and of each item ``ends`` int64 and ``reasons`` [items], and ``action_shares`` [items, 2]: what
        its action counts for in each mean."""
        places = list(indices)
        items = [batch.items[index] for index in places]
        return {
            **super().local_inputs(batch, indices, inputs),
            "ends": prompt_ends(items, inputs["attention_mask"]),
            "reasons": self._reasons[places],
            "action_shares": self._action_shares[places],
        }

    def local_loss(self, model: Any, output: Any, inputs: Mapping[str, Any]) -> Tensor:
        """CE of the thoughts and A of the actions, by their weights."""
        margins = action_margins(model, output.last_hidden_state, inputs["local_ends"], self._action_ids)
        entropies = binary_cross_entropy_with_logits(margins, inputs["local_reasons"], reduction="none")
        sides = entropies @ inputs["local_action_shares"]
        self._action_entropies += sides.detach() * inputs.get(LOCAL_WEIGHT, 1.0)
        return super().local_loss(model, output, inputs) + self.args.action_weight * sides.sum()

    @cached_property
    def _action_ids(self) -> list[int]:
        """Of ``<direct>`` and ``<reason>``."""
        return ActionCollator(self.processing_class).action_ids()
