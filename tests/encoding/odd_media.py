"""Media as real encoders write them and few readers expect them: all sound; and sound ones whose headers lie."""

from __future__ import annotations

import base64
import io
import runpy
import struct
from fractions import Fraction
from pathlib import Path
from typing import Any
from urllib.parse import quote_from_bytes

import numpy as np
import torch
from PIL import Image

PROCESSING = Path(__file__).parents[1] / "processing"
Medium = tuple[str, str, bytes]  # name, key and content


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.copy().save(stream, kind, **options)  # what one format leaves on a picture, the next would take
    return stream.getvalue()


class OddMedia:
    """Makers of the tests of pictures and films, put to use.

    Args:
        picture: makes a smooth picture of 64 x 48 from a seed.
        pdf_form: makes a PDF with a field.
    """

    def __init__(self, picture: Any, pdf_form: Any) -> None:
        self.pictures = runpy.run_path(str(PROCESSING / "test_pictures.py"))
        self.films = runpy.run_path(str(PROCESSING / "test_film.py"))
        self.frames: list[Image.Image] = [picture(number) for number in range(20, 26)]
        self.form: Any = pdf_form
        self.sound = [*self._tiffs(), *self._pictures(), *self._films(), *self._documents()]

    def planar(self, depth: str) -> bytes:
        channels = [np.full(512, value, depth).tobytes() for value in (250, 128, 0)]
        bits = 8 * np.dtype(depth).itemsize
        return bytes(self.pictures["tiff"](channels, bits, 2, samples=3, planar=2))

    def several(self, **options: Any) -> bytes:
        return saved(
            self.frames[0],
            "TIFF",
            save_all=True,
            append_images=[one.copy() for one in self.frames[1:3]],
            **options,
        )

    def _tiffs(self) -> list[Medium]:
        one = self.frames[0]
        grey = np.asarray(one.convert("L"))
        small = one.resize((16, 12))
        small.encoderinfo = {"tiffinfo": {254: 1}}  # type: ignore[attr-defined]
        found = {
            "float": saved(Image.fromarray(grey / np.float32(255)), "TIFF"),
            "float beyond one": saved(Image.fromarray(grey * np.float32(9)), "TIFF"),
            "32 bits": saved(Image.fromarray(grey.astype(np.int32) * 250), "TIFF"),
            "16 bits": saved(Image.fromarray(grey.astype(np.uint16) * 257), "TIFF"),
            "planar": self.planar("u1"),
            "interleaved 16 bits": self.pictures["tiff"]([bytes(range(256)) * 12], 16, 2, samples=3),
            "12 bits": self.pictures["tiff"]([bytes(range(256)) * 3], 12, 1),
            "colour map": saved(one.quantize(16), "TIFF"),
            "with a thumbnail": saved(one, "TIFF", save_all=True, append_images=[small]),
            "deflated": saved(one, "TIFF", compression="tiff_deflate"),
            "of jpegs": saved(one, "TIFF", compression="jpeg"),
            "fax": saved(one.convert("1"), "TIFF", compression="group4"),
            "cmyk": saved(one.convert("CMYK"), "TIFF"),
            "with a profile": saved(one, "TIFF", icc_profile=self.pictures["WIDE"]),
        }
        return [(f"tiff {name}", "image", data) for name, data in found.items()]

    def _pictures(self) -> list[Medium]:
        one, wide = self.frames[1], self.pictures["WIDE"]
        clear = one.convert("RGBA")
        clear.putalpha(self.frames[2].convert("L"))
        rest = {"save_all": True, "append_images": [frame.copy() for frame in self.frames[2:4]]}
        found = {
            **{f"png keyed, {name}": data for name, (data, _) in self.pictures["KEYED"].items()},
            "png with a profile": saved(clear, "PNG", icc_profile=wide),
            "png with a broken profile": saved(one, "PNG", icc_profile=wide[:200]),
            "png with a foreign profile": saved(one, "PNG", icc_profile=self.pictures["LAB"]),
            "jpeg with a profile": saved(one, "JPEG", icc_profile=wide),
            "cmyk jpeg with a profile": saved(one.convert("CMYK"), "JPEG", icc_profile=wide),
            "mpo": saved(one, "MPO", **rest),
            "tga": saved(clear, "TGA", compression="tga_rle"),
            "jpeg 2000 with alpha": saved(clear, "JPEG2000"),
            "webp with alpha": saved(clear, "WEBP", lossless=True),
            "ppm": saved(one, "PPM"),
            "16-bit pgm": saved(Image.fromarray(np.asarray(one.convert("L")).astype(np.int32) * 257), "PPM"),
            "ico": saved(clear, "ICO"),
            "apng": saved(clear, "PNG", duration=90, **rest),
        }
        if "AVIF" in Image.registered_extensions().values():
            found["avif"] = saved(clear, "AVIF", speed=10)
        return [(name, "image", data) for name, data in found.items()]

    def _films(self) -> list[Medium]:
        film, frames = self.films["film"], [np.asarray(frame) for frame in self.frames]
        uneven = [0, 40, 60, 900, 1000, 2500]
        clear = [np.dstack([frame, frame[..., :1]]) for frame in frames]
        rest = {"save_all": True, "append_images": self.frames[1:], "duration": [50, 20, 700, 90, 10, 1]}
        still = [Image.fromarray(frame) for frame in clear]
        found = {
            "rotated mp4": self.films["turned"](film(frames, codec="mpeg4"), (0, 1, -1, 0)),
            "mirrored mp4": self.films["turned"](film(frames, codec="mpeg4"), (-1, 0, 0, 1)),
            "mp4 of uneven times": film(frames, times=uneven),
            "mkv of uneven times": film(frames, "matroska", times=uneven),
            "mp4 of flat pixels": film(frames, ratio=Fraction(4, 3)),
            "webm with alpha": film(clear, "webm", "libvpx", pixels="yuva420p", **{"auto-alt-ref": "0"}),
            "mov with alpha": film(clear, "mov", "png", pixels="rgba"),
            "avi": film(frames, "avi", "mpeg4", b_frames=2),
            "transport stream": film(frames, "mpegts", "mpeg2video"),
            "h264 without a container": film(frames, "h264"),
            "webm without a duration": self._endless(film(frames, "webm", "libvpx", times=uneven)),
            "gif of uneven times": saved(self.frames[0], "GIF", **rest),
            "webp with alpha, animated": saved(
                still[0], "WEBP", save_all=True, append_images=still[1:], lossless=True
            ),
            "apng, animated": saved(still[0], "PNG", save_all=True, append_images=still[1:], duration=70),
        }
        return [(name, "video", data) for name, data in found.items()]

    @staticmethod
    def _endless(webm: bytes) -> bytes:
        """Without the length of the film and the rate of its frames, as browsers write it while they record."""
        data = bytearray(webm)
        for mark, length in ((b"\x44\x89\x88", 11), (b"\x23\xe3\x83\x84", 8)):
            at = data.find(mark)
            if at >= 0:
                data[at : at + length] = b"\xec" + bytes([0x80 | (length - 2)]) + bytes(length - 2)
        return bytes(data)

    def _documents(self) -> list[Medium]:
        form = self.form(b"/FT/Tx/V(Bob)/AP<</N 4 0 R>>")
        rest = {"save_all": True, "append_images": [frame.copy() for frame in self.frames[1:3]]}
        found = {
            "pdf form": form,
            "pdf form without pictures": self.form(b"/FT/Tx/V(Bob)"),
            "pdf with a check box": self.form(b"/FT/Btn/V/Yes/AS/Yes/MK<</CA(4)>>"),
            "turned pdf": self.form(b"/FT/Tx/V(Bob)", page=b"/Rotate 90"),
            "pdf after other bytes": b"\r\n--mail boundary\r\n" * 9 + form,
            "pdf before other bytes": saved(self.frames[0], "PDF", **rest) + b"\0" * 900,
            "tiff of several pages": self.several(),
            "packed tiff of several pages": self.several(compression="tiff_lzw"),
        }
        return [(name, "document", data) for name, data in found.items()]

    def items(self) -> list[Any]:
        """Sound items: the media above in all the forms in which they are handed over, and pixels of odd layout."""
        one = self.frames[0]
        array = np.asarray(one)
        clip = np.stack([np.asarray(frame) for frame in self.frames[:4]])
        clear = one.convert("RGBA")
        clear.putalpha(90)
        found: list[Any] = [{key: data} for _, key, data in self.sound]
        found += [{key: self.data_uri(key, data)} for _, key, data in self.sound[::7]]
        found.append({"image": "data:image/png," + quote_from_bytes(saved(one, "PNG"))})
        modes = ("RGBa", "LA", "CMYK", "YCbCr", "HSV", "1", "L", "I", "F", "PA")
        found += [{"image": clear.convert(mode) if mode == "RGBa" else one.convert("RGB").convert(mode)}
                  for mode in modes if mode != "PA"]  # fmt: skip
        found += [{"image": one} for one in (
            array.transpose(2, 0, 1), np.asfortranarray(array), array[::-1, ::-2], array[..., ::-1],
            array.astype(np.float16) / np.float16(255), np.broadcast_to(array[:1], array.shape),
            torch.from_numpy(array.copy()).permute(2, 0, 1), torch.from_numpy(array.copy()).permute(2, 0, 1) / 255,
            (torch.from_numpy(array.copy()) / 255).to(torch.bfloat16), torch.from_numpy(array.copy())[::2],
        )]  # fmt: skip
        found += [{"video": one} for one in (
            clip.transpose(0, 3, 1, 2), np.asfortranarray(clip), torch.from_numpy(clip).permute(0, 3, 1, 2),
            [array, one, saved(one, "WEBP")], [torch.from_numpy(array.copy())] * 2,
        )]  # fmt: skip
        return found

    @staticmethod
    def data_uri(key: str, data: bytes) -> str:
        family = {"image": "image/x", "video": "video/x", "document": "application/pdf"}[key]
        return f"data:{family};base64,{base64.b64encode(data).decode()}"

    def refused(self) -> list[tuple[str, Any, str]]:
        """Kind, item, and words of its error."""
        several, deep = self.several(), self.planar("<u2")
        uri = "data:image/png;base64,"
        return [
            ("pages as a picture", {"image": several}, "TIFF of several pages"),
            ("pages as a picture", {"image": self.data_uri("image", several)}, "TIFF of several pages"),
            ("pages as a picture", {"video": [several, several]}, "TIFF of several pages"),
            ("page", {"document": several, "page": 4}, "has 3 pages, not a page 4"),
            ("planar", {"image": deep}, "planar"),
            ("data uri", {"image": uri}, "empty"),
            ("data uri", {"image": uri + "%%%"}, "base64"),
            ("data uri", {"image": "data:image/png;base64"}, "a data URL is"),
            ("data uri", {"image": uri + base64.b64encode(b"no picture").decode()}, "not a picture"),
            ("tensor", {"image": torch.zeros(2, 9, 9, dtype=torch.uint8)}, "picture"),
            ("tensor", {"image": torch.full((3, 9, 9), torch.nan)}, "finite"),
            ("tensor", {"image": torch.zeros(3, 0, 9)}, "picture|pixels"),
        ]

    def liars(self) -> list[Medium]:
        """Headers that promise another size, count, time or place than there is."""
        found: list[Medium] = []
        names = {name: (key, data) for name, key, data in self.sound}

        def lie(name: str, old: bytes, *news: bytes) -> None:
            key, data = names[name]
            at = data.find(old)
            assert at >= 0, (name, old)
            found.extend((f"lying {name}", key, data[:at] + new + data[at + len(old) :]) for new in news)

        for number in (b"\0\0\0\0", b"\0\0\0\1", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\0\1\0\0"):
            for tag in (256, 257, 258, 259, 262, 273, 277, 278, 279):  # of a TIFF, in little-endian order
                data = names["tiff float"][1]
                entry = data.find(struct.pack("<HH", tag, 3)), data.find(struct.pack("<HH", tag, 4))
                at = max(entry)
                if at >= 0:
                    found.append(("lying tiff", "image", data[: at + 8] + number[::-1] + data[at + 12 :]))
                    found.append(("lying tiff", "image", data[: at + 4] + number[::-1] + data[at + 8 :]))
            for box, offset in ((b"mvhd", 16), (b"mvhd", 20), (b"mdhd", 16), (b"mdhd", 20), (b"tkhd", 24),
                                (b"stts", 8), (b"stts", 12), (b"stsz", 12), (b"stsz", 8), (b"stco", 12),
                                (b"stsc", 16), (b"elst", 12), (b"elst", 16), (b"elst", 20), (b"tkhd", 80)):  # fmt: skip
                for film in ("rotated mp4", "mp4 of uneven times"):
                    data = names[film][1]
                    at = data.find(box) + offset
                    found.append(("lying mp4", "video", data[:at] + number + data[at + 4 :]))
        several = names["tiff of several pages"][1]
        start = struct.unpack("<I", several[4:8])[0]
        after = start + 2 + 12 * struct.unpack("<H", several[start : start + 2])[0]
        for key in ("image", "document"):
            for place in (
                start,
                after,
                len(several) - 1,
                2**32 - 1,
                8,
            ):  # the next page is this one, or nowhere
                data = several[:after] + struct.pack("<I", place) + several[after + 4 :]
                found.append(("lying tiff of pages", key, data))
        lie(
            "pdf form",
            b"/Count 1",
            b"/Count 9",
            b"/Count 0",
            b"/Count -1",
            b"/Count 99999999",
            b"/Count 2 0 R",
        )
        lie(
            "pdf form",
            b"[0 0 300 200]",
            b"[0 0 9e9 9e9]",
            b"[0 0 0 0]",
            b"[9 9 -300 -2]",
            b"[0 0 1 99999]",
            b"[]",
        )
        lie(
            "pdf form",
            b"/Kids[3 0 R]",
            b"/Kids[2 0 R]",
            b"/Kids[3 0 R 3 0 R 2 0 R]",
            b"/Kids 2 0 R",
            b"/Kids[9 0 R]",
        )
        lie("pdf form", b"startxref\n", b"startxref\n9", b"startxref\n-")
        lie("tga", names["tga"][1][12:16], bytes(4), b"\xff" * 4, b"\1\0\1\0", b"\0\1\0\1")
        lie("ppm", b"64 48", b"64000 48", b"1 1", b"0 48", b"99999999 99999999", b"-4 48")
        lie("gif of uneven times", b"\x40\0\x30\0", bytes(4), b"\xff" * 4, b"\1\0\1\0")
        lie("webm without a duration", b"\x1a\x45\xdf\xa3", b"\x1a\x45\xdf\xa4")
        lie("avi", b"avih", b"avix")
        return found
