"""Pages: small ledgers, tables and receipts with printed labels and handwritten amounts.

Notable: everything sits on a 28-pixel raster (label in the two left columns, tens and units in the two
right ones), so a page is 112 wide and 112 or 140 high and no visual token cuts a word line in two.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from .glyphs import CELL, Glyphs
from .scenes import other
from .words import LABELS, PAGE_KINDS

WIDTH = 4 * CELL  # 112 pixels
_PAPER = {"ledger": (250, 246, 228), "table": (240, 244, 250), "receipt": (252, 252, 252)}
_RULE = {"ledger": (190, 205, 225), "table": (150, 155, 165), "receipt": (200, 200, 200)}
_INK = {"ledger": (20, 40, 130), "table": (15, 15, 20), "receipt": (120, 20, 30)}
_PRINT = np.array([25, 25, 30], dtype=np.float32)


@dataclass(frozen=True)
class Entry:
    """One line: a printed label, an amount of 1..99, and the glyph ids of its one or two digits."""

    label: str
    amount: int
    glyphs: tuple[int, ...]

    @property
    def text(self) -> str:
        return f"{self.label} {self.amount}"


@dataclass(frozen=True)
class Page:
    """A kind of PAGE_KINDS and three or four entries with distinct labels."""

    kind: str
    entries: tuple[Entry, ...]

    @property
    def caption(self) -> str:
        """`receipt tea 47 rice 12 milk 5`."""
        return " ".join([self.kind, *(entry.text for entry in self.entries)])

    def put(self, place: int, entry: Entry) -> Page:
        """A copy with another entry on one line."""
        return Page(self.kind, (*self.entries[:place], entry, *self.entries[place + 1 :]))

    def render(self, glyphs: Glyphs) -> Image.Image:
        """RGB, 112 wide and 112 (three entries) or 140 (four entries) high."""
        paper = _paper(self.kind, len(self.entries)).copy()  # float [height, 112, 3]
        ink = np.array(_INK[self.kind], dtype=np.float32)
        for line, entry in enumerate(self.entries, start=1):
            top = line * CELL
            _print(paper[top : top + CELL, : 2 * CELL], _label(entry.label), _PRINT)
            left = WIDTH - CELL * len(entry.glyphs)
            for place, glyph in enumerate(entry.glyphs):
                x = left + place * CELL
                hand = glyphs.masks[glyph].astype(np.float32) / 255
                _print(paper[top : top + CELL, x : x + CELL], hand, ink)
        return Image.fromarray(paper.astype(np.uint8))


def random_page(glyphs: Glyphs, rng: np.random.Generator) -> Page:
    """A page of random kind, labels and amounts; three amounts in four have two digits."""
    kind = PAGE_KINDS[int(rng.integers(len(PAGE_KINDS)))]
    count = int(rng.integers(3, 5))
    labels = [LABELS[place] for place in rng.permutation(len(LABELS))[:count]]
    return Page(kind, tuple(make_entry(label, _amount(rng), glyphs, rng) for label in labels))


def make_entry(label: str, amount: int, glyphs: Glyphs, rng: np.random.Generator) -> Entry:
    """A line in random handwriting."""
    return Entry(label, amount, tuple(glyphs.pick(int(digit), rng) for digit in str(amount)))


def near_page(page: Page, place: int, change: str, glyphs: Glyphs, rng: np.random.Generator) -> Page:
    """A near-duplicate whose line `place` has one other amount `digit` or another `label`; the hand stays."""
    entry = page.entries[place]
    if change == "label":
        used = {line.label for line in page.entries}
        free = [label for label in LABELS if label not in used]
        label = free[int(rng.integers(len(free)))]
        return page.put(place, Entry(label, entry.amount, entry.glyphs))
    digits = [int(digit) for digit in str(entry.amount)]
    spot = int(rng.integers(len(digits)))
    # the leading digit goes 1..9, so that the amount keeps its length
    digits[spot] = 1 + other(digits[0] - 1, 9, rng) if spot == 0 else other(digits[spot], 10, rng)
    hands = list(entry.glyphs)
    hands[spot] = glyphs.pick(digits[spot], rng)
    return page.put(place, Entry(entry.label, int("".join(map(str, digits))), tuple(hands)))


def _amount(rng: np.random.Generator) -> int:
    return int(rng.integers(10, 100)) if rng.random() < 0.75 else int(rng.integers(1, 10))


def _print(region: np.ndarray, mask: np.ndarray, ink: np.ndarray) -> None:
    """Lay ink on a view of the page: float [h, w, 3] in place, mask [h, w] in 0..1, ink [3]."""
    region += mask[:, :, None] * (ink - region)


@lru_cache(maxsize=64)
def _label(word: str, width: int = 2 * CELL, size: int = 19) -> np.ndarray:
    """float [28, width]: the printed word, left-aligned and centred in height."""
    image = Image.new("L", (width, CELL), 0)
    font = ImageFont.load_default(size=size)
    ImageDraw.Draw(image).text((4, CELL // 2), word, fill=255, font=font, anchor="lm")
    return np.asarray(image, dtype=np.float32) / 255


@lru_cache(maxsize=16)
def _paper(kind: str, entries: int) -> np.ndarray:
    """float [height, 112, 3]: title and rules of an empty page; each kind has its own layout."""
    height = (entries + 1) * CELL
    image = Image.new("RGB", (WIDTH, height), _PAPER[kind])
    draw = ImageDraw.Draw(image)
    font = ImageFont.load_default(size=20)
    rule = _RULE[kind]
    if kind == "table":
        draw.rectangle((0, 0, WIDTH - 1, CELL - 2), fill=(200, 212, 232))
        draw.line((2 * CELL - 1, CELL, 2 * CELL - 1, height), fill=rule)
        draw.rectangle((0, 0, WIDTH - 1, height - 1), outline=rule)
    for line in range(1, entries + 1):
        y = line * CELL - 1
        if kind == "receipt":
            for x in range(0, WIDTH, 8):
                draw.line((x, y, x + 3, y), fill=rule)
        else:
            draw.line((0, y, WIDTH, y), fill=rule)
    if kind == "receipt":
        draw.text((WIDTH // 2, CELL // 2), kind, fill=(25, 25, 30), font=font, anchor="mm")
    else:
        draw.text((5, CELL // 2), kind, fill=(25, 25, 30), font=font, anchor="lm")
    return np.asarray(image, dtype=np.float32)
