"""ItemTrainer: what lies between rows of items and the inputs of one forward."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch.utils.data import IterableDataset

from .arguments import ContrastiveTrainingArguments
from .data import IndexedRows, ItemBatch
from .distributed import needs_vision_in_every_forward
from .dummy_media import DummyMedia, grey_picture, lacking, sharded_dummies, unsharded_dummies
from .gradient_cache import plan_chunks
from .lazy_media import loaded
from .lora import part_of
from .memory import patch_cost
from .native_trainer import NativeTrainer


class ItemTrainer(NativeTrainer):
    """A trainer on rows of prepared items, of which a chunk at a time is made into the inputs of a forward.

    processing_class: the processor, with ``prepare`` and ``collate``. Where several ranks train a vision tower, or
    share its parameters, every forward gets media, of its own or as dummies.
    """

    args: ContrastiveTrainingArguments

    def dummy_picture(self) -> Any:
        """A prepared item with a small picture, for forwards that must run the vision tower and have no media."""
        return self.processing_class.prepare({"image": grey_picture()}, role="document")  # type: ignore[union-attr]

    def dummy_video(self) -> Any:
        """One with a small video, where sharded parameters ask for the same media in every rank's forward."""
        return self.processing_class.prepare({"video": [grey_picture()] * 4}, role="document")  # type: ignore[union-attr]

    def _rows(self, inputs: Mapping[str, Any]) -> ItemBatch:
        processor: Any = self.processing_class
        return ItemBatch.from_inputs(inputs).filled(lambda: processor.prepare("no row", role="document"))

    def _collator(self, rows: ItemBatch) -> Callable[[Sequence[int]], dict[str, Any]]:
        """Indices of rows' items -> model inputs; to be made once a batch, because ranks may have to agree."""
        return functools.partial(self._collate, rows, dummies=self._dummies(rows))

    def _collate(
        self, rows: ItemBatch, indices: Sequence[int], dummies: Sequence[DummyMedia] = ()
    ) -> dict[str, Any]:
        items = loaded([rows.items[index] for index in indices], self.processing_class)
        batch = self.processing_class.collate(items)  # type: ignore[union-attr]
        if more := lacking(dummies, batch):
            batch = self.processing_class.collate([*items, *more])  # type: ignore[union-attr]
        return {key: self._prepare_input(value) for key, value in batch.items()}

    def _dummies(self, rows: ItemBatch) -> list[DummyMedia]:
        if not self._vision_in_every_forward:
            return []
        if not self._sharded:
            return unsharded_dummies(self._picture)
        return sharded_dummies(rows.items, self._picture, lambda: self._video, self.args.device)

    @functools.cached_property
    def _vision_in_every_forward(self) -> bool:
        return needs_vision_in_every_forward(self.native_model, self._sharded)

    @functools.cached_property
    def _picture(self) -> Any:
        return self.dummy_picture()

    @functools.cached_property
    def _video(self) -> Any:
        return self.dummy_video()

    @property
    def _sharded(self) -> bool:
        return bool(self.is_fsdp_enabled or self.is_deepspeed_enabled)

    def _training_chunks(self, rows: ItemBatch) -> list[list[int]]:
        assert self.args.chunk_tokens is not None
        tower = (
            [math.ceil(self._patch_cost * patches) for patches in rows.patches] if self._patch_cost else None
        )
        return plan_chunks(rows.lengths, self.args.chunk_tokens, tower)

    @functools.cached_property
    def _patch_cost(self) -> float:
        """Of a patch in tokens; nothing where no gradient goes through the tower, which then keeps nothing."""
        named = self.native_model.backbone.named_parameters()
        trained = any(part_of(name) == "vision" and p.requires_grad for name, p in named)
        return patch_cost(self.native_model.config) if trained else 0.0

    def _get_dataloader(
        self,
        dataset: Any,
        description: str,
        batch_size: int,
        sampler_fn: Any = None,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        rows = dataset
        if not isinstance(dataset, IterableDataset) and hasattr(dataset, "__getitem__"):
            rows = IndexedRows(dataset, getattr(self.data_collator, "skip_bad_rows", False))
        sampler = None if sampler_fn is None else lambda _rows: sampler_fn(dataset)  # it may read a column
        return super()._get_dataloader(rows, description, batch_size, sampler, *args, **kwargs)
