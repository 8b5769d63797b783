"""Arguments of the trainers: ``transformers.TrainingArguments`` and what training on items adds."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from transformers import TrainingArguments

from .formats.mmeb_tasks import group_names
from .lora import PARTS

# Fields of ContrastiveTrainingArguments that its objective and its collator are made of, by the same names.
OBJECTIVE_SETTINGS = (
    "temperature",
    "learnable_temperature",
    "temperature_bounds",
    "tasks",
    "directions",
    "hardness_alpha",
    "detach_hardness",
    "false_negative_delta",
    "negatives_shared",
    "false_negative_margin",
    "matryoshka_dims",
    "matryoshka_weights",
)
COLLATOR_SETTINGS = (
    "max_negatives",
    "mask_duplicate_positives",
    "generation_prompt",
    "task_column",
    "task_groups",
)


@dataclass
class ItemTrainingArguments(TrainingArguments):
    """Arguments of every trainer on items.

    ``per_device_train_batch_size`` is the batch of one device that a loss sees, in rows. What fits into memory at once
    is a different question and is answered by ``chunk_tokens``, which changes nothing in the result.

    Defaults that differ from the parent: all columns are kept, batches are not pinned (they are NumPy until
    a chunk is made), and every process reads its own rows of an iterable dataset.
    """

    mode: str | None = field(
        default=None,
        metadata={"help": "What items are prepared for (`discriminative`, `generative`); None: the default."},
    )
    chunk_tokens: int | None = field(
        default=None,
        metadata={
            "help": "Gradient caching: padded tokens of one forward, visual ones counted; where the vision tower is "
            "trained, too, with what their patches keep in it. None: one forward for the whole batch."
        },
    )
    media_per_chunk: bool = field(
        default=False,
        metadata={
            "help": "Prepare an item's media again for each forward of its chunk instead of keeping its pixels (uint8) "
            "with the batch: reads files and URLs three times, for batches whose media memory does not hold. One that "
            "vanishes in between ends the run."
        },
    )
    scale_by_world_size: bool = field(
        default=True,
        metadata={
            "help": "Gradients of several ranks are those of one process with the whole batch. False: the "
            "backbone's are divided by the number of ranks, as U-MARVEL's code has it (Adam hides it, clipping "
            "does not)."
        },
    )
    max_bad_rows: int = field(
        default=0,
        metadata={
            "help": "Leave out and log up to this many rows that cannot be prepared, then raise. 0: raise at once."
        },
    )
    max_skipped_steps: int = field(
        default=0,
        metadata={
            "help": "Leave out, log and count up to this many steps whose loss or gradient is not finite, then raise. "
            "0: raise at once."
        },
    )
    train_lm_head: bool = field(
        default=False,
        metadata={"help": "Leave an untied lm_head trainable (a local loss needs its logits)."},
    )
    trained_parts: list[str] | None = field(
        default=None,
        metadata={
            "help": "Parts of the backbone that are trained, of language, vision and merger, where there is no adapter."
            " None: all."
        },
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
        if self.media_per_chunk and self.chunk_tokens is None:
            raise ValueError("media_per_chunk needs chunk_tokens: one forward holds all media at once")
        if unknown := sorted(set(self.trained_parts or ()) - set(PARTS)):
            raise ValueError(f"trained_parts: {unknown[0]!r} is none of {', '.join(PARTS)}")
        for name in ("max_bad_rows", "max_skipped_steps"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        if self.accelerator_config is None:
            self.accelerator_config = {"dispatch_batches": False}
        super().__post_init__()
        checkpointing = self.activation_checkpointing_kwargs
        if isinstance(checkpointing, dict) and checkpointing.get("use_reentrant"):
            raise ValueError(
                "activation_checkpointing_kwargs: use_reentrant must be False. Reentrant checkpointing finds no "
                "input with a gradient in the vision tower and leaves an adapter there untrained, silently."
            )

    @property
    def updates_per_batch(self) -> int:
        """Optimiser steps that are taken on the same rows."""
        return 1

    def collator_settings(self) -> dict[str, Any]:
        """Keyword arguments of the collator that these arguments describe."""
        return {
            "mode": self.mode,
            "media_per_chunk": self.media_per_chunk,
            "skip_bad_rows": self.max_bad_rows > 0,
        }


@dataclass
class ContrastiveTrainingArguments(ItemTrainingArguments):
    """Arguments of :class:`ContrastiveTrainer`.

    Of the *contrastive* batch every other row's positive is a negative, over all devices.
    ``gradient_accumulation_steps`` keeps its usual meaning: it averages the gradients of several contrastive batches
    and adds no negatives. load_best_model_at_end goes by recall@1.
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
    task_column: str = field(
        default="task", metadata={"help": "Column that names a row's task: `task`, `dataset` or any other."}
    )
    task_groups: str | None = field(
        default=None,
        metadata={
            "help": "Turn the names in `task_column` into groups: `rzenembed` has seven tasks for the data sets of "
            "MMEB. `tasks` are then these groups unless given."
        },
    )
    directions: list[str] = field(
        default_factory=lambda: ["q2p"], metadata={"help": "Any of q2p, p2q, q2q, p2p; see info_nce."}
    )
    hardness_alpha: float = field(default=0.0, metadata={"help": "Negatives weigh exp(alpha * cosine)."})
    detach_hardness: bool = field(default=True, metadata={"help": "No gradient through that weight."})
    false_negative_delta: float | None = field(
        default=None, metadata={"help": "Drop a negative whose cosine to the positive is above this."}
    )
    false_negative_margin: float | None = field(
        default=None,
        metadata={
            "help": "Drop a negative whose cosine is above this share (0.95) of the positive's cosine."
        },
    )
    matryoshka_dims: list[int] | None = field(
        default=None, metadata={"help": "Mean of the loss over these prefixes of the vectors."}
    )
    matryoshka_weights: list[float] | None = field(
        default=None, metadata={"help": "Weight of each of matryoshka_dims; equal if not given."}
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
            "help": "Rows with the same positive (by `positive_id` or by content) are no negatives of "
            "each other."
        },
    )
    generation_prompt: bool = field(
        default=True,
        metadata={
            "help": "False trains without the header of an assistant's turn at the end of prompts, as U-MARVEL's "
            "stages do; vectors are made with it all the same."
        },
    )

    def __post_init__(self) -> None:
        if self.max_negatives is not None and self.max_negatives < 0:
            raise ValueError(f"max_negatives must not be negative, got {self.max_negatives}")
        if self.tasks is None and self.task_groups is not None:
            self.tasks = group_names(self.task_groups)
        if self.load_best_model_at_end and self.metric_for_best_model is None:
            self.metric_for_best_model = "eval_recall@1"
        super().__post_init__()

    def objective_settings(self) -> dict[str, Any]:
        """Keyword arguments of the :class:`ContrastiveObjective` that these arguments describe."""
        return {name: getattr(self, name) for name in OBJECTIVE_SETTINGS}

    def collator_settings(self) -> dict[str, Any]:
        """Keyword arguments of the :class:`ContrastiveCollator` that these arguments describe."""
        return {**super().collator_settings(), **{name: getattr(self, name) for name in COLLATOR_SETTINGS}}
