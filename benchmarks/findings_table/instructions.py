"""Instructions that ask for four different texts of one picture, in 16 wordings for training and 8 unseen ones."""

from __future__ import annotations

from collections.abc import Callable

from umekit.evaluation.digit_world import COLOURS

from .strips import Strip

# What an instruction asks for, in its words, and the text that answers it.
PARTS: dict[str, Callable[[Strip], str]] = {
    "colours": lambda strip: " ".join(COLOURS[colour] for colour in strip.colours),
    "digits": lambda strip: " ".join(str(digit) for digit in strip.digits),
    "cells": lambda strip: strip.caption,
    "cells in other words": lambda strip: strip.paraphrase,
}
OPENINGS = (
    "find the caption with the {part}",
    "read the {part} that you find",
    "name the {part} that stand",
    "say what are the {part}",
    "answer the question what {part} stand",
    "find the words for the {part}",
)
ENDINGS = (
    "in the row of the scene",
    "in the cells of the scene",
    "in the scene and no other words",
    "from p1 to p3 in the scene",
)
# An unseen wording joins an opening and an ending that training shows, but never together.
_PAIRS = [(one, two) for one in range(len(OPENINGS)) for two in range(len(ENDINGS))]
_UNSEEN = [pair for pair in _PAIRS if sum(pair) % 3 == 0]


def _wordings(pairs: list[tuple[int, int]]) -> tuple[str, ...]:
    return tuple(f"{OPENINGS[one]} {ENDINGS[two]}" for one, two in pairs)


SEEN = _wordings([pair for pair in _PAIRS if pair not in _UNSEEN])
UNSEEN = _wordings(_UNSEEN)


def wording(number: int, part: str, unseen: bool) -> str:
    """Instruction ``number`` (modulo their count) for a part."""
    options = UNSEEN if unseen else SEEN
    return options[number % len(options)].format(part=part)
