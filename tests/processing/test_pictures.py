"""Pictures as other people's programs write them become what a viewer shows, or are refused with a reason."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms

from umekit.processing.limits import MediaError, MediaLimits
from umekit.processing.media import load_image
from umekit.processing.pixels import to_rgb

LIMITS = MediaLimits()
RAMP = np.linspace(0, 1, 32)[None].repeat(16, 0)


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def png(depth: int, kind: int, row: bytes, key: bytes) -> bytes:
    """32 x 16 pixels of equal rows, with a transparent colour."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = struct.pack(">IIBBBBB", 32, 16, depth, kind, 0, 0, 0)
    parts = {b"IHDR": head, b"tRNS": key, b"IDAT": zlib.compress((b"\0" + row) * 16), b"IEND": b""}
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts.items())


def tiff(strips: list[bytes], bits: int, photometric: int, samples: int = 1, planar: int = 1) -> bytes:
    """32 x 16 pixels, each strip one whole channel or all of them."""
    places = [8 + sum(map(len, strips[:number])) for number in range(len(strips))]
    end = 8 + sum(map(len, strips))
    tags = [(256, "H", [32]), (257, "H", [16]), (258, "H", [bits] * samples), (259, "H", [1])]
    tags += [(262, "H", [photometric]), (273, "I", places), (277, "H", [samples]), (278, "H", [16])]
    tags += [(279, "I", [len(strip) for strip in strips]), (284, "H", [planar])]
    entries, tail = struct.pack("<H", len(tags)), b""
    for number, kind, values in tags:
        raw = struct.pack(f"<{len(values)}{kind}", *values)
        if len(raw) > 4:
            place = struct.pack("<I", end + 2 + 12 * len(tags) + 4 + len(tail))
            tail, raw = tail + raw, place
        entries += struct.pack("<HHI", number, {"H": 3, "I": 4}[kind], len(values)) + raw.ljust(4, b"\0")
    return b"II*\0" + struct.pack("<I", end) + b"".join(strips) + entries + bytes(4) + tail


def ends(source: Any) -> list[tuple[int, int, int]]:
    found = load_image(source, LIMITS)
    return [found.getpixel((x, 8)) for x in (2, 29)]  # type: ignore[misc]


@pytest.mark.parametrize("top", [1, 1.05, 1.5, 255, 65535, 1e6])
@pytest.mark.parametrize("mode", ["F", "I"])
def test_deep_pictures_go_from_black_to_white(mode: str, top: float) -> None:
    if mode == "I" and top < 2:
        return
    values = (RAMP * top).astype(np.float32 if mode == "F" else np.int32)
    found = np.asarray(load_image(saved(Image.fromarray(values), "TIFF"), LIMITS))[..., 0]
    assert np.abs(found[0] - RAMP[0] * 255).max() < 16
    assert found[0, 0] == 0
    assert found[0, -1] == 255


def test_negative_values_stretch_the_range() -> None:
    for low, high in ((-1, 1), (-1000, 3000), (-3, 0.2)):
        values = Image.fromarray((low + RAMP * (high - low)).astype(np.float32))
        found = np.asarray(load_image(values, LIMITS))[0, :, 0]
        assert found[0] == 0
        assert (np.diff(found.astype(int)) >= 0).all()
        assert found.max() > 60


def test_white_is_zero_and_fewer_bits() -> None:
    full = np.full(512, 65535, "<u2").tobytes()
    assert ends(tiff([full], 16, 1)) == [(255,) * 3] * 2
    assert ends(tiff([full], 16, 0)) == [(0,) * 3] * 2
    assert ends(tiff([b"\xff" * 768], 12, 1)) == [(255,) * 3] * 2
    dark = saved(Image.fromarray(np.full((16, 32), 200, np.int32)), "PPM")  # 200 of 65535
    assert ends(dark) == [(0,) * 3] * 2


GREY16 = struct.pack(">H", 700) * 16 + struct.pack(">H", 65535) * 16
COLOUR16 = struct.pack(">HHH", 0, 0, 9) * 16 + struct.pack(">HHH", 0, 0, 8) * 16
KEYED = {
    "1-bit grey": (png(1, 0, b"\xff\xff\0\0", b"\0\1"), [255, 0]),
    "1-bit grey, black": (png(1, 0, b"\xff\xff\0\0", b"\0\0"), [255, 255]),
    "2-bit grey": (png(2, 0, b"\xaa" * 4 + bytes(4), b"\0\2"), [255, 0]),
    "4-bit grey": (png(4, 0, b"\x77" * 8 + bytes(8), b"\0\7"), [255, 0]),
    "8-bit grey": (png(8, 0, b"\7" * 16 + bytes(16), b"\0\7"), [255, 0]),
    "16-bit grey": (png(16, 0, GREY16, struct.pack(">H", 700)), [255, 255]),
    "16-bit grey, others stay": (png(16, 0, GREY16, struct.pack(">H", 701)), [2, 255]),
    "8-bit RGB": (png(8, 2, b"\0\0\7" * 16 + bytes(48), b"\0\0\0\0\0\7"), [255, 0]),
    "16-bit RGB": (png(16, 2, COLOUR16, struct.pack(">HHH", 0, 0, 9)), [255, 0]),
    "palette": (png(8, 0, bytes(32), b"\0\0"), [255, 255]),
}


@pytest.mark.parametrize("kind", KEYED)
def test_the_transparent_colour_is_white_and_no_other(kind: str) -> None:
    data, expected = KEYED[kind]
    opened = Image.open(io.BytesIO(data))
    decoded = Image.open(io.BytesIO(data))
    decoded.load()
    known = [] if kind == "16-bit RGB" else [opened, decoded]  # once decoded, the lower bits are gone
    for source in (data, opened, *known):
        assert ends(source) == [(level,) * 3 for level in expected]


def test_every_mode_with_alpha_is_laid_on_white() -> None:
    half = Image.new("RGBA", (8, 8), (255, 0, 0, 128))
    for image in (half, half.convert("RGBa")):
        assert np.abs(np.array(load_image(image, LIMITS).getpixel((0, 0))) - (255, 127, 127)).max() <= 1
    grey = Image.new("LA", (8, 8), (0, 128))
    for image in (grey, grey.convert("La")):
        assert abs(load_image(image, LIMITS).getpixel((0, 0))[0] - 127) <= 1  # type: ignore[index]


def test_alpha_in_strips_is_what_it_is_at_once() -> None:
    rng = np.random.default_rng(0)
    rgba = Image.fromarray(rng.integers(0, 256, (700, 1000, 4), dtype=np.uint8))
    white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
    expected = np.asarray(Image.alpha_composite(white, rgba).convert("RGB"))
    np.testing.assert_array_equal(np.asarray(to_rgb(rgba)), expected)


def test_colour_maps_of_eight_bits() -> None:
    palette = Image.new("P", (32, 16), 1)
    palette.putpalette([0, 0, 0, 255, 200, 100] + [0] * 762)
    data = saved(palette, "TIFF")
    levels = Image.open(io.BytesIO(data)).tag_v2[320]  # type: ignore[attr-defined]
    odd = data.replace(struct.pack("<768H", *levels), struct.pack("<768H", *(v >> 8 for v in levels)))
    assert odd != data
    for source in (data, odd, Image.open(io.BytesIO(odd))):
        assert ends(source) == [(255, 200, 100)] * 2


def test_planar_channels_of_sixteen_bits_are_refused() -> None:
    channels = [np.full(512, value, "<u2").tobytes() for value in (65535, 32768, 0)]
    with pytest.raises(MediaError, match=r"bytes>: a TIFF with 16 bits a sample .*planar"):
        load_image(tiff(channels, 16, 2, samples=3, planar=2), LIMITS)
    eight = [bytes([value]) * 512 for value in (255, 128, 0)]
    assert ends(tiff(eight, 8, 2, samples=3, planar=2)) == [(255, 128, 0)] * 2
    together = np.stack([np.frombuffer(channel, "<u2") for channel in channels], axis=1).tobytes()
    assert ends(tiff([together], 16, 2, samples=3)) == [(255, 128, 0)] * 2


# --- profiles ---------------------------------------------------------------------------------------------


def profile(gamma: float = 2.2, green: tuple[float, float] = (0.21, 0.71)) -> bytes:
    """An RGB profile of a monitor; with these numbers much like Adobe RGB."""

    def s15(*values: float) -> bytes:
        return b"".join(struct.pack(">i", round(value * 65536)) for value in values)

    primaries = np.array([(0.64, 0.33), green, (0.15, 0.06)])
    xyz = np.array([(x / y, 1, (1 - x - y) / y) for x, y in primaries]).T
    white = np.array((0.9505, 1, 1.089))
    xyz = xyz * np.linalg.solve(xyz, white)
    bradford = np.array([(1.0478, 0.0229, -0.0501), (0.0295, 0.9905, -0.0171), (-0.0092, 0.015, 0.7521)])
    columns = (bradford @ xyz).T
    tags = {
        b"desc": b"desc" + bytes(4) + struct.pack(">I", 5) + b"test\0" + bytes(79),
        b"wtpt": b"XYZ " + bytes(4) + s15(0.9642, 1, 0.8249),
        **{name: b"XYZ " + bytes(4) + s15(*column) for name, column in zip((b"rXYZ", b"gXYZ", b"bXYZ"), columns)},  # noqa: B905
        **{name: b"curv" + bytes(4) + struct.pack(">IH", 1, round(gamma * 256)) + bytes(2) for name in (b"rTRC", b"gTRC", b"bTRC")},  # noqa: E501
    }  # fmt: skip
    table, data = struct.pack(">I", len(tags)), b""
    for name, body in tags.items():
        body += bytes(-len(body) % 4)
        table += name + struct.pack(">II", 128 + 4 + 12 * len(tags) + len(data), len(body))
        data += body
    size = 128 + len(table) + len(data)
    head = struct.pack(">I4sI4s4s4s", size, bytes(4), 0x02100000, b"mntr", b"RGB ", b"XYZ ")
    head += bytes(12) + b"acsp" + bytes(28) + s15(0.9642, 1, 0.8249)
    return head.ljust(128, b"\0") + table + data


WIDE = profile()
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
LAB = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()


def noise(mode: str = "RGB") -> Image.Image:
    values = np.random.default_rng(0).integers(0, 256, (40, 30, 3), dtype=np.uint8)
    return Image.fromarray(values).convert(mode)


def test_a_profile_is_applied_once_and_as_image_cms_does() -> None:
    plain = noise()
    expected = ImageCms.profileToProfile(
        plain, io.BytesIO(WIDE), ImageCms.createProfile("sRGB"), outputMode="RGB"
    )
    assert np.abs(np.asarray(expected).astype(int) - np.asarray(plain)).max() > 20
    for kind in ("PNG", "TIFF"):
        found = load_image(saved(plain, kind, icc_profile=WIDE), LIMITS)
        np.testing.assert_array_equal(np.asarray(found), np.asarray(expected))
        np.testing.assert_array_equal(np.asarray(load_image(found, LIMITS)), np.asarray(expected))
    jpeg = load_image(saved(plain, "JPEG", icc_profile=WIDE, quality=95, subsampling=0), LIMITS)
    assert np.abs(np.asarray(jpeg).astype(int) - np.asarray(expected)).mean() < 8


def test_a_profile_applies_to_palettes_and_below_transparency() -> None:
    red = Image.new("RGB", (8, 8), (40, 200, 90))
    expected = load_image(saved(red, "PNG", icc_profile=WIDE), LIMITS).getpixel((0, 0))
    assert expected != (40, 200, 90)
    clear = Image.new("RGBA", (8, 8), (40, 200, 90, 255))
    clear.putpixel((1, 1), (0, 0, 0, 0))
    for image in (red.quantize(2), clear):
        found = load_image(saved(image, "PNG", icc_profile=WIDE), LIMITS)
        assert found.getpixel((0, 0)) == expected
    assert found.getpixel((1, 1)) == (255, 255, 255)


@pytest.mark.parametrize("which", [SRGB, b"", b"x" * 500, WIDE[:200], LAB, SRGB[:-300]])
def test_srgb_and_broken_profiles_change_nothing(which: bytes) -> None:
    for mode in ("RGB", "L", "P", "RGBA", "CMYK"):
        image = noise(mode)
        image.info["icc_profile"] = which
        np.testing.assert_array_equal(np.asarray(load_image(image, LIMITS)), np.asarray(image.convert("RGB")))


def test_lab_is_converted() -> None:
    to_lab = ImageCms.buildTransform(
        ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB"
    )
    lab = ImageCms.applyTransform(Image.new("RGB", (32, 16), (200, 60, 90)), to_lab)
    for source in (lab, saved(lab, "TIFF")):
        assert np.abs(np.array(ends(source)[0]) - (200, 60, 90)).max() <= 3


def _tiff(samples: np.ndarray, bits: int, sample_format: int) -> bytes:
    """A grey TIFF with a sample format that Pillow does not write."""
    height, width = samples.shape
    data = samples.astype(samples.dtype.newbyteorder("<")).tobytes()
    entries = [
        (256, width),
        (257, height),
        (258, bits),
        (259, 1),
        (262, 1),
        (273, 8),
        (277, 1),
        (278, height),
    ]
    entries += [(279, len(data)), (339, sample_format)]
    listed = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in entries)
    head = b"II*\0" + struct.pack("<I", 8 + len(data))
    return head + data + struct.pack("<H", len(entries)) + listed + bytes(4)


@pytest.mark.parametrize(
    ("dtype", "sample_format", "low", "high"),
    [("u4", 1, 0, 2**32 - 1), ("i4", 2, 0, 2**31 - 1), ("i2", 2, 0, 2**15 - 1), ("i1", 2, -128, 127)],
)
def test_samples_with_and_without_a_sign(dtype: str, sample_format: int, low: int, high: int) -> None:
    levels = np.linspace(0, 255, 24).round()
    samples = np.tile(low + levels / 255 * (high - low), (70, 1)).round().astype(np.dtype(dtype))
    found = load_image(_tiff(samples, samples.itemsize * 8, sample_format), MediaLimits())
    assert np.abs(np.asarray(found)[:, :, 0].astype(int) - levels).max() <= 1


def test_portable_float_maps_go_from_zero_to_one() -> None:
    levels = np.tile(np.linspace(0, 255, 24).round(), (6, 1))
    data = b"Pf\n24 6\n-1.0\n" + (levels / 255).astype("<f4").tobytes()
    found = load_image(data, MediaLimits())
    assert np.abs(np.asarray(found)[:, :, 0].astype(int) - levels).max() <= 1
