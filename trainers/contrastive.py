"""ContrastiveTrainer: InfoNCE on a ``transformers.Trainer``, with batches of any size and an exact resume."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn

from .arguments import ContrastiveTrainingArguments
from .batches import ContrastiveBatch, ItemBatch, gather_batch, without_negatives, without_padding
from .collating import ContrastiveCollator
from .distributed import world_size
from .item_trainer import ItemTrainer
from .model_with_objective import Metrics
from .objectives.module import ContrastiveObjective
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

    Seams for a subclass: :meth:`representation_loss`, those of :class:`ItemTrainer`, and the collator's
    ``prepare_row``.
    """

    args: ContrastiveTrainingArguments
    arguments_class = ContrastiveTrainingArguments
    collator_class = ContrastiveCollator
    _said_alone = False

    @classmethod
    def make_objective(cls, args: ContrastiveTrainingArguments) -> ContrastiveObjective:
        """InfoNCE with the arguments' settings."""
        return ContrastiveObjective(**args.objective_settings())

    def batch_backward(self, model: nn.Module, batch: ItemBatch) -> tuple[Tensor, Metrics]:
        """Of :meth:`representation_loss`, and of a local loss where there is one."""
        return self.backpropagate(model, batch, lambda values: self.representation_loss(values, batch))

    def representation_loss(self, values: Tensor, batch: ItemBatch) -> tuple[Tensor, Metrics]:
        """Loss over all ranks' rows, and metrics. values: what was read of this rank's items, with gradient."""
        return self.contrast(gather_batch(self.by_role(values, batch)))

    def by_role(self, values: Tensor, batch: ItemBatch) -> ContrastiveBatch:
        """What was read of this rank's items, by role."""
        tasks = self.objective_module.temperature.index(batch.tasks)
        return batch.split(values, ContrastiveBatch, tasks=tasks)

    def contrast(self, rows: ContrastiveBatch) -> tuple[Tensor, Metrics]:
        """The objective's loss of all ranks' rows, and its metrics; zero and none where every row was left out."""
        if len(rows) == 0:
            learned = [p.sum() for p in self.objective_module.parameters()]
            return sum(learned, rows.query.sum()) * 0.0, {}
        masks = rows.masks()
        if without_negatives(rows, masks):
            self._say_alone(len(rows))
        loss, metrics = self.objective_module(rows.query, rows.positive, rows.negatives, rows.tasks, **masks)
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

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """The contrastive loss of a collated batch in one forward, with its graph; outputs are the
        metrics."""
        batch: ItemBatch = inputs["batch"]
        loss, metrics, _ = self.forward_whole(
            model, batch, lambda values: self.representation_loss(values, batch)
        )
        return (loss, metrics) if return_outputs else loss

    def evaluate_batches(
        self, model: nn.Module, batches: Iterable[ItemBatch]
    ) -> tuple[dict[str, float], int]:
        """The loss per batch, and recall@1 over the whole set."""
        return validate(
            ((batch.names, self.gathered(model, batch)) for batch in batches), self.objective_module
        )

    def gathered(self, model: nn.Module, batch: ItemBatch) -> ContrastiveBatch:
        """What is read of the rows of all ranks, without a graph."""
        rows = gather_batch(self.by_role(self.encode(model, batch), batch))
        return without_padding(rows, self.accelerator.gradient_state)
