"""Reading lessons: next-token loss on dense captions, which is what teaches the vision tower to see.

Contrastive loss alone finds a shortcut (colours identify a scene) and looks perfect while digits are never learned;
therefore the accuracy of digits, colours and positions is logged apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import BatchFeature

from umekit.evaluation.digit_world import DigitWorld, word_kind
from umekit.modeling.backbone_ume import states_of
from umekit.modeling.modeling_ume import UmeForDiscriminativeEmbedding
from umekit.processing.processing_ume import UmeProcessor

KINDS = ("digit", "colour", "position", "other")
MIX = ("scene", "scene", "clip", "page")
IGNORED = -100


def caption_rows(world: DigitWorld, start: int, count: int) -> list[dict[str, Any]]:
    """Captions ``start .. start+count-1``: half scenes, a quarter clips, a quarter pages."""
    return [world.caption(MIX[index % len(MIX)], index) for index in range(start, start + count)]


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
            ids = self.processor.tokenizer(" " + row["text"], add_special_tokens=False).input_ids + [self.end]
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
    def accuracy(self, model: UmeForDiscriminativeEmbedding, world: DigitWorld, count: int = 192) -> dict[str, float]:
        """Accuracy per kind of word on ``count`` captions of a world, in evaluation mode."""
        was_training = model.training
        model.eval()
        parts = [
            self.loss(model, self.batch(caption_rows(world, start, 64)))[1] for start in range(0, count, 64)
        ]
        model.train(was_training)
        return {name: float(torch.stack([part[name] for part in parts]).mean()) for name in KINDS[:3]}
