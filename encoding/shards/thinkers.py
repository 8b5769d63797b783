"""Who writes the thoughts of a data set: a checkpoint that thinks, or the reasoner of one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from ...processing.items import ItemError

if TYPE_CHECKING:
    from ..encoder import Encoder

Written = dict[str, Any] | Exception  # fields of a line, or why there are none


class Thinker(Protocol):
    """Items to thoughts."""

    def fingerprint(self) -> dict[str, Any]:
        """What thoughts depend on, beside the options of a run."""
        ...

    def think(self, items: Sequence[Any], options: Mapping[str, Any], seed: int) -> list[Written]:
        """What is written of each item; options as :func:`thinker_of` has checked them."""
        ...


def thinker_of(encoder: Encoder, options: Mapping[str, Any]) -> Thinker:
    """An encoder's reasoner where it has one, else its own model.

    Args:
        encoder: that the thoughts are for; or whatever has a ``model`` with modes, ``encode`` and ``fingerprint``.
        options: role, instruction, max_new_tokens, num_samples, temperature, top_p.

    Raises:
        ValueError: nothing here thinks, or the reasoner is to do what it does not.
    """
    reasoner = getattr(encoder, "reasoner", None)  # what is no Encoder, and thinks like one, has none
    if reasoner is None:
        if "generative" not in encoder.model.modes:
            raise ValueError(
                f"this checkpoint is {encoder.model.settings.kind}: it writes no thoughts; give a reasoner, which "
                "thinks for any"
            )
        return OwnThinker(encoder)
    if not reasoner.thinks_of(options["role"]):
        raise ValueError(
            f"the reasoner thinks of the side {reasoner.side!r}, and the role is {options['role']!r}: nothing would "
            "be written"
        )
    wished = [name for name in ("max_new_tokens", "temperature", "top_p") if options[name] is not None]
    if options["num_samples"] > 1 or wished:
        raise ValueError(
            f"{', '.join(wished) or 'num_samples'} is of a checkpoint that thinks; a reasoner writes one thought of an "
            "item, as long and as it was told when it was loaded"
        )
    return ReasonerThinker(encoder)


class OwnThinker:
    """A generative checkpoint."""

    def __init__(self, encoder: Encoder) -> None:
        self.encoder = encoder

    def fingerprint(self) -> dict[str, Any]:
        return self.encoder.fingerprint()

    def think(self, items: Sequence[Any], options: Mapping[str, Any], seed: int) -> list[Written]:
        found = self.encoder.encode(
            items,
            mode="generative",
            on_error="skip",
            show_progress=False,
            return_details=True,
            seed=seed,
            **options,
        )
        errors = dict(found.errors)
        written = zip(found.thoughts, found.thought_tokens, found.forced, strict=True)
        return [
            errors.get(place) or {"thought": thought, "tokens": tokens, "forced": forced}
            for place, (thought, tokens, forced) in enumerate(written)
        ]


class ReasonerThinker:
    """The reasoner of an encoder, whose processor says what it is shown; the encoder's model is not asked."""

    def __init__(self, encoder: Encoder) -> None:
        self.encoder = encoder

    def fingerprint(self) -> dict[str, Any]:
        whole = self.encoder.fingerprint()
        return {name: whole[name] for name in ("reasoner", "processor")}

    def think(self, items: Sequence[Any], options: Mapping[str, Any], seed: int) -> list[Written]:
        reasoner, processor = self.encoder.reasoner, self.encoder.processor
        assert reasoner is not None
        sides = {name: options[name] for name in ("role", "instruction")}
        written: list[Written] = []
        for thought in reasoner.write(items, processor=processor, **sides):
            if isinstance(thought, ItemError):
                written.append(thought)
                continue
            before, answer = thought.as_given()
            line = {"thought": before, "answer": answer, "text": thought.text}
            written.append(line | {"tokens": thought.tokens, "forced": thought.cut})
        return written
