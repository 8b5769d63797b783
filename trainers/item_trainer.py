"""ItemTrainer: from rows of items to gradients, one forward for a batch or one per chunk."""

from __future__ import annotations

import functools
import logging
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

from torch import Tensor, nn
from torch.utils.data import IterableDataset
from transformers.trainer_utils import EvalLoopOutput

from ..modeling.batching import plan_batches
from .arguments import ItemTrainingArguments
from .bad_rows import BadRows
from .batches import ItemBatch
from .collating import ItemCollator
from .cut_texts import CutTexts
from .distributed import max_over_ranks, needs_vision_in_every_forward, no_sync, sum_over_ranks, world_size
from .dummy_media import BatchDummies, DummyMedia, grey_picture, lacking
from .gradient_cache import Chunks, Loss, cached_backward, one_forward
from .indexed_rows import IndexedRows
from .lazy_media import loaded
from .lora import part_of
from .memory import patch_cost
from .model_with_objective import (
    LOCAL,
    Metrics,
    freeze_lm_head,
    freeze_other_parts,
    read_embeddings,
    run_model,
)
from .native_trainer import NativeTrainer
from .objectives.saving import SavedObjective
from .sharding import average_unsharded

logger = logging.getLogger(__name__)


class ItemTrainer(NativeTrainer):
    """Trains on rows of items, which a processor prepares and of which a chunk at a time goes through the model.

    model: gives an output that :meth:`read` reads, from ``model(**inputs)``, and has ``backbone``, ``save_pretrained``
    and ``load_native_weights``. processing_class: the processor, with ``prepare`` and ``collate``. objective: None
    makes one from the arguments. Where several ranks train a vision tower, or share its parameters, every forward gets
    media, of its own or as dummies.

    A trainer says what a batch is (``collator_class``), and in :meth:`batch_backward` what is done with it, mostly by
    :meth:`backpropagate`. What crosses the batch comes from :meth:`read`, what does not from :meth:`local_loss`.
    """

    args: ItemTrainingArguments
    arguments_class: ClassVar[type[ItemTrainingArguments]] = ItemTrainingArguments
    collator_class: ClassVar[type[ItemCollator]] = ItemCollator

    def __init__(
        self,
        model: nn.Module,
        args: ItemTrainingArguments,
        *,
        processing_class: Any,
        objective: SavedObjective | None = None,
        data_collator: Callable[[Sequence[Mapping[str, Any]]], dict[str, ItemBatch]] | None = None,
        **kwargs: Any,
    ) -> None:
        if not isinstance(args, self.arguments_class):
            raise TypeError(f"args must be {self.arguments_class.__name__}, got {type(args).__name__}")
        if "model_init" in kwargs or "compute_loss_func" in kwargs or "compute_metrics" in kwargs:
            raise TypeError(
                f"model_init, compute_loss_func and compute_metrics have no meaning in {type(self).__name__}"
            )
        if args.n_gpu > 1:
            logger.warning("using one of %d GPUs: launch with torchrun or accelerate to use all", args.n_gpu)
            args._n_gpu = 1
        if not args.train_lm_head:
            freeze_lm_head(model)
        if args.trained_parts is not None:
            freeze_other_parts(model, args.trained_parts)
        if data_collator is None:
            data_collator = self.collator_class(processing_class, **args.collator_settings())
        elif args.max_bad_rows and not getattr(data_collator, "skip_bad_rows", False):
            raise ValueError("max_bad_rows needs a data_collator that was made with skip_bad_rows=True")
        super().__init__(
            model,
            args,
            objective=self.make_objective(args) if objective is None else objective,
            processing_class=processing_class,
            data_collator=data_collator,
            **kwargs,
        )
        self.bad_rows = BadRows(args.max_bad_rows)
        self.cut_texts = CutTexts()
        self.add_callback(self.bad_rows)

    # ---- seams -----------------------------------------------------------------------------------

    @classmethod
    def make_objective(cls, args: Any) -> SavedObjective:
        """The objective that the arguments describe; here one without anything to learn."""
        return SavedObjective()

    def batch_backward(self, model: nn.Module, batch: ItemBatch) -> tuple[Tensor, Metrics]:
        """Add a batch's gradients to the parameters; returns its loss, detached, and metrics."""
        raise NotImplementedError

    def evaluate_batches(
        self, model: nn.Module, batches: Iterable[ItemBatch]
    ) -> tuple[dict[str, float], int]:
        """Metrics over all batches of all ranks, and the number of rows; see :meth:`encode`."""
        raise NotImplementedError(f"{type(self).__name__} has no evaluation")

    def run(self, model: Any, inputs: Mapping[str, Any]) -> Any:
        """The model's output for some items; for what the model reads otherwise than by a forward of whole rows."""
        return run_model(model, inputs)

    def read(self, output: Any) -> Tensor:
        """What crosses the batch, [B, ...], of the model's output: here its embeddings."""
        return read_embeddings(output)

    def local_loss(self, model: Any, output: Any, inputs: Mapping[str, Any]) -> Tensor:
        """A loss of each item by itself (of tokens), the sum over the first ``inputs["local_rows"]`` of a forward.

        Called in every forward that has a gradient, for each chunk; the losses of all chunks and ranks are added up,
        so scale it by what the whole batch has. Logged as ``local_loss``. A chunk without such items gives zero with a
        graph. With ``train_lm_head`` it is what trains the output matrix, in every forward.
        """
        raise NotImplementedError

    def local_inputs(
        self, batch: ItemBatch, indices: Sequence[int], inputs: Mapping[str, Any]
    ) -> dict[str, Any]:
        """What the local loss of a chunk needs beside the collated inputs; read as ``inputs["local_<name>"]``.

        indices: of the chunk's items; behind their rows the inputs may have those of dummies.
        """
        return {}

    def dummy_picture(self) -> Any:
        """A prepared item with a small picture, for forwards that must run the vision tower and have no media."""
        return self.processing_class.prepare({"image": grey_picture()}, role="document")  # type: ignore[union-attr]

    def dummy_video(self) -> Any:
        """One with a small video, where sharded parameters ask for the same media in every rank's forward."""
        return self.processing_class.prepare({"video": [grey_picture()] * 4}, role="document")  # type: ignore[union-attr]

    # ---- the step --------------------------------------------------------------------------------

    def training_step(
        self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None
    ) -> Tensor:
        """Forward and backward of one batch; returns the loss divided by the accumulation steps."""
        model.train()
        if callable(start := getattr(self.optimizer, "train", None)):
            start()  # schedule-free optimisers
        batch: ItemBatch = inputs["batch"]
        self.cut_texts.add(batch.truncated)
        if self.args.max_bad_rows:
            self.bad_rows.add(batch.bad_rows, self.state.global_step, self.args.device)
        loss, metrics = self.batch_backward(model, batch)
        if self.accelerator.gradient_state.sync_gradients:
            average_unsharded(model, self.objective_module.parameters())
        return self._watch((loss * self._weight).to(self.args.device), batch.names, metrics)

    def backpropagate(
        self, model: nn.Module, batch: ItemBatch, loss_of: Loss | None = None
    ) -> tuple[Tensor, Metrics]:
        """Forward and backward of a batch, in one forward or chunk by chunk; returns the loss, detached, and metrics.

        loss_of: what was read of the items, [items, ...] -> (loss over all ranks, metrics); None where there is a
            local loss only.
        """
        kwargs = {"scale_wrt_gas": False} if self.is_deepspeed_enabled else {}
        backward = functools.partial(self.accelerator.backward, **kwargs)
        with self.compute_loss_context_manager():
            if self.args.chunk_tokens is None:
                loss, metrics, local = self.forward_whole(model, batch, loss_of)
                backward(loss * self._weight)
                loss = loss.detach()
            else:
                loss, metrics, local = cached_backward(
                    self.chunks(model, batch, self.training_chunks(batch)),
                    loss_of,
                    backward=backward,
                    objective_parameters=lambda: dict(self.objective_module.named_parameters()),
                    no_sync=lambda: no_sync(self.accelerator, model, self.is_deepspeed_enabled),
                    representation_scale=self._representation_scale,
                    scale=self._weight,
                )
        if local is None:
            return loss, metrics
        metrics = {**metrics, "representation_loss": loss - local, "local_loss": sum_over_ranks(local)}
        return loss + local * (world_size() - 1), metrics  # its mean over ranks is the loss of all

    def forward_whole(
        self, model: nn.Module, batch: ItemBatch, loss_of: Loss | None
    ) -> tuple[Tensor, Metrics, Tensor | None]:
        """Loss of a batch in one forward, with its graph, metrics, and the local loss in it."""
        return one_forward(
            self.chunks(model, batch, self.whole_chunks(batch)),
            loss_of,
            representation_scale=self._representation_scale,
        )

    def encode(self, model: nn.Module, batch: ItemBatch) -> Tensor:
        """What is read of a batch's items, [items, ...], without a graph."""
        indices = [list(range(len(batch.items)))]
        if self.args.chunk_tokens is not None:
            indices = plan_batches(batch.lengths, self.args.chunk_tokens)
        return self.chunks(model, batch, indices).encode()

    def chunks(self, model: nn.Module, batch: ItemBatch, indices: Sequence[Sequence[int]]) -> Chunks:
        """The forwards of a batch, as many on every rank. A collective."""
        count = max_over_ranks(len(indices), self.args.device)
        local = None if type(self).local_loss is ItemTrainer.local_loss else self.local_loss
        collate = functools.partial(self.collate, batch, dummies=self._dummies.of(batch.items))
        return Chunks(model, indices, collate, self.read, local, count, self.run)

    def collate(
        self, batch: ItemBatch, indices: Sequence[int], dummies: Sequence[DummyMedia] = ()
    ) -> dict[str, Any]:
        """Model inputs of some items."""
        items = loaded([batch.items[index] for index in indices], self.processing_class)
        inputs = self.processing_class.collate(items)  # type: ignore[union-attr]
        if more := lacking(dummies, inputs):
            inputs = self.processing_class.collate([*items, *more])  # type: ignore[union-attr]
        own = self.local_inputs(batch, indices, inputs)
        inputs = {**inputs, **{f"{LOCAL}{name}": value for name, value in own.items()}}
        return {key: self._prepare_input(value) for key, value in inputs.items()}

    def training_chunks(self, batch: ItemBatch) -> list[list[int]]:
        """Indices of a batch's items by chunk, within ``chunk_tokens``."""
        assert self.args.chunk_tokens is not None
        cost = self._patch_cost
        tower = [math.ceil(cost * patches) for patches in batch.patches] if cost else None
        return plan_batches(batch.lengths, self.args.chunk_tokens, extra=tower)

    def whole_chunks(self, batch: ItemBatch) -> list[list[int]]:
        """Indices of a batch's items of similar length, for one forward that pads little."""
        return plan_batches(batch.lengths, len(batch.items) * max(batch.lengths))

    @property
    def _weight(self) -> float:
        """Of a batch in its optimiser step."""
        return 1.0 / getattr(self, "current_gradient_accumulation_steps", 1)

    @property
    def _representation_scale(self) -> int:
        return world_size() if self.args.scale_by_world_size else 1

    @functools.cached_property
    def _patch_cost(self) -> float:
        """Of a patch in tokens; nothing where no gradient goes through the tower, which then keeps nothing."""
        named = self.native_model.backbone.named_parameters()
        trained = any(part_of(name) == "vision" and p.requires_grad for name, p in named)
        return patch_cost(self.native_model.config) if trained else 0.0

    @functools.cached_property
    def _dummies(self) -> BatchDummies:
        sharded = bool(self.is_fsdp_enabled or self.is_deepspeed_enabled)
        needed = needs_vision_in_every_forward(self.native_model, sharded)
        media = (self.dummy_picture, self.dummy_video)
        return BatchDummies(*media, needed=needed, sharded=sharded, device=self.args.device)

    # ---- rows, logs, evaluation ------------------------------------------------------------------

    def _get_dataloader(self, dataset: Any, *args: Any, sampler_fn: Any = None, **kwargs: Any) -> Any:
        rows = dataset
        if not isinstance(dataset, IterableDataset) and hasattr(dataset, "__getitem__"):
            rows = IndexedRows(dataset, getattr(self.data_collator, "skip_bad_rows", False))
        sampler = None if sampler_fn is None else lambda _rows: sampler_fn(dataset)  # it may read a column
        kwargs["sampler_fn"] = sampler
        return super()._get_dataloader(rows, *args, **kwargs)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds the means of the training metrics, the number of bad rows so far where some are let pass, and of items
        that were cut at the limit of tokens, where there are any (of this rank)."""
        if self.args.max_bad_rows and "loss" in logs:
            logs = {**logs, "bad_rows": self.bad_rows.count}
        if self.cut_texts.count and "loss" in logs:
            logs = {**logs, "truncated_items": self.cut_texts.count}
        super().log(logs, start_time)

    def evaluation_loop(
        self,
        dataloader: Any,
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        """Metrics over all rows of the loader, on every rank."""
        model: Any = self.model
        if len(self.accelerator._models) == 0 and model is self.model_wrapped and not self.is_fsdp_enabled:
            model = self.accelerator.prepare_model(model, evaluation_mode=True)
        model.eval()

        def batches() -> Iterator[ItemBatch]:
            for inputs in dataloader:
                batch: ItemBatch = inputs["batch"]
                if batch.bad_rows:  # scores over fewer rows could not be compared
                    bad = batch.bad_rows[0]
                    raise ValueError(f"{description}: {bad.name} cannot be prepared: {bad.reason}")
                self.cut_texts.add(batch.truncated)
                yield batch

        metrics, count = self.evaluate_batches(model, batches())
        named = {f"{metric_key_prefix}_{name}": value for name, value in metrics.items()}
        return EvalLoopOutput(predictions=None, label_ids=None, metrics=named, num_samples=count)  # type: ignore[arg-type]
