"""RLVRTrainer: thoughts are drawn, rewarded by what their vectors find, and made more or less likely (GRPO).

An RL step, as on paper: rollouts, rewards, advantages, replay. Queries and positives think in groups of G; a rollout
is rewarded for its form and for finding the rollouts of its other side (UME-R1); its advantage is its reward less the
mean of its group. The loss of a side is the mean of its rollouts' clipped policy losses, that of a step the mean
of both.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate.data_loader import SeedableRandomSampler
from torch import Tensor, nn
from torch.utils.data import RandomSampler, Sampler

from ..modeling.evaluating import evaluating
from .batches import ContrastiveBatch, ItemBatch, gather_batch, without_padding
from .completion_log import write_completions
from .contrastive import ContrastiveTrainer
from .distributed import gather_rows, max_over_ranks, sum_over_ranks
from .model_with_objective import LOCAL_WEIGHT, Metrics, read_slots
from .objectives.cross_entropies import number_targets
from .objectives.rewards import group_advantages
from .reference_policy import ReferencePolicy
from .repeated_batches import RepeatedBatches
from .rlvr_arguments import RLVRTrainingArguments, RolloutCollator
from .rollout_batches import METRICS, RolloutBatch, policy_losses, rollout_batch
from .rollout_rewards import (
    Reward,
    RewardedGroups,
    RolloutGroups,
    embedding_reward,
    text_reward,
    total_reward,
)
from .rollouts import Completion, ModelRollouts, Prompt, RolloutEnds, RolloutEngine, Sampling
from .tokens import IGNORED, log_probabilities
from .validation import validate

SIDES = ("query", "positive")


@dataclass
class Drawn:
    """The rollouts of a batch, rewarded: items of the replay, the targets' vectors [n, h, d], and what is logged."""

    batch: RolloutBatch
    targets: Tensor
    metrics: Metrics


class RLVRTrainer(ContrastiveTrainer):
    """Trains a model that thinks by rewards that can be checked; rows as in :class:`RolloutCollator`.

    model: a :class:`UmeForGenerativeEmbedding`. With ``thought_end="official"`` (``compat="official"``) a rollout is
    read as UME-R1's code reads it, see :class:`RolloutEnds`.

    rewards: by name, a reward and its weight, in place of those for form (``format``) and for rank and gap (``embed``).
    rollout_engine: writes the completions; None: the model itself. reference_model: what the KL term is taken to, in
    place of the model without its adapter or a frozen copy of how it began. An evaluation has the model think greedily.
    """

    args: RLVRTrainingArguments
    arguments_class = RLVRTrainingArguments
    collator_class = RolloutCollator

    def __init__(
        self,
        model: nn.Module,
        args: RLVRTrainingArguments,
        *,
        rewards: Mapping[str, tuple[Reward, float]] | None = None,
        rollout_engine: RolloutEngine | None = None,
        reference_model: Any = None,
        **kwargs: Any,
    ) -> None:
        if "generative" not in getattr(model, "modes", ()):
            raise TypeError(f"{type(model).__name__} does not think: load it with kind 'generative'")
        self.reference = ReferencePolicy(model, reference_model) if args.beta else None
        super().__init__(model, args, **kwargs)
        tokens, settings = self.native_model.thought_tokens, self.native_model.settings
        self.ends = RolloutEnds(tokens.gen_emb, tokens.ends, settings.thought_end == "official")
        if self.ends.official and args.media_per_chunk:
            raise ValueError("thought_end 'official' marks prompts, which media_per_chunk prepares again")
        if rollout_engine is None and (self.is_fsdp_enabled or self._shards_parameters):
            raise ValueError(
                "the model cannot write thoughts with its parameters in shards: train with DDP or ZeRO-1/2, or give a "
                "rollout_engine"
            )
        self.own_engine = ModelRollouts(
            self.native_model, self.processing_class, args.rollout_tokens, self.compute_loss_context_manager
        )
        self.engine: RolloutEngine = rollout_engine or self.own_engine
        self.rewards: dict[str, tuple[Reward, float]] = dict(rewards or {}) or {
            "format": (self.format_reward, args.format_weight),
            "embed": (embedding_reward, args.embed_weight),
        }
        self._drawn: list[Drawn] = []  # of the accumulated batches of a step
        self._step, self._number = -1, 0  # of the step, and of a batch in it

    @property
    def _shards_parameters(self) -> bool:
        plugin = getattr(self.accelerator.state, "deepspeed_plugin", None)
        return self.is_deepspeed_enabled and getattr(plugin, "zero_stage", 0) == 3

    def format_reward(self, groups: RolloutGroups) -> Tensor:
        """UME-R1's, of the decoded text; one that only spells ``<gen_emb>`` out gets none, but for ``official``."""
        found = text_reward(groups)
        return found if self.ends.official else found * groups.own(groups.valid)

    @property
    def trained_sides(self) -> tuple[str, ...]:
        """Those that think in groups."""
        return SIDES if self.args.targets == "rollouts" else SIDES[:1]

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
            rollouts.advantages = torch.cat([one.advantages.flatten() for one in sides.values()])
        self._count(rollouts)
        if self.reference is not None:
            with self.reference.of(model, self.native_model) as reference:
                _, rollouts.reference = self.passed(reference, rollouts)
        self._write(sides)
        metrics: Metrics = {}
        for role, one in sides.items():
            metrics |= {f"{role}_{name}": value for name, value in one.metrics().items()}
        return Drawn(rollouts, vectors["positive"], metrics)

    def rewarded(self, groups: RolloutGroups, names: Sequence[str]) -> RewardedGroups:
        """Rewards and advantages of one side. names: of the rows."""
        reward, parts = total_reward(groups, self.rewards, names)
        advantages = group_advantages(
            reward, scale=self.args.scale_advantages, min_deviation=self.args.min_deviation
        )
        return RewardedGroups(groups, parts, reward, advantages)

    def written(
        self, batch: ItemBatch, place: tuple[int, ...], first: int
    ) -> dict[str, list[list[Completion]]]:
        """Completions of each row by role: groups of the trained sides, one greedy thought of other targets."""
        spans, args = batch.spans(), self.args
        prompts = {
            role: [
                Prompt(item, (*place, SIDES.index(role), first + row))
                for row, item in enumerate(batch.items[spans[role]])
            ]
            for role in SIDES
        }
        sampling = Sampling(
            args.num_generations, args.max_completion_length, args.sampling_temperature, args.top_k
        )
        asked = [prompt for role in self.trained_sides for prompt in prompts[role]]
        if self._number == 0:
            self.engine.update(self.native_model)
        found = self.engine.rollout(asked, sampling)
        if len(found) != len(asked) or any(len(row) != sampling.count for row in found):
            raise ValueError(
                f"{type(self.engine).__name__} gave {[len(row) for row in found]} completions for {len(asked)} "
                f"prompts, which should have {sampling.count} each"
            )
        done = {
            role: found[number * len(batch) : (number + 1) * len(batch)]
            for number, role in enumerate(self.trained_sides)
        }
        if args.targets == "greedy":
            greedy = Sampling(1, args.max_completion_length, 0.0)
            done["positive"] = self.own_engine.rollout(prompts["positive"], greedy)
        return done

    def vectors(
        self,
        model: nn.Module,
        rollouts: RolloutBatch,
        written: Mapping[str, Sequence[Sequence[Completion]]],
    ) -> dict[str, Tensor]:
        """By role, vectors [n, g, d] of this rank; of no meaning where a rollout has none.

        Those that the engine has not read are read here, with the log-probabilities that several updates need.
        """
        done = [one for role in self.trained_sides for row in written[role] for one in row]
        unread = self.ends.official or any(one.vector is None for one in done)
        read = max_over_ranks(int(unread), self.args.device) > 0
        again = None
        if read or self.args.num_iterations > 1:
            again, likely = self.passed(model, rollouts, read)
            if self.args.num_iterations > 1:
                rollouts.old = likely
        found: dict[str, Tensor] = {}
        dim = self.native_model.dim
        for role, rows in written.items():
            samples = self.args.num_generations if role in self.trained_sides else 1
            if again is not None and role in self.trained_sides:
                values = again[rollouts.spans()[role]]
            else:
                given = [one.vector for row in rows for one in row if one.vector is not None]
                values = torch.stack(given) if given else torch.zeros(0, dim)
            found[role] = values.to(self.args.device).view(len(rows), samples, dim)
        return found

    def passed(
        self, model: nn.Module, rollouts: RolloutBatch, vectors: bool = False
    ) -> tuple[Tensor | None, list[Tensor]]:
        """One pass in evaluation mode without a gradient: the items' vectors [items, d], if asked for, and of each the
        log-probabilities of its completion."""
        args = self.args
        indices = self.whole_chunks(rollouts) if args.chunk_tokens is None else self.training_chunks(rollouts)
        chunks = self.chunks(model, rollouts, indices)
        likely: list[Tensor] = [torch.zeros(0)] * len(rollouts.items)
        found: dict[int, Tensor] = {}
        kept: list[Tensor] = []

        def keep(native: Any, output: Any, inputs: Mapping[str, Any]) -> Tensor:
            labels = inputs["local_labels"]
            values = self._likely(native, output, labels)
            kept[:] = [row[mask] for row, mask in zip(values, labels != IGNORED, strict=True)]
            return values.sum()

        read = read_slots if vectors else None
        with evaluating(model), torch.no_grad(), self.compute_loss_context_manager():
            for chunk, weight in chunks.forwards:
                values = chunks.model(chunks.inputs(chunk, weight), read, keep, _values, chunks.run)
                for place, index in enumerate(chunk if weight else ()):
                    likely[index] = kept[place]
                    if values is not None:
                        found[index] = values[place, 1].float()
        ordered = torch.stack([found[index] for index in range(len(found))]) if found else None
        return ordered, likely

    def _valid(self, rows: Sequence[Sequence[Sequence[int]]]) -> Tensor:
        """bool [n, g]: which rollouts have a vector of their own."""
        found = [[self.ends.official or self.ends.place(one) is not None for one in row] for row in rows]
        shape = (len(rows), len(rows[0]) if rows else self.args.num_generations)
        return torch.tensor(found, dtype=torch.bool, device=self.args.device).view(shape)

    def _count(self, rollouts: RolloutBatch) -> None:
        """How many rollouts, and tokens of theirs, all ranks have."""
        spans = rollouts.spans()
        own = [
            [len(rollouts.items[spans[role]]), sum(one.completion for one in rollouts.items[spans[role]])]
            for role in rollouts.roles
        ]
        totals = sum_over_ranks(torch.tensor(own, device=self.args.device)).tolist()
        rollouts.totals = {role: (n, t) for role, (n, t) in zip(rollouts.roles, totals, strict=True)}

    def _decoded(self, tokens: Sequence[int]) -> str:
        tokenizer: Any = self.processing_class.tokenizer  # type: ignore[union-attr]
        text: str = tokenizer.decode(tokens, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        return text

    def _write(self, sides: Mapping[str, RewardedGroups]) -> None:
        every, step = self.args.log_completions_steps, self.state.global_step
        if every and step % every == 0 and self._number == 0 and self.is_world_process_zero():
            write_completions(Path(str(self.args.output_dir)), step, sides, self.args.logged_rows)

    # ---- losses ----------------------------------------------------------------------------------

    def read(self, output: Any) -> Tensor:
        """Both slots, [B, 2, d], for the anchor."""
        return read_slots(output)

    def _likely(self, model: Any, output: Any, labels: Tensor) -> Tensor:
        """Log-probabilities of tokens at the temperature that they were sampled at, float32 [items, L]."""
        states = output.last_hidden_state
        if self.args.sampling_temperature != 1:
            states = states / self.args.sampling_temperature  # logits are linear in it
        return log_probabilities(model, states, labels)

    def local_inputs(self, batch: ItemBatch, indices: Sequence[int], inputs: Any) -> dict[str, Any]:
        """See :meth:`RolloutBatch.local_inputs`."""
        assert isinstance(batch, RolloutBatch)
        return batch.local_inputs(indices, inputs)

    def local_loss(self, model: Any, output: Any, inputs: Mapping[str, Any]) -> Tensor:
        """The policy losses of both sides; the first update's own log-probabilities count as the old ones."""
        likely = self._likely(model, output, inputs["local_labels"])
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

    # ---- rows, evaluation ------------------------------------------------------------------------

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

    @torch.no_grad()
    def evaluate_batches(
        self, model: nn.Module, batches: Iterable[ItemBatch]
    ) -> tuple[dict[str, float], int]:
        """InfoNCE and recall@1 of greedy thoughts of both sides (of queries with frozen targets' first vectors)."""
        greedy = Sampling(1, self.args.max_completion_length, 0.0)

        def vectors(role: str, batch: ItemBatch) -> Tensor:
            if role == "positive" and self.args.targets == "frozen":
                return batch.columns["positive_vectors"][:, 0].to(self.args.device)
            prompts = [Prompt(item, (0,)) for item in batch.items[batch.spans()[role]]]
            found = [row[0].vector for row in self.own_engine.rollout(prompts, greedy)]
            return torch.stack([one for one in found if one is not None]).to(self.args.device)

        def read() -> Iterable[tuple[list[str], ContrastiveBatch]]:
            for batch in batches:
                query, positive = (vectors(role, batch) for role in SIDES)
                rows = gather_batch(self._pairs(query, positive, batch))
                yield batch.names, without_padding(rows, self.accelerator.gradient_state)

        return validate(read(), self.objective_module)

    def _pairs(self, query: Tensor, positive: Tensor, batch: ItemBatch, samples: int = 1) -> ContrastiveBatch:
        """Rows without negatives of their own, ``samples`` of each row of a batch."""
        keys = batch.columns["positive_keys"].to(query.device).repeat_interleave(samples, 0)
        tasks = self.objective_module.temperature.index(batch.tasks).to(query.device)
        n = len(query)
        return ContrastiveBatch(
            query,
            positive,
            negatives=query.new_zeros(n, 0, *query.shape[1:]),
            negative_mask=torch.zeros(n, 0, dtype=torch.bool, device=query.device),
            tasks=tasks.repeat_interleave(samples),
            positive_keys=keys,
            negative_keys=keys.new_zeros(n, 0, keys.shape[1]),
        )


def _values(values: Tensor | None, _local: Any, _module: Any) -> Tensor | None:
    return values
