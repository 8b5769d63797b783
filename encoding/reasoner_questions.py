"""What a reasoner is shown of an item: texts, and pictures that stand for all other media."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from PIL import Image

from ..processing.documents import load_document
from ..processing.items import DocumentPart, ImagePart, Item, TextPart, VideoPart
from ..processing.limits import ROOM, MediaLimits
from ..processing.media import load_image
from ..processing.processor import UmeProcessor
from ..processing.sampling import Sampling
from ..processing.video import load_video

PAGE_PIXELS = 1024 * 1024  # of a document's page, where no embedder says how large


@dataclass(frozen=True)
class Question:
    """A rendered prompt, its pictures in order, and its tokens (0 before they are counted)."""

    text: str
    images: list[Image.Image]
    tokens: int = 0


def instruction_of(
    item: Item, role: str | None, instruction: str | None, processor: UmeProcessor | None
) -> str:
    """The item's own instruction, else the one given, else the default of the embedder for the role; may be empty."""
    if item.instruction is not None:
        return item.instruction
    if instruction is not None or processor is None:
        return instruction or ""
    return processor.settings.prompt.instructions.get(role or "default", "")


def as_shown(item: Item, processor: UmeProcessor | None, frames: int) -> Iterator[str | list[Image.Image]]:
    """An item's parts in order: a text, or the pictures of an image, a document's pages or up to ``frames`` of a video.

    processor: the embedder's, whose media limits, frames and pages hold.
    """
    limits = MediaLimits() if processor is None else processor.limits
    sampling = Sampling() if processor is None else processor.settings.sampling
    frames = min(frames, sampling.max_frames)
    least = min(sampling.min_frames, frames)
    sampling = replace(sampling, min_frames=least, max_frames=frames, multiple=1, list_frames=0)
    pixels = PAGE_PIXELS if processor is None else processor.settings.budget.image[1]
    for part in item.parts:
        yield part.text if isinstance(part, TextPart) else _pictures(part, limits, sampling, pixels)


def _pictures(
    part: ImagePart | VideoPart | DocumentPart, limits: MediaLimits, sampling: Sampling, pixels: int
) -> list[Image.Image]:
    with ROOM.released():
        if isinstance(part, ImagePart):
            return [load_image(part.source, limits)]
        if isinstance(part, DocumentPart):
            return load_document(part.source, part.page, pixels, limits)
        return load_video(part.source, sampling, limits).images
