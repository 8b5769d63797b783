"""The calls of a native processor, answered by ours.

sentence-transformers, pipelines and plain transformers code call ``apply_chat_template`` on chat messages or the
processor on rendered text. Both go through the same tokenisation as items, so there is one preprocessing only.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from transformers import BatchFeature

from .collating import Prepared
from .cut_texts import Cuts
from .items import DocumentPart, ImagePart, Item, Part, TextPart, VideoPart
from .settings import with_arguments
from .templates import render_template

_MEDIA: dict[str, Any] = {
    "image": ImagePart,
    "image_url": ImagePart,
    "video": VideoPart,
    "document": DocumentPart,
}


class NativeCalls:
    """Mixin of :class:`UmeProcessor`."""

    @property
    def model_input_names(self) -> list[str]:
        return [
            "input_ids",
            "attention_mask",
            "mm_token_type_ids",
            "pixel_values",
            "image_grid_thw",
            "pixel_values_videos",
            "video_grid_thw",
        ]

    def apply_chat_template(  # type: ignore[override]
        self: Any,
        conversation: Sequence[Any],
        chat_template: str | None = None,
        *,
        tokenize: bool = False,
        padding_side: str | None = None,
        return_slots: bool = False,
        **kwargs: Any,
    ) -> Any:
        """Chat messages to text, or with ``tokenize=True`` to a padded batch.

        Args:
            conversation: messages, or a list of conversations. A ``system`` message is the instruction.
            tokenize: False gives the rendered text (a list of them for several conversations).
            padding_side: side of the padding of a tokenized batch.
            thinking: among ``kwargs``: whether the prompt asks for a thought.
            return_slots: whether the batch has ``pooling_slots`` (native models do not know them).
            kwargs: ``min_pixels``, ``max_pixels``, ``size``, ``fps`` and the like for this call, by themselves or in
                ``processor_kwargs``; output arguments of native processors are ignored, torch tensors come out.
        """
        single = bool(conversation) and isinstance(conversation[0], Mapping)
        conversations = [conversation] if single else list(conversation)
        if not tokenize:
            told = {**self.tokenizer.special_tokens_map}
            told |= {name: kwargs[name] for name in ("thinking",) if name in kwargs}
            template = self.chat_template if chat_template is None else chat_template
            texts = [render_template(template, one, told) for one in conversations]
            return texts[0] if single else texts
        if chat_template is not None and chat_template != self.chat_template:
            raise ValueError(
                "this processor tokenizes with its checkpoint's own template only; save another one there"
            )
        limited = (
            self._within(kwargs)
            ._sized(kwargs.get("processor_kwargs") or kwargs)
            .for_mode("generative" if kwargs.get("thinking") else None)
        )
        rows = [limited.prepare_messages(one) for one in conversations]
        Cuts().see(rows).warn(len(rows))
        return self._native_batch(rows, padding_side, return_slots)

    def __call__(
        self: Any,
        images: Any = None,
        text: Any = None,
        videos: Any = None,
        *,
        padding_side: str | None = None,
        return_slots: bool = False,
        **kwargs: Any,
    ) -> BatchFeature:
        """Rendered prompts and their media, in the order of the placeholders, to a padded batch.

        Special tokens in ``text`` are real ones here: for text that users typed, use items or chat messages.
        ``kwargs`` are as for :meth:`apply_chat_template`.

        Raises:
            ValueError: placeholders and media do not match.
        """
        if text is None:
            raise ValueError(
                "give rendered text with placeholders, chat messages to apply_chat_template, or items: "
                "pictures alone are encode_items([{'image': picture}, ...])"
            )
        sized = self._sized(kwargs)
        texts = [text] if isinstance(text, str) else list(text)
        stills = iter(_flat(images))
        films = iter([] if videos is None else videos)
        rows = []
        for one in texts:
            mine = [next(stills, None) for _ in range(one.count(self.image_token))]
            clips = [next(films, None) for _ in range(one.count(self.video_token))]
            if any(media is None for media in (*mine, *clips)):
                raise ValueError("the text has more placeholders than there are media")
            pictures = [patches for media in mine for _, patches in sized._media(ImagePart(media))]
            videos_of_row = [patches for media in clips for _, patches in sized._media(VideoPart(media))]
            rows.append(self.tokenize_rendered(one, pictures, videos_of_row))
        if next(stills, None) is not None or next(films, None) is not None:
            raise ValueError("there are more media than placeholders in the text")
        return self._native_batch(rows, padding_side, return_slots)

    def _native_batch(self: Any, rows: list[Prepared], padding_side: str | None, slots: bool) -> BatchFeature:
        batch = self.collate(rows, padding_side or getattr(self.tokenizer, "padding_side", None))
        if not slots:
            batch.pop("pooling_slots")
        return batch

    def item_of_messages(self: Any, messages: Sequence[Mapping[str, Any]]) -> Item:
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
                inner = self.item_of_messages(part["message"])
                parts.extend(inner.parts)
                instruction = inner.instruction if inner.instruction is not None else instruction
        if turns != 1:
            raise ValueError(f"an item is one turn beside 'system', this chat has {turns}")
        return Item(tuple(parts), instruction)

    def _sized(self: Any, kwargs: Mapping[str, Any]) -> Any:
        """This processor, or one with the pixels and frames that a call asks for."""
        given = {**kwargs.get("images_kwargs", {}), **kwargs.get("videos_kwargs", {}), **kwargs}
        given.pop("model_max_length", None)
        settings = with_arguments(self.settings, given)
        if settings == self.settings:
            return self
        other = copy.copy(self)
        other.settings = settings
        return other

    def _within(self: Any, kwargs: Mapping[str, Any]) -> Any:
        """This processor, or one with a smaller ``max_length`` where the caller or the tokenizer has set one."""
        given = kwargs.get("processor_kwargs") or kwargs
        if given.get("videos_kwargs", {}).get("video_metadata"):
            raise ValueError("video metadata are not read: give the file, or frames that are evenly spaced")
        text = {
            **given.get("text_kwargs", {}),
            **{k: given[k] for k in ("max_length", "truncation") if k in given},
        }
        limits = [self.settings.max_length, text.get("max_length")]
        if text.get("truncation"):
            limits.append(self.tokenizer.model_max_length)
        limit = min(one for one in limits if one is not None)
        if limit == self.settings.max_length:
            return self
        return self.with_max_length(limit)


def _part(part: Mapping[str, Any]) -> Part:
    kind = part["type"]
    if kind == "text":
        return TextPart(part["text"])
    if kind not in _MEDIA:
        raise ValueError(f"content of type {kind!r} cannot be embedded; known are text, image and video")
    for key in (kind, "url", "path", "image", "video"):
        if part.get(key) is not None:
            source = part[key]
            return _MEDIA[kind](source["url"] if isinstance(source, Mapping) and "url" in source else source)
    raise ValueError(f"a content part of type {kind!r} without a source")


def _flat(images: Any) -> list[Any]:
    if images is None:
        return []
    if not isinstance(images, (list, tuple)):
        return [images]
    return [one for group in images for one in (group if isinstance(group, (list, tuple)) else [group])]
