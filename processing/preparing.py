"""One item on its way through the processor: media to patches, prompt to text, text to ids and slots."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .collating import Prepared
from .items import DocumentPart, ImagePart, Item, VideoPart
from .patching import content_of, patches_of
from .placeholders import IMAGE_TOKEN, VIDEO_TOKEN, expand, without_marks
from .slots import pooling_slots
from .templates import prompt_of
from .truncating import cut_right
from .vision import Patches

Turn = tuple[str, list[dict[str, Any]]]  # role and content of a chat message


class Preparing:
    """Mixin of :class:`UmeProcessor`."""

    def _prepare(self: Any, item: Item, instruction: str, role: str | None) -> Prepared:
        content, images, videos = content_of(item, self.settings, self.layout, self.limits)
        if self.settings.strip_marks:
            content = without_marks(content)
        row = self._tokenize([("user", content)], instruction, images, videos)
        limit = self.settings.limit_of(role, bool(images or videos), bool(instruction))
        if self.settings.truncation == "right":
            return cut_right(row, limit, self.settings.pooling, self.prompt_tokenizer)
        excess = row.length - limit
        cut = 0
        while excess > 0:
            taken = self.prompt_tokenizer.shorten(content, excess)
            if taken == 0:
                raise ValueError(
                    f"{excess} tokens over max_length={limit}, and there is no text left to cut: "
                    "give fewer or smaller media, a shorter instruction, or a larger max_length"
                )
            cut += taken
            row = self._tokenize([("user", content)], instruction, images, videos)
            excess = row.length - limit
        row.cut_tokens, row.limit = cut, limit
        return row

    def _media(
        self: Any, part: ImagePart | VideoPart | DocumentPart, listed: bool = False
    ) -> list[tuple[str, Patches]]:
        return patches_of(part, self.settings, self.layout, self.limits, listed)

    def _tokenize(
        self: Any, turns: list[Turn], instruction: str, images: list[Patches], videos: list[Patches]
    ) -> Prepared:
        texts = [part["text"] for _, content in turns for part in content if part["type"] == "text"]
        guard = self.prompt_tokenizer.guard_for([*texts, instruction])
        messages: list[dict[str, Any]] = [
            {"role": role, "content": [self._guarded(part, guard) for part in content]}
            for role, content in turns
        ]
        if instruction:
            text = self.prompt_tokenizer.guarded(instruction, guard)
            messages.insert(0, {"role": "system", "content": [{"type": "text", "text": text}]})
        told = {**self.tokenizer.special_tokens_map, **self.template_options()}
        rendered = prompt_of(self.chat_template, messages, told)
        return self.tokenize_rendered(rendered, images, videos, guard=guard)

    def _guarded(self: Any, part: dict[str, Any], guard: str) -> dict[str, Any]:
        if part["type"] != "text":
            return part
        return {**part, "text": self.prompt_tokenizer.guarded(part["text"], guard)}

    def template_options(self: Any) -> dict[str, Any]:
        """Variables that the chat template is told beside the messages."""
        if self.settings.pairs:  # a reranker's template refuses to render half a pair without it
            return {"add_generation_prompt": True}
        return {"thinking": True} if self.thinking and "thinking" in str(self.chat_template) else {}

    def tokenize_rendered(
        self: Any, rendered: str, images: Sequence[Patches], videos: Sequence[Patches], guard: str = ""
    ) -> Prepared:
        """Token ids, types and slots of a rendered prompt; its special tokens are taken for real ones.

        Raises:
            ValueError: the prompt's placeholders and the media do not match.
        """
        pieces = self.prompt_tokenizer.pieces(rendered, guard)
        found = [piece.text for piece in pieces if piece.token]
        for token, media in ((IMAGE_TOKEN, images), (VIDEO_TOKEN, videos)):
            if found.count(token) != len(media):
                raise ValueError(f"the prompt has {found.count(token)} {token} for {len(media)} media")
        expanded = expand(
            pieces,
            images,
            videos,
            patches_per_token=self.layout.merge**2,
            timestamps=self.family.timestamps,
        )
        ids = np.array(self.prompt_tokenizer.encode(expanded), dtype=np.int64)
        types = np.where(ids == self.image_token_id, 1, np.where(ids == self.video_token_id, 2, 0))
        return Prepared(
            input_ids=ids,
            token_types=types,
            slots=pooling_slots(ids, self.settings.pooling, self.prompt_tokenizer),
            images=list(images),
            videos=list(videos),
            rendered=rendered.replace(guard, "") if guard else rendered,
        )
