"""Read images: from a path, a URL, bytes, a PIL image or an array to RGB PIL images.

Files are hostile: bytes, pixels, pages and frames are limited by ``MediaLimits`` before they are decoded, and decoding
has a time limit. Documents are in ``documents.py``, video in ``video.py``.
"""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator
from itertools import islice
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError
from PIL.JpegImagePlugin import JpegImageFile
from PIL.TiffImagePlugin import TiffImageFile

from .arrays import is_array, picture_of
from .kinds import HEAD_BYTES, format_of, other_kind
from .limits import ROOM, Deadline, MediaError, MediaLimits, describe, reading, reason
from .odd_images import loaded
from .pixels import to_rgb
from .sources import read_bytes

try:
    import pillow_heif
except ImportError:  # optional: the hint is given where a HEIC is asked for
    pillow_heif = None

NEW_SUBFILE_TYPE, NO_PAGE = 254, 0b101  # a tag of TIFF; its bits for a reduced copy and for a mask
SUBFILE_TYPE, REDUCED = 255, 2  # the tag that was there before
ORIENTATION = 0x0112  # a tag of Exif; what it says is done as ImageOps.exif_transpose does it, without a copy
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
JPEG_BLOCK = 4096  # bytes between two looks at the time; a dozen are one more scan over the whole picture

# Pillow's decoders are safe to run side by side, but not two of them on one picture that is not loaded yet.
_LOADING = [threading.Lock() for _ in range(64)]


class _TimedBytes(io.BytesIO):
    """Bytes for a decoder that reads them piece by piece: also a small file can make it work for hours."""

    def __init__(self, data: bytes, deadline: Deadline) -> None:
        super().__init__(data)
        self._deadline = deadline

    def read(self, size: int | None = -1, /) -> bytes:
        self._deadline.check()
        return super().read(size)


def load_image(source: Any, limits: MediaLimits, frame: int | None = None) -> Image.Image:
    """One still picture as RGB, upright, transparency on white.

    Args:
        source: path, URL, bytes, ``{"bytes", "path"}``, PIL image, or array or tensor ``[H, W]``,
            ``[H, W, 1|3|4]``, ``[1|3|4, H, W]`` of uint8, or of floats in 0..1; see ``arrays``.
        limits: what it may cost.
        frame: of a TIFF, see :func:`page_frames`; None for its only page. Of an animation or of any other file with
            several pictures, the first or the one that it names as its still is taken.

    Raises:
        MediaError: unreadable, too large, not a picture, or a TIFF of several pages without ``frame``.
        TypeError: a source of another type.
    """
    with ROOM.released():
        return _load_image(source, limits, frame)


def _load_image(source: Any, limits: MediaLimits, frame: int | None) -> Image.Image:
    if is_array(source):
        array = picture_of(source)
        _check_size(array.shape[1::-1], describe(source), limits)
        ROOM.claim(array.shape[0] * array.shape[1])
        return to_rgb(_from_array(array))
    if isinstance(source, Image.Image):
        ROOM.claim(source.width * source.height)
        with _LOADING[id(source) // 64 % len(_LOADING)]:
            return _decoded(source, describe(source), limits)
    name = describe(source)
    content = read_bytes(source, limits)
    if pillow_heif is None and format_of(content[:HEAD_BYTES]) == "heic":
        raise MediaError(f"{name}: HEIC pictures need pillow-heif: pip install pillow-heif")
    deadline = Deadline(name, limits)
    with reading(name):
        try:
            image = Image.open(_TimedBytes(content, deadline), formats=_formats())
        except UnidentifiedImageError as error:
            raise MediaError(f"{name}: {other_kind(content, 'image') or reason(error)}") from None
        if isinstance(image, TiffImageFile):
            image.seek(_only_page(image, name) if frame is None else frame)
    if isinstance(image, JpegImageFile):
        image.decodermaxblock = JPEG_BLOCK
        _check_size(image.size, name, limits)  # of the whole picture, whatever is decoded of it
        _draft(image, limits.draft_pixels)
    _check_size(image.size, name, limits)
    ROOM.claim(image.width * image.height)
    deadline.restart()
    return _decoded(image, name, limits)


def page_frames(source: Any, limits: MediaLimits) -> list[int]:
    """Which pictures of a TIFF are pages: not the smaller copies of one, and not masks.

    Raises:
        MediaError: the file, or a page's header, can't be read.
    """
    name = describe(source)
    data = _TimedBytes(read_bytes(source, limits), Deadline(name, limits))
    with reading(name), Image.open(data, formats=_formats()) as image:
        return list(_pages(image)) or [0]


def _pages(image: Image.Image) -> Iterator[int]:
    """Numbers of the pictures that are pages. The picture stands at the one that was asked for last."""
    for frame in range(getattr(image, "n_frames", 1)):
        image.seek(frame)
        tags = getattr(image, "tag_v2", {})
        kind = tags.get(NEW_SUBFILE_TYPE, 0)
        is_copy = isinstance(kind, int) and kind & NO_PAGE
        if not is_copy and tags.get(SUBFILE_TYPE) != REDUCED:
            yield frame


def _only_page(image: TiffImageFile, name: str) -> int:
    pages = list(islice(_pages(image), 2)) or [0]
    if len(pages) > 1:
        raise MediaError(
            f"{name} is a TIFF of several pages: give it as a document, all of it or with its 'page': "
            '{"document": ..., "page": 1}'
        )
    return pages[0]


def _draft(image: JpegImageFile, least: int) -> None:
    """Have a JPEG decoded at a part of its size, an exact one so that its shape and with it the grid stay."""
    width, height = image.size
    for scale in (8, 4, 2):
        if least and width % scale == 0 == height % scale and width * height >= least * scale**2:
            image.draft(None, (width // scale, height // scale))
            return


def _formats() -> list[str]:
    """All that Pillow reads but for PostScript, which it would have Ghostscript run."""
    Image.init()
    if pillow_heif is not None and "HEIF" not in Image.ID:
        pillow_heif.register_heif_opener()
    return [name for name in Image.ID if name != "EPS"]


def _check_size(size: tuple[int, ...], name: str, limits: MediaLimits) -> None:
    pixels = int(np.prod(size, dtype=object))
    if pixels > limits.image_pixels:
        shown = " x ".join(map(str, size))
        raise MediaError(f"{name} has {shown} pixels, more than the limit of {limits.image_pixels}")
    if pixels == 0:
        raise MediaError(f"{name} has no pixels ({' x '.join(map(str, size))})")


def _decoded(image: Image.Image, name: str, limits: MediaLimits) -> Image.Image:
    _check_size(image.size, name, limits)
    with reading(name):
        image = loaded(image)
        orientation = image.getexif().get(ORIENTATION)
        return _upright(to_rgb(image), orientation)


def _upright(rgb: Image.Image, orientation: Any) -> Image.Image:
    if orientation not in TURNS:
        return rgb
    upright = rgb.transpose(TURNS[orientation])
    upright.info.clear()  # what said that it is turned
    return upright


def _from_array(array: np.ndarray) -> Image.Image:
    if np.issubdtype(array.dtype, np.floating):
        if not np.isfinite(array).all():
            raise MediaError("the array has values that are not finite")
        if array.min() < 0 or array.max() > 1:
            raise MediaError("a float array must lie in 0..1; give uint8 for 0..255")
        array = (array * 255).round().astype(np.uint8)
    elif array.dtype != np.uint8:
        raise MediaError(f"an array of {array.dtype} is no picture; give uint8, or floats in 0..1")
    one = array[..., 0] if array.ndim == 3 and array.shape[2] == 1 else array
    return Image.fromarray(np.ascontiguousarray(one))
