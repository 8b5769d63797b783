"""Reading lessons: next-token loss on dense captions, which is what teaches the vision tower to see.

Contrastive loss alone finds a shortcut (colours identify a scene) and looks perfect while digits are never learned;
therefore the accuracy of digits, colours and positions is logged apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import BatchFeature

from umekit.evaluation.digit_world import DigitWorld, word_kind
from umekit.evaluation.digit_world.world import CaptionKind
from umekit.modeling.backbone_ume import states_of
from umekit.modeling.modeling_ume import UmeForDiscriminativeEmbedding
from umekit.processing.processing_ume import UmeProcessor

KINDS = ("digit", "colour", "position", "other")
IGNORED = -100


@dataclass(frozen=True)
class Lesson:
    """Pictures to read until unseen handwriting is read well.

    Attributes:
        name: for the log.
        kinds: of pictures, in turn.
        gate_kind, gate: the lesson ends when this accuracy of digits is reached on unseen pictures of this kind.
        batch: captions per step.
    """

    name: str
    kinds: tuple[CaptionKind, ...]
    gate_kind: CaptionKind
    gate: float
    batch: int


# Single cells come first: digits are learned there in 250 steps, and not at all in 600 steps of whole scenes.
LETTERS = Lesson("letters", ("cell",), "cell", 0.90, batch=192)
SENTENCES = Lesson("sentences", ("scene", "scene", "clip", "page", "cell"), "scene", 0.95, batch=64)


def caption_rows(
    world: DigitWorld, kinds: Sequence[CaptionKind], start: int, count: int
) -> list[dict[str, Any]]:
    """Captions ``start .. start+count-1``, the kinds in turn."""
    return [world.caption(kinds[index % len(kinds)], index) for index in range(start, start + count)]


# Beside a contrastive batch: pages most, since printed words and written numbers are learned last.
BESIDE: tuple[CaptionKind, ...] = ("page", "scene", "page", "clip")
QUESTIONS = (
    "qa_what",
    "ask_page",
    "clip_mover",
    "qa_where",
    "ask_page",
    "clip_end",
    "sum",
    "ground_cell",
    "clip_motion",
    "classify_count",
    "classify_colour",
    "classify_digit",
)


def question_rows(world: DigitWorld, start: int, count: int) -> list[dict[str, Any]]:
    """Questions with their answer as the caption, the tasks in turn.

    The first word of the answer is predicted from the state at ``<disc_emb>``: the state that is the embedding.
    """
    rows = [world.row(QUESTIONS[index % len(QUESTIONS)], index) for index in range(start, start + count)]
    return [{"item": row["query"], "text": row["answer"]} for row in rows]


class CaptionReader:
    """Makes batches of captions and scores a model on them."""

    def __init__(self, processor: UmeProcessor) -> None:
        self.processor = processor
        tokenizer = processor.tokenizer
        self.end = tokenizer.convert_tokens_to_ids("<|im_end|>")
        words = [tokenizer.decode([i]).strip() for i in range(len(tokenizer))]
        self.kind_of = torch.tensor([KINDS.index(word_kind(word)) for word in words])

    def batch(self, rows: Sequence[dict[str, Any]]) -> BatchFeature:
        """Prompts with their captions appended; ``labels`` int64 ``[B, L]``: the next token, or -100."""
        prepared, texts = [], []
        for row in rows:
            one = self.processor.prepare(row["item"])
            ids = [*self.processor.tokenizer(" " + row["text"], add_special_tokens=False).input_ids, self.end]
            one.input_ids = np.concatenate([one.input_ids, ids])
            one.token_types = np.concatenate([one.token_types, np.zeros(len(ids), dtype=np.int64)])
            one.slots = np.concatenate([one.slots, np.zeros(len(ids), dtype=np.int8)])
            prepared.append(one)
            texts.append(ids)
        batch = self.processor.collate(prepared, padding_side="right")
        labels = torch.full_like(batch["input_ids"], IGNORED)
        for number, (one, ids) in enumerate(zip(prepared, texts, strict=True)):
            labels[number, one.length - len(ids) - 1 : one.length - 1] = torch.tensor(ids)
        batch["labels"] = labels
        return batch

    def loss(self, model: UmeForDiscriminativeEmbedding, batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean cross-entropy over caption tokens, and the accuracy of each kind of word."""
        inputs = {key: value for key, value in batch.items() if key not in ("labels", "pooling_slots")}
        states = states_of(model.backbone, inputs, model.settings)
        asked = batch["labels"] != IGNORED
        labels = batch["labels"][asked]
        logits = model.backbone.get_output_embeddings()(states[asked]).float()
        loss = torch.nn.functional.cross_entropy(logits, labels)
        right = (logits.argmax(-1) == labels).float()
        kinds = self.kind_of[labels]
        accuracy = {name: right[kinds == number].mean() for number, name in enumerate(KINDS[:3])}
        return loss, accuracy

    @torch.inference_mode()
    def accuracy(
        self, model: UmeForDiscriminativeEmbedding, world: DigitWorld, kind: CaptionKind, count: int = 192
    ) -> dict[str, float]:
        """Accuracy per kind of word on ``count`` captions of one kind, in evaluation mode."""
        was_training = model.training
        model.eval()
        _, accuracy = self.loss(model, self.batch(caption_rows(world, (kind,), 0, count)))
        model.train(was_training)
        return {name: float(value) for name, value in accuracy.items() if not torch.isnan(value)}
