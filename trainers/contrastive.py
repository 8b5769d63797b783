"""ContrastiveTrainer: InfoNCE on a ``transformers.Trainer``, with batches of any size and an exact resume."""

from __future__ import annotations

import contextlib
import functools
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import IterableDataset
from transformers import TrainerCallback
from transformers.trainer_utils import EvalLoopOutput

from .arguments import ContrastiveTrainingArguments
from .base import NativeTrainer
from .data import ContrastiveCollator, IndexedRows, RowBatch, Sides
from .distributed import gather_sides, max_over_ranks, scale_gradient, world_size
from .gradient_cache import Metrics, cached_backward, encode_chunks, plan_chunks, plan_groups
from .objectives.module import ContrastiveObjective
from .validation import validate
from .wrapping import freeze_lm_head

logger = logging.getLogger(__name__)


class _ClampTemperature(TrainerCallback):
    """Projects the learned temperature into its bounds after each optimiser step."""

    def __init__(self, objective: ContrastiveObjective) -> None:
        self.objective = objective

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.objective.temperature.clamp_()


class ContrastiveTrainer(NativeTrainer):
    """Train an embedding model with InfoNCE.

    model: returns ``.embeddings`` float32 [B, d] from ``model(**batch)`` and has ``backbone``,
    ``save_pretrained`` and ``load_native_weights``. processing_class: the processor, with ``prepare`` and
    ``collate``. objective: None makes one from the arguments. Rows of the datasets are described in
    :class:`ContrastiveCollator`.

    A checkpoint holds the native weights, the processor's files and the objective's. Resume and load-best
    read the weights through the model's own strict loader: a missing key raises, and a killed run that is
    resumed ends in the same weights as one that was not (the same number of processes and the same
    arguments given).

    Gradient accumulation averages the gradients of several contrastive batches; it does not add negatives.
    For more negatives raise ``per_device_train_batch_size`` and let ``chunk_tokens`` bound the memory.

    Seams for a subclass: :meth:`auxiliary_loss`, :meth:`representation_loss`, and the collator's
    ``prepare_row``.
    """

    args: ContrastiveTrainingArguments

    def __init__(
        self,
        model: nn.Module,
        args: ContrastiveTrainingArguments,
        *,
        processing_class: Any,
        objective: ContrastiveObjective | None = None,
        data_collator: Callable[[Sequence[Mapping[str, Any]]], dict[str, Any]] | None = None,
        **kwargs: Any,
    ) -> None:
        if not isinstance(args, ContrastiveTrainingArguments):
            raise TypeError(f"args must be ContrastiveTrainingArguments, got {type(args).__name__}")
        if "model_init" in kwargs or "compute_loss_func" in kwargs or "compute_metrics" in kwargs:
            raise TypeError(
                "model_init, compute_loss_func and compute_metrics have no meaning in ContrastiveTrainer"
            )
        if args.n_gpu > 1:
            logger.warning("using one of %d GPUs: launch with torchrun or accelerate to use all", args.n_gpu)
            args._n_gpu = 1
        if objective is None:
            objective = ContrastiveObjective(**args.objective_settings())
        if not args.train_lm_head:
            freeze_lm_head(model)
        if data_collator is None:
            data_collator = ContrastiveCollator(
                processing_class, args.max_negatives, args.mask_duplicate_positives
            )
        super().__init__(
            model,
            args,
            objective=objective,
            processing_class=processing_class,
            data_collator=data_collator,
            **kwargs,
        )
        self.add_callback(_ClampTemperature(objective))

    # ---- seams -----------------------------------------------------------------------------------

    def auxiliary_loss(self, model: Any, inputs: dict[str, Any]) -> Tensor | None:
        """A further loss of the same step, 0-d with gradient, or None for none; logged as ``auxiliary_loss``.

        model: the embedding model (unwrapped, autocast active, called inside the wrapper's forward, so DDP
            sees it).
        inputs: the collator's dict on the device; a collator may put what this needs under ``auxiliary``. Its
        gradient is added to that of InfoNCE (scale it here if it shall weigh less) and is averaged over
        ranks; give a zero loss rather than None on a rank that has nothing while others have.
        """
        return None

    def representation_loss(self, embeddings: Tensor, rows: RowBatch) -> tuple[Tensor, Metrics]:
        """Loss over all ranks' rows, and metrics. embeddings: this rank's [items, d], with gradient."""
        sides = gather_sides(rows.split(embeddings, self.objective_module.temperature.index(rows.tasks)))
        loss, metrics = self.objective_module(
            sides.query, sides.positive, sides.negatives, sides.tasks, sides.positive_ids, sides.negative_mask
        )
        return loss, metrics

    # ---- the step --------------------------------------------------------------------------------

    def training_step(
        self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None
    ) -> Tensor:
        """Forward and backward of one contrastive batch; returns the loss divided by the accumulation
        steps."""
        model.train()
        if callable(start := getattr(self.optimizer, "train", None)):
            start()  # schedule-free optimisers
        inputs = self._prepare_inputs(inputs)
        scale = 1.0 / getattr(self, "current_gradient_accumulation_steps", 1)
        kwargs = {"scale_wrt_gas": False} if self.is_deepspeed_enabled else {}
        backward = functools.partial(self.accelerator.backward, **kwargs)
        with self.compute_loss_context_manager():
            auxiliary = self._auxiliary_backward(model, inputs, backward, scale)
            if self.args.chunk_tokens is None:
                loss, metrics = self._whole_batch(model, inputs)
                backward(loss * scale)
                loss = loss.detach()
            else:
                loss, metrics = self._cached(model, inputs, backward, scale)
        if auxiliary is not None:
            metrics = {**metrics, "contrastive_loss": loss, "auxiliary_loss": auxiliary}
            loss = loss + auxiliary.to(loss)
        self._record(metrics)
        return (loss * scale).to(self.args.device)

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """The contrastive loss of a collated batch in one forward, with its graph; outputs are the
        metrics."""
        loss, metrics = self._whole_batch(model, self._prepare_inputs(inputs))
        return (loss, metrics) if return_outputs else loss

    def _whole_batch(self, model: nn.Module, inputs: dict[str, Any]) -> tuple[Tensor, Metrics]:
        rows = RowBatch.from_inputs(inputs)
        groups = plan_groups(rows.lengths)
        back = torch.argsort(torch.tensor([index for group in groups for index in group]))

        def then(embeddings: Tensor, _module: Any) -> tuple[Tensor, Metrics]:
            ordered = embeddings[back.to(embeddings.device)]
            return self.representation_loss(scale_gradient(ordered, world_size()), rows)

        # One call, so that DDP sees one forward; one padded batch per group, because queries and positives
        # are rarely of one length.
        loss, metrics = model([self._collate(rows, group) for group in groups], then)
        return loss, metrics

    def _cached(
        self, model: nn.Module, inputs: dict[str, Any], backward: Callable[[Tensor], None], scale: float
    ) -> tuple[Tensor, Metrics]:
        rows = RowBatch.from_inputs(inputs)
        assert self.args.chunk_tokens is not None
        chunks = plan_chunks(rows.lengths, self.args.chunk_tokens)
        return cached_backward(
            model,
            chunks,
            functools.partial(self._collate, rows),
            lambda embeddings: self.representation_loss(embeddings, rows),
            backward=backward,
            objective_parameters=list(self.objective_module.parameters()),
            no_sync=functools.partial(self._no_sync, model),
            representation_scale=world_size(),
            scale=scale,
            chunk_count=max_over_ranks(len(chunks), self.args.device),
        )

    def _auxiliary_backward(
        self, model: nn.Module, inputs: dict[str, Any], backward: Callable[[Tensor], None], scale: float
    ) -> Tensor | None:
        if type(self).auxiliary_loss is ContrastiveTrainer.auxiliary_loss:
            return None
        with self._no_sync(model):  # the contrastive backward that follows synchronises both
            loss = model(None, lambda _none, module: self.auxiliary_loss(module.model, inputs))
            if loss is None:
                return None
            backward(loss * scale)
        return loss.detach()  # type: ignore[no-any-return]

    @contextlib.contextmanager
    def _no_sync(self, model: nn.Module) -> Iterator[None]:
        """No gradient synchronisation (DDP, FSDP), no optimiser step inside backward (DeepSpeed)."""
        state = self.accelerator.gradient_state
        before = state.sync_gradients
        with contextlib.nullcontext() if self.is_deepspeed_enabled else self.accelerator.no_sync(model):
            state._set_sync_gradients(False)
            try:
                yield
            finally:
                state._set_sync_gradients(before)

    def _collate(self, rows: RowBatch, indices: Sequence[int]) -> dict[str, Any]:
        batch = self.processing_class.collate([rows.items[index] for index in indices])  # type: ignore[union-attr]
        return {key: self._prepare_input(value) for key, value in batch.items()}

    # ---- data ------------------------------------------------------------------------------------

    def _get_dataloader(
        self,
        dataset: Any,
        description: str,
        batch_size: int,
        sampler_fn: Any = None,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        rows = dataset
        if not isinstance(dataset, IterableDataset) and hasattr(dataset, "__getitem__"):
            rows = IndexedRows(dataset)
        sampler = None if sampler_fn is None else lambda _rows: sampler_fn(dataset)  # it may read a column
        return super()._get_dataloader(rows, description, batch_size, sampler, *args, **kwargs)

    # ---- evaluation ------------------------------------------------------------------------------

    def evaluation_loop(
        self,
        dataloader: Any,
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        """Metrics over all rows of the loader, on every rank; recall@1 is over the whole set, the loss per
        batch."""
        model: Any = self.model
        if len(self.accelerator._models) == 0 and model is self.model_wrapped and not self.is_fsdp_enabled:
            model = self.accelerator.prepare_model(model, evaluation_mode=True)
        model.eval()

        def encode(inputs: dict[str, Any]) -> Sides:
            rows = RowBatch.from_inputs(inputs)
            chunks = [list(range(len(rows.items)))]
            if self.args.chunk_tokens is not None:
                chunks = plan_chunks(rows.lengths, self.args.chunk_tokens)
            embeddings = encode_chunks(model, chunks, functools.partial(self._collate, rows))
            return self._without_padding(
                gather_sides(rows.split(embeddings, self.objective_module.temperature.index(rows.tasks)))
            )

        metrics, count = validate(dataloader, encode, self.objective_module)
        named = {f"{metric_key_prefix}_{name}": value for name, value in metrics.items()}
        return EvalLoopOutput(predictions=None, label_ids=None, metrics=named, num_samples=count)  # type: ignore[arg-type]

    def _without_padding(self, sides: Sides) -> Sides:
        """Drop the rows that accelerate repeated to fill the last batch of all ranks."""
        state = self.accelerator.gradient_state
        if world_size() == 1 or not state.end_of_dataloader or state.remainder <= 0:
            return sides
        fields: dict[str, Any] = {k: v if v is None else v[: state.remainder] for k, v in vars(sides).items()}
        return Sides(**fields)
