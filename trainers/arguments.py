"""Arguments of the trainers: ``transformers.TrainingArguments`` and what contrastive training adds."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from transformers import TrainingArguments


@dataclass
class ContrastiveTrainingArguments(TrainingArguments):
    """Arguments of :class:`ContrastiveTrainer`.

    ``per_device_train_batch_size`` is the *contrastive* batch of one device, in rows: every other row's
    positive is a negative, over all devices. What fits into memory at once is a different question and is
    answered by ``chunk_tokens``, which changes nothing in the result. ``gradient_accumulation_steps`` keeps
    its usual meaning: it averages the gradients of several contrastive batches and adds no negatives.

    Defaults that differ from the parent: all columns are kept, batches are not pinned (they are NumPy until
    a chunk is made), every process reads its own rows of an iterable dataset, and load_best_model_at_end
    goes by recall@1.
    """

    temperature: float = field(
        default=0.02, metadata={"help": "Temperature, or where a learnable one starts."}
    )
    learnable_temperature: bool = field(default=False, metadata={"help": "Learn the temperature."})
    temperature_bounds: list[float] = field(
        default_factory=lambda: [0.005, 0.2], metadata={"help": "Lowest and highest learnable temperature."}
    )
    tasks: list[str] | None = field(
        default=None, metadata={"help": "Names of tasks with a temperature each; rows then need a `task`."}
    )
    directions: list[str] = field(
        default_factory=lambda: ["q2p"], metadata={"help": "Any of q2p, p2q, q2q, p2p; see info_nce."}
    )
    hardness_alpha: float = field(default=0.0, metadata={"help": "Negatives weigh exp(alpha * cosine)."})
    detach_hardness: bool = field(default=True, metadata={"help": "No gradient through that weight."})
    false_negative_delta: float | None = field(
        default=None, metadata={"help": "Drop a negative whose cosine to the positive is above this."}
    )
    negatives_shared: bool = field(
        default=False, metadata={"help": "Hard negatives of a row are negatives of all rows."}
    )
    max_negatives: int | None = field(
        default=None, metadata={"help": "Use at most this many hard negatives of a row, the first ones."}
    )
    mask_duplicate_positives: bool = field(
        default=True,
        metadata={
            "help": "Rows with the same positive (by `positive_id`, or else by content) are no negatives of "
            "each other."
        },
    )
    chunk_tokens: int | None = field(
        default=None,
        metadata={
            "help": "Gradient caching: padded tokens of one forward, visual ones counted. None: one forward "
            "for the whole batch."
        },
    )
    train_lm_head: bool = field(
        default=False,
        metadata={"help": "Leave an untied lm_head trainable (an auxiliary loss needs its logits)."},
    )
    remove_unused_columns: bool = field(default=False, metadata={"help": "Must stay False: rows are items."})
    dataloader_pin_memory: bool = field(default=False, metadata={"help": "Batches are NumPy until chunked."})

    def __post_init__(self) -> None:
        if self.remove_unused_columns:
            raise ValueError(
                "remove_unused_columns must be False: the columns of a row are items, not model inputs"
            )
        if self.chunk_tokens is not None and self.chunk_tokens < 1:
            raise ValueError(f"chunk_tokens must be positive, got {self.chunk_tokens}")
        if self.max_negatives is not None and self.max_negatives < 0:
            raise ValueError(f"max_negatives must not be negative, got {self.max_negatives}")
        if self.accelerator_config is None:
            self.accelerator_config = {"dispatch_batches": False}
        if self.load_best_model_at_end and self.metric_for_best_model is None:
            self.metric_for_best_model = "eval_recall@1"
        super().__post_init__()

    def objective_settings(self) -> dict[str, Any]:
        """Keyword arguments of the :class:`ContrastiveObjective` that these arguments describe."""
        names = [
            "temperature",
            "learnable_temperature",
            "temperature_bounds",
            "tasks",
            "directions",
            "hardness_alpha",
            "detach_hardness",
            "false_negative_delta",
            "negatives_shared",
        ]
        return {name: getattr(self, name) for name in names}
