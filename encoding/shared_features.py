"""Media that several items of a window show: each goes through the vision tower once.

Batches are planned by length, so that a picture with a short and a long question stands in two of them: its features
wait for the second. A batch of which nothing is shared is encoded as ever, from its pixels.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor
from transformers import BatchFeature

from ..modeling.backbone import base_of
from ..modeling.vision_features import VisionFeatureCache
from ..processing.collating import Prepared
from ..processing.vision import Patches

if TYPE_CHECKING:
    from ..modeling.composed import UmePreTrainedModel
    from ..processing.processor import UmeProcessor

KEEP_BYTES = 2**28  # features of shared media, beside their patches, kept for later windows of the same call


class SharedFeatures:
    """Which media of a window are shared, and batches with their features in place of pixels.

    Args:
        model: whose tower is run.
        processor: collates, and makes pixels of patches.
        keep_bytes: features kept beyond their window. Those that wait within it are kept whatever their size, until
            :meth:`release`.
    """

    def __init__(
        self, model: UmePreTrainedModel, processor: UmeProcessor, keep_bytes: int = KEEP_BYTES
    ) -> None:
        self.processor = processor
        self.cache = VisionFeatureCache(
            base_of(model.backbone),
            lambda media: processor.pixels(media, self._place),
            deepstack=model.settings.deepstack,
            keep_bytes=keep_bytes,
        )
        self._shared: dict[int, Patches] = {}  # by identity; holding them keeps the numbers theirs

    def begin_window(self, rows: Sequence[Prepared]) -> None:
        """These are the rows of the batches to come."""
        self.cache.evict()
        media = [medium for row in rows for medium in _media(row)]
        keys = [self.cache.key(medium) for medium in media]
        times = Counter(keys)
        self._shared = {
            id(medium): medium
            for medium, key in zip(media, keys, strict=True)
            if times[key] > 1 or key in self.cache
        }
        self.cache.reserve([medium for medium in media if id(medium) in self._shared])

    def shared_among(self, rows: Sequence[Prepared]) -> bool:
        """Whether a batch shows a medium that is shared in this window."""
        return any(id(medium) in self._shared for row in rows for medium in _media(row))

    def collate(self, rows: Sequence[Prepared], padding_side: str) -> BatchFeature:
        """A padded batch on the model's device, with ``mm_encoder_outputs`` and no pixels."""
        batch: BatchFeature = self.processor.collate(rows, padding_side, pixels=False, place=self._place)
        images = [medium for row in rows for medium in row.images]
        videos = [medium for row in rows for medium in row.videos]
        batch["mm_encoder_outputs"] = self.cache.outputs(images, videos)
        return batch

    def _place(self, tensor: Tensor) -> Tensor:
        return tensor.to(self.cache.base.device)

    def release(self) -> bool:
        """Give up sharing for the rest of the window, for want of memory; whether that frees any."""
        self._shared = {}
        return self.cache.clear()


def _media(row: Prepared) -> list[Any]:
    return [*row.images, *row.videos]
