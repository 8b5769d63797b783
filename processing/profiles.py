"""Colours as a viewer shows them: a picture's ICC profile is applied once, and the result is sRGB.

Perceptual intent, as Pillow's ImageCms does by itself. A profile that says sRGB in other words (all of its colours
within ``SAME`` of sRGB) changes nothing, bit for bit. One that is broken, or of another kind of picture, is left out
of account, as viewers do. Without a profile RGB and grey count as sRGB, and CMYK is converted by Pillow's plain rule.
"""

from __future__ import annotations

from functools import lru_cache
from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image

try:
    from PIL import ImageCms
except ImportError:  # a Pillow that was built without LittleCMS
    ImageCms = None  # type: ignore[assignment]

SAME = 2  # levels of 255 by which sRGB differs from itself in the rounding of two programs
LARGEST = 2**24  # bytes of a profile
SPACES = {"RGB": "RGB", "L": "GRAY", "CMYK": "CMYK", "LAB": "Lab"}


def transform_of(image: Image.Image, mode: str) -> Any:
    """What brings pixels of ``mode`` (RGB, L, CMYK, LAB) to sRGB by the profile of a picture.

    None where nothing is to be done. :func:`apply` takes it.
    """
    profile = image.info.get("icc_profile")
    if ImageCms is None or mode not in SPACES:
        return None
    if mode == "LAB":
        return _lab()
    if not isinstance(profile, bytes) or not 128 <= len(profile) <= LARGEST:
        return None
    return _transform(profile, mode)


def apply(pixels: Image.Image, transform: Any) -> Image.Image:
    """Pixels of the transform's mode as RGB."""
    found = ImageCms.applyTransform(pixels, transform)
    assert found is not None  # it is only where it works in place
    return found


@lru_cache(maxsize=1)
def _lab() -> Any:
    return ImageCms.buildTransform(
        ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB"), "LAB", "RGB"
    )


@lru_cache(maxsize=32)  # files of one camera or program share their profile
def _transform(profile: bytes, mode: str) -> Any:
    try:
        opened = ImageCms.ImageCmsProfile(BytesIO(profile))
        if opened.profile.xcolor_space.strip() != SPACES[mode]:
            return None
        transform = ImageCms.buildTransform(opened, ImageCms.createProfile("sRGB"), mode, "RGB")
        return None if mode != "CMYK" and _is_identity(transform, mode) else transform
    except Exception:  # of a foreign decoder: a broken profile is none
        return None


def _is_identity(transform: Any, mode: str) -> bool:
    levels = np.linspace(0, 255, 18).round().astype(np.uint8)
    if mode == "L":
        colours = Image.fromarray(np.arange(256, dtype=np.uint8)[None])
    else:
        grid = np.stack(np.meshgrid(levels, levels, levels), axis=-1)
        colours = Image.fromarray(grid.reshape(18, -1, 3))
    found = np.asarray(apply(colours, transform)).astype(int)
    return int(np.abs(found - np.asarray(colours.convert("RGB"))).max()) <= SAME
