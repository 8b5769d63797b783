"""Clips: a scene in motion, four 84x84 frames with one or two digits on a mostly empty 3x3 grid.

Notable: a digit moves one cell per frame in reading order (`left`, `right`: row by row; `up`, `down`:
column by column) and wraps around the whole grid, so that three moves never lead back to the start.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from .glyphs import CELL, Glyphs
from .scenes import CELLS, PALETTE, SIDE, other
from .words import COLOURS, MOTIONS, POSITIONS

FRAMES = 4
MOVES = ("left", "right", "up", "down")
_BY_COLUMN = (0, 3, 6, 1, 4, 7, 2, 5, 8)


@dataclass(frozen=True)
class Actor:
    """One digit of a clip: digit 0..9, colour 0..7, glyph id, start cell 0..8 and a motion of MOTIONS."""

    digit: int
    colour: int
    glyph: int
    start: int
    motion: str

    @property
    def name(self) -> str:
        return f"{COLOURS[self.colour]} {self.digit}"

    @property
    def path(self) -> tuple[int, ...]:
        """The cell in each of the four frames; -1 where the digit is not yet seen (`appear`: the first
        two)."""
        if self.motion == "still":
            return (self.start,) * FRAMES
        if self.motion == "appear":
            return (-1, -1, self.start, self.start)
        step = 1 if self.motion in ("right", "down") else -1
        if self.motion in ("left", "right"):
            return tuple((self.start + step * frame) % CELLS for frame in range(FRAMES))
        place = _BY_COLUMN.index(self.start)
        return tuple(_BY_COLUMN[(place + step * frame) % CELLS] for frame in range(FRAMES))

    @property
    def caption(self) -> str:
        """`red 4 p1 p2 p3 p4 right`; where nothing moves, one position: `gold 2 p9 still`."""
        cells = self.path if self.motion in MOVES else (self.start,)
        return " ".join([self.name, *(POSITIONS[cell] for cell in cells), self.motion])


@dataclass(frozen=True)
class Clip:
    """One or two actors; the first is the one that tasks ask about, the second always stands still."""

    actors: tuple[Actor, ...]

    @property
    def caption(self) -> str:
        """The first actor's reading first; where both stand still, in the order of their cells."""
        actors = self.actors
        if all(actor.motion == "still" for actor in actors):
            actors = tuple(sorted(actors, key=lambda actor: actor.start))
        return " ".join(actor.caption for actor in actors)

    def render(self, glyphs: Glyphs) -> list[Image.Image]:
        """Four 84x84 RGB frames."""
        frames = np.empty((FRAMES, 3, CELL, 3, CELL, 3), dtype=np.uint8)
        frames[:] = PALETTE[0, 0]
        for actor in self.actors:
            picture = PALETTE[actor.colour][glyphs.masks[actor.glyph]]  # [28, 28, 3]
            for frame, cell in enumerate(actor.path):
                if cell >= 0:
                    frames[frame, cell // 3, :, cell % 3] = picture
        return [Image.fromarray(frame) for frame in frames.reshape(FRAMES, SIDE, SIDE, 3)]


def make_clip(
    glyphs: Glyphs,
    rng: np.random.Generator,
    *,
    motion: str | None = None,
    name: tuple[int, int] | None = None,
    end: int | None = None,
    actors: int | None = None,
) -> Clip:
    """A random clip. Given: the motion, colour and digit, the last cell, or how many actors (1 or 2)."""
    motion = motion or MOTIONS[int(rng.integers(len(MOTIONS)))]
    colour, digit = name or (int(rng.integers(8)), int(rng.integers(10)))
    start = int(rng.integers(CELLS))
    first = Actor(digit, colour, glyphs.pick(digit, rng), start, motion)
    if end is not None:
        first = next(moved for cell in range(CELLS) if (moved := replace(first, start=cell)).path[-1] == end)
    if (actors or int(rng.integers(1, 3))) == 1:
        return Clip((first,))
    return Clip((first, _bystander(first, glyphs, rng)))


def near_clip(clip: Clip, change: str, glyphs: Glyphs, rng: np.random.Generator) -> Clip:
    """A near-duplicate: the first actor with another `digit`, `colour` or `motion`, all else alike."""
    first, rest = clip.actors[0], clip.actors[1:]
    if change == "digit":
        digit = other(first.digit, 10, rng)
        return Clip((replace(first, digit=digit, glyph=glyphs.pick(digit, rng)), *rest))
    if change == "motion":
        taken = {actor.start for actor in rest}
        turned = [replace(first, motion=motion) for motion in MOTIONS if motion != first.motion]
        free = [actor for actor in turned if not taken & set(actor.path)]
        return Clip((free[int(rng.integers(len(free)))], *rest))
    return Clip((replace(first, colour=other(first.colour, 8, rng)), *rest))


def _bystander(first: Actor, glyphs: Glyphs, rng: np.random.Generator) -> Actor:
    """A digit with another name than `first` that stands still where `first` never comes."""
    free = [cell for cell in range(CELLS) if cell not in first.path]
    digit, colour = other(first.digit, 10, rng), int(rng.integers(8))
    glyph = glyphs.pick(digit, rng)
    return Actor(digit, colour, glyph, free[int(rng.integers(len(free)))], "still")
