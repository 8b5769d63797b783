"""ContrastiveTrainer: InfoNCE on a ``transformers.Trainer``, with batches of any size and an exact resume."""

from __future__ import annotations

import contextlib
import functools
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from transformers.trainer_utils import EvalLoopOutput

from .arguments import ContrastiveTrainingArguments
from .bad_rows import BadRows
from .callbacks import ClampTemperature
from .cut_texts import CutTexts
from .data import ContrastiveBatch, ContrastiveCollator, ItemBatch, without_negatives
from .distributed import (
    gather_batch,
    max_over_ranks,
    no_sync,
    without_padding,
    world_size,
)
from .gradient_cache import Chunks, Metrics, cached_backward, one_forward, plan_chunks, plan_groups
from .item_trainer import ItemTrainer
from .model_with_objective import Local, freeze_lm_head, read_embeddings
from .objectives.module import ContrastiveObjective
from .sharding import average_unsharded
from .validation import validate

logger = logging.getLogger(__name__)


class ContrastiveTrainer(ItemTrainer):
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

    Seams for a subclass: :meth:`read`, :meth:`local_loss`, :meth:`representation_loss`, the dummies of
    :class:`ItemTrainer`, and the collator's ``prepare_row``.
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
        self.cut_texts = CutTexts()
        self._said_alone = False
        self.add_callback(self.bad_rows)

    # ---- seams -----------------------------------------------------------------------------------

    def read(self, output: Any) -> Tensor:
        """What crosses the batch, [B, ...], of the model's output: here its embeddings."""
        return read_embeddings(output)

    def local_loss(self, model: Any, output: Any, batch: Mapping[str, Any]) -> Tensor:
        """A loss of each row by itself (of tokens), the sum over the first ``batch["local_rows"]`` rows of a forward.

        Called in every forward that has a gradient, for each chunk; the losses of all chunks and ranks are added up,
        so scale it by what the whole batch has. Logged as ``local_loss``. A chunk without such rows gives zero with a
        graph. With ``train_lm_head`` it is what trains the output matrix, in every forward.
        """
        raise NotImplementedError

    @property
    def _local(self) -> Local | None:
        return None if type(self).local_loss is ContrastiveTrainer.local_loss else self.local_loss

    def representation_loss(self, embeddings: Tensor, rows: ItemBatch) -> tuple[Tensor, Metrics]:
        """Loss over all ranks' rows, and metrics. embeddings: this rank's [items, d], with gradient.

        A batch of which every row was left out has a loss of zero and no metrics.
        """
        sides = gather_batch(rows.split(embeddings, self.objective_module.temperature.index(rows.tasks)))
        if len(sides.query) == 0:
            learned = [p.sum() for p in self.objective_module.parameters()]
            return sum(learned, embeddings.sum()) * 0.0, {}
        masks = sides.masks()
        if without_negatives(sides, masks):
            self._say_alone(len(sides.query))
        loss, metrics = self.objective_module(
            sides.query, sides.positive, sides.negatives, sides.tasks, **masks
        )
        return loss, metrics

    def _say_alone(self, rows: int) -> None:
        """An error where no batch of this run can have negatives from other rows, one warning where this one has none.

        Raises:
            ValueError: batches have one row, and this one brings no negatives of its own.
        """
        sizes = [self.args.per_device_train_batch_size * world_size()]
        if hasattr(self.train_dataset, "__len__"):
            sizes.append(len(self.train_dataset))  # type: ignore[arg-type]
        if min(sizes) == 1:
            raise ValueError(
                "a batch of one row without negatives has nothing to tell its positive from, and trains nothing: raise "
                "per_device_train_batch_size (gradient accumulation adds no negatives), give rows `negatives`, or use "
                "more rows"
            )
        if not self._said_alone:
            self._said_alone = True
            what = "has one row" if rows == 1 else f"has the same positive in all of its {rows} rows"
            logger.warning(
                "step %d: a batch %s and no negatives, and trains nothing (dataloader_drop_last=True leaves a last "
                "batch of one row out); this is said once",
                self.state.global_step + 1,
                what,
            )

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
        self.cut_texts.add(inputs)
        if self.args.max_bad_rows:
            self.bad_rows.add(inputs["bad_rows"], self.state.global_step, self.args.device)
        scale = 1.0 / getattr(self, "current_gradient_accumulation_steps", 1)
        kwargs = {"scale_wrt_gas": False} if self.is_deepspeed_enabled else {}
        backward = functools.partial(self.accelerator.backward, **kwargs)
        with self.compute_loss_context_manager():
            if self.args.chunk_tokens is None:
                loss, metrics, local = self._whole_batch(model, inputs)
                backward(loss * scale)
                loss = loss.detach()
            else:
                loss, metrics, local = self._cached(model, inputs, backward, scale)
        if self.accelerator.gradient_state.sync_gradients:
            average_unsharded(model, self.objective_module.parameters())
        if local is not None:
            metrics = {**metrics, "representation_loss": loss - local, "local_loss": local}
        return self._watch((loss * scale).to(self.args.device), inputs, metrics)

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """The contrastive loss of a collated batch in one forward, with its graph; outputs are the
        metrics."""
        loss, metrics, _ = self._whole_batch(model, self._prepare_inputs(inputs))
        return (loss, metrics) if return_outputs else loss

    def _whole_batch(self, model: nn.Module, inputs: dict[str, Any]) -> tuple[Tensor, Metrics, Tensor | None]:
        rows = self._rows(inputs)
        return one_forward(
            self._chunks(model, rows, plan_groups(rows.lengths)),
            lambda values: self.representation_loss(values, rows),
            representation_scale=self._representation_scale,
        )

    def _cached(
        self, model: nn.Module, inputs: dict[str, Any], backward: Callable[[Tensor], None], scale: float
    ) -> tuple[Tensor, Metrics, Tensor | None]:
        rows = self._rows(inputs)
        return cached_backward(
            self._chunks(model, rows, self._training_chunks(rows)),
            lambda values: self.representation_loss(values, rows),
            backward=backward,
            objective_parameters=lambda: dict(self.objective_module.named_parameters()),
            no_sync=functools.partial(self._no_sync, model),
            representation_scale=self._representation_scale,
            scale=scale,
        )

    def _chunks(self, model: nn.Module, rows: ItemBatch, indices: list[list[int]]) -> Chunks:
        count = max_over_ranks(len(indices), self.args.device)
        return Chunks(model, indices, self._collator(rows), self.read, self._local, count)

    def _no_sync(self, model: nn.Module) -> contextlib.AbstractContextManager[None]:
        return no_sync(self.accelerator, model, self.is_deepspeed_enabled)

    @property
    def _representation_scale(self) -> int:
        return world_size() if self.args.scale_by_world_size else 1

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds the means of the training metrics, the number of bad rows so far where some are let pass, and of items
        that were cut at the limit of tokens, where there are any (of this rank)."""
        if self.args.max_bad_rows and "loss" in logs:
            logs = {**logs, "bad_rows": self.bad_rows.count}
        if self.cut_texts.count and "loss" in logs:
            logs = {**logs, "truncated_items": self.cut_texts.count}
        super().log(logs, start_time)

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

        def encode(inputs: dict[str, Any]) -> ContrastiveBatch:
            if inputs.get("bad_rows"):  # scores over fewer rows could not be compared
                bad = inputs["bad_rows"][0]
                raise ValueError(f"{description}: {bad.name} cannot be prepared: {bad.reason}")
            self.cut_texts.add(inputs)
            rows = ItemBatch.from_inputs(inputs)
            chunks = [list(range(len(rows.items)))]
            if self.args.chunk_tokens is not None:
                chunks = plan_chunks(rows.lengths, self.args.chunk_tokens)
            embeddings = self._chunks(model, rows, chunks).encode()
            tasks = self.objective_module.temperature.index(rows.tasks)
            return without_padding(
                gather_batch(rows.split(embeddings, tasks)), self.accelerator.gradient_state
            )

        metrics, count = validate(dataloader, encode, self.objective_module)
        named = {f"{metric_key_prefix}_{name}": value for name, value in metrics.items()}
        return EvalLoopOutput(predictions=None, label_ids=None, metrics=named, num_samples=count)  # type: ignore[arg-type]
