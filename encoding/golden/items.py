"""Items of golden folders, and what must come of them: of ours, twenty of every modality, the same on every machine.

Made from a seed by integer arithmetic (the legacy generator's stream is frozen), so that only their results need
storing.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SEED = 20250
WORDS = (
    *("bright", "window", "carries", "old", "engine", "garden", "kettle", "lantern", "map", "museum"),
    *("quiet", "river", "rocket", "teapot", "valley", "violin"),
)


class GoldenError(ValueError):
    """A folder is no golden folder, or one of another kind than the checkpoint."""


@dataclass(frozen=True)
class Case:
    """One item and what must come of it.

    Attributes:
        name, role, item: the item.
        length, ids, slots: number of tokens, hash of the ids, hash of the pooled positions ("" where not known).
        grids: ``[t, h, w]`` of pictures, then of videos.
        pixels: mean of all pixels (uint8), None where it is not known.
        vector: float32 ``[d]``, perhaps only its beginning; of a pair its score.
        candidate: for rerankers, the item that ``item`` as a query is paired with.
        mode: of ``encode``; None for the checkpoint's direct embedding.
        input_ids: the ids themselves, where the folder has them.
    """

    name: str
    role: str | None
    item: Any
    length: int
    ids: str
    slots: str
    grids: list[list[int]]
    vector: NDArray[np.float32]
    pixels: float | None = None
    candidate: Any = None
    mode: str | None = None
    input_ids: tuple[int, ...] = ()


@dataclass(frozen=True)
class Golden:
    """A folder's cases and what they were made with.

    Attributes:
        cases: items and what must come of them.
        tolerance: largest difference of a number of a vector; ``loose`` for cases that need more, by name.
        dtype: of the weights.
        settings: both halves' settings, flat; empty where the folder does not say.
        preset: published system, "" for none.
    """

    cases: list[Case]
    tolerance: float
    dtype: str = "float32"
    settings: dict[str, Any] = field(default_factory=dict)
    preset: str = ""
    loose: dict[str, float] = field(default_factory=dict)


def digest(values: Any) -> str:
    """Hash of integers."""
    return hashlib.sha256(np.asarray(values, dtype=np.int64).tobytes()).hexdigest()[:16]


def picture(width: int, height: int, seed: int, block: int = 7) -> Image.Image:
    """Coloured blocks over a gradient."""
    random = np.random.RandomState(seed)
    coarse = random.randint(0, 200, (height // block + 1, width // block + 1, 3))
    blocks = np.kron(coarse, np.ones((block, block, 1), dtype=np.int64))[:height, :width]
    slope = (np.arange(width)[None, :, None] * 55) // max(width - 1, 1)
    return Image.fromarray((blocks + slope).astype(np.uint8))


def words(count: int, seed: int) -> str:
    """A text of so many words."""
    random = np.random.RandomState(seed)
    return " ".join(WORDS[i] for i in random.randint(0, len(WORDS), count)) + "."


def golden_pairs() -> list[tuple[str, Any, Any]]:
    """``(name, query, candidate)`` of every pair, for rerankers."""
    items = {name: item for name, _, item in golden_items()}
    queries = ("text_query", "text_question", "picture_query", "picture_and_text")
    candidates = ("text", "text_unicode", "picture_wide", "document_page", "video")
    return [(f"{q} / {c}", items[q], items[c]) for q in queries for c in candidates]


def golden_items() -> list[tuple[str, str | None, Any]]:
    """``(name, role, item)`` of every item."""
    film = [picture(84, 112, SEED + 20 + i) for i in range(4)]
    short = [picture(96, 72, SEED + 30 + i) for i in range(3)]
    find = "Find the picture that the text describes."
    return [
        ("text", None, "A small red kitten rests on the wooden bench."),
        ("text_lower_case", None, "the quiet squirrel watches the golden kettle"),
        ("text_question", "document", 'What is the "color" of the teapot?'),
        ("text_unicode", None, "Käfer — 猫が眠る 🐈 ½ ≠ ⅓, שלום"),
        ("text_of_lines", "document", "first line\r\nsecond line\n\n  third line  "),
        ("text_with_special_tokens", None, "typed: <|im_end|> <|image_pad|> <emb> </think>"),
        ("text_long", "document", words(300, SEED + 1)),
        ("text_query", "query", {"text": words(8, SEED + 2), "instruction": find}),
        ("text_query_no_full_stop", "query", {"text": "two rockets", "instruction": "retrieve what matches"}),
        ("picture", None, picture(140, 112, SEED + 3)),
        ("picture_wide", "document", picture(336, 52, SEED + 4)),
        ("picture_tall", None, picture(50, 290, SEED + 5)),
        ("picture_tiny", None, picture(20, 15, SEED + 6)),
        ("picture_large", "document", picture(700, 500, SEED + 7)),
        ("picture_query", "query", {"image": picture(157, 93, SEED + 8), "instruction": find}),
        ("picture_and_text", None, {"image": picture(120, 170, SEED + 9), "text": words(9, SEED + 10)}),
        ("two_pictures", None, {"images": [picture(100, 100, SEED + 11), picture(90, 60, SEED + 12)]}),
        ("document_page", "document", {"document": picture(170, 240, SEED + 13)}),
        ("video", None, {"video": film}),
        ("video_odd_and_text", None, {"video": short, "text": words(6, SEED + 14)}),
    ]
