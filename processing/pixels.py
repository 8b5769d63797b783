"""Pixels of any Pillow mode to RGB: deep pictures are scaled, profiles applied, transparency is laid on white.

Strip by strip, so that beside the picture and its RGB copy nothing of its size is held.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from PIL import Image
from PIL.TiffImagePlugin import BITSPERSAMPLE

from .profiles import apply, transform_of

STRIP_PIXELS = 2**18  # that are converted at once: some steps take many bytes for each
OVERSHOOT = 1.1
PHOTOMETRIC, COLOUR_MAP = 262, 320  # tags of TIFF
SEE_THROUGH = {"RGBA": "RGB", "LA": "L", "PA": "RGB", "RGBa": "RGB", "La": "L"}
Convert = Callable[[Image.Image], Image.Image]  # a strip to RGB


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert any Pillow mode to RGB as a viewer would.

    16-bit pictures are scaled by 65535 (or their own number of bits), integers by 255 or 65535 and floats by 1, 255
    or 65535, whichever is the first that holds all values (a tenth beyond is clipped: resizing overshoots); others
    stretch the range to the darkest and brightest of them. An ICC profile is applied (see ``profiles``);
    transparency of every kind is laid on white.

    Raises:
        ValueError: values that are not finite.
    """
    image.load()
    convert: Convert | None
    if image.mode.startswith("I") or image.mode == "F":
        convert = _deep(image)
    else:
        image = _with_colours(image)
        convert = _shallow(image)
    if convert is None:
        return image
    found = Image.new("RGB", image.size)
    for row, strip in _strips(image):
        found.paste(convert(strip), (0, row))
    return found


def _shallow(image: Image.Image) -> Convert | None:
    """Of a picture with 8 bits a channel; None if it is RGB as it stands."""
    key = image.info.get("transparency")
    see_through = image.mode in SEE_THROUGH or key is not None
    mode = SEE_THROUGH.get(image.mode, image.mode)
    mode = {"P": "RGB", "1": "L", "RGBX": "RGB", "HSV": "RGB", "YCbCr": "RGB"}.get(mode, mode)
    transform = transform_of(image, mode)
    if image.mode == "RGB" and transform is None and not isinstance(key, tuple):
        return None
    scale = _grey_scale(image, key)

    def convert(strip: Image.Image) -> Image.Image:
        alpha = None
        if see_through:
            strip, alpha = _alpha(strip, key, scale)
        strip = strip if strip.mode == mode else strip.convert(mode)
        rgb = strip.convert("RGB") if transform is None else apply(strip, transform)
        return rgb if alpha is None else _on_white(rgb, alpha)

    return convert


def _alpha(strip: Image.Image, key: Any, scale: int) -> tuple[Image.Image, Image.Image | None]:
    """Colours and alpha of a strip whose picture may be seen through."""
    if strip.mode in ("L", "1") and isinstance(key, int):
        grey = strip.convert("L")
        return grey, Image.fromarray(np.where(np.asarray(grey) == key * scale, np.uint8(0), np.uint8(255)))
    if strip.mode == "RGB" and isinstance(key, tuple):
        deep = max(key) > 255  # the key of a picture whose samples had 16 bits
        colour = np.array([level >> 8 if deep else level for level in key], dtype=np.int64)
        hidden = (np.asarray(strip) == colour).all(axis=2)
        return strip, Image.fromarray(np.where(hidden, np.uint8(0), np.uint8(255)))
    if strip.mode in ("RGBA", "LA", "RGBa"):
        strip = strip.convert("RGBA")
    elif strip.mode == "La":
        strip = strip.convert("LA").convert("RGBA")
    elif strip.mode in ("P", "PA"):
        strip = strip.convert("RGBA")
    else:  # a key that this mode cannot have
        return strip, None
    return strip.convert("RGB"), strip.getchannel("A")


def _on_white(rgb: Image.Image, alpha: Image.Image) -> Image.Image:
    rgba = rgb.copy()
    rgba.putalpha(alpha)
    return Image.alpha_composite(Image.new("RGBA", rgb.size, (255, 255, 255, 255)), rgba).convert("RGB")


def _grey_scale(image: Image.Image, key: Any) -> int:
    """By what the grey levels of a PNG with 1, 2 or 4 bits were multiplied; its transparent one was not."""
    if not isinstance(key, int):
        return 1
    if image.mode == "1":
        return 255 if key <= 1 else 1
    if image.mode != "L" or not 0 < key < 16:
        return 1
    histogram = image.histogram()
    used = {level for level, count in enumerate(histogram) if count}
    for scale in (85, 17):
        if key <= 255 // scale and key * scale in used and all(level % scale == 0 for level in used):
            return scale
    return 1


def _with_colours(image: Image.Image) -> Image.Image:
    """With the palette of a TIFF whose levels have 8 bits, which scanners write, instead of 16."""
    levels = _tag(image, COLOUR_MAP)
    if image.mode != "P" or not levels or max(levels) > 255 or len(levels) % 3:
        return image
    image = image.copy()
    image.putpalette(bytes(np.array(levels, dtype=np.uint8).reshape(3, -1).T.tobytes()))
    return image


def _tag(image: Image.Image, number: int) -> Any:
    """An entry of the picture's header, where it is a TIFF."""
    return getattr(image, "tag_v2", {}).get(number)


def _deep(image: Image.Image) -> Convert:
    low, high = _range(image)
    dark_is_high = _tag(image, PHOTOMETRIC) == 0
    key = image.info.get("transparency")
    transform = transform_of(image, "L")

    def convert(strip: Image.Image) -> Image.Image:
        values = np.asarray(strip, dtype=np.float64)
        levels = ((values.clip(low, high) - low) * (255.0 / (high - low))).astype(np.uint8)
        grey = Image.fromarray(255 - levels if dark_is_high else levels)
        rgb = grey.convert("RGB") if transform is None else apply(grey, transform)
        if not isinstance(key, int):
            return rgb
        return _on_white(rgb, Image.fromarray(np.where(values == key, np.uint8(0), np.uint8(255))))

    return convert


def _range(image: Image.Image) -> tuple[float, float]:
    """The values that become black and white."""
    if image.mode.startswith("I;16"):
        bits = _tag(image, BITSPERSAMPLE)
        return 0.0, float(2 ** bits[0] - 1 if bits else 65535)
    lowest, highest = np.inf, -np.inf
    for _, strip in _strips(image):
        values = np.asarray(strip)
        if not np.isfinite(values).all():
            raise ValueError("the picture has values that are not finite")
        lowest, highest = min(lowest, float(values.min())), max(highest, float(values.max()))
    if image.mode == "F" and OVERSHOOT < highest < 2:  # lights of more than white
        return min(lowest, 0.0), highest
    tops: tuple[float, ...] = (1.0, 255.0, 65535.0) if image.mode == "F" else (255.0, 65535.0)
    if image.mode == "I" and image.format in ("PPM", "PNG"):  # these say that they have 16 bits
        tops = (65535.0,)
    elif _tag(image, BITSPERSAMPLE) == (16,):  # with a sign
        tops = (255.0, 32767.0)
    for top in tops:
        if highest <= top * (1.0 if top == 255.0 else OVERSHOOT):
            return (0.0, top) if lowest >= (1 - OVERSHOOT) * highest else (lowest, max(highest, tops[0]))
    return min(lowest, 0.0), highest


def _strips(image: Image.Image) -> Iterator[tuple[int, Image.Image]]:
    """Strips of rows from the top, and the number of the first row of each."""
    step = max(1, STRIP_PIXELS // image.width)
    for row in range(0, image.height, step):
        yield row, image.crop((0, row, image.width, min(row + step, image.height)))
