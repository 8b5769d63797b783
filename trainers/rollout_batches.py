"""Rollouts as a batch: each prompt with its completion is an item, and what the policy's loss must know of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..modeling.pooling import GENERATED_SLOT
from .batches import ItemBatch
from .objectives.policy import policy_loss
from .rollouts import RolloutEnds
from .tokens import IGNORED, completion_labels


@dataclass
class RolloutBatch(ItemBatch):
    """Prompts with completions as items: role by role, in a role row by row, in a row sample by sample.

    Attributes:
        groups: samples of a row.
        advantages: float32 ``[items]``, of a completion's tokens.
        thinks: of each rollout, whether its action was to think; None where there are no actions.
        action_advantages: float32 ``[items]``, of the actions.
        totals: by role, rollouts and what they were asked for, tokens and actions, of all ranks.
        old, reference: of each item, log-probabilities of its completion's tokens, and of its action behind them, as
            they were sampled, and by the reference; None where they are not used, and where the first update's own
            count.
    """

    groups: int = 1
    advantages: Tensor = field(default_factory=lambda: torch.zeros(0))
    thinks: list[bool] | None = None
    action_advantages: Tensor | None = None
    totals: dict[str, tuple[float, float]] = field(default_factory=dict)
    old: list[Tensor] | None = None
    reference: list[Tensor] | None = None

    @property
    def roles(self) -> list[str]:
        """Of which there are rollouts."""
        return list(self.counts)

    def local_inputs(self, indices: Sequence[int], inputs: Mapping[str, Any]) -> dict[str, Any]:
        """What a policy's loss needs of some items, collated.

        ``labels`` int64, ``old`` and ``reference`` float32 [items, L], each at the position that predicts a token;
        ``roles`` int64 and ``advantages`` float32 [items]. With actions there is a column more, [items, L + 1], whose
        label is 1 for an item that thinks and 0 for one that does not, ``advantages`` are of that shape, too, and
        ``action_places`` int64 [items] is where a prompt ends and its action is predicted.
        """
        items = [self.items[index] for index in indices]
        labels = completion_labels(items, inputs["input_ids"], inputs["attention_mask"])
        spans = self.spans()
        roles = [
            next((n for n, role in enumerate(self.roles) if spans[role].start <= i < spans[role].stop), -1)
            for i in indices
        ]
        if self.thinks is not None:
            thinks = [int(self.thinks[index]) if index < len(self.thinks) else IGNORED for index in indices]
            labels = torch.cat([labels, labels.new_tensor(thinks)[:, None]], dim=1)
        found: dict[str, Any] = {"labels": labels, "roles": torch.tensor(roles)}
        if self.thinks is not None:
            found["action_places"] = prompt_ends(items, inputs["attention_mask"])
        if len(self.advantages) == len(self.items):
            found["advantages"] = self.advantages[list(indices)]
            if self.action_advantages is not None:
                tokens = found["advantages"][:, None].expand(-1, labels.shape[1] - 1)
                found["advantages"] = torch.cat(
                    [tokens, self.action_advantages[list(indices)][:, None]], dim=1
                )
        for name, values in (("old", self.old), ("reference", self.reference)):
            if values is not None:
                placed = torch.zeros(labels.shape, dtype=torch.float32, device=labels.device)
                placed[labels != IGNORED] = torch.cat([values[index] for index in indices]).to(labels.device)
                found[name] = placed
        return found


def rollout_batch(
    batch: ItemBatch, written: Mapping[str, Sequence[Sequence[Sequence[int]]]], ends: RolloutEnds
) -> RolloutBatch:
    """Items of all rollouts. written: by role, tokens of each row's samples, cut where a rollout ends."""
    spans = batch.spans()
    items = [
        with_completion(prompt, tokens, ends)
        for role, rows in written.items()
        for prompt, samples in zip(batch.items[spans[role]], rows, strict=True)
        for tokens in samples
    ]
    thinks = None
    if ends.direct is not None:
        thinks = [not ends.at_once(one) for rows in written.values() for samples in rows for one in samples]
    groups = next((len(samples) for rows in written.values() for samples in rows), 1)
    counts: dict[str, list[int] | None] = {role: [groups] * len(rows) for role, rows in written.items()}
    # A rank without rows runs its forwards all the same.
    return RolloutBatch(
        items or batch.items[:1],
        counts,
        batch.columns,
        batch.tasks,
        batch.names,
        groups=groups,
        thinks=thinks,
    )


def with_completion(prompt: Any, tokens: Sequence[int], ends: RolloutEnds) -> Any:
    """A prompt and what was written after it, its slot where the vector is, if it has one; an action is not written."""
    prompt = replace(prompt, limit=0)  # that of prompts; a completion has its own
    if ends.at_once(tokens):
        return prompt
    place = ends.place(tokens)
    if place is None:
        if ends.official:
            slots = prompt.slots.copy()
            slots[np.flatnonzero(prompt.input_ids == ends.gen_emb)[-1]] = GENERATED_SLOT
            prompt = replace(prompt, slots=slots)
        return prompt.continued(tokens)
    item = prompt.continued(tokens[: place + 1], GENERATED_SLOT)
    return item.continued(tokens[place + 1 :]) if place + 1 < len(tokens) else item


def prompt_ends(items: Sequence[Any], attention_mask: Tensor) -> Tensor:
    """int64 ``[items]``: where the last token of each prompt is, of ``[B, L]``, padded on either side."""
    lasts = [
        mask.nonzero()[-1 - item.completion, 0] for item, mask in zip(items, attention_mask, strict=False)
    ]
    return torch.stack(lasts)


METRICS = ("clip_fraction", "ratio", "kl", "entropy")


def policy_losses(
    likely: Tensor,
    inputs: Mapping[str, Any],
    totals: Sequence[tuple[float, float]],
    *,
    norm: str,
    max_length: int,
    beta: float,
    clip_low: float,
    clip_high: float,
) -> tuple[Tensor, Tensor]:
    """A chunk's part of the mean of all roles' policy losses, 0-d, and sums over its tokens of ``METRICS`` [roles, 4].

    The parts of all chunks of all ranks add up to the loss of the whole. Entropy is what the sampled tokens say of it:
    the mean of their -log-probability.

    Args:
        likely: log-probabilities ``[items, L]`` of ``local_labels``, with gradient.
        inputs: of :meth:`RolloutBatch.local_inputs`.
        totals: by role, rollouts and tokens of the whole batch.
        norm, max_length, beta, clip_low, clip_high: as in :func:`policy_loss`.
    """
    mask = inputs["local_labels"] != IGNORED
    old, reference = inputs.get("local_old"), inputs.get("local_reference")
    loss = likely.sum() * 0.0
    sums = likely.new_zeros(len(totals), len(METRICS))
    for number, (rollouts, tokens) in enumerate(totals):
        rows = (inputs["local_roles"] == number).nonzero().flatten()
        count = mask[rows].sum()
        if len(rows) == 0:
            continue
        part, metrics = policy_loss(
            likely[rows],
            likely[rows].detach() if old is None else old[rows],
            None if reference is None else reference[rows],
            inputs["local_advantages"][rows],
            mask[rows],
            beta=beta,
            clip_low=clip_low,
            clip_high=clip_high,
            norm=norm,
            max_length=max_length,
        )
        share = count / max(tokens, 1) if norm == "token" else len(rows) / max(rollouts, 1)
        loss = loss + part * share / len(totals)
        metrics["entropy"] = -likely[rows].detach().sum() / count.clamp(min=1)
        sums[number] = torch.stack([metrics.get(name, loss.new_zeros(())) for name in METRICS]) * count
    return loss, sums
