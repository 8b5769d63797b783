"""What the calls of a native processor mean to ours.

sentence-transformers, pipelines and plain transformers code call ``apply_chat_template`` on chat messages or the
processor on rendered text. Both go through the same tokenisation as items, so there is one preprocessing only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from .collating import Prepared
from .items import DocumentPart, ImagePart, Item, Part, TextPart, VideoPart
from .preparing import PromptContext, patches_of, tokenize_rendered
from .settings import ProcessorSettings, with_arguments
from .tokenizing import IMAGE_TOKEN, VIDEO_TOKEN
from .vision import Patches

INPUT_NAMES = (
    "input_ids",
    "attention_mask",
    "mm_token_type_ids",
    "pixel_values",
    "image_grid_thw",
    "pixel_values_videos",
    "video_grid_thw",
)
_MEDIA: dict[str, Any] = {
    "image": ImagePart,
    "image_url": ImagePart,
    "video": VideoPart,
    "document": DocumentPart,
}


def item_of_messages(messages: Sequence[Mapping[str, Any]]) -> Item:
    """The item that a chat says: its ``system`` message is the instruction, its one other turn the content.

    Raises:
        ValueError: not exactly one turn beside ``system``, or content that cannot be embedded.
    """
    parts: list[Part] = []
    instruction: str | None = None
    turns = 0
    for message in messages:
        content = message["content"]
        content = [{"type": "text", "text": content}] if isinstance(content, str) else content
        if message["role"] == "system":
            instruction = "".join(part["text"] for part in content if part["type"] == "text")
            continue
        turns += 1
        for part in content:
            if part["type"] != "message":
                parts.append(_part(part))
                continue
            # sentence-transformers wraps a whole chat like this where a batch also holds other inputs.
            inner = item_of_messages(part["message"])
            parts.extend(inner.parts)
            instruction = inner.instruction if inner.instruction is not None else instruction
    if turns != 1:
        raise ValueError(f"an item is one turn beside 'system', this chat has {turns}")
    return Item(tuple(parts), instruction)


def rows_of_prompts(context: PromptContext, texts: Sequence[str], images: Any, videos: Any) -> list[Prepared]:
    """Rendered prompts and their media, in the order of the placeholders.

    Raises:
        ValueError: placeholders and media do not match.
    """
    settings, layout, limits = context.settings, context.layout, context.limits
    pictures, clips = iter(_flat(images)), iter([] if videos is None else videos)

    def patches(part: ImagePart | VideoPart) -> list[Patches]:
        return [one for _, one in patches_of(part, settings, layout, limits)]

    rows = []
    for text in texts:
        own_pictures = [next(pictures, None) for _ in range(text.count(IMAGE_TOKEN))]
        own_clips = [next(clips, None) for _ in range(text.count(VIDEO_TOKEN))]
        if any(medium is None for medium in (*own_pictures, *own_clips)):
            raise ValueError("the text has more placeholders than there are media")
        rows.append(
            tokenize_rendered(
                context,
                text,
                [one for medium in own_pictures for one in patches(ImagePart(medium))],
                [one for medium in own_clips for one in patches(VideoPart(medium))],
            )
        )
    if next(pictures, None) is not None or next(clips, None) is not None:
        raise ValueError("there are more media than placeholders in the text")
    return rows


def sized(settings: ProcessorSettings, kwargs: Mapping[str, Any]) -> ProcessorSettings:
    """Settings with the pixels and frames that a call asks for."""
    given = {**kwargs.get("images_kwargs", {}), **kwargs.get("videos_kwargs", {}), **kwargs}
    given.pop("model_max_length", None)
    return with_arguments(settings, given)


def bounded(settings: ProcessorSettings, kwargs: Mapping[str, Any], most: int | None) -> ProcessorSettings:
    """Settings with a smaller ``max_length`` where the caller has set one, or asks for the tokenizer's (``most``)."""
    if kwargs.get("videos_kwargs", {}).get("video_metadata"):
        raise ValueError("video metadata are not read: give the file, or frames that are evenly spaced")
    text = {**kwargs.get("text_kwargs", {})}
    text |= {name: kwargs[name] for name in ("max_length", "truncation") if name in kwargs}
    limits = [settings.max_length, text.get("max_length")]
    if text.get("truncation"):
        limits.append(most)
    limit = min(one for one in limits if one is not None)
    return settings if limit == settings.max_length else replace(settings, max_length=limit)


def _part(part: Mapping[str, Any]) -> Part:
    kind = part["type"]
    if kind == "text":
        return TextPart(part["text"])
    if kind not in _MEDIA:
        raise ValueError(f"content of type {kind!r} cannot be embedded; known are text, image and video")
    for key in (kind, "url", "path", "image", "video"):
        if part.get(key) is not None:
            source = part[key]
            return _MEDIA[kind](source["url"] if isinstance(source, Mapping) and "url" in source else source)  # type: ignore[no-any-return]
    raise ValueError(f"a content part of type {kind!r} without a source")


def _flat(images: Any) -> list[Any]:
    if images is None:
        return []
    if not isinstance(images, (list, tuple)):
        return [images]
    return [one for group in images for one in (group if isinstance(group, (list, tuple)) else [group])]
