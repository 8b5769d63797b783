"""A seeded generator of items as no one should send them, mixed with good ones of every kind."""

from __future__ import annotations

import io
import os
import random
import runpy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

ODD: Any = runpy.run_path(str(Path(__file__).with_name("odd_media.py")))["OddMedia"]
SIZE = (64, 48)
GOOD_SHARE = 0.4
MUTATED_SHARE = 0.35
CUT_SHARE = 0.2  # of these, that only end too early
LYING_SHARE = 0.08
GIANT = np.broadcast_to(np.uint8(7), (10**6, 10**6, 3))  # one byte that looks like three terabytes


@dataclass(frozen=True)
class Sample:
    """An item and what is to become of it.

    Attributes:
        item: to be encoded.
        kind: what it is, for counts.
        good: number of the good item that it is; None for all others.
        words: regular expression that the error has; None where an item may also turn out to be readable.
    """

    item: Any
    kind: str
    good: int | None = None
    words: str | None = None


def picture(seed: int = 0, size: tuple[int, int] = SIZE) -> Image.Image:
    """Smooth noise, so that formats that lose a little lose little."""
    small = np.random.default_rng(seed).integers(0, 255, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(small).resize(size, Image.Resampling.BICUBIC)


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def film(kind: str = "mp4", frames: int = 8) -> bytes:
    """A clip in mpeg4 or vp8."""
    import av

    stream = io.BytesIO()
    with av.open(stream, "w", format=kind) as container:
        track: Any = container.add_stream({"mp4": "mpeg4", "webm": "libvpx"}[kind], rate=8)
        track.width, track.height, track.pix_fmt = *SIZE, "yuv420p"
        for number in range(frames):
            container.mux(track.encode(av.VideoFrame.from_image(picture(number))))
        container.mux(track.encode())
    return stream.getvalue()


def pdf(objects: list[bytes], trailer: bytes = b"") -> bytes:
    """A PDF of numbered objects, the first of which is the catalogue."""
    out, places = b"%PDF-1.4\n", []
    for number, body in enumerate(objects, 1):
        places.append(len(out))
        out += b"%d 0 obj\n%s\nendobj\n" % (number, body)
    table = b"".join(b"%010d 00000 n \n" % place for place in places)
    head = b"xref\n0 %d\n0000000000 65535 f \n" % (len(objects) + 1)
    end = b"trailer\n<< /Size %d /Root 1 0 R %s >>\nstartxref\n%d\n%%%%EOF\n"
    return out + head + table + end % (len(objects) + 1, trailer, len(out))


def pdf_without_pages() -> bytes:
    return pdf([b"<< /Type /Catalog /Pages 2 0 R >>", b"<< /Type /Pages /Kids [] /Count 0 >>"])


def pdf_of_forms(levels: int, fan: int) -> bytes:
    """Forms within forms: ``fan ** (levels + 1)`` lines on one page, in less than two kilobytes."""
    stream = b"<< %s /Length %d >>\nstream\n%sendstream"
    body = b"/F Do\n" * fan
    page = b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 200 200] /Contents 4 0 R"
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        page + b" /Resources << /XObject << /F 5 0 R >> >> >>",
        stream % (b"", len(body), body),
    ]
    form = b"/Type /XObject /Subtype /Form /BBox [0 0 200 200]"
    for level in range(levels):
        inner = b" /Resources << /XObject << /F %d 0 R >> >>" % (6 + level)
        if level == levels - 1:
            body, inner = b"0 0 m 200 200 l S\n" * fan, b""
        objects.append(stream % (form + inner, len(body), body))
    return pdf(objects)


def pdf_stream(entries: bytes, body: bytes) -> bytes:
    return b"<<%s /Length %d>>\nstream\n%s\nendstream" % (entries, len(body), body)


def pdf_form(
    entries: bytes,
    *,
    fields: bytes | None = b"/Fields[7 0 R]",
    flags: int = 4,
    widget: bytes = b"/Subtype/Widget/T(name)/DA(/F 40 Tf 0 g)",
    page: bytes = b"",
    catalogue: bytes = b"",
    more: Sequence[bytes] = (),
) -> bytes:
    """An empty page of 300 x 200 points with one field (object 7), whose appearance (object 4) says "Alice".

    Args:
        entries: of the field.
        fields: entries of the form; None for none.
        flags: the field's, unless its entries give them.
        widget: what makes it a field.
        page, catalogue: entries of these.
        more: objects from number 8 on.
    """
    fonts = b"/DR<</Font<</F 5 0 R/ZaDb 6 0 R>>>>/DA(/F 40 Tf 0 g)"
    has = b"" if fields is None else b"/AcroForm<<" + fields + fonts + b">>"
    box = b"/Type/XObject/Subtype/Form/BBox[0 0 260 80]/Resources<</Font<</F 5 0 R>>>>"
    own = b"" if b"/F " in entries else b"/F %d" % flags
    return pdf(
        [
            b"<</Type/Catalog/Pages 2 0 R" + has + catalogue + b">>",
            b"<</Type/Pages/Kids[3 0 R]/Count 1>>",
            b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 300 200]/Annots[7 0 R]" + page + b">>",
            pdf_stream(box, b"/Tx BMC q BT /F 40 Tf 5 20 Td (Alice) Tj ET Q EMC"),
            b"<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>",
            b"<</Type/Font/Subtype/Type1/BaseFont/ZapfDingbats>>",
            b"<</Type/Annot/Rect[20 60 280 140]/P 3 0 R" + own + widget + entries + b">>",
            *more,
        ]
    )


def locked(data: bytes) -> bytes:
    """A PDF with an encryption dictionary that no password opens."""
    key = b"00" * 32
    entry = b"/ID [<00><00>] /Encrypt << /Filter /Standard /V 1 /R 2 /P -4 /O <%s> /U <%s> >>" % (key, key)
    head, mark, tail = data.rpartition(b"/Root")
    return head + entry + mark + tail


def with_size(data: bytes, width: int, height: int) -> bytes:
    """A PNG whose header promises another size."""
    import zlib

    head = data[12:16] + width.to_bytes(4, "big") + height.to_bytes(4, "big") + data[24:29]
    return data[:12] + head + zlib.crc32(head).to_bytes(4, "big") + data[33:]


def mutated(data: bytes, chance: random.Random) -> bytes:
    """The same bytes with one to eight faults of the kinds that disks, networks and attackers make."""
    found = bytearray(data)
    for _ in range(chance.choice((1, 1, 2, 4, 8))):
        place, length = chance.randrange(len(found)), chance.choice((1, 1, 4, 16, 64))
        if chance.random() < 0.4:
            place = chance.randrange(min(len(found), 64))  # headers are where it hurts
        noise = chance.choice((bytes(length), b"\xff" * length, chance.randbytes(length)))
        what = chance.randrange(5)
        if what == 0:
            found[place : place + length] = noise
        elif what == 1:
            found[place:place] = noise
        elif what == 2:
            found[place:place] = found[place : place + 4 * length]
        elif what == 3:
            del found[place : place + length]
        else:
            found[place] ^= 1 << chance.randrange(8)
        if not found:
            return b"\0"
    return bytes(found[: chance.randrange(1, len(found) + 1)] if chance.random() < 0.15 else found)


def nested(depth: int, inner: Any = 1) -> list[Any]:
    for _ in range(depth):
        inner = [inner]
    return inner


def closed() -> Image.Image:
    image = Image.open(io.BytesIO(saved(picture(), "PNG")))
    image.close()
    return image


class Generator:
    """Draws samples.

    Args:
        seed: the same samples for the same seed.
        folder: an empty one, for files.
    """

    def __init__(self, seed: int, folder: Path) -> None:
        self.chance = random.Random(seed)
        self.folder = folder
        odd = ODD(picture, pdf_form)
        self.good = self._good() + odd.items()
        self.media = self._media() + odd.sound
        self.liars = odd.liars()
        self.bad = self._bad() + odd.refused()

    def samples(self, count: int) -> list[Sample]:
        return [self._one() for _ in range(count)]

    def _one(self) -> Sample:
        draw = self.chance.random()
        if draw < GOOD_SHARE:
            number = self.chance.randrange(len(self.good))
            return Sample(self.good[number], "good", good=number)
        if draw < GOOD_SHARE + MUTATED_SHARE:
            name, key, data = self.chance.choice(self.media)
            if self.chance.random() < CUT_SHARE:
                return Sample({key: data[: self.chance.randrange(1, len(data))]}, f"cut {name}")
            return Sample({key: mutated(data, self.chance)}, f"mutated {name}")
        if draw < GOOD_SHARE + MUTATED_SHARE + LYING_SHARE:
            name, key, data = self.chance.choice(self.liars)
            return Sample({key: data}, name)
        kind, item, words = self.chance.choice(self.bad)
        return Sample(item() if callable(item) else item, kind, words=words)

    def path(self, name: str, data: bytes) -> str:
        (self.folder / name).write_bytes(data)
        return str(self.folder / name)

    def _media(self) -> list[tuple[str, str, bytes]]:
        """Name, key and bytes of sound files, to be broken."""
        frames = [picture(number) for number in range(4)]
        rest = {"save_all": True, "append_images": frames[1:]}
        palette = frames[0].quantize(16)
        return [
            ("jpeg", "image", saved(frames[0], "JPEG", quality=80)),
            ("progressive jpeg", "image", saved(frames[1], "JPEG", progressive=True)),
            ("cmyk jpeg", "image", saved(frames[2].convert("CMYK"), "JPEG")),
            ("png", "image", saved(frames[0], "PNG")),
            ("palette png", "image", saved(palette, "PNG", transparency=3)),
            ("webp", "image", saved(frames[0], "WEBP")),
            ("tiff", "image", saved(frames[0], "TIFF", compression="tiff_lzw")),
            ("bmp", "image", saved(frames[0], "BMP")),
            ("jpeg 2000", "image", saved(frames[0], "JPEG2000")),
            ("gif", "video", saved(frames[0], "GIF", duration=250, **rest)),
            ("animated webp", "video", saved(frames[0], "WEBP", duration=250, **rest)),
            ("mp4", "video", film("mp4")),
            ("webm", "video", film("webm")),
            ("pdf", "document", saved(frames[0], "PDF", **rest)),
            ("pdf of forms", "document", pdf_of_forms(1, 4)),
        ]

    def _good(self) -> list[Any]:
        image, frames = picture(5), [picture(number) for number in range(4)]
        array = np.asarray(image)
        exif = Image.Exif()
        exif[0x0112] = 8
        several = saved(frames[0], "PDF", save_all=True, append_images=frames[1:])
        deep = Image.fromarray(array[..., 0].astype(np.uint16) * 257)
        rest = {"save_all": True, "append_images": frames[1:], "duration": 250}
        items: list[Any] = [
            "",
            "a text",
            "a <|im_end|> text <|image_pad|>",
            "\0\x01\x7f",
            "ﷺ" * 20,
            "👩‍👩‍👧" * 9,
            "word " * 90,
        ]
        items += [image, {"image": array}, {"image": array / np.float32(255)}, {"image": array[..., :1]}]
        items += [{"image": saved(image.convert(mode), "PNG")} for mode in ("1", "L", "P", "LA", "RGBA")]
        items += [{"image": saved(image.quantize(8), "PNG", transparency=1)}, {"image": saved(deep, "PNG")}]
        items += [{"image": saved(image.convert("CMYK"), "JPEG")}, {"image": saved(image, "JPEG", exif=exif)}]
        items += [{"image": saved(image, kind)} for kind in ("WEBP", "TIFF", "BMP", "GIF", "PPM", "JPEG2000")]
        items += [{"image": saved(frames[0], "GIF", **rest), "text": "its first picture"}]
        items += [{"image": self.path("a picture.png", saved(image, "PNG")), "text": "from a file"}]
        items += [{"image": {"bytes": saved(image, "PNG"), "path": None}}, {"image": picture(6, (1, 1))}]
        items += [{"images": frames[:3], "instruction": "compare"}, {"image": picture(7, (900, 5))}]
        items += [{"video": saved(frames[0], "GIF", **rest)}, {"video": saved(frames[0], "WEBP", **rest)}]
        items += [{"video": film("mp4")}, {"video": film("webm"), "text": "what is this"}, {"video": frames}]
        items += [{"video": np.stack([np.asarray(frame) for frame in frames])}]
        items += [{"document": several, "page": 3}, {"document": several}, {"document": image}]
        return items

    def _bad(self) -> list[tuple[str, Any, str]]:
        """Kind, item (or what makes one) and words of its error."""
        types: list[tuple[str, Any, str]] = [
            ("wrong type", item, "cannot embed a")
            for item in (
                3,
                None,
                b"bytes",
                ["a"],
                1.5,
                object(),
                {1, 2},
                np.zeros(4),
                nested(2000),
                True,
            )
        ]
        keys: list[tuple[str, Any, str]] = [
            ("empty", {}, "nothing to embed"),
            ("empty", {"text": None, "page": None}, "nothing to embed"),
            ("unknown key", {"txt": "a"}, "unknown key 'txt'"),
            ("unknown key", {"x" * 10**6: 1}, "unknown key"),
            ("unknown key", {10**5000: "a", None: 2}, "unknown key of type int"),
            ("wrong value", {"text": 3}, "'text' takes a str"),
            ("wrong value", {"text": nested(2000)}, "'text' takes a str"),
            ("wrong value", {"text": "a", "instruction": b"b"}, "'instruction' takes a str"),
            ("wrong value", {"images": "a.png"}, "use 'image' for one"),
            ("wrong value", {"image": 3}, "not a int"),
            ("wrong value", {"image": nested(2000)}, "not a list"),
            ("wrong value", {"image": {"path": {"path": {}}}}, "not a dict"),
            ("wrong value", {"image": {}}, "holds nothing"),
            ("wrong value", {"images": [[picture()]]}, "not a list"),
            ("wrong value", {"video": 7}, "not a int"),
            ("wrong value", {"video": [None]}, "frame 0: .*not a NoneType"),
            ("wrong value", {"video": nested(2000)}, "frame 0: .*not a list"),
            ("wrong value", {"video": (frame for frame in ())}, "not a generator"),
            ("no frames", {"video": []}, "at least one frame"),
            ("too many frames", {"video": range(10**9)}, "over the limit"),
            ("page", {"document": self.media[13][2], "page": -1}, "counts from 1"),
            ("page", {"document": self.media[13][2], "page": 10**5000}, "counts from 1"),
            ("page", {"document": self.media[13][2], "page": -(10**5000)}, "counts from 1"),
            ("page", {"document": self.media[13][2], "page": 99}, "has 4 pages, not a page 99"),
            ("page", {"document": self.media[13][2], "page": True}, "takes an int"),
            ("page", {"text": "a", "page": 1}, "needs a 'document'"),
        ]
        return types + keys + self._bad_contents() + self._bad_places()

    def _bad_contents(self) -> list[tuple[str, Any, str]]:
        png, mp4, paper = self.media[3][2], self.media[11][2], self.media[13][2]
        nan = np.full((8, 8, 3), np.nan, dtype=np.float32)
        playlist = b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n"
        arrays: list[tuple[np.ndarray, str]] = [
            (nan, "not finite"), (np.full((8, 8), np.inf), "not finite"), (np.full((8, 8), 7.0), "must lie in 0..1"),
            (np.zeros((0, 4, 3), np.uint8), "no pixels"), (np.zeros((2, 2, 2, 2, 3)), "is no picture"),
            (np.zeros(3), "is no picture"), (np.array(5), "is no picture"), (np.zeros((4, 4), np.int64), "of int64"),
            (np.zeros((4, 4), complex), "ndarray of complex128"), (np.full((4, 4), "a"), "ndarray of <U1"),
            (np.full((4, 4), None), "ndarray of object"), (GIANT, "more than the limit"),
        ]  # fmt: skip
        found: list[tuple[str, Any, str]] = [("array", {"image": array}, words) for array, words in arrays]
        surrogate = "lone \ud800 surrogate"
        private = "".join(map(chr, range(0xE000, 0xF900)))
        return [
            *found,
            ("array", {"video": np.array(5)}, "is no video"),
            ("array", {"video": np.full((2, 8, 8, 3), np.nan)}, "frame 0: .*not finite"),
            ("surrogate", surrogate, "surrogate at 5"),
            ("surrogate", {"text": "a", "instruction": surrogate}, "surrogate at 5"),
            ("every private character", private, "private-use"),
            (
                "every private character",
                {"text": private[:3000], "instruction": private[3000:]},
                "private-use",
            ),
            ("strip", {"image": picture(1, (20_000, 3))}, "20000 x 3: one side is more than 200 times"),
            ("strip", {"video": [picture(1, (3, 1000))] * 2}, "more than 200 times"),
            ("closed picture", lambda: {"image": closed()}, "closed|NoneType"),
            ("empty file", {"image": b""}, "empty"),
            ("empty file", {"video": b""}, "empty"),
            ("bomb", {"image": with_size(png, 60_000, 60_000)}, "pixels"),
            ("bomb", {"image": with_size(png, 2**31 - 1, 2**31 - 1)}, "pixels"),
            (
                "bomb",
                {"video": saved(picture(), "GIF")[:6] + b"\xff" * 4 + saved(picture(), "GIF")[10:]},
                "pixels",
            ),
            ("no pixels", {"image": with_size(png, 0, 5)}, "<.* bytes>"),
            ("wrong kind", {"image": mp4}, "it is a film"),
            ("wrong kind", {"image": paper}, "it is a document"),
            ("wrong kind", {"document": mp4}, "it is a film"),
            ("wrong kind", {"video": paper}, "it is a document"),
            ("wrong kind", {"video": b"<html>" * 50}, "cannot read the video"),
            ("wrong kind", {"image": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"}, "not a picture"),
            ("playlist", {"video": playlist}, "cannot read the video"),
            ("playlist", {"video": b"ffconcat version 1.0\nfile /etc/passwd\n"}, "cannot read the video"),
            ("pdf", {"document": pdf_without_pages()}, "it has no pages"),
            ("pdf", {"document": locked(paper)}, "cannot open the PDF"),
            ("pdf", {"document": b"%PDF-1.7"}, "cannot open the PDF"),
            (
                "pdf",
                {"document": pdf_of_forms(1, 2).replace(b"200 200]", b"200 0.1]", 1)},
                "cannot be rendered",
            ),
        ]

    def _bad_places(self) -> list[tuple[str, Any, str]]:
        loop, pipe = self.folder / "loop.png", self.folder / "pipe.png"
        loop.symlink_to(loop)
        os.mkfifo(pipe)
        places: list[tuple[str, str, str]] = [
            ("path", "no/such.png", "no such file"),
            ("path", "a\0b.png", "null byte"),
            ("path", "a\ud800.png", "surrogates"),
            ("path", str(self.folder), "not a regular file"),
            ("path", str(pipe), "not a regular file"),
            ("path", "/dev/zero", "not a regular file"),
            ("path", str(loop), "symbolic links"),
            ("path", "x" * 100_000, "too long"),
            ("path", "file:///etc/passwd", "not a picture|cannot read the video"),
            ("path", "file://a.example/etc/passwd", "only files of this machine"),
            ("path", self.path("empty.png", b""), "empty"),
            ("path", self.path("words.png", b"words"), "words.png.*(not a picture|cannot read)"),
        ]  # fmt: skip
        hosts = (
            "http://127.0.0.1:9/a.png", "http://localhost/", "http://[::1]/a", "http://169.254.169.254/latest/",
            "http://10.0.0.1/a.gif", "http://[::ffff:127.0.0.1]/", "http://2130706433/", "http://0/",
            "http://[64:ff9b::7f00:1]/", "http://192.168.1.1/",
        )  # fmt: skip
        places += [("private url", host, "private network") for host in hosts]
        schemes = (
            "ftp://a.example/b",
            "gopher://a/",
            "http://",
            "http://[bad/",
            "http://a:99999/",
        )
        places += [("refused url", "http://user:pass@192.168.1.1/", "user name or password")]
        places += [("refused url", url, "only http and https") for url in schemes]
        keys = ("image", "video", "document")
        found: list[tuple[str, Any, str]] = [
            (kind, {key: place}, words) for kind, place, words in places for key in keys
        ]
        return found
