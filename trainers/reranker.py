"""RerankerTrainer: a model learns to answer whether a candidate is what a query asks for."""

from __future__ import annotations

import functools
import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..encoding.calibration import calibration
from ..modeling.pooling import DIRECT_SLOT
from ..modeling.settings import LINEAR_ATTENTION_FAMILIES
from .arguments import ItemTrainingArguments
from .batches import ItemBatch, gather_batch, without_padding
from .distributed import sum_over_ranks
from .dummy_media import DummyMedia, grey_picture
from .item_trainer import ItemTrainer
from .model_with_objective import LOCAL, Metrics, run_model
from .objectives.reranking import listwise_cross_entropy
from .pair_rows import SPANS, PairBatch, PairCollator
from .shared_beginnings import by_row, is_worth_it, plan_rows, read_rows
from .tokens import IGNORED, completion_labels, log_probabilities

logger = logging.getLogger(__name__)

PAIRS = "pairs"  # the name of what is read by row, among a forward's inputs
COLLATOR_SETTINGS = ("loss_span", "max_positives", "max_negatives", "negative_depth", "seed")


@dataclass
class RerankerTrainingArguments(ItemTrainingArguments):
    """Arguments of :class:`RerankerTrainer`. load_best_model_at_end goes by the loss of evaluation."""

    loss_span: str = field(
        default="answer",
        metadata={
            "help": "Tokens of the pointwise loss: `answer` alone, or the whole `turn` (header, answer, end) with "
            "equal weight, as U-MARVEL's code has it."
        },
    )
    pointwise_weight: float = field(default=1.0, metadata={"help": "Of the mean over all pairs' tokens."})
    listwise_weight: float = field(
        default=0.0,
        metadata={
            "help": "Of the cross-entropy, over a row's candidates, of the logit of yes less that of no; its target is "
            "uniform over the row's positives."
        },
    )
    max_positives: int | None = field(
        default=None, metadata={"help": "`positive` and the first of `positives`; None: all of a row."}
    )
    max_negatives: int | None = field(
        default=None, metadata={"help": "Negatives of a row; None: all of its list. U-MARVEL: 1."}
    )
    negative_depth: int | None = field(
        default=None,
        metadata={
            "help": "Draw them from so many of the list's first; None: they are the first. U-MARVEL: 100."
        },
    )
    positions: str | None = field(
        default=None,
        metadata={
            "help": "Train with other positions (`1d`, `mrope`) than the checkpoint scores with; U-MARVEL was, `1d`."
        },
    )

    share_beginnings: bool = field(
        default=True,
        metadata={
            "help": "Read what a row's pairs begin with (request, query) once, where that saves a fifth of a batch's "
            "tokens; for loss_span `answer`, without FSDP, DeepSpeed, activation checkpointing and linear attention."
        },
    )

    def __post_init__(self) -> None:
        if self.loss_span not in SPANS:
            raise ValueError(f"loss_span is one of {SPANS}, not {self.loss_span!r}")
        if self.positions not in (None, "1d", "mrope"):
            raise ValueError(f"positions is '1d' or 'mrope', not {self.positions!r}")
        weights = (self.pointwise_weight, self.listwise_weight)
        if min(weights) < 0 or max(weights) == 0:
            raise ValueError("pointwise_weight and listwise_weight must not be negative, and not both 0")
        for name in ("max_positives", "max_negatives", "negative_depth"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ValueError(f"{name} must be positive, got {value}: pairs of both kinds are needed")
        if self.media_per_chunk:
            raise ValueError("media_per_chunk is not there for pairs: the query's pixels are shared by them")
        super().__post_init__()

    def collator_settings(self) -> dict[str, Any]:
        """Keyword arguments of the :class:`PairCollator` that these arguments describe, but for the answers."""
        return {**super().collator_settings(), **{name: getattr(self, name) for name in COLLATOR_SETTINGS}}


class RerankerTrainer(ItemTrainer):
    """Train a reranker on rows of mined lists, which :class:`PairCollator` describes.

    Pointwise: the mean, over the pairs of all ranks, of the cross-entropy of the answer's token (or of its turn's).
    Listwise: each row's candidates compete by the logit of yes less that of no, and its positives are to share the
    softmax alike (:func:`listwise_cross_entropy`). Both are added with their weights.

    model: a reranking model, of any backbone, with an adapter or without. Evaluation reports how well scores order
    pairs (``auc``, ``recall@1``: a positive is the best of its row) and how far they are probabilities
    (``loss``: of the two answers, ``brier``, ``calibration_error``).
    """

    args: RerankerTrainingArguments
    arguments_class = RerankerTrainingArguments
    collator_class = PairCollator
    _labelled: Tensor
    _said_alone = False

    def __init__(
        self,
        model: nn.Module,
        args: RerankerTrainingArguments,
        *,
        processing_class: Any,
        data_collator: Any = None,
        **kwargs: Any,
    ) -> None:
        answers = getattr(model, "answer_ids", None)
        if answers is None:
            raise TypeError(
                f"{type(model).__name__} scores no pairs: load the checkpoint with a reranker's preset"
            )
        if data_collator is None and isinstance(args, self.arguments_class):
            data_collator = self.collator_class(processing_class, answers=answers, **args.collator_settings())
        super().__init__(
            model, args, processing_class=processing_class, data_collator=data_collator, **kwargs
        )

    def batch_backward(self, model: nn.Module, batch: ItemBatch) -> tuple[Tensor, Metrics]:
        """Of the pointwise loss, and of the listwise one where it has a weight."""
        if len(batch) and not self._said_alone and all(relevant_pairs(batch)):
            self._said_alone = True
            logger.warning(
                "step %d: no row of a batch has a negative, so that it teaches yes alone: give rows `negatives`, as "
                "`umekit mine` does; this is said once",
                self.state.global_step + 1,
            )
        labelled = sum(max(1, item.completion) for item in batch.items) if len(batch) else 0
        self._labelled = sum_over_ranks(torch.tensor(labelled, device=self.args.device)).clamp(min=1)
        if not self.args.listwise_weight:
            return self.backpropagate(model, batch)
        return self.backpropagate(model, batch, lambda values: self.listwise(values, batch))

    # ---- chunks ----------------------------------------------------------------------------------

    def collate(
        self, batch: ItemBatch, indices: Sequence[int], dummies: Sequence[DummyMedia] = ()
    ) -> dict[str, Any]:
        """Model inputs of some pairs; prepared pairs by row, where what they begin with is read once."""
        if not self._shares(batch):
            return super().collate(batch, indices, dummies)
        rows = [[batch.items[i] for i in row] for row in by_row(indices, batch.counts["pairs"] or [])]
        if dummies and not any(item.patches for row in rows for item in row):
            rows.append([dummies[0].item])
        labels = torch.full((len(indices), 1), IGNORED)
        labels[:, 0] = self._answers(batch, indices)
        return {PAIRS: rows, f"{LOCAL}labels": self._prepare_input(labels)}

    def training_chunks(self, batch: ItemBatch) -> list[list[int]]:
        """Indices of a batch's pairs by chunk; those of a row together, where they share what they begin with."""
        if not self._shares(batch):
            return super().training_chunks(batch)
        assert self.args.chunk_tokens is not None
        costs = [math.ceil(self._patch_cost * patches) for patches in batch.patches]
        return plan_rows(batch.items, batch.counts["pairs"] or [], self.args.chunk_tokens, costs)

    def whole_chunks(self, batch: ItemBatch) -> list[list[int]]:
        """Indices of a batch's pairs for one forward."""
        return [list(range(len(batch.items)))] if self._shares(batch) else super().whole_chunks(batch)

    def _shares(self, batch: ItemBatch) -> bool:
        """Whether the beginnings of a batch's pairs are read once."""
        if not len(batch) or not self._can_share:
            return False
        return is_worth_it(batch.items, batch.counts["pairs"] or [])

    @functools.cached_property
    def _can_share(self) -> bool:
        if not self.args.share_beginnings or self.args.loss_span != "answer":
            return False
        if self._dummies.sharded:  # ranks must run as many forwards as each other
            return False
        # Neither of these goes on from a cache with a gradient.
        linear = self.native_model.config.model_type in LINEAR_ATTENTION_FAMILIES
        return not linear and not self.args.activation_checkpointing

    # ---- what a forward gives --------------------------------------------------------------------

    def run(self, model: Any, inputs: Mapping[str, Any]) -> Any:
        """A forward; in training with its own positions, where the arguments name them."""
        if self.args.positions is None or not model.training:
            return self._run(model, inputs)
        kept = model.settings
        model.settings = replace(kept, positions=self.args.positions)
        try:
            return self._run(model, inputs)
        finally:
            model.settings = kept

    def _run(self, model: Any, inputs: Mapping[str, Any]) -> Any:
        if PAIRS in inputs:
            return read_rows(model, self.processing_class, inputs[PAIRS])
        return run_model(model, inputs)

    def read(self, output: Any) -> Tensor:
        """The logit of yes less that of no, float32 [B]."""
        logits: Tensor = output.logits
        return logits[:, 0] - logits[:, 1]

    def local_inputs(
        self, batch: ItemBatch, indices: Sequence[int], inputs: Mapping[str, Any]
    ) -> dict[str, Any]:
        """int64 ``labels`` [items, L]: where the next token counts, that token."""
        ids, items = inputs["input_ids"], [batch.items[index] for index in indices]
        if self.args.loss_span == "turn" and len(batch):
            return {"labels": completion_labels(items, ids, inputs["attention_mask"])}
        labels = torch.full((len(items), ids.shape[1]), IGNORED, dtype=torch.int64)
        if len(batch):
            labels[inputs["pooling_slots"][: len(items)] == DIRECT_SLOT] = self._answers(batch, indices)
        return {"labels": labels}

    def local_loss(self, model: Any, output: Any, inputs: Mapping[str, Any]) -> Tensor:
        """The pointwise loss of a forward's pairs."""
        found = log_probabilities(model, output.last_hidden_state, inputs["local_labels"])
        return found.sum() * (-self.args.pointwise_weight / self._labelled)

    def listwise(self, values: Tensor, batch: ItemBatch) -> tuple[Tensor, Metrics]:
        """The weighted listwise loss over all ranks' rows, and the share of rows with a positive as the best."""
        rows = gather_batch(batch.split(values, PairBatch))
        if len(rows) == 0:
            return values.sum() * 0.0, {}
        loss = listwise_cross_entropy(rows.pairs, rows.relevant, mask=rows.pair_mask)
        best = positive_is_best(rows)
        return loss * self.args.listwise_weight, {"accuracy": best.float().mean()} if len(best) else {}

    def dummy_picture(self) -> Any:
        """A pair with a small picture."""
        return self.processing_class.prepare_pair("a", {"image": grey_picture()})  # type: ignore[union-attr]

    def dummy_video(self) -> Any:
        """A pair with a small video."""
        return self.processing_class.prepare_pair("a", {"video": [grey_picture()] * 4})  # type: ignore[union-attr]

    def _answers(self, batch: ItemBatch, indices: Sequence[int]) -> Tensor:
        """Token ids of the answers to some pairs, int64 [indices]."""
        yes, no = self.native_model.answer_ids
        relevant = relevant_pairs(batch)
        return torch.tensor([yes if relevant[index] else no for index in indices])

    # ---- evaluation ------------------------------------------------------------------------------

    def evaluate_batches(
        self, model: nn.Module, batches: Iterable[ItemBatch]
    ) -> tuple[dict[str, float], int]:
        """The metrics of the class's docstring, over the pairs of the whole set; see :func:`calibration`."""
        logits, relevant, best, count = [], [], [], 0
        for batch in batches:
            rows = gather_batch(batch.split(self.encode(model, batch), PairBatch))
            rows = without_padding(rows, self.accelerator.gradient_state)
            logits.append(rows.pairs[rows.pair_mask].double().cpu())
            relevant.append(rows.relevant[rows.pair_mask].cpu())
            best += positive_is_best(rows).tolist()
            count += len(rows)
        if not best:
            raise ValueError("the eval dataset is empty, or no row of it has a negative")
        if len(best) < count:
            logger.warning(
                "recall@1 leaves out %d of %d rows, which have no negative", count - len(best), count
            )
        scores, truth = torch.cat(logits), torch.cat(relevant)
        report = calibration(scores.sigmoid().numpy(), truth.numpy())
        loss = F.binary_cross_entropy_with_logits(scores, truth.double()).item()
        metrics = {"loss": loss, "auc": report.auc, "brier": report.brier, "calibration_error": report.error}
        return {**metrics, "recall@1": float(np.mean(best))}, count


def relevant_pairs(batch: ItemBatch) -> list[bool]:
    """Which of a batch's pairs are to be answered with yes."""
    rows = zip(batch.columns["relevant"].tolist(), batch.counts["pairs"] or [], strict=True)
    return list(chain.from_iterable(row[:count] for row, count in rows))


def positive_is_best(rows: PairBatch) -> Tensor:
    """Whether the best of a row's relevant pairs is above all its others; a tie is not.

    bool, of the rows that have others: one without says nothing.
    """
    own = rows.pairs.masked_fill(~rows.relevant, float("-inf")).amax(dim=1)
    is_other = rows.pair_mask & ~rows.relevant
    others = rows.pairs.masked_fill(~is_other, float("-inf")).amax(dim=1)
    return (own > others)[is_other.any(dim=1)]
