"""DistillationTrainer: an embedding model learns a teacher's scores over each query's candidates."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .arguments import ContrastiveTrainingArguments
from .batches import ItemBatch, PreparedRow, gather_batch, without_padding
from .collating import ContrastiveCollator, column, items_of, naming
from .contrastive import ContrastiveTrainer
from .hashing import content_hash
from .model_with_objective import Metrics
from .objectives.distillation import candidate_cosines, listwise_kl

COLLATOR_SETTINGS = ("max_candidates", "force_positive")


@dataclass
class DistillationTrainingArguments(ContrastiveTrainingArguments):
    """Arguments of :class:`DistillationTrainer`; those of InfoNCE count where ``infonce_weight`` is not 0, but for the
    temperature. The defaults are U-MARVEL's. load_best_model_at_end goes by the loss of evaluation."""

    learnable_temperature: bool = field(default=True, metadata={"help": "Learn the student's temperature."})
    generation_prompt: bool = field(
        default=False,
        metadata={
            "help": "Train with the header of an assistant's turn at the end of prompts, where the checkpoint has it."
        },
    )
    divergence: str = field(
        default="forward",
        metadata={"help": "`forward`: KL(teacher || student); `reverse`: KL(student || teacher)."},
    )
    teacher_scale: float = field(
        default=1.0,
        metadata={"help": "Factor on the teacher's scores: 0.5 for cosine + P(yes), as U-MARVEL's files."},
    )
    teacher_temperature: float | None = field(
        default=None, metadata={"help": "Of the teacher; None: the student's, without a gradient."}
    )
    max_candidates: int | None = field(
        default=None, metadata={"help": "Use at most this many candidates of a row, the first. U-MARVEL: 50."}
    )
    force_positive: bool = field(
        default=False,
        metadata={"help": "Add the positive, with its `positive_teacher_score`, to a list that has it not."},
    )
    infonce_weight: float = field(default=0.0, metadata={"help": "Of an InfoNCE loss that is added."})

    def __post_init__(self) -> None:
        if self.divergence not in ("forward", "reverse"):
            raise ValueError(f"divergence is 'forward' or 'reverse', not {self.divergence!r}")
        for name in ("teacher_scale", "teacher_temperature", "max_candidates"):
            if (value := getattr(self, name)) is not None and not value > 0:
                raise ValueError(f"{name} must be positive, got {value}")
        if self.infonce_weight < 0:
            raise ValueError(f"infonce_weight must not be negative, got {self.infonce_weight}")
        if self.matryoshka_dims is not None:
            raise ValueError("matryoshka_dims: the teacher's scores are learnt by whole vectors only")
        if self.load_best_model_at_end and self.metric_for_best_model is None:
            self.metric_for_best_model = "eval_loss"
        super().__post_init__()

    def collator_settings(self) -> dict[str, Any]:
        """Keyword arguments of the :class:`DistillationCollator` that these arguments describe."""
        own = {name: getattr(self, name) for name in COLLATOR_SETTINGS}
        return {**super().collator_settings(), **own, "contrastive": self.infonce_weight > 0}


@dataclass
class DistillationCollator(ContrastiveCollator):
    """Rows with ``query``, ``candidates`` (items, the best first) and ``teacher_scores`` (a number for each).

    The roles are ``query`` and ``candidates``, with the column ``teacher_scores``, and where ``contrastive`` those of
    :class:`ContrastiveCollator`. ``force_positive`` adds a row's ``positive`` with its ``positive_teacher_score``
    behind candidates that have it not, compared by content.
    """

    max_candidates: int | None = None
    force_positive: bool = False
    contrastive: bool = False
    NO_ROW = {**ContrastiveCollator.NO_ROW, "candidates": ["no row"], "teacher_scores": [0.0]}  # noqa: RUF012

    def prepare_row(self, row: Mapping[str, Any]) -> PreparedRow:
        """The roles and the columns of the class's docstring."""
        items, scores = items_of(row, "candidates"), _numbers(row, "teacher_scores")
        if not items or len(items) != len(scores):
            raise ValueError(f"{len(items)} candidates and {len(scores)} teacher_scores")
        pairs = []
        for place, item in enumerate(items[: self.max_candidates]):
            with naming(f"candidate {place}"):
                pairs.append(self._prepared(item, "document"))
        scores = scores[: self.max_candidates]
        if self.force_positive:
            with naming("the positive"):
                kept, prepared = self._prepared(column(row, "positive"), "document")
            if content_hash(prepared) not in {content_hash(one) for _, one in pairs}:
                pairs.append((kept, prepared))
                scores.append(float(column(row, "positive_teacher_score")))
        for place, score in enumerate(scores):
            if not math.isfinite(score):
                raise ValueError(f"candidate {place}: the teacher's score is not finite")
        found = PreparedRow({"query": self.prepare_item(column(row, "query"), "query")})
        if self.contrastive:
            found = super().prepare_row(row)
        found.items["candidates"] = [kept for kept, _ in pairs]
        found.columns["teacher_scores"] = torch.tensor(scores, dtype=torch.float32)
        return found


def _numbers(row: Mapping[str, Any], name: str) -> list[float]:
    """The numbers of a column that a row must have; NaN where one is missing."""
    given = column(row, name)
    try:
        found = np.array(given, dtype=np.float64)
    except (ValueError, TypeError):
        found = np.empty(())
    if found.ndim != 1:
        raise TypeError(f"{name} must be a list of numbers, got {given!r:.80}")
    numbers: list[float] = found.tolist()
    return numbers


@dataclass
class CandidateVectors:
    """What was read of rows: ``query`` [n, d], ``candidates`` [n, c, d], and of them bool ``candidate_mask`` and
    ``teacher_scores`` [n, c]; ``tasks`` int64 [n]."""

    query: Tensor
    candidates: Tensor
    candidate_mask: Tensor
    teacher_scores: Tensor
    tasks: Tensor


@dataclass
class CandidateScores:
    """The student's ``scores`` and the teacher's, [n, c]; bool ``mask`` [n, c]; ``tasks`` int64 [n]."""

    scores: Tensor
    teacher_scores: Tensor
    mask: Tensor
    tasks: Tensor


class DistillationTrainer(ContrastiveTrainer):
    """Train an embedding model on a teacher's scores, by rows that :class:`DistillationCollator` describes.

    The loss is the divergence, over each row's candidates, of the softmax of the student's cosines from that of the
    teacher's scores, both by the temperature, whose gradient comes through the student alone; and, weighted, InfoNCE
    over the batch. objective: that of the stage before goes on with the temperature that was learnt there.
    """

    args: DistillationTrainingArguments
    arguments_class = DistillationTrainingArguments
    collator_class = DistillationCollator

    def representation_loss(self, values: Tensor, batch: ItemBatch) -> tuple[Tensor, Metrics]:
        """Divergence and weighted InfoNCE over all ranks' rows, and metrics."""
        loss, metrics = self.distill(self.scored(values, batch))
        if self.args.infonce_weight:
            contrast, more = super().representation_loss(values, batch)
            loss, metrics = loss + self.args.infonce_weight * contrast, {**more, **metrics}
        return loss, metrics

    def scored(self, values: Tensor, batch: ItemBatch) -> CandidateScores:
        """All ranks' rows; a rank sends scores, and no vectors."""
        tasks = self.objective_module.temperature.index(batch.tasks)
        rows = batch.split(values, CandidateVectors, tasks=tasks)
        scores = candidate_cosines(rows.query, rows.candidates)
        return gather_batch(CandidateScores(scores, rows.teacher_scores, rows.candidate_mask, rows.tasks))

    def distill(self, rows: CandidateScores) -> tuple[Tensor, Metrics]:
        """The divergence, 0-d, and metrics; zero and none where every row was left out."""
        temperature = self.objective_module.temperature(rows.tasks)
        if len(rows.scores) == 0:
            return rows.scores.sum() * 0.0 + temperature.sum() * 0.0, {}
        loss = listwise_kl(
            rows.scores,
            rows.teacher_scores * self.args.teacher_scale,
            temperature=temperature,
            teacher_temperature=self.args.teacher_temperature,
            mask=rows.mask,
            direction=self.args.divergence,
        )
        metrics = {"divergence": loss.detach(), "agreement": agreement(rows).float().mean()}
        return loss, {**self.objective_module.values(), **metrics}

    @torch.no_grad()
    def evaluate_batches(
        self, model: nn.Module, batches: Iterable[ItemBatch]
    ) -> tuple[dict[str, float], int]:
        """``loss`` (the divergence) and ``agreement`` (see :func:`agreement`), means of rows."""
        losses, agreed = [], []
        for batch in batches:
            rows = self.scored(self.encode(model, batch), batch)
            rows = without_padding(rows, self.accelerator.gradient_state)
            losses.append(self.distill(rows)[0].item())
            agreed.append(agreement(rows).float().cpu())
        if not agreed:
            raise ValueError("the eval dataset is empty")
        sizes = [len(one) for one in agreed]
        loss = float(np.average(losses, weights=sizes))
        return {"loss": loss, "agreement": torch.cat(agreed).mean().item()}, sum(sizes)


def agreement(rows: CandidateScores) -> Tensor:
    """bool [n]: whether the student's best candidate is the teacher's; of several that tie, every one must be."""
    own, teacher = (
        scores == scores.masked_fill(~rows.mask, float("-inf")).amax(dim=1, keepdim=True)
        for scores in (rows.scores, rows.teacher_scores)
    )
    return ~(own & rows.mask & ~teacher).any(dim=1)
