"""Parts of an item to patches: read, sized by the checkpoint's budget, cut."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

from .documents import load_document
from .items import DocumentPart, ImagePart, Item, ItemError, TextPart, VideoPart, parse_item
from .limits import ROOM, MediaLimits
from .media import load_image
from .settings import ProcessorSettings
from .video import load_video
from .vision import (
    FrameResize,
    FramesAsImages,
    Patches,
    PatchLayout,
    PixelBudget,
    image_patches,
    video_patches,
)


def is_listed(item: Item) -> bool:
    """Whether an item's pictures are a list: several, given under ``images``, or a video."""
    pictures = sum(isinstance(part, (ImagePart, DocumentPart)) for part in item.parts)
    return item.listed or pictures > 1 or any(isinstance(part, VideoPart) for part in item.parts)


def gives_list(raw: Any) -> bool:
    """:func:`is_listed` of what a user wrote; False of what is no item."""
    try:
        return is_listed(parse_item(raw, empty=True))
    except ItemError:
        return False  # reported where it is prepared


def content_of(
    item: Item, settings: ProcessorSettings, layout: PatchLayout, limits: MediaLimits
) -> tuple[list[dict[str, Any]], list[Patches], list[Patches]]:
    """An item as content of a chat message, its pictures, and its videos."""
    content: list[dict[str, Any]] = []
    images: list[Patches] = []
    videos: list[Patches] = []
    listed = is_listed(item)
    for part in item.parts:
        if isinstance(part, TextPart):
            content.append({"type": "text", "text": part.text})
            continue
        for kind, patches in patches_of(part, settings, layout, limits, listed):
            content.append({"type": kind})
            (images if kind == "image" else videos).append(patches)
    return content, images, videos


def patches_of(
    part: ImagePart | VideoPart | DocumentPart,
    settings: ProcessorSettings,
    layout: PatchLayout,
    limits: MediaLimits,
    listed: bool = False,
) -> list[tuple[str, Patches]]:
    """What a part puts into the prompt: ``("image", patches)`` or ``("video", patches)``, in order.

    Args:
        part: what to read.
        settings: pixel budget, frame sampling, and whether a video is frames or pictures.
        layout: geometry of the vision tower.
        limits: what one file may cost.
        listed: whether the item's pictures are a list, see :func:`is_listed`.
    """
    with ROOM.released():
        return _patches_of(part, settings, layout, limits, listed)


def _patches_of(
    part: ImagePart | VideoPart | DocumentPart,
    settings: ProcessorSettings,
    layout: PatchLayout,
    limits: MediaLimits,
    listed: bool,
) -> list[tuple[str, Patches]]:
    budget = settings.budget
    if budget.listed is not None and listed and not isinstance(part, DocumentPart):
        budget = replace(budget, image=budget.listed)
    if isinstance(part, ImagePart):
        return [("image", image_patches(load_image(part.source, limits), layout, budget))]
    if isinstance(part, DocumentPart):
        cut = partial(image_patches, layout=layout, budget=budget)
        pages = load_document(part.source, part.page, budget.image[1], limits, cut)
        return [("image", patches) for patches in pages]
    if settings.video_as_images:
        pictures = load_video(part.source, settings.sampling, limits, FramesAsImages(layout, budget)).images
        return [("image", patches) for patches in pictures]
    return [("video", _video(part, settings, layout, limits, budget))]


def _video(
    part: VideoPart,
    settings: ProcessorSettings,
    layout: PatchLayout,
    limits: MediaLimits,
    budget: PixelBudget,
) -> Patches:
    resize = FrameResize(layout, budget)
    frames = load_video(part.source, settings.sampling, limits, resize)
    assert resize.original is not None  # a video without frames was refused
    return video_patches(frames.images, frames.seconds, layout, resize.original)
