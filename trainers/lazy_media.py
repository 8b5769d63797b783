"""Items whose pixels are made again when their chunk is, so that a batch of long videos need not be held.

It pays where an item names its media (a path, a URL) or holds the compressed file: a picture that is decoded already
stays as it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from .generation_prompt import without_end
from .hashing import content_hash


@dataclass(frozen=True)
class LazyMedia:
    """What planning must know of an item with media, and what to make it from once more.

    Attributes:
        item: as in the row.
        role: ``"query"`` or ``"document"``.
        options: of ``prepare`` beside the role.
        length: tokens, visual ones included, and those of a completion.
        patches: that the vision tower has to encode.
        cut_tokens: left out to stay within the limit.
        content: hash of what was prepared.
        pieces: what was appended to the prompt, one after the other: ids, and the slot of the last.
        ending: tokens of the prompt that were left out at its end.
        limit: most tokens that it may have; 0 where nothing says so.
    """

    item: Any
    role: str
    options: Mapping[str, Any]
    length: int
    patches: int
    cut_tokens: int
    content: int
    pieces: tuple[tuple[tuple[int, ...], int], ...] = ()
    ending: int = 0
    limit: int = 0

    @property
    def completion(self) -> int:
        """Tokens that were appended to the prompt."""
        return sum(len(ids) for ids, _ in self.pieces)

    def continued(self, ids: Sequence[int], slot: int = 0) -> LazyMedia:
        """As ``Prepared.continued``."""
        length = self.length + len(ids)
        if not len(ids) or (self.limit and length > self.limit):
            raise ValueError(f"a completion of {len(ids)} tokens makes {length}, the limit is {self.limit}")
        more = (tuple(int(one) for one in ids), slot)
        return replace(self, length=length, pieces=(*self.pieces, more))

    def without_end(self, count: int) -> LazyMedia:
        """The prompt without its last tokens, before anything is appended to it."""
        return replace(self, length=self.length - count, ending=count)

    def prepared(self, processor: Any) -> Any:
        """The item, prepared again.

        Raises:
            ValueError: it cannot be read any more, or is no longer what it was when its batch was planned.
        """
        try:
            found = processor.prepare(self.item, role=self.role, **self.options)
        except Exception as error:
            raise ValueError(f"{self}, which could be read when its batch was planned: {error}") from error
        if content_hash(found) != self.content:
            raise ValueError(
                f"{self} is not what it was when its batch was planned: a file of it has changed"
            )
        if self.ending:
            found = without_end(found, self.ending)
        for ids, slot in self.pieces:
            found = found.continued(ids, slot)
        return found

    def __str__(self) -> str:
        """Named by what is short in it: texts and paths."""
        parts = self.item if isinstance(self.item, Mapping) else {"item": self.item}
        shown = (
            f"{name}={value[:100]!r}" if isinstance(value, str) else f"{name}=<{type(value).__name__}>"
            for name, value in parts.items()
        )
        return f"the item with {', '.join(shown)}"


def lazy_media(prepared: Any, item: Any, role: str, options: Mapping[str, Any]) -> Any:
    """A prepared item without its pixels; one that has none stays as it is."""
    if not prepared.patches:
        return prepared
    content = content_hash(prepared)
    limit = getattr(prepared, "limit", 0)
    return LazyMedia(
        item, role, options, prepared.length, prepared.patches, prepared.cut_tokens, content, limit=limit
    )


def loaded(items: Sequence[Any], processor: Any) -> list[Any]:
    """Items of a chunk, all prepared."""
    return [item.prepared(processor) if isinstance(item, LazyMedia) else item for item in items]
