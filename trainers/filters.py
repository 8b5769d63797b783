"""Leave out rows whose media are corrupt, too small, blurred, or nearly the same as those of an earlier row.

Everything is decoded one row at a time; what stays in memory are the hashes of the rows that are kept. Nothing is
left out silently: the result names every row and why.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
from PIL import Image as PILImage

from ..processing.arrays import is_array
from ..processing.documents import count_pages, load_document
from ..processing.items import DocumentPart, ImagePart, TextPart, VideoPart, parse_item
from ..processing.kinds import HEAD_BYTES, format_of
from ..processing.limits import MediaLimits
from ..processing.media import load_image
from ..processing.sources import read_bytes
from ..processing.video import Sampling, load_video
from .hashing import text_hash

COLUMNS = ("query", "positive", "negatives")
SHARPNESS_SIDE = 512
_UNREADABLE = (ValueError, TypeError, KeyError, OSError, EOFError, SyntaxError, struct.error)


@dataclass(frozen=True)
class Dropped:
    """A row that is left out: ``corrupt``, ``small``, ``blurred`` or ``duplicate``, and the detail of it."""

    index: int
    reason: str
    detail: str


@dataclass(frozen=True)
class Filtered:
    """kept: int64 [rows kept], in order; ``Subset(rows, kept)`` or ``dataset.select(kept)`` are those rows."""

    kept: np.ndarray
    dropped: list[Dropped]

    def counts(self) -> dict[str, int]:
        """Rows kept, and dropped for each reason."""
        return {"kept": len(self.kept), **Counter(one.reason for one in self.dropped)}


@dataclass
class MediaFacts:
    """Of the media of a row: smallest side, sharpness of the least sharp medium, one hash a picture."""

    side: int | None = None
    sharpness: float | None = None
    hashes: list[int] = field(default_factory=list)

    def add(self, pictures: Sequence[PILImage.Image], hash_side: int) -> None:
        """An image, or the frames of one video, which is as sharp as its sharpest frame."""
        side = min(min(one.size) for one in pictures)
        sharp = max(sharpness(one) for one in pictures)
        self.side = side if self.side is None else min(side, self.side)
        self.sharpness = sharp if self.sharpness is None else min(sharp, self.sharpness)
        self.hashes += [dhash(one, hash_side) for one in pictures]


def filter_rows(
    rows: Any,
    *,
    columns: Sequence[str] = COLUMNS,
    min_side: int | None = None,
    min_sharpness: float | None = None,
    duplicate_distance: int | None = None,
    hash_side: int = 8,
    frames: int = 4,
    limits: MediaLimits | None = None,
) -> Filtered:
    """Inspect the media of every row.

    Args:
        rows: map-style data set of rows; a list of pictures is ``[{"query": picture}, ...]`` with
            ``columns=("query",)``.
        columns: items, or lists of items, to inspect; a row may lack some.
        min_side: fewest pixels of the shorter side of any picture or frame.
        min_sharpness: least :func:`sharpness` of any picture, and of the sharpest frame of a video.
        duplicate_distance: bits by which the hashes of two pictures may differ; rows with the same texts and as many
            pictures, each within that distance, are duplicates, and the first stays. None does not compare. Rows
            without pictures are never compared.
        hash_side: side of the hash, see :func:`dhash`; pages of text need 16 or more.
        frames: frames of a video that are inspected.
        limits: what one file may cost; one that is over is corrupt.

    Returns:
        Rows kept and dropped. PDFs are opened and not rendered.

    Raises:
        ImportError: a video or PDF without the library that reads it.
    """
    duplicates = None if duplicate_distance is None else NearDuplicates(duplicate_distance, hash_side**2)
    kept: list[int] = []
    dropped: list[Dropped] = []
    limits = limits or MediaLimits()
    for index in range(len(rows)):
        try:
            texts, facts = _inspect(rows[index], columns, hash_side, frames, limits)
        except _UNREADABLE as error:
            dropped.append(Dropped(index, "corrupt", " ".join(str(error).split()) or type(error).__name__))
            continue
        if min_side is not None and facts.side is not None and facts.side < min_side:
            dropped.append(Dropped(index, "small", f"{facts.side} pixels; at least {min_side} are wanted"))
        elif min_sharpness is not None and facts.sharpness is not None and facts.sharpness < min_sharpness:
            dropped.append(
                Dropped(index, "blurred", f"sharpness {facts.sharpness:.1f}; {min_sharpness} is wanted")
            )
        elif duplicates is not None and facts.hashes:
            earlier = duplicates.add(index, facts.hashes, texts)
            if earlier is None:
                kept.append(index)
            else:
                dropped.append(Dropped(index, "duplicate", f"of row {earlier}"))
        else:
            kept.append(index)
    return Filtered(np.array(kept, dtype=np.int64), dropped)


def sharpness(image: PILImage.Image) -> float:
    """Variance of the Laplacian (4 neighbours) of the grey picture, 0..255, its longer side at most 512.

    A few units for a blurred or empty picture, hundreds for a sharp one; 0 for one without an inner pixel. Small
    pictures are not enlarged.
    """
    longest = max(image.size)
    if longest > SHARPNESS_SIDE:
        size = (
            max(1, round(image.width * SHARPNESS_SIDE / longest)),
            max(1, round(image.height * SHARPNESS_SIDE / longest)),
        )
        image = image.resize(size, PILImage.Resampling.BOX)
    grey = np.asarray(image.convert("L"), dtype=np.float64)
    if min(grey.shape) < 3:
        return 0.0
    inner = grey[1:-1, 1:-1]
    laplacian = grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:] - 4 * inner
    return float(laplacian.var())


def dhash(image: PILImage.Image, side: int = 8) -> int:
    """Difference hash of ``side * side`` bits: whether a pixel of the shrunken grey picture is darker than its right
    neighbour. Scaling, compression and brightness change few bits."""
    small = image.convert("L").resize((side + 1, side), PILImage.Resampling.BOX)
    grey = np.asarray(small, dtype=np.int16)
    return int.from_bytes(np.packbits(grey[:, 1:] > grey[:, :-1]).tobytes(), "big")


class NearDuplicates:
    """Finds an earlier entry whose hashes differ in at most ``distance`` bits each.

    A hash is cut into ``distance + 1`` bands: two hashes that differ in at most ``distance`` bits agree in one band at
    least, so that none is missed. Kept are the entries that had no earlier one: ``distance + 1`` numbers each.
    """

    def __init__(self, distance: int, bits: int = 64) -> None:
        if not 0 <= distance < bits:
            raise ValueError(f"a distance of {distance} bits makes no sense for hashes of {bits}")
        self.distance = distance
        edges = [bits * band // (distance + 1) for band in range(distance + 2)]
        self.bands = [(low, (1 << (high - low)) - 1) for low, high in pairwise(edges) if high > low]
        self._hashes: dict[int, tuple[int, ...]] = {}
        self._found: dict[tuple[int, int, int], list[int]] = {}

    def add(self, index: int, hashes: Sequence[int], key: Any = None) -> int | None:
        """The first earlier entry with the same key, as many hashes, and each of them near; or None, and this entry
        is kept."""
        mine, same = tuple(hashes), text_hash(repr((key, len(hashes))))
        bands = [(same, band, mine[0] >> low & mask) for band, (low, mask) in enumerate(self.bands)]
        near = {
            one for band in bands for one in self._found.get(band, ()) if self._near(mine, self._hashes[one])
        }
        if near:
            return min(near)
        self._hashes[index] = mine
        for band in bands:
            self._found.setdefault(band, []).append(index)
        return None

    def _near(self, a: tuple[int, ...], b: tuple[int, ...]) -> bool:
        return len(a) == len(b) and all(
            (x ^ y).bit_count() <= self.distance for x, y in zip(a, b, strict=True)
        )


def _inspect(
    row: Mapping[str, Any], columns: Sequence[str], hash_side: int, frames: int, limits: MediaLimits
) -> tuple[tuple[str, ...], MediaFacts]:
    """Texts and media of a row, in order."""
    texts, facts = [], MediaFacts()
    sampling = Sampling(min_frames=1, max_frames=frames, multiple=1)
    for column in columns:
        for item in _items(row.get(column)):
            texts.append(column)
            for part in parse_item(item).parts:
                if isinstance(part, TextPart):
                    texts.append(part.text)
                elif isinstance(part, ImagePart):
                    facts.add([load_image(part.source, limits)], hash_side)
                elif isinstance(part, VideoPart):
                    facts.add(load_video(part.source, sampling, limits).images, hash_side)
                elif isinstance(part, DocumentPart):
                    _inspect_page(part.source, part.page, facts, hash_side, limits)
    return tuple(texts), facts


def _inspect_page(
    source: Any, page: int | None, facts: MediaFacts, hash_side: int, limits: MediaLimits
) -> None:
    """A page may be a picture; a PDF is opened only, because it has no pixels before it is rendered."""
    if not (isinstance(source, PILImage.Image) or is_array(source)):
        data = read_bytes(source, limits)
        if format_of(data[:HEAD_BYTES]) == "pdf":
            count_pages(data, limits)
            return
    load_document(source, page, limits.image_pixels, limits, lambda one: facts.add([one], hash_side))


def _items(value: Any) -> Iterable[Any]:
    if value is None:
        return ()
    return value if isinstance(value, (list, tuple)) else (value,)
