"""Read images: from a path, a URL, bytes, a PIL image or an array to RGB PIL images.

Files are hostile: bytes, pixels, pages and frames are limited by ``MediaLimits`` before they are decoded, and decoding
has a time limit. Documents are in ``documents_ume.py``, video in ``video_ume.py``.
"""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import Image, ImageOps
from PIL.JpegImagePlugin import JpegImageFile

from .arrays_ume import is_array, picture_of
from .limits_ume import Deadline, MediaError, MediaLimits, describe, reason
from .sources_ume import read_bytes

STRIP_PIXELS = 2**18  # of a deep picture that are scaled at once: float64 values take many bytes each
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


def load_image(source: Any, limits: MediaLimits) -> Image.Image:
    """One still picture as RGB, upright, transparency on white.

    Args:
        source: path, URL, bytes, ``{"bytes", "path"}``, PIL image, or array or tensor ``[H, W]``,
            ``[H, W, 1|3|4]``, ``[1|3|4, H, W]`` of uint8, or of floats in 0..1; see ``arrays_ume``.

    Raises:
        MediaError: unreadable, too large or not a picture.
        TypeError: a source of another type.
    """
    if is_array(source):
        array = picture_of(source)
        _check_size(array.shape[1::-1], describe(source), limits)
        return to_rgb(_from_array(array))
    if isinstance(source, Image.Image):
        with _LOADING[id(source) // 64 % len(_LOADING)]:
            return _decoded(source, describe(source), limits)
    name = describe(source)
    data = _TimedBytes(read_bytes(source, limits), Deadline(name, limits))
    try:
        image = Image.open(data, formats=_formats())
    except MediaError:
        raise
    except Exception as error:  # Pillow meets hostile bytes here, and lets through whatever they cause
        raise MediaError(f"{name}: {reason(error)}") from None
    if isinstance(image, JpegImageFile):
        image.decodermaxblock = JPEG_BLOCK
        _check_size(image.size, name, limits)  # of the whole picture, whatever is decoded of it
        _draft(image, limits.draft_pixels)
    return _decoded(image, name, limits)


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
    try:
        return to_rgb(ImageOps.exif_transpose(image))
    except MediaError:
        raise
    except Exception as error:  # as above
        raise MediaError(f"{name}: {reason(error)}") from None


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert any Pillow mode to RGB: 16-bit and float pictures are scaled, transparency is laid on white."""
    keyed = isinstance(image.info.get("transparency"), tuple)  # a PNG's one transparent colour
    if image.mode == "RGB" and not keyed:
        return image
    if image.mode.startswith("I") or image.mode == "F":
        return _scaled(image).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")


def _scaled(image: Image.Image) -> Image.Image:
    """A picture of mode I, I;16 or F as one of mode L, strip by strip."""
    top = 65535.0 if image.mode.startswith("I;16") or _highest(image) > 255 else 255.0
    scaled = np.empty((image.height, image.width), dtype=np.uint8)
    for row, values in _strips(image):
        scaled[row : row + len(values)] = values.clip(0, top) * (255.0 / top)
    return Image.fromarray(scaled)


def _highest(image: Image.Image) -> float:
    highest = -np.inf
    for _, values in _strips(image):
        if not np.isfinite(values).all():
            raise ValueError("the picture has values that are not finite")
        highest = max(highest, values.max())
    return float(highest)


def _strips(image: Image.Image) -> Iterator[tuple[int, np.ndarray]]:
    """Strips of rows from the top: the number of the first row, and the values as float64 ``[rows, W]``."""
    step = max(1, STRIP_PIXELS // image.width)
    for row in range(0, image.height, step):
        strip = image.crop((0, row, image.width, min(row + step, image.height)))
        yield row, np.asarray(strip, dtype=np.float64)


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
