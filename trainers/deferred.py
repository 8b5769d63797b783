"""Items whose pixels are made again when their chunk is, so that a batch of long videos need not be held."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Deferred:
    """What planning must know of an item with media, and what to make it from once more.

    Attributes:
        item: as in the row: a path, bytes or a decoded picture.
        role: ``"query"`` or ``"document"``.
        length: tokens, visual ones included.
        patches: that the vision tower has to encode.
    """

    item: Any
    role: str
    length: int
    patches: int

    def prepared(self, processor: Any) -> Any:
        """The item, prepared again.

        Raises:
            ValueError: it is no longer what it was when its batch was planned (its file has changed).
        """
        found = processor.prepare(self.item, role=self.role)
        if (found.length, found.patches) != (self.length, self.patches):
            raise ValueError(
                f"{str(self.item)[:200]}: it had {self.length} tokens when its batch was planned and has "
                f"{found.length} now; its file has changed during training"
            )
        return found


def deferred(prepared: Any, item: Any, role: str) -> Any:
    """A prepared item without its pixels; one that has none stays as it is."""
    return Deferred(item, role, prepared.length, prepared.patches) if prepared.patches else prepared


def undeferred(items: Sequence[Any], processor: Any) -> list[Any]:
    """Items of a chunk, all prepared."""
    return [item.prepared(processor) if isinstance(item, Deferred) else item for item in items]
