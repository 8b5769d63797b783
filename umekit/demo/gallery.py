"""Writes the demo's gallery: PNG pictures, mp4 clips, PDF pages and notes, drawn from test-split handwriting.

Every file has near-duplicates (one digit, colour, motion or amount apart), so that a right answer means that
the content was read. The same seed writes the same bytes, and a file that is already there is left alone.
"""

from __future__ import annotations

import io
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from ..encoding.storage.atomic import write_atomically
from ..encoding.storage.ownership import check_own
from ..evaluation.digit_world.clips import Actor, Clip, make_clip, near_clip
from ..evaluation.digit_world.edits import Edit, random_edit
from ..evaluation.digit_world.glyphs import Glyphs, load_glyphs
from ..evaluation.digit_world.pages import Page, near_page, random_page
from ..evaluation.digit_world.scenes import CHANGES, Scene, near_scene, random_scene
from .mp4 import mp4_bytes

PDF_PIXELS = 4  # pixels of the embedded picture per point of the page: sharp at any zoom
PAGES_PER_PDF = (1, 3, 1, 2, 1)
_EPOCH = time.gmtime(1_600_000_000)  # a PDF holds a date; a fixed one keeps the bytes equal


@dataclass
class Gallery:
    """Where the gallery lies, and what each id of its index shows."""

    root: Path
    glyphs: Glyphs
    scenes: dict[str, Scene] = field(default_factory=dict)  # pictures
    clips: dict[str, Clip] = field(default_factory=dict)
    pages: dict[str, Page] = field(default_factory=dict)
    scene_notes: dict[str, Scene] = field(default_factory=dict)  # captions of scenes that have no picture
    clip_notes: dict[str, Clip] = field(default_factory=dict)
    edits: list[tuple[Edit, str]] = field(default_factory=list)  # an edit and the id of its result

    def file(self, name: str) -> Path:
        """The file of an id (the page of a PDF is dropped)."""
        return self.root / name.split("#page=")[0]


def write_gallery(root: Path, seed: int = 0) -> Gallery:
    """Write 91 files under ``root``.

    Raises:
        ImportError: scikit-learn or PyAV is missing.
    """
    glyphs = load_glyphs("test")
    rng = np.random.default_rng([13, seed])
    gallery = Gallery(root, glyphs)
    _write_pictures(gallery, rng)
    for number, clip in enumerate(_clips(glyphs, rng, families=4, size=3), start=1):
        name = f"clips/clip-{number:02}.mp4"
        write_if_missing(root / name, mp4_bytes(clip.render(glyphs)))
        gallery.clips[name] = clip
    _write_papers(gallery, rng)
    _write_notes(gallery, rng)
    return gallery


def write_if_missing(path: Path, data: bytes) -> None:
    """Write a file unless it is there.

    Raises:
        ForeignFileError: it holds other bytes, so that it is a file of the user's, or of another demo.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    check_own(path, lambda file: file.read_bytes() == data, "give another --out (it may be of another seed)")
    if not path.exists():
        write_atomically(path, data)


def png_bytes(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def pdf_bytes(pages: list[Image.Image]) -> bytes:
    """A PDF whose pages measure as many points as the pictures have pixels."""
    large = [
        page.resize((page.width * PDF_PIXELS, page.height * PDF_PIXELS), Image.Resampling.NEAREST)
        for page in pages
    ]
    buffer = io.BytesIO()
    large[0].save(
        buffer,
        "PDF",
        save_all=True,
        append_images=large[1:],
        resolution=72.0 * PDF_PIXELS,
        quality=95,
        creationDate=_EPOCH,
        modDate=_EPOCH,
    )
    return buffer.getvalue()


def _scene_family(glyphs: Glyphs, rng: np.random.Generator, size: int) -> list[Scene]:
    """A scene and ``size - 1`` near-duplicates, all of different meaning."""
    family = [random_scene(glyphs, rng)]
    while len(family) < size:
        fresh = near_scene(family[0], CHANGES[len(family) % len(CHANGES)], glyphs, rng)
        if all(fresh.caption != old.caption for old in family):
            family.append(fresh)
    return family


def _write_pictures(gallery: Gallery, rng: np.random.Generator) -> None:
    """60 scenes: 3 families of 8, 6 edits before and after, 24 others; numbered in random order."""
    scenes = [scene for _ in range(3) for scene in _scene_family(gallery.glyphs, rng, 8)]
    edits = [random_edit(gallery.glyphs, rng) for _ in range(6)]
    scenes += [scene for edit in edits for scene in (edit.source, edit.target)]
    scenes += [random_scene(gallery.glyphs, rng) for _ in range(60 - len(scenes))]
    numbers = rng.permutation(len(scenes)) + 1
    for scene, number in zip(scenes, numbers, strict=True):
        name = f"pictures/scene-{number:02}.png"
        write_if_missing(gallery.root / name, png_bytes(scene.render(gallery.glyphs)))
        gallery.scenes[name] = scene
    names = list(gallery.scenes)
    gallery.edits = [(edit, names[25 + 2 * place]) for place, edit in enumerate(edits)]


def _clips(glyphs: Glyphs, rng: np.random.Generator, families: int, size: int) -> list[Clip]:
    """Families of a clip with one or two actors and its near-duplicates."""
    clips: list[Clip] = []
    for _ in range(families):
        base = make_clip(glyphs, rng)
        family = [base]
        while len(family) < size:
            fresh = near_clip(base, ("digit", "motion", "colour")[len(family) % 3], glyphs, rng)
            if all(_meaning(fresh) != _meaning(old) for old in (*family, *clips)):
                family.append(fresh)
        clips += family
    return clips


def _meaning(clip: Clip) -> frozenset[tuple[str, tuple[int, ...]]]:
    def key(actor: Actor) -> tuple[str, tuple[int, ...]]:
        return actor.name, actor.path

    return frozenset(key(actor) for actor in clip.actors)


def _write_papers(gallery: Gallery, rng: np.random.Generator) -> None:
    """8 pages in 5 PDFs: 4 pages, each with a near-duplicate whose first amount differs."""
    pages: list[Page] = []
    for _ in range(sum(PAGES_PER_PDF) // 2):
        base = random_page(gallery.glyphs, rng)
        pages += [base, near_page(base, 0, "digit", gallery.glyphs, rng)]
    ordered = iter([pages[place] for place in rng.permutation(len(pages))])
    for number, count in enumerate(PAGES_PER_PDF, start=1):
        members = [next(ordered) for _ in range(count)]
        name = f"papers/papers-{number}.pdf"
        write_if_missing(gallery.root / name, pdf_bytes([page.render(gallery.glyphs) for page in members]))
        gallery.pages |= {f"{name}#page={place}": page for place, page in enumerate(members, start=1)}


def _write_notes(gallery: Gallery, rng: np.random.Generator) -> None:
    """8 notes on scenes and 6 on clips, none of which has a picture or clip in the gallery."""
    scenes = [scene for _ in range(2) for scene in _scene_family(gallery.glyphs, rng, 4)]
    for number, scene in enumerate(scenes, start=1):
        name = f"notes/scene-note-{number}.md"
        write_if_missing(gallery.root / name, f"{scene.caption}\n".encode())
        gallery.scene_notes[name] = scene
    for number, clip in enumerate(_clips(gallery.glyphs, rng, families=2, size=3), start=1):
        name = f"notes/clip-note-{number}.txt"
        write_if_missing(gallery.root / name, f"{clip.caption}\n".encode())
        gallery.clip_notes[name] = clip
