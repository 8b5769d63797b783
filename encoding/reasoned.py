"""The items of a call with what a reasoner thinks of them: as given thoughts, or as text after the content."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ..modeling.encode_loop import Encoded, EncodeOptions
from ..processing.items import Item, ItemError, TextPart, parse_item
from .reasoner import Thought

if TYPE_CHECKING:
    from ..processing.processor import UmeProcessor
    from .reasoner import Reasoner


@dataclass(frozen=True)
class Reasoned:
    """Items of a call and their thoughts.

    Attributes:
        items: as the caller wrote them.
        thoughts: index -> what the reasoner has written, or why it could not.
        given: for an embedder that thinks, the thoughts that it is given; None for another.
        appended: how another reads them, with ``{thought}``.
    """

    items: Sequence[Any]
    thoughts: dict[int, Thought | ItemError]
    given: Sequence[Any] | None
    appended: str

    @classmethod
    def of(
        cls,
        reasoner: Reasoner,
        items: Sequence[Any],
        given: Sequence[Any] | None,
        options: EncodeOptions,
        role: str | None,
        instruction: str | None,
        processor: UmeProcessor,
    ) -> Reasoned:
        """Have the reasoner think of all items that have no thought yet.

        Raises:
            ValueError: several thoughts of an item are wanted.
        """
        if options.num_samples > 1:
            raise ValueError(
                f"a reasoner writes one thought of an item, and num_samples is {options.num_samples}: give thoughts, "
                "or load the embedder without it"
            )
        asked = [index for index in range(len(items)) if given is None or given[index] is None]
        written = reasoner.write(
            [items[index] for index in asked],
            role=role,
            instruction=instruction,
            processor=processor,
            numbers=asked,
        )
        thoughts = dict(zip(asked, written, strict=True))
        if options.thinks:
            given = list(given or [None] * len(items))
            for index, thought in thoughts.items():
                given[index] = thought.as_given() if isinstance(thought, Thought) else None
        return cls(items, thoughts, given, reasoner.appended)

    def item(self, index: int) -> Any:
        """What is embedded for an item.

        Raises:
            ItemError: the reasoner could not read it.
        """
        raw, thought = self.items[index], self.thoughts.get(index)
        if isinstance(thought, ItemError):
            raise thought
        if self.given is not None or thought is None or not thought.text:
            return raw
        parsed: Item = parse_item(raw, index)
        text = self.appended.replace("{thought}", thought.text)
        return replace(parsed, parts=(*parsed.parts, TextPart(text)))

    def tell(self, result: Encoded) -> None:
        """Put into the details of a call what they cannot know."""
        for index, thought in self.thoughts.items():
            if isinstance(thought, ItemError):
                continue
            result.forced[index] = thought.cut
            if self.given is None:
                result.thoughts[index], result.thought_tokens[index] = thought.text, thought.tokens
