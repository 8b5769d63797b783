"""One item, or a pair, on its way through the processor: media to patches, prompt to text, text to ids and slots."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from PIL import Image as PILImage

from .collating import Prepared
from .documents import load_document
from .families import Family
from .items import DocumentPart, ImagePart, Item, ItemError, TextPart, VideoPart, parse_item
from .limits import ROOM, MediaLimits
from .media import load_image
from .settings import ProcessorSettings
from .templates import prompt_of
from .tokenizing import IMAGE_TOKEN, VIDEO_TOKEN, PromptTokenizer, expand, pooling_slots
from .video import load_video
from .vision import FrameResize, FramesAsImages, Patches, PatchLayout, image_patches, video_patches

Medium = ImagePart | VideoPart | DocumentPart


@dataclass(frozen=True)
class PromptContext:
    """What is needed of a processor to make model inputs of an item.

    Attributes:
        settings: prompt, pooling, pixel budget, frame sampling, lengths.
        limits: what one file may cost.
        layout: geometry of the vision tower.
        family: of the backbone.
        tokenizer: of prompts.
        template: the checkpoint's chat template.
        named_tokens: the tokenizer's special tokens by name, as templates are told them.
        thinking: whether the prompt asks for a thought.
    """

    settings: ProcessorSettings
    limits: MediaLimits
    layout: PatchLayout
    family: Family
    tokenizer: PromptTokenizer
    template: str
    named_tokens: Mapping[str, Any]
    thinking: bool = False

    def template_options(self) -> dict[str, Any]:
        """Variables that the chat template is told beside the messages."""
        if self.settings.pairs:  # a reranker's template refuses to render half a pair without it
            return {"add_generation_prompt": True}
        return {"thinking": True} if self.thinking and "thinking" in self.template else {}


@dataclass
class Turn:
    """A turn of the chat that is rendered: parts in order, ``{"type", "text"}``, and their patches."""

    role: str
    content: list[dict[str, Any]]
    images: list[Patches]
    videos: list[Patches]


# ---- media -----------------------------------------------------------------------------------------------------


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


def read_turn(context: PromptContext, item: Item, role: str = "user") -> Turn:
    """An item as a turn of a chat, its media read."""
    turn = Turn(role, [], [], [])
    listed = is_listed(item)
    for part in item.parts:
        if isinstance(part, TextPart):
            turn.content.append({"type": "text", "text": part.text})
            continue
        for kind, patches in patches_of(part, context.settings, context.layout, context.limits, listed):
            turn.content.append({"type": kind})
            (turn.images if kind == "image" else turn.videos).append(patches)
    return turn


def patches_of(
    part: Medium, settings: ProcessorSettings, layout: PatchLayout, limits: MediaLimits, listed: bool = False
) -> list[tuple[str, Patches]]:
    """What a part puts into the prompt: ``("image", patches)`` or ``("video", patches)``, in order.

    Args:
        part: what to read.
        settings: pixel budget, frame sampling, and whether a video is frames or pictures.
        layout: geometry of the vision tower.
        limits: what one file may cost.
        listed: whether the item's pictures are a list, see :func:`is_listed`.
    """
    budget = settings.budget
    if budget.listed is not None and listed and not isinstance(part, DocumentPart):
        budget = replace(budget, image=budget.listed)
    with ROOM.released():
        if isinstance(part, ImagePart):
            return [("image", image_patches(load_image(part.source, limits), layout, budget))]
        if isinstance(part, DocumentPart):
            cut = partial(image_patches, layout=layout, budget=budget)
            pages = load_document(part.source, part.page, budget.image[1], limits, cut)
            return [("image", patches) for patches in pages]
        if settings.video_as_images:
            frames = FramesAsImages(layout, budget)
            pictures = load_video(part.source, settings.sampling, limits, frames).images
            return [("image", patches) for patches in pictures]
        resize = FrameResize(layout, budget)
        clip = load_video(part.source, settings.sampling, limits, resize)
        assert resize.original is not None  # a video without frames was refused
        return [("video", video_patches(clip.images, clip.seconds, layout, resize.original))]


# ---- prompts -----------------------------------------------------------------------------------------------------


def prepare_item(context: PromptContext, item: Item, instruction: str, role: str | None) -> Prepared:
    """An item as token ids, patches and slots; see ``UmeProcessor.prepare``."""
    if context.settings.blank_image and all(isinstance(part, TextPart) for part in item.parts):
        side = context.settings.blank_image
        blank = ImagePart(PILImage.new("RGB", (side, side), "white"))
        item = replace(item, parts=(blank, *item.parts))
    turn = read_turn(context, item)
    if context.settings.strip_marks:
        turn.content = _without_marks(turn.content)
    limit = context.settings.limit_of(role, bool(turn.images or turn.videos), bool(instruction))
    if context.settings.truncation == "right":
        return _cut_right(context, tokenize_turns(context, [turn], instruction), limit)
    return prepare_turns(context, [turn], instruction, limit)


def prepare_turns(
    context: PromptContext, turns: Sequence[Turn], instruction: str, limit: int | None = None
) -> Prepared:
    """Turns as one row, their texts shortened in place, the last one's first, until it has at most ``limit`` tokens.

    Raises:
        ValueError: too many tokens, and no text is left to be cut.
    """
    limit = context.settings.max_length if limit is None else limit
    cut = 0
    while True:
        row = tokenize_turns(context, turns, instruction)
        excess = row.length - limit
        if excess <= 0:
            row.cut_tokens, row.limit = cut, limit
            return row
        for turn in reversed(turns):
            taken = context.tokenizer.shorten(turn.content, excess)
            if taken:
                break
        else:
            raise ValueError(
                f"{excess} tokens over max_length={limit}, and there is no text left to cut: "
                "give fewer or smaller media, a shorter instruction, or a larger max_length"
            )
        cut += taken


def tokenize_turns(context: PromptContext, turns: Sequence[Turn], instruction: str) -> Prepared:
    """Turns rendered by the template and tokenised, however long; user text stays text."""
    tokenizer = context.tokenizer
    texts = [part["text"] for turn in turns for part in turn.content if part["type"] == "text"]
    guard = tokenizer.guard_for([*texts, instruction])
    messages: list[dict[str, Any]] = []
    if instruction:
        text = tokenizer.guarded(instruction, guard)
        messages.append({"role": "system", "content": [{"type": "text", "text": text}]})
    for turn in turns:
        content = [
            {**part, "text": tokenizer.guarded(part["text"], guard)} if part["type"] == "text" else part
            for part in turn.content
        ]
        messages.append({"role": turn.role, "content": content})
    rendered = prompt_of(context.template, messages, {**context.named_tokens, **context.template_options()})
    images = [patches for turn in turns for patches in turn.images]
    videos = [patches for turn in turns for patches in turn.videos]
    return tokenize_rendered(context, rendered, images, videos, guard=guard)


def tokenize_rendered(
    context: PromptContext,
    rendered: str,
    images: Sequence[Patches],
    videos: Sequence[Patches],
    guard: str = "",
) -> Prepared:
    """Token ids, types and slots of a rendered prompt; its special tokens are taken for real ones.

    Raises:
        ValueError: the prompt's placeholders and the media do not match.
    """
    tokenizer = context.tokenizer
    pieces = tokenizer.pieces(rendered, guard)
    found = [piece.text for piece in pieces if piece.token]
    for token, media in ((IMAGE_TOKEN, images), (VIDEO_TOKEN, videos)):
        if found.count(token) != len(media):
            raise ValueError(f"the prompt has {found.count(token)} {token} for {len(media)} media")
    expanded = expand(
        pieces,
        images,
        videos,
        patches_per_token=context.layout.merge**2,
        timestamps=context.family.timestamps,
    )
    ids = np.array(tokenizer.encode(expanded), dtype=np.int64)
    image, video = tokenizer.id_of(IMAGE_TOKEN), tokenizer.id_of(VIDEO_TOKEN)
    return Prepared(
        input_ids=ids,
        token_types=np.where(ids == image, 1, np.where(ids == video, 2, 0)),
        slots=pooling_slots(ids, context.settings.pooling, tokenizer),
        images=list(images),
        videos=list(videos),
        rendered=rendered.replace(guard, "") if guard else rendered,
    )


def _cut_right(context: PromptContext, row: Prepared, limit: int) -> Prepared:
    """The first ``limit`` tokens of a row, whatever the rest was; what the rule pools is looked for anew.

    For systems whose vectors of long texts were made so; the prompt's end is lost with the text's.

    Raises:
        ValueError: tokens of a picture or video would be cut, or nothing is left to pool.
    """
    if row.length <= limit:
        return replace(row, limit=limit)
    if row.token_types[limit:].any():
        raise ValueError(
            f"{row.length} tokens are over the limit of {limit}, and the cut would go through a picture: "
            "give fewer or smaller media"
        )
    ids = row.input_ids[:limit]
    return replace(
        row,
        input_ids=ids,
        token_types=row.token_types[:limit],
        slots=pooling_slots(ids, context.settings.pooling, context.tokenizer),
        cut_tokens=row.length - limit,
        limit=limit,
    )


def _without_marks(content: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Content without the placeholders that a text begins with, at most as many as there are media.

    Data sets of some systems have their media's places written into the texts.
    """
    media = sum(part["type"] != "text" for part in content)
    stripped = []
    for part in content:
        if part["type"] == "text":
            text = part["text"]
            while media and (mark := next((m for m in (IMAGE_TOKEN, VIDEO_TOKEN) if text.startswith(m)), "")):
                text, media = text[len(mark) :], media - 1
            part = {**part, "text": text}
        stripped.append(part)
    return stripped


# ---- for people --------------------------------------------------------------------------------------------------


def explain(row: Prepared, layout: PatchLayout, tokenizer: Any) -> dict[str, Any]:
    """Rendered text, tokens, slots, grids and pixels of a prepared item; plain values, ready for JSON."""
    media = [
        {
            "kind": kind,
            "original_size": list(one.original),
            "resized_size": [one.grid[2] * layout.patch, one.grid[1] * layout.patch],
            "grid_thw": list(one.grid),
            "tokens": int(np.prod(one.grid)) // layout.merge**2,
            "seconds": list(one.seconds),
        }
        for kind, group in (("image", row.images), ("video", row.videos))
        for one in group
    ]
    return {
        "text": row.rendered,
        "tokens": tokenizer.convert_ids_to_tokens(row.input_ids.tolist()),
        "input_ids": row.input_ids.tolist(),
        "pooling_slots": row.slots.tolist(),
        "media": media,
        "length": row.length,
        "cut_tokens": row.cut_tokens,
    }
