"""A resize before the one onto the token grid, where a system's published code has two.

Resampling twice gives other pixels than once, so this is part of what a checkpoint was trained and measured with.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from PIL import Image


@dataclass(frozen=True)
class FirstResize:
    """How a picture is resized before it is brought onto the token grid.

    Attributes:
        factor: its sides become multiples of this; 0 for no such grid.
        least, most: pixels that it may have on that grid.
        under, square: a picture with a side under ``under`` becomes ``square`` x ``square``; 0 for no such rule.
    """

    factor: int = 0
    least: int = 0
    most: int = 0
    under: int = 0
    square: int = 0

    def __post_init__(self) -> None:
        if self.factor and not 0 < self.least <= self.most:
            raise ValueError(f"a first resize to {self.least}..{self.most} pixels: give 0 < least <= most")
        if (
            min(self.factor, self.under, self.square) < 0
            or max(self.factor, self.square) > 2**13
            or self.least > 2**26
        ):
            raise ValueError(f"a first resize cannot be had: {self}")
        if bool(self.under) != bool(self.square):
            raise ValueError("a rule for small pictures needs both 'under' and 'square'")
        if not self.factor and not self.under:
            raise ValueError("a first resize needs a factor or a rule for small pictures")

    def size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width after it.

        Raises:
            ValueError: a side more than 200 times the other.
        """
        if self.under and min(height, width) < self.under:
            height = width = self.square
        if not self.factor:
            return height, width
        return grid_size(height, width, self.factor, self.least, self.most)

    def apply(self, image: Image.Image) -> Image.Image:
        """The picture resized (bicubic)."""
        height, width = self.size(image.height, image.width)
        if image.size == (width, height):
            return image
        return image.resize((width, height), Image.Resampling.BICUBIC)


def grid_size(height: int, width: int, factor: int, least: int, most: int) -> tuple[int, int]:
    """qwen_vl_utils' ``smart_resize``: as the processors' one, but a side is never rounded to nothing.

    >>> grid_size(10, 400, 28, 4 * 784, 300 * 784)  # the processors' rule would enlarge it to 28 x 560
    (28, 392)
    """
    if max(height, width) / min(height, width) > 200:
        raise ValueError(f"a picture of {width} x {height}: one side is more than 200 times the other")
    rows = max(factor, round(height / factor) * factor)
    columns = max(factor, round(width / factor) * factor)
    if rows * columns > most:
        shrink = math.sqrt(height * width / most)
        rows = max(factor, math.floor(height / shrink / factor) * factor)
        columns = max(factor, math.floor(width / shrink / factor) * factor)
    elif rows * columns < least:
        grow = math.sqrt(least / (height * width))
        rows = math.ceil(height * grow / factor) * factor
        columns = math.ceil(width * grow / factor) * factor
    return rows, columns
