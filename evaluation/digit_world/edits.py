"""Edits: one change of a scene in words, for composed retrieval (picture + edit -> edited picture).

Notable: an edit is stored as source and target scene; untouched cells keep their handwriting, so that a
model that only compares pictures finds the source, not the target.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .glyphs import Glyphs
from .scenes import CELLS, CHANGES, Scene, near_scene, random_scene
from .words import POSITIONS


@dataclass(frozen=True)
class Edit:
    """`cells`: one cell (its content changes) or two (they swap)."""

    source: Scene
    target: Scene
    cells: tuple[int, ...]

    @property
    def text(self) -> str:
        """`change p3 to gold 5` or `swap p1 and p9`."""
        if len(self.cells) == 1:
            cell = self.cells[0]
            return f"change {POSITIONS[cell]} to {self.target.name(cell)}"
        first, second = self.cells
        return f"swap {POSITIONS[first]} and {POSITIONS[second]}"

    @property
    def back(self) -> Edit:
        """What undoes it: from the target to the source."""
        return Edit(self.target, self.source, self.cells)


def random_edit(glyphs: Glyphs, rng: np.random.Generator) -> Edit:
    """Half of the edits change a cell, half swap two cells; an edit always changes the scene."""
    while True:
        source = random_scene(glyphs, rng)
        if rng.random() < 0.5:
            cell, colour, digit = int(rng.integers(CELLS)), int(rng.integers(8)), int(rng.integers(10))
            edit = Edit(source, source.put(cell, colour, digit, glyphs.pick(digit, rng)), (cell,))
        else:
            first, second = sorted(rng.permutation(CELLS)[:2].tolist())
            edit = Edit(source, source.swap(first, second), (first, second))
        if edit.target.caption != source.caption:
            return edit


def near_edit(edit: Edit, turn: int, glyphs: Glyphs, rng: np.random.Generator) -> Edit:
    """An edit of the same cells whose *target* differs in one digit, one colour or one swap."""
    while True:
        target = near_scene(edit.target, CHANGES[turn % len(CHANGES)], glyphs, rng)
        if len(edit.cells) == 2:
            source = target.swap(*edit.cells)
        else:
            cell, old = edit.cells[0], edit.source
            source = target.put(cell, old.colours[cell], old.digits[cell], old.glyphs[cell])
        if source.caption != target.caption:
            return Edit(source, target, edit.cells)
