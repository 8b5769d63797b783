"""Scenes to reason about: walks along the digits, walks until gold, and sums of the red digits.

Notable: in a walk scene the digits 1-9 form one 9-cycle (a cell's digit names the next cell), so no walk of
up to eight hops meets a cell twice, and the answer is chosen first: its 72 values are equally frequent at
every hop count by construction, not by luck. Two facts of the rule itself to know when reading results:
after 8 hops the answer's digit is the start's number, and for fewer hops it never is (a blind guesser gains
1/64 over 1/72 by that).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .glyphs import Glyphs
from .scenes import CELLS, Scene, make_scene
from .words import COLOURS, GOLD, POSITIONS, RED

MAX_HOPS = 8
MAX_GOLD_HOPS = 6
GOLD_CELLS = 3  # in every until-gold scene, so that their number says nothing about the hops
MAX_TERMS = 4


@dataclass(frozen=True)
class Walk:
    """A scene and the cells visited, the start first and the end last."""

    scene: Scene
    path: tuple[int, ...]

    @property
    def hops(self) -> int:
        return len(self.path) - 1

    @property
    def answer(self) -> str:
        """Colour and digit of the end cell: `gold 4`."""
        return self.scene.name(self.path[-1])

    @property
    def thought(self) -> str:
        """Every visited cell as a caption reads it, so that one reading serves both: `p3 red 7 p7 gold 2`."""
        return self.scene.read(self.path)

    @property
    def question(self) -> str:
        """`walk from p3 h5`."""
        return f"walk from {POSITIONS[self.path[0]]} h{self.hops}"

    @property
    def gold_question(self) -> str:
        """`walk from p3 until gold`: the wording hides the hops."""
        return f"walk from {POSITIONS[self.path[0]]} until gold"


@dataclass(frozen=True)
class Sum:
    """A scene and its red cells in row-major order."""

    scene: Scene
    cells: tuple[int, ...]

    @property
    def answer(self) -> str:
        return str(sum(self.scene.digits[cell] for cell in self.cells))

    @property
    def thought(self) -> str:
        """Position, digit and running sum of each red cell: `p3 4 4 p7 2 6`."""
        total, words = 0, []
        for cell in self.cells:
            total += self.scene.digits[cell]
            words += [POSITIONS[cell], str(self.scene.digits[cell]), str(total)]
        return " ".join(words)


def walk_strata(max_hops: int | None) -> int:
    """Number of (answer, hops) combinations of `walk`."""
    return 72 * (limit(max_hops, MAX_HOPS) + 1)


def gold_strata(max_hops: int | None) -> int:
    """Number of (digit, hops) combinations of `until_gold`."""
    return 9 * (limit(max_hops, MAX_GOLD_HOPS) + 1)


def limit(max_hops: int | None, highest: int) -> int:
    """The highest hop count in use; a curriculum may lower it, never raise it."""
    return highest if max_hops is None else max(0, min(max_hops, highest))


def make_walk(glyphs: Glyphs, rng: np.random.Generator, slot: int, max_hops: int | None) -> Walk:
    """The walk of stratum `slot`: hop count, then colour and digit of the answer."""
    answer, hops = divmod(slot, limit(max_hops, MAX_HOPS) + 1)
    digit, colour = 1 + answer // 8, answer % 8
    digits, path = _cycle(digit, hops, rng)
    colours = rng.integers(0, 8, CELLS).tolist()
    colours[path[-1]] = colour
    return Walk(make_scene(digits, colours, glyphs, rng), tuple(path[-1 - hops :]))


def make_until_gold(glyphs: Glyphs, rng: np.random.Generator, slot: int, max_hops: int | None) -> Walk:
    """The walk of stratum `slot`: its end is the first gold cell on the way; two more gold cells lie
    elsewhere."""
    answer, hops = divmod(slot, limit(max_hops, MAX_GOLD_HOPS) + 1)
    digits, path = _cycle(1 + answer, hops, rng)
    colours = [(GOLD + 1 + int(step)) % 8 for step in rng.integers(0, 7, CELLS)]  # none of them gold
    beyond = [cell for cell in range(CELLS) if cell not in path]
    decoys = rng.permutation(beyond)[: GOLD_CELLS - 1].tolist()
    for cell in [path[-1], *decoys]:
        colours[cell] = GOLD
    return Walk(make_scene(digits, colours, glyphs, rng), tuple(path))


def make_sum(glyphs: Glyphs, rng: np.random.Generator, slot: int) -> Sum:
    """slot 0..3: one to four red cells; digits 1..9, so that every term counts."""
    cells = sorted(rng.permutation(CELLS)[: slot + 1].tolist())
    colours = [(RED + 1 + int(step)) % 8 for step in rng.integers(0, 7, CELLS)]  # none of them red
    for cell in cells:
        colours[cell] = RED
    scene = make_scene(rng.integers(1, 10, CELLS).tolist(), colours, glyphs, rng)
    return Sum(scene, tuple(cells))


def answers() -> tuple[str, ...]:
    """The 72 answers of `walk`."""
    return tuple(f"{colour} {digit}" for colour in COLOURS for digit in range(1, 10))


def _cycle(last_digit: int, hops: int, rng: np.random.Generator) -> tuple[list[int], list[int]]:
    """Digits of a random 9-cycle and its path of `hops` hops to the cell that holds `last_digit`."""
    order = rng.permutation(CELLS).tolist()
    digits = [0] * CELLS
    for cell, following in zip(order, order[1:] + order[:1], strict=True):
        digits[cell] = following + 1
    end = order.index(last_digit - 1) - 1  # the cell before the one that the digit names
    return digits, [order[place % CELLS] for place in range(end - hops, end + 1)]
