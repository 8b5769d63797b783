"""Scenes: 3x3 cells, each with one coloured handwritten digit; their pictures, captions and near-duplicates.

Notable: a scene knows its glyph ids, so an edited scene keeps the handwriting of every cell it does not
touch.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from PIL import Image

from .glyphs import CELL, Glyphs
from .words import COLOURS, POSITIONS, RGB

CELLS = 9
SIDE = 3 * CELL  # 84 pixels
BACKGROUND = (16, 16, 22)
Change = Literal["digit", "colour", "swap"]
CHANGES: tuple[Change, ...] = ("digit", "colour", "swap")

_ramp = np.linspace(0.0, 1.0, 256)[None, :, None]
# uint8 [8, 256, 3]: the pixel of each colour at each strength of ink
PALETTE = (np.array(BACKGROUND) * (1 - _ramp) + np.array(RGB)[:, None, :] * _ramp).astype(np.uint8)


@dataclass(frozen=True)
class Scene:
    """Nine cells in row-major order: digits 0..9, colours 0..7 (index into COLOURS), glyph ids (-1 is
    empty)."""

    digits: tuple[int, ...]
    colours: tuple[int, ...]
    glyphs: tuple[int, ...]

    @property
    def caption(self) -> str:
        """`p1 red 4 p2 gold 1 ...`; empty cells are left out."""
        return self.read([cell for cell in range(CELLS) if self.glyphs[cell] >= 0])

    def read(self, cells: Iterable[int]) -> str:
        """These cells as a caption reads them."""
        return " ".join(f"{POSITIONS[cell]} {self.name(cell)}" for cell in cells)

    @property
    def paraphrase(self) -> str:
        """The same scene in other words and in column order: `red 4 at p1 blue 2 at p4 ...`."""
        return " ".join(f"{self.name(cell)} at {POSITIONS[cell]}" for cell in (0, 3, 6, 1, 4, 7, 2, 5, 8))

    def name(self, cell: int) -> str:
        """Colour and digit of one cell: `red 4`."""
        return f"{COLOURS[self.colours[cell]]} {self.digits[cell]}"

    def render(self, glyphs: Glyphs) -> Image.Image:
        """The 84x84 RGB picture."""
        return Image.fromarray(self.pixels(glyphs))

    def pixels(self, glyphs: Glyphs) -> np.ndarray:
        """uint8 [84, 84, 3]."""
        ink = glyphs.masks[list(self.glyphs)]  # [9, 28, 28]
        cells: np.ndarray = PALETTE[np.array(self.colours)[:, None, None], ink]  # [9, 28, 28, 3]
        return cells.reshape(3, 3, CELL, CELL, 3).swapaxes(1, 2).reshape(SIDE, SIDE, 3)

    def crop(self, cell: int, glyphs: Glyphs) -> Image.Image:
        """One cell of the same handwriting, 28x28 scaled to 56x56."""
        pixels = PALETTE[self.colours[cell]][glyphs.masks[self.glyphs[cell]]]
        return Image.fromarray(pixels).resize((2 * CELL, 2 * CELL), Image.Resampling.BILINEAR)

    def put(self, cell: int, colour: int, digit: int, glyph: int) -> Scene:
        """A copy with another content of one cell."""
        return replace(
            self,
            digits=_with(self.digits, cell, digit),
            colours=_with(self.colours, cell, colour),
            glyphs=_with(self.glyphs, cell, glyph),
        )

    def swap(self, first: int, second: int) -> Scene:
        """A copy with the contents of two cells swapped, handwriting and all."""
        moved = self.put(first, self.colours[second], self.digits[second], self.glyphs[second])
        return moved.put(second, self.colours[first], self.digits[first], self.glyphs[first])


def make_scene(digits: list[int], colours: list[int], glyphs: Glyphs, rng: np.random.Generator) -> Scene:
    """A scene of these nine digits and colours in random handwriting."""
    ids = tuple(glyphs.pick(digit, rng) for digit in digits)
    return Scene(tuple(digits), tuple(colours), ids)


def random_scene(glyphs: Glyphs, rng: np.random.Generator) -> Scene:
    """Free digits 0..9 and free colours, all cells filled."""
    return make_scene(rng.integers(0, 10, CELLS).tolist(), rng.integers(0, 8, CELLS).tolist(), glyphs, rng)


def near_scene(scene: Scene, change: Change, glyphs: Glyphs, rng: np.random.Generator) -> Scene:
    """A near-duplicate that differs in one digit, one colour or one swap of two unlike cells."""
    cell = int(rng.integers(CELLS))
    if change == "digit":
        digit = other(scene.digits[cell], 10, rng)
        return scene.put(cell, scene.colours[cell], digit, glyphs.pick(digit, rng))
    if change == "colour":
        return scene.put(cell, other(scene.colours[cell], 8, rng), scene.digits[cell], scene.glyphs[cell])
    unlike = [place for place in range(CELLS) if scene.name(place) != scene.name(cell)]
    if not unlike:
        return near_scene(scene, "digit", glyphs, rng)
    return scene.swap(cell, unlike[int(rng.integers(len(unlike)))])


def other(value: int, count: int, rng: np.random.Generator) -> int:
    """A random integer of 0..count-1 that is not `value`."""
    return (value + 1 + int(rng.integers(count - 1))) % count


def _with(values: tuple[int, ...], place: int, value: int) -> tuple[int, ...]:
    return (*values[:place], value, *values[place + 1 :])
