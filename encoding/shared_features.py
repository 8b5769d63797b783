"""Media that several items of a window show: each goes through the vision tower once.

Batches are planned by length, so that a picture with a short and a long question stands in two of them: its features
wait for the second. A batch of which nothing is shared is encoded as ever, from its pixels.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from transformers import BatchFeature

from ..modeling.backbone_ume import base_of
from ..modeling.vision_store_ume import VisionStore
from ..processing.collating_ume import Prepared
from ..processing.vision_ume import Patches

if TYPE_CHECKING:
    from ..modeling.composed_ume import UmePreTrainedModel
    from ..processing.processing_ume import UmeProcessor

KEEP_BYTES = 2**28  # features of shared media kept for later windows of the same call


class SharedFeatures:
    """Collates a window's items, with the features of their media in place of pixels where media are shared.

    Args:
        model: whose tower is run.
        processor: collates, and makes pixels of patches.
        keep_bytes: features kept beyond their window.
    """

    def __init__(
        self, model: UmePreTrainedModel, processor: UmeProcessor, keep_bytes: int = KEEP_BYTES
    ) -> None:
        self.processor = processor
        self.store = VisionStore(
            base_of(model.backbone),
            processor.pixels,
            deepstack=model.settings.deepstack,
            keep_bytes=keep_bytes,
        )
        self._shared: set[str] = set()  # of this window and of those before, while the features are there

    def expect(self, rows: Sequence[Prepared]) -> None:
        """Begin a window."""
        self.store.forget()
        shown = Counter(self.store.key(medium) for row in rows for medium in _media(row))
        kept = {key for key in self._shared if key in self.store}
        self._shared = kept | {key for key, count in shown.items() if count > 1}
        self.store.expect([medium for row in rows for medium in _media(row) if self._is_shared(medium)])

    def collate(self, rows: Sequence[Prepared], padding_side: str = "right") -> BatchFeature:
        """A padded batch on the model's device: as the processor's, or with ``mm_encoder_outputs`` and no pixels."""
        shared = any(self._is_shared(medium) for row in rows for medium in _media(row))
        batch: BatchFeature = self.processor.collate(rows, padding_side, pixels=not shared)
        batch = batch.to(self.store.base.device)
        if not shared:
            return batch
        images = [medium for row in rows for medium in row.images]
        videos = [medium for row in rows for medium in row.videos]
        batch["mm_encoder_outputs"] = self.store.outputs(images, videos)
        return batch

    def _is_shared(self, medium: Patches) -> bool:
        return bool(self._shared) and self.store.key(medium) in self._shared


def _media(row: Prepared) -> list[Any]:
    return [*row.images, *row.videos]
