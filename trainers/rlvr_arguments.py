"""Arguments of :class:`umekit.trainers.RLVRTrainer`, and the rows that it trains on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch

from .arguments import ContrastiveTrainingArguments
from .batches import PreparedRow
from .collating import ContrastiveCollator, column
from .objectives.policy import NORMS

TARGETS = ("rollouts", "greedy", "frozen")
NOTES = (str, int, float, bool)


@dataclass
class RLVRTrainingArguments(ContrastiveTrainingArguments):
    """Arguments of :class:`RLVRTrainer`. The defaults are those of UME-R1's training, but for ``top_k``.

    Those of InfoNCE count for the anchor alone. load_best_model_at_end goes by recall@1 of greedy thoughts.
    """

    mode: str | None = field(default="generative", metadata={"help": "Items are asked to think."})
    train_lm_head: bool = field(default=True, metadata={"help": "Train an untied lm_head."})
    learning_rate: float = field(default=1e-6, metadata={"help": "The initial learning rate."})
    num_generations: int = field(default=8, metadata={"help": "Rollouts of an item: a group."})
    max_completion_length: int = field(
        default=2048,
        metadata={"help": "Most tokens of a rollout, and the constant that losses are divided by."},
    )
    sampling_temperature: float = field(
        default=1.0, metadata={"help": "Of the rollouts; log-probabilities are taken at it, too."}
    )
    top_k: int | None = field(
        default=None,
        metadata={
            "help": "Draw from this many likeliest tokens, while log-probabilities stay those of the whole softmax "
            "(UME-R1: 50, by accident of a default). None: from all."
        },
    )
    rollout_tokens: int | None = field(
        default=None,
        metadata={"help": "Tokens of prompts and thoughts that are written together; None: all of a batch."},
    )
    targets: str = field(
        default="rollouts",
        metadata={
            "help": "`rollouts`: positives think in groups and are trained as queries are. `greedy`: the policy thinks "
            "once about each, greedily, and is not trained on it. `frozen`: a column `positive_vectors` holds "
            "their vectors."
        },
    )
    format_weight: float = field(default=1.0, metadata={"help": "Of the reward for the form of a thought."})
    embed_weight: float = field(default=1.0, metadata={"help": "Of the reward for rank and gap."})
    scale_advantages: bool = field(
        default=True, metadata={"help": "Divide advantages by the deviation of their group."}
    )
    min_deviation: float = field(
        default=0.0,
        metadata={
            "help": "A group's deviation counts as this where it is smaller, so that rewards that differ by next to "
            "nothing are not blown up."
        },
    )
    num_iterations: int = field(default=1, metadata={"help": "Updates on the same rollouts."})
    beta: float = field(default=0.04, metadata={"help": "Weight of the KL term; 0 needs no reference."})
    clip_low: float = field(default=0.2, metadata={"help": "Ratios are clipped below 1 - this."})
    clip_high: float = field(default=0.28, metadata={"help": "Ratios are clipped above 1 + this."})
    loss_norm: str = field(
        default="constant",
        metadata={
            "help": "`constant`: divide a rollout's loss by max_completion_length; `sequence`: by its own length; "
            "`token`: the mean over all tokens of a side."
        },
    )
    anchor_weight: float = field(
        default=0.0, metadata={"help": "Of the contrastive losses of both slots of the rollouts."}
    )
    log_completions_steps: int = field(
        default=0,
        metadata={"help": "Write rollouts to a file of the output folder every so many steps; 0: never."},
    )
    logged_rows: int = field(default=4, metadata={"help": "Rows whose rollouts are written then."})

    def __post_init__(self) -> None:
        if self.mode in (None, "discriminative"):
            raise ValueError(f"mode is {self.mode!r}: a trainer of thoughts needs prompts that ask for one")
        if self.targets not in TARGETS:
            raise ValueError(f"targets is one of {', '.join(TARGETS)}, not {self.targets!r}")
        if self.loss_norm not in NORMS:
            raise ValueError(f"loss_norm is one of {', '.join(NORMS)}, not {self.loss_norm!r}")
        if self.num_generations < 2:
            raise ValueError(
                "num_generations must be at least 2: an advantage is a difference within a group"
            )
        for name in (
            "max_completion_length",
            "num_iterations",
            "sampling_temperature",
            "rollout_tokens",
            "top_k",
        ):
            if (value := getattr(self, name)) is not None and not value > 0:
                raise ValueError(f"{name} must be positive, got {value}")
        weights = ("beta", "anchor_weight", "min_deviation", "clip_low", "clip_high", "log_completions_steps")
        for name in weights:
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        if self.learnable_temperature and not self.anchor_weight:
            raise ValueError(
                "learnable_temperature: only the anchor has a temperature, and anchor_weight is 0"
            )
        self.max_negatives = 0
        super().__post_init__()
        if self.anchor_weight and self.per_device_train_batch_size * self.world_size == 1:
            raise ValueError(
                "anchor_weight: a batch of one row has nothing to tell its target from, and the anchor trains nothing: "
                "raise per_device_train_batch_size (gradient accumulation adds no negatives), or leave the anchor out"
            )
        if self.num_iterations > 1:
            self._check_iterations()

    def _check_iterations(self) -> None:
        """Rollouts are no part of a checkpoint: one between two updates on the same could not be resumed exactly."""
        steps: dict[str, float] = {"max_steps": self.max_steps}
        if self.save_strategy == "steps":
            steps["save_steps"] = self.save_steps
        if self.save_strategy == "best" and self.eval_strategy == "steps":
            steps["eval_steps"] = self.eval_steps or 0
        for name, value in steps.items():
            if value > 0 and value % self.num_iterations:
                raise ValueError(
                    f"{name} is {value}; it must be a multiple of num_iterations, {self.num_iterations}, since a "
                    "checkpoint between two updates on the same rollouts could not be resumed exactly"
                )

    @property
    def updates_per_batch(self) -> int:
        """``num_iterations``."""
        return self.num_iterations

    def collator_settings(self) -> dict[str, Any]:
        """Keyword arguments of the :class:`RolloutCollator` that these arguments describe."""
        return {**super().collator_settings(), "frozen_targets": self.targets == "frozen"}


@dataclass
class RolloutCollator(ContrastiveCollator):
    """Rows with ``query`` and ``positive``, items, and perhaps ``positive_id``; numbers and texts go along for rewards.

    frozen_targets: ``positive_vectors`` holds vectors of the positive, [d] or [h, d].
    """

    frozen_targets: bool = False
    NO_ROW: ClassVar[Mapping[str, Any]] = {**ContrastiveCollator.NO_ROW, "positive_vectors": [1.0]}

    def prepare_row(self, row: Mapping[str, Any]) -> PreparedRow:
        """As the parent's, with notes."""
        found = super().prepare_row(row)
        del found.items["negatives"], found.columns["negative_keys"]
        if self.frozen_targets:
            vectors = torch.as_tensor(column(row, "positive_vectors"), dtype=torch.float32)
            if vectors.ndim not in (1, 2) or not vectors.isfinite().all() or not vectors.any():
                raise ValueError(
                    "positive_vectors must be [d] or [h, d], finite and not zero, its shape is "
                    f"{[*vectors.shape]}"
                )
            found.columns["positive_vectors"] = vectors.view(-1, vectors.shape[-1])
        found.notes = {
            name: value
            for name, value in row.items()
            if isinstance(value, NOTES) and not name.startswith("__")
        }
        return found
