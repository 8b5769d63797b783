"""Files that Pillow opens and decodes into something else than they show: put right, or refused with a reason."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import BITSPERSAMPLE, TiffImageFile

PLANAR, SAMPLE_FORMAT = 284, 339  # tags of TIFF
SIGNED = 2  # a sample format
GREY_SCALES = {"L;2": 85, "L;4": 17}  # what Pillow multiplies grey levels by, but not the transparent one
ROWS = 64  # compared at once


def loaded(image: Image.Image) -> Image.Image:
    """The picture, decoded.

    Raises:
        ValueError: a TIFF whose channels of more than 8 bits lie one after the other, of which Pillow makes noise.
        Exception: whatever Pillow raises.
    """
    low = None
    if getattr(image, "tile", None):
        if isinstance(image, TiffImageFile):
            _check_planar(image)
        if isinstance(image, PngImageFile):
            _scale_key(image)
            low = _low_bytes(image)
    image.load()
    if isinstance(image, TiffImageFile):
        return _with_sign(image)
    return image if low is None else _keyed(image, low)


def _check_planar(image: TiffImageFile) -> None:
    bits = image.tag_v2.get(BITSPERSAMPLE, (1,))
    if image.tag_v2.get(PLANAR) == 2 and len(bits) > 1 and max(bits) > 8:
        raise ValueError(
            f"a TIFF with {max(bits)} bits a sample and its channels one after the other (planar) cannot be read; "
            "save it with interleaved channels, or with 8 bits"
        )


def _with_sign(image: TiffImageFile) -> Image.Image:
    """Pillow takes samples of 8 bits as unsigned and those of 32 as signed, whatever the file says."""
    bits, kind = image.tag_v2.get(BITSPERSAMPLE, (1,)), image.tag_v2.get(SAMPLE_FORMAT, (1,))
    if image.mode == "L" and bits == (8,) and kind == (SIGNED,):
        return image.point([level ^ 128 for level in range(256)])
    if image.mode != "I" or bits != (32,) or kind == (SIGNED,) or image.getextrema()[0] >= 0:  # type: ignore[operator]
        return image
    for row in range(
        0, image.height, ROWS
    ):  # halved, since the mode holds no more; the brightest is white anyway
        box = (0, row, image.width, min(row + ROWS, image.height))
        halves = np.asarray(image.crop(box)).view(np.uint32) >> 1
        image.paste(Image.fromarray(halves.astype(np.int32)), box)
    return image


def _scale_key(image: PngImageFile) -> None:
    key, scale = image.info.get("transparency"), GREY_SCALES.get(_raw_mode(image))
    if scale and isinstance(key, int) and key <= 255 // scale:
        image.info["transparency"] = key * scale


def _raw_mode(image: Image.Image) -> str:
    args = image.tile[0][3]  # type: ignore[attr-defined]
    return str(args[0] if isinstance(args, tuple) else args)


def _low_bytes(image: PngImageFile) -> Image.Image | None:
    """The lower halves of 16-bit samples, of which Pillow keeps the upper ones; where a colour is transparent."""
    key = image.info.get("transparency")
    if _raw_mode(image) != "RGB;16B" or not isinstance(key, tuple) or image.fp is None:
        return None
    place = image.fp.tell()
    image.fp.seek(0)
    again = Image.open(io.BytesIO(image.fp.read()), formats=["PNG"])
    image.fp.seek(place)
    again.tile = [tile._replace(args="RGB;16L") for tile in again.tile]  # type: ignore[attr-defined]
    again.load()
    return again


def _keyed(image: Image.Image, low: Image.Image) -> Image.Image:
    """RGBA with alpha 0 where all bits of all samples are those of the key."""
    key = np.array(image.info["transparency"])
    alpha = Image.new("L", image.size, 255)
    for row in range(0, image.height, ROWS):
        box = (0, row, image.width, min(row + ROWS, image.height))
        hidden = (np.asarray(image.crop(box)) == key >> 8) & (np.asarray(low.crop(box)) == key & 255)
        alpha.paste(Image.fromarray(np.where(hidden.all(axis=2), np.uint8(0), np.uint8(255))), box)
    keyed = image.copy()
    keyed.putalpha(alpha)
    del keyed.info["transparency"]
    return keyed
