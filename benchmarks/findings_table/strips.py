"""Strips: the first row of a scene alone. Three cells are learned in a minute of one core, nine are not.

A whole scene has nine cells to press into one vector: 80 steps from the reading start reach a recall@1 of 0.02 in a
hard pool, where no two arms can differ. A strip keeps what the claims need: coloured handwritten digits in places,
near-duplicates that differ in one digit, one colour or one swap, two wordings, edits, and labels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from PIL import Image

from umekit.evaluation.digit_world import COLOURS, POSITIONS
from umekit.evaluation.digit_world.glyphs import CELL, Glyphs
from umekit.evaluation.digit_world.rows import Draw, Example, Task, answered, constant_strata
from umekit.evaluation.digit_world.scenes import PALETTE, other
from umekit.evaluation.digit_world.words import RED

CELLS = 3
MIDDLE = 1
CHANGES = ("digit", "colour", "swap")


@dataclass(frozen=True)
class Strip:
    """Three cells: digits 0..9, colours 0..7, glyph ids."""

    digits: tuple[int, ...]
    colours: tuple[int, ...]
    glyphs: tuple[int, ...]

    def name(self, cell: int) -> str:
        """Colour and digit of one cell: ``red 4``."""
        return f"{COLOURS[self.colours[cell]]} {self.digits[cell]}"

    @property
    def caption(self) -> str:
        """``p1 red 4 p2 gold 1 p3 blue 7``."""
        return " ".join(f"{POSITIONS[cell]} {self.name(cell)}" for cell in range(CELLS))

    @property
    def paraphrase(self) -> str:
        """The same in other words and backwards: ``blue 7 at p3 gold 1 at p2 red 4 at p1``."""
        return " ".join(f"{self.name(cell)} at {POSITIONS[cell]}" for cell in reversed(range(CELLS)))

    def render(self, glyphs: Glyphs) -> Image.Image:
        """The 84x28 picture."""
        pixels = PALETTE[np.array(self.colours)[:, None, None], glyphs.masks[list(self.glyphs)]]
        return Image.fromarray(pixels.swapaxes(0, 1).reshape(CELL, CELLS * CELL, 3))

    def put(self, cell: int, colour: int, digit: int, glyph: int) -> Strip:
        """A copy with another content of one cell."""
        return replace(
            self,
            digits=_with(self.digits, cell, digit),
            colours=_with(self.colours, cell, colour),
            glyphs=_with(self.glyphs, cell, glyph),
        )

    def swap(self, first: int, second: int) -> Strip:
        """A copy with two cells swapped, handwriting and all."""
        moved = self.put(first, self.colours[second], self.digits[second], self.glyphs[second])
        return moved.put(second, self.colours[first], self.digits[first], self.glyphs[first])


def _with(values: tuple[int, ...], place: int, value: int) -> tuple[int, ...]:
    return (*values[:place], value, *values[place + 1 :])


def random_strip(glyphs: Glyphs, rng: np.random.Generator) -> Strip:
    """Free digits and free colours."""
    digits = tuple(rng.integers(0, 10, CELLS).tolist())
    colours = tuple(rng.integers(0, 8, CELLS).tolist())
    return Strip(digits, colours, tuple(glyphs.pick(digit, rng) for digit in digits))


def near_strip(strip: Strip, turn: int, glyphs: Glyphs, rng: np.random.Generator) -> Strip:
    """A near-duplicate that differs in one digit, one colour or one swap of unlike cells, in turns."""
    cell, change = int(rng.integers(CELLS)), CHANGES[turn % len(CHANGES)]
    unlike = [place for place in range(CELLS) if strip.name(place) != strip.name(cell)]
    if change == "swap" and unlike:
        return strip.swap(cell, unlike[int(rng.integers(len(unlike)))])
    if change == "colour":
        return strip.put(cell, other(strip.colours[cell], 8, rng), strip.digits[cell], strip.glyphs[cell])
    digit = other(strip.digits[cell], 10, rng)
    return strip.put(cell, strip.colours[cell], digit, glyphs.pick(digit, rng))


@dataclass(frozen=True)
class StripEdit:
    """One change in words; ``cells``: one whose content changes, or two that swap."""

    source: Strip
    target: Strip
    cells: tuple[int, ...]

    @property
    def text(self) -> str:
        """``change p3 to gold 5`` or ``swap p1 and p2``."""
        if len(self.cells) == 1:
            return f"change {POSITIONS[self.cells[0]]} to {self.target.name(self.cells[0])}"
        return f"swap {POSITIONS[self.cells[0]]} and {POSITIONS[self.cells[1]]}"


def _edit(draw: Draw) -> StripEdit:
    rng, glyphs = draw.rng, draw.glyphs
    while True:
        source = random_strip(glyphs, rng)
        cells = sorted(rng.permutation(CELLS)[: 1 + int(rng.integers(2))].tolist())
        if len(cells) == 2:
            target = source.swap(*cells)
        else:
            digit = int(rng.integers(10))
            target = source.put(cells[0], int(rng.integers(8)), digit, glyphs.pick(digit, rng))
        if target.caption != source.caption:
            return StripEdit(source, target, tuple(cells))


def _near_edit(edit: StripEdit, turn: int, draw: Draw) -> StripEdit:
    """An edit of the same cells whose target differs in one digit, colour or swap."""
    while True:
        target, old = near_strip(edit.target, turn, draw.glyphs, draw.rng), edit.source
        if len(edit.cells) == 2:
            source = target.swap(*edit.cells)
        else:
            cell = edit.cells[0]
            source = target.put(cell, old.colours[cell], old.digits[cell], old.glyphs[cell])
        if source.caption != target.caption:
            return StripEdit(source, target, edit.cells)
        turn += 1


def _near(strip: Strip, turn: int, draw: Draw) -> Strip:
    return near_strip(strip, turn, draw.glyphs, draw.rng)


def _draw(draw: Draw) -> Strip:
    return random_strip(draw.glyphs, draw.rng)


def _example(query: Any, positive: Any, meaning: str) -> Example:
    return Example(query, positive, meaning, meaning, meaning)


def _picture(strip: Strip, draw: Draw) -> Example:
    return _example({"text": strip.caption}, {"image": strip.render(draw.glyphs)}, strip.caption)


def _caption(strip: Strip, draw: Draw) -> Example:
    return _example({"image": strip.render(draw.glyphs)}, {"text": strip.caption}, strip.caption)


def _reworded(strip: Strip, draw: Draw) -> Example:
    texts = ({"text": strip.caption}, {"text": strip.paraphrase})
    query, positive = texts if draw.slot == 0 else texts[::-1]
    return _example(query, positive, strip.caption)


def _edited(edit: StripEdit, draw: Draw) -> Example:
    query = {"image": edit.source.render(draw.glyphs), "text": edit.text}
    return _example(query, {"image": edit.target.render(draw.glyphs)}, edit.target.caption)


# Label sets, and the label of a strip; "1" is a digit and a count, as label sets do collide in practice.
LABELS: dict[str, tuple[str, tuple[str, ...], Callable[[Strip], str]]] = {
    "digits": ("classify_digit", tuple("0123456789"), lambda strip: str(strip.digits[MIDDLE])),
    "colours": ("classify_colour", COLOURS, lambda strip: COLOURS[strip.colours[MIDDLE]]),
    "counts": ("classify_count", tuple("0123"), lambda strip: str(strip.colours.count(RED))),
    "parities": ("classify_parity", ("even", "odd"), lambda strip: ("even", "odd")[strip.digits[MIDDLE] % 2]),
}


def _draw_labelled(name: str, draw: Draw) -> Strip:
    """Digits and colours are even by themselves; counts of red are made so."""
    strip = random_strip(draw.glyphs, draw.rng)
    if name != "counts":
        return strip
    red = set(draw.rng.permutation(CELLS)[: draw.slot].tolist())
    colours = [RED if cell in red else other(RED, 8, draw.rng) for cell in range(CELLS)]
    return replace(strip, colours=tuple(colours))


def _labelled(name: str, strip: Strip, draw: Draw) -> Example:
    label = LABELS[name][2](strip)
    return answered({"image": strip.render(draw.glyphs)}, label, label)


STRIPS: dict[str, Task] = {
    task.name: task
    for task in (
        Task("pictures", "strips", "text", "image", _draw, _picture, near=_near, asks_like="retrieve_scene"),
        Task("captions", "strips", "image", "text", _draw, _caption, near=_near, asks_like="retrieve_caption"),
        Task("paraphrases", "strips", "text", "text", _draw, _reworded, strata=constant_strata(2), near=_near,
             asks_like="paraphrase"),
        Task("edits", "strips", "image+text", "image", _edit, _edited, near=_near_edit, asks_like="edit_scene"),
        *(
            Task(name, "strips", "image", "text", partial(_draw_labelled, name), partial(_labelled, name),
                 labels=labels, strata=constant_strata(4), asks_like=like)
            for name, (like, labels, _) in LABELS.items()
        ),
    )
}  # fmt: skip
