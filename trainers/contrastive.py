"""ContrastiveTrainer: InfoNCE on a ``transformers.Trainer``, with batches of any size and an exact resume."""

from __future__ import annotations

import contextlib
import functools
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from PIL import Image
from torch import Tensor, nn
from torch.utils.data import IterableDataset
from transformers.trainer_utils import EvalLoopOutput

from .arguments import ContrastiveTrainingArguments
from .bad_rows import BadRows
from .base import NativeTrainer
from .clamping import ClampTemperature
from .data import ContrastiveCollator, IndexedRows, RowBatch, Sides
from .deferred import undeferred
from .distributed import (
    gather_sides,
    max_over_ranks,
    needs_vision_in_every_forward,
    no_sync,
    without_padding,
    world_size,
)
from .gradient_cache import Metrics, cached_backward, encode_chunks, one_forward, plan_chunks, plan_groups
from .lora import part_of
from .memory import patch_cost
from .objectives.module import ContrastiveObjective
from .validation import validate
from .wrapping import freeze_lm_head

logger = logging.getLogger(__name__)


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
            data_collator = ContrastiveCollator(processing_class, **args.collator_settings())
        elif args.max_bad_rows and not getattr(data_collator, "skip_bad_rows", False):
            raise ValueError("max_bad_rows needs a data_collator that was made with skip_bad_rows=True")
        super().__init__(
            model,
            args,
            objective=objective,
            processing_class=processing_class,
            data_collator=data_collator,
            **kwargs,
        )
        self.add_callback(ClampTemperature(objective))
        self.bad_rows = BadRows(args.max_bad_rows)
        self.add_callback(self.bad_rows)

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

    def media_placeholder(self) -> Any:
        """A prepared item with a small picture, for forwards that must run the vision tower and have no media."""
        picture = Image.new("RGB", (32, 32), "grey")
        return self.processing_class.prepare({"image": picture}, role="document")  # type: ignore[union-attr]

    def representation_loss(self, embeddings: Tensor, rows: RowBatch) -> tuple[Tensor, Metrics]:
        """Loss over all ranks' rows, and metrics. embeddings: this rank's [items, d], with gradient.

        A batch of which every row was left out has a loss of zero and no metrics.
        """
        sides = gather_sides(rows.split(embeddings, self.objective_module.temperature.index(rows.tasks)))
        if len(sides.query) == 0:
            learned = [p.sum() for p in self.objective_module.parameters()]
            return sum(learned, embeddings.sum()) * 0.0, {}
        loss, metrics = self.objective_module(
            sides.query, sides.positive, sides.negatives, sides.tasks, **sides.masks()
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
        if self.args.max_bad_rows:
            self.bad_rows.add(inputs["bad_rows"], self.state.global_step, self.args.device)
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
        rows = self._rows(inputs)
        groups = plan_groups(rows.lengths)
        return one_forward(
            model,
            groups,
            functools.partial(self._collate, rows),
            lambda embeddings: self.representation_loss(embeddings, rows),
            representation_scale=self._representation_scale,
            group_count=max_over_ranks(len(groups), self.args.device),
        )

    def _cached(
        self, model: nn.Module, inputs: dict[str, Any], backward: Callable[[Tensor], None], scale: float
    ) -> tuple[Tensor, Metrics]:
        rows = self._rows(inputs)
        chunks = self._training_chunks(rows)
        return cached_backward(
            model,
            chunks,
            functools.partial(self._collate, rows),
            lambda embeddings: self.representation_loss(embeddings, rows),
            backward=backward,
            objective_parameters=list(self.objective_module.parameters()),
            no_sync=functools.partial(self._no_sync, model),
            representation_scale=self._representation_scale,
            scale=scale,
            chunk_count=max_over_ranks(len(chunks), self.args.device),
        )

    def _training_chunks(self, rows: RowBatch) -> list[list[int]]:
        assert self.args.chunk_tokens is not None
        tower = (
            [math.ceil(self._patch_cost * patches) for patches in rows.patches] if self._patch_cost else None
        )
        return plan_chunks(rows.lengths, self.args.chunk_tokens, tower)

    @functools.cached_property
    def _patch_cost(self) -> float:
        """Of a patch in tokens; nothing where no gradient goes through the tower, which then keeps nothing."""
        named = self.native_model.backbone.named_parameters()
        trained = any(part_of(name) == "vision" and p.requires_grad for name, p in named)
        return patch_cost(self.native_model.config) if trained else 0.0

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

    def _no_sync(self, model: nn.Module) -> contextlib.AbstractContextManager[None]:
        return no_sync(self.accelerator, model, self.is_deepspeed_enabled)

    def _rows(self, inputs: Mapping[str, Any]) -> RowBatch:
        processor: Any = self.processing_class
        return RowBatch.from_inputs(inputs).filled(lambda: processor.prepare("no row", role="document"))

    def _collate(self, rows: RowBatch, indices: Sequence[int]) -> dict[str, Any]:
        items = undeferred([rows.items[index] for index in indices], self.processing_class)
        batch = self.processing_class.collate(items)  # type: ignore[union-attr]
        if self._placeholder is not None and not any(key.startswith("pixel_values") for key in batch):
            batch = self.processing_class.collate([*items, self._placeholder])  # type: ignore[union-attr]
        return {key: self._prepare_input(value) for key, value in batch.items()}

    @functools.cached_property
    def _placeholder(self) -> Any:
        sharded = self.is_fsdp_enabled or self.is_deepspeed_enabled
        needed = needs_vision_in_every_forward(self.native_model, sharded)
        return self.media_placeholder() if needed else None

    @property
    def _representation_scale(self) -> int:
        return world_size() if self.args.scale_by_world_size else 1

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds the means of the training metrics, and the number of bad rows so far where some are let pass."""
        if self.args.max_bad_rows and "loss" in logs:
            logs = {**logs, "bad_rows": self.bad_rows.count}
        super().log(logs, start_time)

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
            rows = IndexedRows(dataset, getattr(self.data_collator, "skip_bad_rows", False))
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
            if inputs.get("bad_rows"):  # scores over fewer rows could not be compared
                bad = inputs["bad_rows"][0]
                raise ValueError(f"{description}: {bad.name} cannot be prepared: {bad.reason}")
            rows = RowBatch.from_inputs(inputs)
            chunks = [list(range(len(rows.items)))]
            if self.args.chunk_tokens is not None:
                chunks = plan_chunks(rows.lengths, self.args.chunk_tokens)
            count = max_over_ranks(len(chunks), self.args.device)
            embeddings = encode_chunks(model, chunks, functools.partial(self._collate, rows), count)
            tasks = self.objective_module.temperature.index(rows.tasks)
            return without_padding(
                gather_sides(rows.split(embeddings, tasks)), self.accelerator.gradient_state
            )

        metrics, count = validate(dataloader, encode, self.objective_module)
        named = {f"{metric_key_prefix}_{name}": value for name, value in metrics.items()}
        return EvalLoopOutput(predictions=None, label_ids=None, metrics=named, num_samples=count)  # type: ignore[arg-type]
