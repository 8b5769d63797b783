"""Pictures of every kind become the same upright RGB; files are limited before they are decoded."""

from __future__ import annotations

import io
import threading
import tracemalloc
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from umekit.processing import pixels as pixels_module
from umekit.processing.limits import MediaError, MediaLimits
from umekit.processing.media import load_image
from umekit.processing.vision import PatchLayout, PixelBudget, fit, image_patches

LIMITS = MediaLimits()


def _png(image: Image.Image, **kwargs: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "PNG", **kwargs)
    return stream.getvalue()


@pytest.fixture
def picture() -> Image.Image:
    values = np.random.default_rng(0).integers(0, 255, (20, 30, 3), dtype=np.uint8)
    return Image.fromarray(values)


def test_sources_give_the_same_picture(picture: Image.Image, tmp_path: Path) -> None:
    path = tmp_path / "a picture ü.png"
    picture.save(path)
    data = path.read_bytes()
    array = np.asarray(picture)
    sources = [path, str(path), data, bytearray(data), picture, array, array / np.float32(255)]
    sources += [{"bytes": data, "path": None}, {"bytes": None, "path": str(path)}]
    for source in sources:
        loaded = load_image(source, LIMITS)
        assert loaded.mode == "RGB"
        np.testing.assert_array_equal(np.asarray(loaded), array)


def test_modes_become_rgb(picture: Image.Image) -> None:
    for mode in ("L", "P", "1", "CMYK", "YCbCr", "LA", "RGBA", "I", "F", "I;16"):
        converted = (
            picture.convert("L").convert(mode) if mode in ("I", "F", "I;16") else picture.convert(mode)
        )
        assert load_image(converted, LIMITS).mode == "RGB"
    deep = Image.fromarray(np.full((4, 4), 65535, dtype=np.uint16))
    assert load_image(deep, LIMITS).getpixel((0, 0)) == (255, 255, 255)
    half = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    assert load_image(half, LIMITS).getpixel((0, 0)) == (255, 255, 255)
    assert load_image(np.zeros((4, 4, 1), dtype=np.uint8), LIMITS).size == (4, 4)


def _deep(mode: str, width: int, height: int) -> list[Image.Image]:
    """Pictures of a mode with more than 8 bits: of its whole range, of 0 to 255, and of what lies outside."""
    rng = np.random.default_rng(1)
    if mode.startswith("I;16"):
        values = rng.integers(0, 65536, (height, width), dtype=np.uint16)
        return [
            Image.frombytes(
                mode, (width, height), values.astype(">u2" if mode == "I;16B" else "<u2").tobytes()
            )
        ]
    kind = np.int32 if mode == "I" else np.float32
    spans = [(0, 65535), (0, 255), (-300, 70_000)]
    return [Image.fromarray(rng.uniform(*span, (height, width)).astype(kind)) for span in spans]


@pytest.mark.parametrize("mode", ["I;16", "I;16B", "I", "F"])
def test_deep_pictures_are_scaled_strip_by_strip(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for strip in (1, 700, pixels_module.STRIP_PIXELS):  # one row, some rows with a rest, all
        monkeypatch.setattr(pixels_module, "STRIP_PIXELS", strip)
        for image in _deep(mode, 130, 71):
            values = np.asarray(image, dtype=np.float64)
            top = 65535.0 if mode.startswith("I;16") or values.max() > 255 else 255.0
            expected = (values.clip(0, top) * (255.0 / top)).astype(np.uint8)
            found = np.asarray(pixels_module.to_rgb(image))
            np.testing.assert_array_equal(found, np.repeat(expected[..., None], 3, axis=2))


@pytest.mark.parametrize("mode", ["I;16", "I", "F"])
def test_deep_pictures_take_little_memory(mode: str) -> None:
    image = _deep(mode, 2000, 1500)[0]
    tracemalloc.start()
    try:
        pixels_module.to_rgb(image)
        assert tracemalloc.get_traced_memory()[1] < 4 * 2000 * 1500  # of 17 bytes for each pixel, before
    finally:
        tracemalloc.stop()


def test_deep_pictures_that_are_not_finite_are_refused() -> None:
    for bad in (np.nan, np.inf):
        values = np.zeros((400, 1000), dtype=np.float32)
        values[-1, -1] = bad  # in the last strip
        with pytest.raises(MediaError, match="not finite"):
            load_image(Image.fromarray(values), LIMITS)


def test_exif_turns_the_picture_upright(picture: Image.Image, tmp_path: Path) -> None:
    path = tmp_path / "turned.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6
    picture.save(path, exif=exif, quality=95)
    assert load_image(path, LIMITS).size == (20, 30)


def test_bad_files_are_named(tmp_path: Path, picture: Image.Image) -> None:
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "half.png").write_bytes(_png(picture)[:300])
    for name in ("none.png", "text.png", "empty.png", "half.png"):
        with pytest.raises(MediaError, match=name):
            load_image(tmp_path / name, LIMITS)
    with pytest.raises(MediaError, match="not a regular file"):
        load_image(tmp_path, LIMITS)
    with pytest.raises(TypeError):
        load_image(3, LIMITS)
    for array in (np.zeros((2, 2, 5)), np.zeros(3), np.full((2, 2), 7.0), np.zeros((2, 2), dtype=np.int64)):
        with pytest.raises(MediaError):
            load_image(array, LIMITS)
    with pytest.raises(MediaError, match="finite"):
        load_image(np.full((2, 2), np.nan), LIMITS)


def test_limits_hold_before_decoding(picture: Image.Image) -> None:
    data = _png(picture)
    with pytest.raises(MediaError, match="more than the limit of 100"):
        load_image(data, MediaLimits(file_bytes=100))
    with pytest.raises(MediaError, match="30 x 20 pixels"):
        load_image(data, MediaLimits(image_pixels=100))
    bomb = _png(Image.new("1", (20000, 20000)))
    with pytest.raises(MediaError):
        load_image(bomb, LIMITS)


@pytest.fixture
def server(picture: Image.Image) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path == "/moved":
                self.send_response(302)
                self.send_header("Location", "file:///etc/hostname")
                self.end_headers()
                return
            self.send_response(200 if self.path == "/a.png" else 404)
            self.end_headers()
            self.wfile.write(_png(picture))

        def log_message(self, *args: Any) -> None:
            pass

    httpd = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=httpd.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{httpd.server_port}"
    httpd.shutdown()


def test_urls(server: str, picture: Image.Image) -> None:
    local = MediaLimits(allow_private_urls=True, url_seconds=5)
    np.testing.assert_array_equal(np.asarray(load_image(f"{server}/a.png", local)), np.asarray(picture))
    with pytest.raises(MediaError, match="404"):
        load_image(f"{server}/b.png", local)
    with pytest.raises(MediaError, match=r"not allowed|only http"):
        load_image(f"{server}/moved", local)
    with pytest.raises(MediaError, match="private network"):
        load_image(f"{server}/a.png", LIMITS)
    with pytest.raises(MediaError, match="allow_urls"):
        load_image(f"{server}/a.png", MediaLimits(allow_urls=False))


@pytest.mark.parametrize("size", [(1, 1), (1, 150), (28, 28), (27, 29), (5000, 30), (4000, 3000)])
def test_every_size_fits_the_budget(size: tuple[int, int]) -> None:
    width, height = size
    budget = PixelBudget(image=(4 * 28**2, 64 * 28**2), frame=(1, 1), video=(1, 1))
    patches = image_patches(Image.new("RGB", size), PatchLayout(), budget)
    _, rows, columns = patches.grid
    pixels = rows * columns * 14**2
    assert rows % 2 == columns % 2 == 0
    assert budget.image[0] <= pixels
    assert pixels <= budget.image[1] or min(rows, columns) == 2
    assert len(patches.values) == rows * columns
    assert patches.original == (width, height)


def test_a_strip_is_refused() -> None:
    with pytest.raises(ValueError, match="200 times"):
        fit(1, 201, 28, 4 * 28**2, 64 * 28**2)
