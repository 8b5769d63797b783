"""Reading lessons: next-token loss on dense captions and short answers, which is what teaches the model to see.

Contrastive loss alone finds a shortcut (colours identify a scene) and looks perfect while digits are never learned;
therefore the accuracy of digits, colours and positions is logged apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import BatchFeature

from umekit.evaluation.digit_world import TASKS, word_kind
from umekit.modeling.backbone import states_of
from umekit.modeling.discriminative import UmeForDiscriminativeEmbedding
from umekit.processing.collating import Prepared
from umekit.processing.processor import UmeProcessor

KINDS = ("digit", "colour", "position", "other")
IGNORED = -100


class Readable(Protocol):
    """A world with something to read: DigitWorld, or one that stands in its place."""

    def row(self, task: str, index: int) -> dict[str, Any]: ...

    def caption(self, kind: Any, index: int) -> dict[str, Any]: ...


@dataclass(frozen=True)
class Lesson:
    """Pictures to read until unseen handwriting is read well.

    Attributes:
        name: for the log.
        sources: kinds of captions and tasks whose answer is to be given, in turn.
        gate_source, gate: the lesson ends when every kind of word is read so well on unseen rows of this source.
        batch: rows per step.
    """

    name: str
    sources: tuple[str, ...]
    gate_source: str
    gate: float
    batch: int


# Single cells come first: digits are learned there in 250 steps, and not at all in 600 steps of whole scenes.
LETTERS = Lesson("letters", ("cell",), "cell", 0.90, batch=192)
SENTENCES = Lesson("sentences", ("scene", "scene", "clip", "page", "cell"), "scene", 0.95, batch=64)
# A model that reads a whole scene without a fault still cannot say what is at p3: that is a lesson of its own.
ANSWERS = Lesson(
    "answers",
    (
        "qa_what",
        "page",
        "qa_where",
        "classify_digit",
        "scene",
        "ask_page",
        "qa_what",
        "page",
        "clip_end",
        "clip",
    ),
    "qa_what",
    0.90,
    batch=100,
)
LESSONS = (LETTERS, SENTENCES, ANSWERS)

# Beside a contrastive batch: captions of pages most, since printed words and written numbers are learned last.
_PAGES = ("page", "ask_page", "page")
_PLACES = ("qa_what", "qa_where", "classify_digit", "clip_end")
BESIDE = (
    *(*_PAGES, "scene", *_PLACES, "walk", "clip", "clip_motion"),
    *(*_PAGES, "sum", *_PLACES, "until_gold", "classify_count", "classify_parity"),
    *("ground_cell", "classify_colour"),
)


def lesson_rows(world: Readable, sources: Sequence[str], start: int, count: int) -> list[dict[str, Any]]:
    """Rows ``start .. start+count-1``, the sources in turn: ``{"item", "text"}``.

    The first word of a task's answer is predicted from the state at ``<disc_emb>``: the state that is the embedding.
    """
    rows = []
    for index in range(start, start + count):
        source = sources[index % len(sources)]
        if source in TASKS:
            row = world.row(source, index)
            rows.append({"item": row["query"], "text": row["answer"]})
        else:
            rows.append(world.caption(source, index))
    return rows


class CaptionReader:
    """Makes batches of captions and scores a model on them."""

    def __init__(self, processor: UmeProcessor) -> None:
        self.processor = processor
        tokenizer = processor.tokenizer
        self.end = tokenizer.convert_tokens_to_ids("<|im_end|>")
        words = [tokenizer.decode([i]).strip() for i in range(len(tokenizer))]
        self.kind_of = torch.tensor([KINDS.index(word_kind(word)) for word in words])

    def prepare(self, rows: Sequence[dict[str, Any]]) -> list[Prepared]:
        """Prompts with their captions appended."""
        tokenize = self.processor.tokenizer
        prepared = [self.processor.prepare(row["item"]) for row in rows]
        texts = [tokenize(" " + row["text"], add_special_tokens=False).input_ids for row in rows]
        return [one.continued([*ids, self.end]) for one, ids in zip(prepared, texts, strict=True)]

    def labels(self, items: Sequence[Prepared], width: int) -> Tensor:
        """int64 ``[B, width]`` of right-padded items: the next token of a caption, or -100."""
        labels = torch.full((len(items), width), IGNORED)
        for number, one in enumerate(items):
            if one.completion:
                ids = one.input_ids[-one.completion :]
                labels[number, one.length - len(ids) - 1 : one.length - 1] = torch.from_numpy(ids)
        return labels

    def batch(self, rows: Sequence[dict[str, Any]]) -> BatchFeature:
        """Prompts with their captions; ``labels`` as in :meth:`labels`."""
        prepared = self.prepare(rows)
        batch = self.processor.collate(prepared, padding_side="right")
        batch["labels"] = self.labels(prepared, batch["input_ids"].shape[1])
        return batch

    def loss(self, model: UmeForDiscriminativeEmbedding, batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean of the rows' losses, and the accuracy of each kind of word."""
        inputs = {key: value for key, value in batch.items() if key not in ("labels", "pooling_slots")}
        states = states_of(model.backbone, inputs, model.settings)
        loss, accuracy = self.loss_of(model, states, batch["labels"])
        return loss / len(states), accuracy

    def loss_of(
        self, model: UmeForDiscriminativeEmbedding, states: Tensor, labels: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Cross-entropy, and the accuracy of each kind of word.

        The loss is the sum of the rows' means: an answer of one word weighs as much as a caption of thirty. Rows
        without a label add nothing.
        """
        asked = labels != IGNORED
        labels = labels[asked]
        logits = model.backbone.get_output_embeddings()(states[asked]).float()
        weights = (asked / asked.sum(-1, keepdim=True).clamp(min=1))[asked]
        loss = (torch.nn.functional.cross_entropy(logits, labels, reduction="none") * weights).sum()
        right = (logits.argmax(-1) == labels).float()
        kinds = self.kind_of[labels]
        accuracy = {name: right[kinds == number].mean() for number, name in enumerate(KINDS[:3])}
        return loss, accuracy

    @torch.inference_mode()
    def accuracy(
        self, model: UmeForDiscriminativeEmbedding, world: Readable, source: str, count: int = 192
    ) -> dict[str, float]:
        """Accuracy per kind of word on ``count`` rows of one source, in evaluation mode."""
        was_training = model.training
        model.eval()
        _, accuracy = self.loss(model, self.batch(lesson_rows(world, (source,), 0, count)))
        model.train(was_training)
        return {name: float(value) for name, value in accuracy.items() if not torch.isnan(value)}
