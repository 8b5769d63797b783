"""The table of endings, and what the first bytes of a file say."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from umekit.processing.kinds import HEAD_BYTES, format_of, kind_of_format, media_kind


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("a.JPG", "image"),
        ("a.jfif", "image"),
        ("a.heic", "image"),
        ("a.b.tga", "image"),
        ("clips/a.M4V", "video"),
        ("a.mts", "video"),
        ("a.pdf", "document"),
        (Path("x") / "a.jp2", "image"),
        ("C:\\photos\\a.png", "image"),
        ("https://example.org/a%20b.webp?width=300#top", "image"),
        ("https://example.org/?file=a.png", None),
        ("https://[broken/a.png", None),
        ("file:///tmp/a.mov", "video"),
        ("data:image/png;base64,AAAA", "image"),
        ("DATA:video/mp4;base64,AAAA", "video"),
        ("data:application/pdf;base64,AAAA", "document"),
        ("data:text/plain,hello.png", None),
        ("a.txt", None),
        (".png", None),
        ("png", None),
        ("", None),
    ],
)
def test_kind_by_ending(name: str, kind: str | None) -> None:
    assert media_kind(name) == kind


@pytest.mark.parametrize(
    "kind", ["PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF", "AVIF", "JPEG2000", "PPM", "QOI"]
)
def test_pictures_by_their_bytes(kind: str) -> None:
    file = io.BytesIO()
    Image.new("RGB", (40, 30), "red").save(file, kind)
    assert kind_of_format(format_of(file.getvalue()[:HEAD_BYTES])) == "image"


@pytest.mark.parametrize(
    ("container", "codec"),
    [
        ("mp4", "mpeg4"),
        ("mov", "mpeg4"),
        ("3gp", "mpeg4"),
        ("matroska", "mpeg4"),
        ("avi", "mpeg4"),
        ("mpeg", "mpeg2video"),
        ("mpegts", "mpeg2video"),
        ("flv", "flv1"),
        ("asf", "msmpeg4v3"),
        ("mpeg2video", "mpeg2video"),
    ],
)
def test_films_by_their_bytes(container: str, codec: str) -> None:
    av = pytest.importorskip("av")
    file = io.BytesIO()
    with av.open(file, "w", format=container) as film:
        stream = film.add_stream(codec, rate=25)
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        for number in range(8):
            frame = av.VideoFrame.from_ndarray(np.full((64, 64, 3), number * 20, np.uint8), "rgb24")
            film.mux(stream.encode(frame))
        film.mux(stream.encode())
    assert kind_of_format(format_of(file.getvalue()[:HEAD_BYTES])) == "video"


@pytest.mark.parametrize(
    ("head", "kind"),
    [
        (b"%PDF-1.7\n", "document"),
        (b"HTTP/1.1 200 OK\r\n\r\n" + b" " * 900 + b"%PDF-1.4\n", "document"),
        (b" " * 1100 + b"%PDF-1.4\n", None),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "image"),
        (b"\0\0\0\x18ftypmif1\0\0\0\0mif1avif", "image"),
        (b"\0\0\0\x18ftypqt  \0\0\0\0qt      ", "video"),
        (b"\0\0\0\x18ftypM4A \0\0\0\0M4A mp42", None),
        (b"\0\0\0\x08wide\0\0\0\0mdat", "video"),
        (b"OggS" + b"\0" * 24 + b"\x01vorbis", None),
        (b"P6\n# a comment\n10 10\n255\n", "image"),
        (b"P1 is a plain text about 10 things", None),
        (b"BM and other brands", None),
        (b"G" * HEAD_BYTES, None),  # 0x47 is the mark of a transport stream's packets
        (b"PK\x03\x04", None),
        (b"", None),
    ],
)
def test_kind_by_the_first_bytes(head: bytes, kind: str | None) -> None:
    assert kind_of_format(format_of(head)) == kind
