"""RLVRTrainer: thoughts are drawn, rewarded by what their vectors find, and made more or less likely (GRPO).

An RL step, as on paper: rollouts, rewards, advantages, replay. Queries and positives think in groups of G; a rollout
is rewarded for its form and for finding the rollouts of its other side (UME-R1); its advantage is its reward less the
mean of its group. The loss of a side is the mean of its rollouts' clipped policy losses, that of a step the mean
of both.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate.data_loader import SeedableRandomSampler
from torch import Tensor, nn
from torch.utils.data import RandomSampler, Sampler

from .batches import ItemBatch, gather_batch
from .completion_log import write_completions
from .distributed import gather_rows, sum_over_ranks
from .model_with_objective import LOCAL_WEIGHT, Metrics, read_slots
from .objectives.cross_entropies import number_targets
from .objectives.rewards import group_advantages
from .reference_policy import ReferencePolicy, SameReference
from .repeated_batches import RepeatedBatches
from .rlvr_arguments import RLVRTrainingArguments
from .rollout_batches import METRICS, RolloutBatch, policy_losses, rollout_batch
from .rollout_rewards import (
    Reward,
    RewardedGroups,
    RolloutGroups,
    embedding_reward,
    text_reward,
    total_reward,
)
from .rollout_trainer import SIDES, RolloutTrainer
from .rollouts import Completion


@dataclass
class Drawn:
    """The rollouts of a batch, rewarded: items of the replay, the targets' vectors [n, h, d], and what is logged."""

    batch: RolloutBatch
    targets: Tensor
    metrics: Metrics


class RLVRTrainer(RolloutTrainer):
    """Trains a model that thinks by rewards that can be checked; rows as in :class:`RolloutCollator`.

    model: a :class:`UmeForGenerativeEmbedding`. With ``thought_end="official"`` (``compat="official"``) a rollout is
    read as UME-R1's code reads it, see :class:`RolloutEnds`.

    rewards: by name, a reward and its weight, in place of those for form (``format``) and for rank and gap (``embed``).
    rollout_engine: writes the completions; None: the model itself. reference_model: what the KL term is taken to, in
    place of the model without its adapter or a frozen copy of how it began. An evaluation has the model think greedily.
    """

    def __init__(
        self,
        model: nn.Module,
        args: RLVRTrainingArguments,
        *,
        rewards: Mapping[str, tuple[Reward, float]] | None = None,
        reference_model: Any = None,
        **kwargs: Any,
    ) -> None:
        self.reference = ReferencePolicy(model, reference_model) if args.beta else None
        super().__init__(model, args, **kwargs)
        if self.reference is not None:
            self.add_callback(SameReference(self.reference.begun))
        self.rewards: dict[str, tuple[Reward, float]] = dict(rewards or {}) or {
            "format": (self.format_reward, args.format_weight),
            "embed": (embedding_reward, args.embed_weight),
        }
        self._drawn: list[Drawn] = []  # of the accumulated batches of a step
        self._step, self._number = -1, 0  # of the step, and of a batch in it

    def format_reward(self, groups: RolloutGroups) -> Tensor:
        """UME-R1's, of the decoded text; one that only spells ``<gen_emb>`` out gets none, but for ``official``."""
        found = text_reward(groups)
        return found if self.ends.official else found * groups.own(groups.valid)

    # ---- the step --------------------------------------------------------------------------------

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """As in the parent."""
        self._drawn, self._step = [], -1
        return super().train(*args, **kwargs)

    def batch_backward(self, model: nn.Module, batch: ItemBatch) -> tuple[Tensor, Metrics]:
        """Rollouts, rewards, advantages, replay; on later updates the rollouts and advantages of the first."""
        if self.state.global_step != self._step:
            self._step, self._number = self.state.global_step, 0
            if self._step % self.args.num_iterations == 0:
                self._drawn = []
        if len(self._drawn) == self._number:
            self._drawn.append(self.draw(model, batch))
        drawn = self._drawn[self._number]
        self._number += 1
        return self.replay(model, drawn)

    def replay(self, model: nn.Module, drawn: Drawn) -> tuple[Tensor, Metrics]:
        """Forward and backward of rollouts."""
        totals = drawn.batch.totals
        self._totals = list(totals.values())
        self._token_sums = torch.zeros(len(totals), len(METRICS), device=self.args.device)
        anchor = functools.partial(self.anchor, drawn=drawn) if self.args.anchor_weight else None
        loss, metrics = self.backpropagate(model, drawn.batch, anchor)
        sums = sum_over_ranks(self._token_sums)
        for number, (role, (_, tokens)) in enumerate(totals.items()):
            means = sums[number] / max(tokens, 1.0)
            metrics |= {f"{role}_{name}": mean for name, mean in zip(METRICS, means, strict=True)}
        return loss, {**drawn.metrics, **metrics}

    @torch.no_grad()
    def draw(self, model: nn.Module, batch: ItemBatch) -> Drawn:
        """Rollouts of a batch, rewarded."""
        counts = gather_rows(torch.tensor([len(batch)], device=self.args.device)).tolist()
        first = sum(counts[: self.args.process_index])
        place = (self.args.seed, self.state.global_step, self._number)

        if self._number == 0:
            self.engine.update(self.native_model)
        written = self.written(batch, place, first)
        tokens = {
            role: [[self.ends.cut(one.tokens) for one in row] for row in rows]
            for role, rows in written.items()
        }
        rollouts = rollout_batch(batch, {role: tokens[role] for role in self.trained_sides}, self.ends)
        vectors = self.vectors(model, rollouts, written)
        valid = {role: self._valid(rows) for role, rows in tokens.items()}
        if self.args.targets == "greedy":
            valid["positive"] = torch.ones_like(valid["positive"])  # encoding takes one that is forced, too
        if self.args.targets == "frozen":
            vectors["positive"] = batch.columns["positive_vectors"].to(self.args.device)
            valid["positive"] = vectors["positive"].ne(0).any(dim=-1)
        vectors = {role: one.masked_fill(~valid[role][..., None], 0.0) for role, one in vectors.items()}

        everyone = {role: (gather_rows(vectors[role]), gather_rows(valid[role])) for role in SIDES}
        ids = number_targets(gather_rows(batch.columns["positive_keys"].to(self.args.device)))
        sides: dict[str, RewardedGroups] = {}
        for role, other in zip(self.trained_sides, SIDES[::-1], strict=False):
            groups = RolloutGroups(
                role,
                [[self._decoded(one) for one in row] for row in tokens[role]],
                tokens[role],
                batch.notes,
                *everyone[role],
                *everyone[other],
                ids=ids,
                first=first,
                seed=(*place, SIDES.index(role)),
            )
            sides[role] = self.rewarded(groups, batch.names)
        if len(batch):
            self._give_advantages(rollouts, list(sides.values()))
        self._count(rollouts)
        if self.reference is not None:
            with self.reference.of(model, self.native_model) as reference:
                _, rollouts.reference = self.passed(reference, rollouts)
        self._write(sides)
        metrics: Metrics = {}
        for role, one in sides.items():
            metrics |= {f"{role}_{name}": value for name, value in self.measured(one, written[role]).items()}
        return Drawn(rollouts, vectors["positive"], metrics)

    def rewarded(self, groups: RolloutGroups, names: Sequence[str]) -> RewardedGroups:
        """Rewards and advantages of one side. names: of the rows."""
        reward, parts = total_reward(groups, self.rewards, names)
        advantages = group_advantages(
            reward, scale=self.args.scale_advantages, min_deviation=self.args.min_deviation
        )
        return RewardedGroups(groups, parts, reward, advantages)

    def measured(self, side: RewardedGroups, written: Sequence[Sequence[Completion]]) -> Metrics:
        """What is logged of one side. written: its completions, of this rank."""
        return side.metrics()

    def _give_advantages(self, rollouts: RolloutBatch, sides: Sequence[RewardedGroups]) -> None:
        rollouts.advantages = torch.cat([side.advantages.flatten() for side in sides])
        actions = [side.action_advantages.flatten() for side in sides if side.action_advantages is not None]
        rollouts.action_advantages = torch.cat(actions) if actions else None

    def _count(self, rollouts: RolloutBatch) -> None:
        """How many rollouts, and tokens of theirs, all ranks have."""
        spans = rollouts.spans()
        own = [
            [len(rollouts.items[spans[role]]), sum(one.completion for one in rollouts.items[spans[role]])]
            for role in rollouts.roles
        ]
        if rollouts.thinks is not None:
            own = [[count, tokens + count] for count, tokens in own]
        totals = sum_over_ranks(torch.tensor(own, device=self.args.device)).tolist()
        rollouts.totals = {role: (n, t) for role, (n, t) in zip(rollouts.roles, totals, strict=True)}

    def _write(self, sides: Mapping[str, RewardedGroups]) -> None:
        every, step = self.args.log_completions_steps, self.state.global_step
        due = every and -step % every < self.args.num_iterations  # of the steps that these rollouts are for
        if due and self._number == 0 and self.is_world_process_zero():
            write_completions(Path(str(self.args.output_dir)), step, sides, self.args.logged_rows)

    # ---- losses ----------------------------------------------------------------------------------

    def read(self, output: Any) -> Tensor:
        """Both slots, [B, 2, d], for the anchor."""
        return read_slots(output)

    def local_loss(self, model: Any, output: Any, inputs: Mapping[str, Any]) -> Tensor:
        """The policy losses of both sides; the first update's own log-probabilities count as the old ones."""
        likely = self._likely(model, output, inputs)
        args = self.args
        loss, sums = policy_losses(
            likely,
            inputs,
            self._totals,
            norm=args.loss_norm,
            max_length=args.max_completion_length,
            beta=args.beta,
            clip_low=args.clip_low,
            clip_high=args.clip_high,
        )
        self._token_sums += sums.detach() * inputs.get(LOCAL_WEIGHT, 1.0)
        return loss

    def anchor(self, values: Tensor, *, drawn: Drawn) -> tuple[Tensor, Metrics]:
        """InfoNCE of rollouts with those of their targets (or given targets), and of both sides' direct vectors."""
        rollouts, groups = drawn.batch, drawn.batch.groups
        spans, rows = rollouts.spans(), len(rollouts)
        query = values[spans["query"]].unflatten(0, (rows, groups))
        if "positive" in spans:
            positive = values[spans["positive"]].unflatten(0, (rows, groups))
        else:
            count = drawn.targets.shape[1]
            given = drawn.targets[:, [sample % count for sample in range(groups)]].to(values.dtype)
            positive = torch.stack([torch.zeros_like(given), given], dim=2)
        loss: Tensor | float = 0.0
        metrics: Metrics = {}
        for name, slot, samples in (("direct", 0, 1), ("generated", 1, groups)):
            queries, positives = query[:, :samples].flatten(0, 1), positive[:, :samples].flatten(0, 1)
            many = self._pairs(queries, positives, rollouts, samples)
            part, _ = self.contrast(gather_batch(many).slot(slot))
            metrics[f"anchor_{name}"] = part.detach()
            loss = loss + self.args.anchor_weight * part
        return loss, metrics  # type: ignore[return-value]

    def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
        """There is no loss without rollouts."""
        raise NotImplementedError(
            "RLVRTrainer has no loss of a batch by itself: see training_step and evaluate"
        )

    # ---- rows ------------------------------------------------------------------------------------

    def _get_train_sampler(self, *args: Any, **kwargs: Any) -> Sampler[int] | None:
        sampler: Any = super()._get_train_sampler(*args, **kwargs)
        if self.args.num_iterations == 1:
            return sampler  # type: ignore[no-any-return]
        if sampler is None:
            raise ValueError("num_iterations > 1 repeats batches, which needs a dataset with a length")
        if isinstance(sampler, RandomSampler):  # every rank must draw the same
            seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
            sampler = SeedableRandomSampler(sampler.data_source, data_seed=seed)
        size = self.args.per_device_train_batch_size * self.args.world_size
        return RepeatedBatches(
            sampler, size * self.args.gradient_accumulation_steps, self.args.num_iterations
        )
