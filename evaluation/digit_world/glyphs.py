"""Handwritten digits from scikit-learn, one table of 28x28 ink masks per split.

Notable: the splits are disjoint in the *original* handwriting samples, so a test picture never shows a hand
that was trained on. Jitter in place and size is drawn once per split; a glyph is then one row of a table,
which keeps rendering fast and makes "the same handwriting" a plain integer.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Literal

import numpy as np
from PIL import Image

Split = Literal["train", "validation", "test"]

CELL = 28  # pixels; one visual token of the tiny model
VARIANTS = 8  # jittered copies of each handwriting sample
SAMPLES: dict[str, range] = {
    "train": range(0, 1197),
    "validation": range(1197, 1397),
    "test": range(1397, 1797),
}
SPLIT_CODES: dict[str, int] = {"train": 11, "validation": 12, "test": 13}
BLANK = -1  # the id of the empty glyph


class Glyphs:
    """The glyphs of one split. A glyph id is a row of `masks`; the last row (id -1) is empty.

    `masks`: uint8 [n + 1, 28, 28], 0 no ink, 255 full ink; `digits`: int [n]; `samples`: int [n], the index
    of the original handwriting in `sklearn.datasets.load_digits`.
    """

    def __init__(self, split: Split) -> None:
        images, targets = _load_digits()
        rng = np.random.default_rng([SPLIT_CODES[split], 2028])
        members = SAMPLES[split]
        self.split = split
        self.samples = np.repeat(np.arange(members.start, members.stop), VARIANTS)
        self.digits = targets[self.samples]
        self.masks = np.zeros((len(self.samples) + 1, CELL, CELL), dtype=np.uint8)
        for row, sample in enumerate(self.samples):
            self.masks[row] = _jittered(images[sample], rng)
        self._by_digit = [np.flatnonzero(self.digits == digit) for digit in range(10)]

    def pick(self, digit: int, rng: np.random.Generator) -> int:
        """A random glyph id of `digit` (0..9)."""
        ids = self._by_digit[digit]
        return int(ids[int(rng.random() * len(ids))])


@lru_cache(maxsize=3)
def load_glyphs(split: Split) -> Glyphs:
    """The glyph table of a split, built once per process."""
    if split not in SAMPLES:
        raise ValueError(f"split must be one of {sorted(SAMPLES)}, got {split!r}")
    return Glyphs(split)


@lru_cache(maxsize=1)
def _load_digits() -> tuple[np.ndarray, np.ndarray]:
    """float [1797, 8, 8] in 0..16 and int [1797]."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        message = "DigitWorld draws scikit-learn's handwritten digits: pip install umekit[demo]"
        raise ImportError(message) from error
    bunch = load_digits()
    return bunch.images, bunch.target


def _jittered(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """One 8x8 image in 0..16 -> uint8 [28, 28], at a random size of 22 to 27 pixels and a random place."""
    width, height = (int(size) for size in rng.integers(22, 28, size=2))
    left = int(rng.integers(0, CELL - width + 1))
    top = int(rng.integers(0, CELL - height + 1))
    ink = Image.fromarray(np.clip(image * 18.0, 0, 255).astype(np.uint8))
    mask = np.zeros((CELL, CELL), dtype=np.uint8)
    scaled = ink.resize((width, height), Image.Resampling.BICUBIC)
    mask[top : top + height, left : left + width] = np.asarray(scaled)
    return mask
