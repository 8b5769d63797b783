"""The demo's queries: every kind of question with the one file of the gallery that answers it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..encoding.cascade_folder import Fusion
from ..encoding.index.exact import Index
from ..encoding.index.two_stage import rescore
from ..evaluation.digit_world.other_hand import rewritten, rewritten_clip, rewritten_page
from ..evaluation.digit_world.words import INSTRUCTIONS
from .gallery import Gallery, pdf_bytes, png_bytes, write_if_missing
from .mp4 import mp4_bytes


@dataclass(frozen=True)
class Query:
    """One question: the item to encode, the kind of file that is looked for, and the id of the right one."""

    family: str
    item: dict[str, Any]
    kind: str  # image, video, document or text, as in the index's metadata
    right: str
    text: str = ""
    file: Path | None = None
    task: str = ""  # of DigitWorld

    @property
    def label(self) -> str:
        """What the table says of it."""
        parts = [self.file.name if self.file else "", self.text]
        return " + ".join(part for part in parts if part)


@dataclass(frozen=True)
class Result:
    """A query and the files of the wanted kind, best first, with their scores; and what the model thought of it."""

    query: Query
    hits: tuple[tuple[str, float], ...]
    thought: str | None = None

    @property
    def rank(self) -> int:
        """Place of the right file, from 1; 0 where the index does not hold it."""
        names = [name for name, _ in self.hits]
        return names.index(self.query.right) + 1 if self.query.right in names else 0


def make_queries(gallery: Gallery, folder: Path, seed: int = 0) -> list[Query]:
    """35 queries; their pictures, clips and pages are written into ``folder``."""
    maker = _Maker(gallery, folder, np.random.default_rng([14, seed]))
    return [
        *maker.text_to_image(),
        *maker.image_to_text(),
        *maker.image_to_image(),
        *maker.text_to_video(),
        *maker.video_to_text(),
        *maker.text_to_document(),
        *maker.document_to_document(),
        *maker.composed(),
    ]


class _Maker:
    def __init__(self, gallery: Gallery, folder: Path, rng: np.random.Generator) -> None:
        self.gallery, self.folder, self.rng = gallery, folder, rng

    def _file(self, name: str, data: bytes) -> Path:
        write_if_missing(self.folder / name, data)
        return self.folder / name

    def text_to_image(self) -> list[Query]:
        names = list(self.gallery.scenes)
        chosen = [names[place] for place in (0, 8, 16, 36, 45, 59)]  # one of each family, three others
        texts = [(name, self.gallery.scenes[name].caption) for name in chosen]
        return [self._text("text -> image", "retrieve_scene", "image", *pair) for pair in texts]

    def text_to_video(self) -> list[Query]:
        pairs = list(self.gallery.clips.items())[::3]
        return [
            self._text("text -> video", "retrieve_clip", "video", name, clip.caption) for name, clip in pairs
        ]

    def text_to_document(self) -> list[Query]:
        queries = []
        for name, page in list(self.gallery.pages.items())[::2]:
            text = f"{page.kind} with {page.entries[0].text} and {page.entries[1].text}"
            queries.append(self._text("text -> document", "retrieve_page", "document", name, text))
        return queries

    def image_to_text(self) -> list[Query]:
        queries = []
        for number, (name, scene) in enumerate(list(self.gallery.scene_notes.items())[::2], start=1):
            file = self._file(f"scene-{number}.png", png_bytes(scene.render(self.gallery.glyphs)))
            queries.append(_media("image -> text", "retrieve_caption", "image", "text", name, file))
        return queries

    def image_to_image(self) -> list[Query]:
        queries = []
        names = list(self.gallery.scenes)
        for number, place in enumerate((1, 9, 40, 50), start=1):
            scene = rewritten(self.gallery.scenes[names[place]], self.gallery.glyphs, self.rng)
            file = self._file(f"other-hand-{number}.png", png_bytes(scene.render(self.gallery.glyphs)))
            queries.append(_media("image -> image", "same_scene", "image", "image", names[place], file))
        return queries

    def video_to_text(self) -> list[Query]:
        queries = []
        for number, (name, clip) in enumerate(list(self.gallery.clip_notes.items())[::2], start=1):
            other = rewritten_clip(clip, self.gallery.glyphs, self.rng)
            file = self._file(f"clip-{number}.mp4", mp4_bytes(other.render(self.gallery.glyphs)))
            queries.append(_media("video -> text", "retrieve_clip_caption", "video", "text", name, file))
        return queries

    def document_to_document(self) -> list[Query]:
        queries = []
        for number, (name, page) in enumerate(list(self.gallery.pages.items())[1::2], start=1):
            other = rewritten_page(page, self.gallery.glyphs, self.rng)
            file = self._file(f"other-hand-{number}.pdf", pdf_bytes([other.render(self.gallery.glyphs)]))
            queries.append(_media("document -> document", "same_page", "document", "document", name, file))
        return queries

    def composed(self) -> list[Query]:
        queries = []
        for number, (edit, name) in enumerate(self.gallery.edits, start=1):
            file = self._file(f"edit-{number}.png", png_bytes(edit.source.render(self.gallery.glyphs)))
            item = {"image": str(file), "text": edit.text, "instruction": INSTRUCTIONS["edit_scene"]}
            queries.append(Query("image + text -> image", item, "image", name, edit.text, file, "edit_scene"))
        return queries

    @staticmethod
    def _text(family: str, task: str, kind: str, right: str, text: str) -> Query:
        return Query(family, {"text": text, "instruction": INSTRUCTIONS[task]}, kind, right, text, task=task)


def _media(family: str, task: str, key: str, kind: str, right: str, file: Path) -> Query:
    return Query(
        family, {key: str(file), "instruction": INSTRUCTIONS[task]}, kind, right, file=file, task=task
    )


def rank(
    queries: Sequence[Query],
    vectors: NDArray[np.float32],
    index: Index,
    thoughts: Sequence[str | None] | None = None,
) -> list[Result]:
    """Rank the rows of the wanted kind for each query.

    Args:
        queries: n queries.
        vectors: [n, d], unit rows, of their items.
        index: the gallery's.
        thoughts: of the queries, where the model thinks.
    """
    kinds = {name: row.get("kind") for name, row in zip(index.ids, index.metadata, strict=True)}
    ids, scores = index.search(vectors, len(index))
    return [
        Result(
            query,
            tuple(
                (name, float(score))
                for name, score in zip(names, values, strict=True)
                if name is not None and kinds[name] == query.kind
            ),
            thought,
        )
        for query, names, values, thought in zip(
            queries, ids, scores, thoughts or [None] * len(queries), strict=True
        )
    ]


def rerank(
    results: Sequence[Result], reranker: Any, fusion: Fusion, item_of: Callable[[str], Any]
) -> list[Result]:
    """The first files of every query scored again, with the share of its task; the others keep their places behind.

    Args:
        results: by cosine.
        reranker: an ``umekit.Reranker``.
        fusion: share of the cosine, and how many files are scored again.
        item_of: id to the item of that file.
    """
    found = [list(result.hits[: fusion.depth]) for result in results]
    ranked, _ = rescore(
        reranker,
        [result.query.item for result in results],
        found,
        item_of,
        alphas=[fusion.alpha_of(result.query.task) for result in results],
    )
    return [
        replace(result, hits=(*((row.id, row.score) for row in rows), *result.hits[fusion.depth :]))
        for result, rows in zip(results, ranked, strict=True)
    ]
