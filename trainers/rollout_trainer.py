"""RolloutTrainer: has a model, or an engine in its place, write completions of a batch, and reads what they are.

What becomes of them is another's matter: see :class:`umekit.trainers.rlvr.RLVRTrainer`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..modeling.evaluating import evaluating
from .batches import ContrastiveBatch, ItemBatch, gather_batch, without_padding
from .checked_rollouts import CheckedRollouts
from .contrastive import ContrastiveTrainer
from .distributed import max_over_ranks
from .model_with_objective import produced, read_slots
from .rlvr_arguments import RLVRTrainingArguments, RolloutCollator
from .rollout_batches import RolloutBatch
from .rollouts import Completion, ModelRollouts, Prompt, RolloutEnds, RolloutEngine, Sampling
from .tokens import IGNORED, log_probabilities
from .validation import validate

SIDES = ("query", "positive")


class RolloutTrainer(ContrastiveTrainer):
    """Completions of both sides of a batch, their vectors and log-probabilities; an evaluation by greedy thoughts.

    model: a :class:`UmeForGenerativeEmbedding`. rollout_engine: writes the completions; None: the model itself.
    """

    args: RLVRTrainingArguments
    arguments_class = RLVRTrainingArguments
    collator_class = RolloutCollator

    def __init__(
        self,
        model: nn.Module,
        args: RLVRTrainingArguments,
        *,
        rollout_engine: RolloutEngine | None = None,
        **kwargs: Any,
    ) -> None:
        if "generative" not in getattr(model, "modes", ()):
            raise TypeError(f"{type(model).__name__} does not think: load it with kind 'generative'")
        super().__init__(model, args, **kwargs)
        self.ends = self.rollout_ends()
        if self.ends.official and args.media_per_chunk:
            raise ValueError("thought_end 'official' marks prompts, which media_per_chunk prepares again")
        if rollout_engine is None and (self.is_fsdp_enabled or self._shards_parameters):
            raise ValueError(
                "the model cannot write thoughts with its parameters in shards: train with DDP or ZeRO-1/2, or give a "
                "rollout_engine"
            )
        self.own_engine = self.own_rollouts()
        self.engine: RolloutEngine = (
            self.own_engine if rollout_engine is None else self.checked(rollout_engine)
        )

    # ---- seams -----------------------------------------------------------------------------------

    def rollout_ends(self) -> RolloutEnds:
        """What ends a rollout of the model, and where its vector is."""
        tokens = self.native_model.thought_tokens
        return RolloutEnds(tokens.gen_emb, tokens.ends, self.native_model.settings.thought_end == "official")

    def own_rollouts(self) -> ModelRollouts:
        """The model's own engine."""
        model, args = self.native_model, self.args
        return ModelRollouts(
            model, self.processing_class, args.rollout_tokens, self.compute_loss_context_manager
        )

    def checked(self, engine: RolloutEngine) -> CheckedRollouts:
        """Another's engine, which writes nothing that the model's own could not have written."""
        processor: Any = self.processing_class
        never = self.native_model.thought_tokens.never
        return CheckedRollouts(engine, self.ends, never, len(processor.tokenizer))

    def sampling(self) -> Sampling:
        """How the groups of the trained sides are written."""
        args = self.args
        return Sampling(
            args.num_generations, args.max_completion_length, args.sampling_temperature, args.top_k
        )

    @property
    def _shards_parameters(self) -> bool:
        plugin = getattr(self.accelerator.state, "deepspeed_plugin", None)
        return self.is_deepspeed_enabled and getattr(plugin, "zero_stage", 0) == 3

    @property
    def trained_sides(self) -> tuple[str, ...]:
        """Those that think in groups."""
        return SIDES if self.args.targets == "rollouts" else SIDES[:1]

    # ---- completions -----------------------------------------------------------------------------

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
        sampling = self.sampling()
        asked = [prompt for role in self.trained_sides for prompt in prompts[role]]
        found = self.engine.rollout(asked, sampling)
        done = {
            role: found[number * len(batch) : (number + 1) * len(batch)]
            for number, role in enumerate(self.trained_sides)
        }
        if args.targets == "greedy":
            done["positive"] = [[one] for one in self.greedy(batch.items[spans["positive"]])]
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
            values = self._likely(native, output, inputs)
            kept[:] = [row[mask] for row, mask in zip(values, inputs["local_labels"] != IGNORED, strict=True)]
            return values.sum()

        read = read_slots if vectors else None
        with evaluating(model), torch.no_grad(), self.compute_loss_context_manager():
            for chunk, weight in chunks.forwards:
                values = chunks.model(chunks.inputs(chunk, weight), read, keep, _values, chunks.run)
                for place, index in enumerate(chunk if weight else ()):
                    likely[index] = kept[place]
                    if values is not None:
                        found[index] = produced(values[place]).float()
        ordered = torch.stack([found[index] for index in range(len(found))]) if found else None
        return ordered, likely

    def _valid(self, rows: Sequence[Sequence[Sequence[int]]]) -> Tensor:
        """bool [n, g]: which rollouts have a vector of their own."""
        found = [[self.ends.has_vector(one) for one in row] for row in rows]
        shape = (len(rows), len(rows[0]) if rows else self.args.num_generations)
        return torch.tensor(found, dtype=torch.bool, device=self.args.device).view(shape)

    def _decoded(self, tokens: Sequence[int]) -> str:
        tokenizer: Any = self.processing_class.tokenizer  # type: ignore[union-attr]
        text: str = tokenizer.decode(tokens, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        return text

    def _likely(self, model: Any, output: Any, inputs: Mapping[str, Any]) -> Tensor:
        """Log-probabilities of ``local_labels``, float32 and of their shape."""
        return self._likely_tokens(model, output, inputs["local_labels"])

    def _likely_tokens(self, model: Any, output: Any, labels: Tensor) -> Tensor:
        """Log-probabilities of tokens at the temperature that they were sampled at, float32 [items, L]."""
        states = output.last_hidden_state
        if self.args.sampling_temperature != 1:
            states = states / self.args.sampling_temperature  # logits are linear in it
        return log_probabilities(model, states, labels)

    def local_inputs(self, batch: ItemBatch, indices: Sequence[int], inputs: Any) -> dict[str, Any]:
        """See :meth:`RolloutBatch.local_inputs`."""
        assert isinstance(batch, RolloutBatch)
        return batch.local_inputs(indices, inputs)

    # ---- evaluation ------------------------------------------------------------------------------

    def greedy(self, items: Sequence[Any]) -> list[Completion]:
        """What the model itself does with items where nothing is left to chance."""
        sampling = Sampling(1, self.args.max_completion_length, 0.0)
        return [row[0] for row in self.own_engine.rollout([Prompt(item, (0,)) for item in items], sampling)]

    @torch.no_grad()
    def evaluate_batches(
        self, model: nn.Module, batches: Iterable[ItemBatch]
    ) -> tuple[dict[str, float], int]:
        """InfoNCE and recall@1 of greedy thoughts of both sides (of queries with frozen targets' first vectors)."""

        def vectors(role: str, batch: ItemBatch) -> Tensor:
            if role == "positive" and self.args.targets == "frozen":
                return batch.columns["positive_vectors"][:, 0].to(self.args.device)
            found = [one.vector for one in self.greedy(batch.items[batch.spans()[role]])]
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
