"""The same meaning in other handwriting: what makes image-to-image retrieval more than comparing pixels."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from .clips import Clip
from .glyphs import Glyphs
from .pages import Page
from .scenes import Scene


def rewritten(scene: Scene, glyphs: Glyphs, rng: np.random.Generator) -> Scene:
    """The same scene in other handwriting."""
    return replace(
        scene, glyphs=tuple(_other_hand(glyph, digit, glyphs, rng) for glyph, digit in _cells(scene))
    )


def rewritten_clip(clip: Clip, glyphs: Glyphs, rng: np.random.Generator) -> Clip:
    """The same clip in other handwriting."""
    actors = [
        replace(actor, glyph=_other_hand(actor.glyph, actor.digit, glyphs, rng)) for actor in clip.actors
    ]
    return Clip(tuple(actors))


def rewritten_page(page: Page, glyphs: Glyphs, rng: np.random.Generator) -> Page:
    """The same page in other handwriting."""
    entries = []
    for entry in page.entries:
        hands = zip(entry.glyphs, str(entry.amount), strict=True)
        entries.append(
            replace(
                entry, glyphs=tuple(_other_hand(glyph, int(digit), glyphs, rng) for glyph, digit in hands)
            )
        )
    return Page(page.kind, tuple(entries))


def _cells(scene: Scene) -> list[tuple[int, int]]:
    return list(zip(scene.glyphs, scene.digits, strict=True))


def _other_hand(glyph: int, digit: int, glyphs: Glyphs, rng: np.random.Generator) -> int:
    """A glyph of the digit whose original handwriting sample differs."""
    while True:
        picked = glyphs.pick(digit, rng)
        if glyphs.samples[picked] != glyphs.samples[glyph]:
            return picked
