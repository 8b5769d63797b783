"""Profiles of grey and CMYK pictures are applied as LittleCMS does by itself."""

from __future__ import annotations

import io
import struct
from itertools import product

import numpy as np
import pytest
from PIL import Image, ImageCms

from umekit.processing.limits import MediaLimits
from umekit.processing.media import load_image

LIMITS = MediaLimits()
WHITE = struct.pack(">iii", *(round(value * 65536) for value in (0.9642, 1, 0.8249)))


def profile(kind: bytes, space: bytes, connection: bytes, tags: dict[bytes, bytes]) -> bytes:
    """An ICC profile of version 2."""
    tags = {b"wtpt": b"XYZ " + bytes(4) + WHITE, **tags}
    tags[b"desc"] = b"desc" + bytes(4) + struct.pack(">I", 5) + b"test\0" + bytes(79)
    table, data = struct.pack(">I", len(tags)), b""
    for name, body in tags.items():
        body += bytes(-len(body) % 4)
        table += name + struct.pack(">II", 128 + 4 + 12 * len(tags) + len(data), len(body))
        data += body
    head = struct.pack(
        ">I4sI4s4s4s", 128 + len(table) + len(data), bytes(4), 0x02100000, kind, space, connection
    )
    head += bytes(12) + b"acsp" + bytes(28) + WHITE
    return head.ljust(128, b"\0") + table + data


def grey_profile(gamma: float) -> bytes:
    curve = b"curv" + bytes(4) + struct.pack(">IH", 1, round(gamma * 256))
    return profile(b"mntr", b"GRAY", b"XYZ ", {b"kTRC": curve})


def ink_profile() -> bytes:
    """Of a printer whose inks are dull: a table from the 16 full mixtures to Lab."""
    lab = [
        (
            round(255 * (1 - k) * (1 - (0.3 * c + 0.4 * m + 0.1 * y))),
            128 - 40 * c + 60 * m,
            128 - 40 * c + 60 * y,
        )
        for c, m, y, k in product((0, 1), repeat=4)
    ]
    identity = bytes(range(256))
    matrix = struct.pack(">9i", *(65536 * (i % 4 == 0) for i in range(9)))
    table = b"mft1" + bytes(4) + bytes([4, 3, 2, 0]) + matrix + identity * 4
    table += bytes(level for node in lab for level in node) + identity * 3
    return profile(b"prtr", b"CMYK", b"Lab ", {b"A2B0": table})


def noise(mode: str) -> Image.Image:
    channels = {"L": 1, "CMYK": 4}[mode]
    values = np.random.default_rng(0).integers(0, 256, (16, 16, channels), dtype=np.uint8)
    return Image.fromarray(values[..., 0] if channels == 1 else values, mode)


@pytest.mark.parametrize(
    ("mode", "which"), [("L", grey_profile(1.0)), ("L", grey_profile(3.5)), ("CMYK", ink_profile())]
)
@pytest.mark.parametrize("kind", ["TIFF", "PNG", "PIL"])
def test_profiles_of_grey_and_cmyk(mode: str, which: bytes, kind: str) -> None:
    if mode == "CMYK" and kind == "PNG":
        pytest.skip("PNG has no CMYK")
    plain = noise(mode)
    source: object = plain
    if kind == "PIL":
        plain.info["icc_profile"] = which
    else:
        stream = io.BytesIO()
        plain.save(stream, kind, icc_profile=which)
        source = stream.getvalue()
    expected = ImageCms.profileToProfile(
        plain, io.BytesIO(which), ImageCms.createProfile("sRGB"), outputMode="RGB"
    )
    found = np.asarray(load_image(source, LIMITS))
    np.testing.assert_array_equal(found, np.asarray(expected))
    assert np.abs(found.astype(int) - np.asarray(plain.convert("RGB"))).max() > 20


def test_a_grey_profile_is_applied_below_transparency_and_to_deep_pictures() -> None:
    which = grey_profile(1.0)
    grey = Image.new("L", (8, 8), 60)
    grey.info["icc_profile"] = which
    expected = load_image(grey, LIMITS).getpixel((0, 0))
    assert expected[0] > 100  # type: ignore[index]
    for image in (Image.new("LA", (8, 8), (60, 255)), Image.fromarray(np.full((8, 8), 60 * 257, np.uint16))):
        image.info["icc_profile"] = which
        assert load_image(image, LIMITS).getpixel((0, 0)) == expected
