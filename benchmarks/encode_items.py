"""The items of ``encode.py``: pinned by a seed, no two of them equal, as files and in memory."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
import pypdfium2
from PIL import Image

from umekit.processing.processor import UmeProcessor

SHARES = {"texts": 0.5, "images": 0.3, "clips": 0.1, "pages": 0.1}
TOKENS = (8, 512)  # of a text, log-uniform
SIDES = (64, 768)  # of an image, log-uniform
CLIP = (16, 8)  # frames, and frames per second
TEXT = "a small red kitten rests on the wooden bench near the old harbor lantern at night and a blue rocket"
WORDS = TEXT.split()
PAGE_PIXELS = 1_000_000  # of a page that is in memory


@dataclass(frozen=True)
class Work:
    """Items of one kind, or the mix of all.

    Attributes:
        by_path: items as users have them: texts, and paths of JPEG, MP4 and PDF files.
        in_memory: the same with decoded PIL images; a clip is the list of its frames.
    """

    by_path: list[Any]
    in_memory: list[Any]


def make_items(folder: Path, count: int, processor: UmeProcessor, seed: int = 0) -> dict[str, Work]:
    """``count`` items by kind, and ``"mix"``: all of them, shuffled."""
    rng = np.random.default_rng(seed)
    makers: dict[str, Any] = {
        "texts": lambda _: make_text(rng, processor),
        "images": lambda number: make_image(folder / f"{number}.jpg", rng),
        "clips": lambda number: _clip(folder / f"{number}.mp4", rng),
        "pages": lambda number: _page(folder / f"{number}.pdf", rng),
    }
    numbers = {kind: max(2, round(count * share)) for kind, share in SHARES.items() if kind != "texts"}
    numbers = {"texts": count - sum(numbers.values()), **numbers}
    found: dict[str, Work] = {}
    for kind, number in numbers.items():
        pairs = [makers[kind](place) for place in range(number)]
        found[kind] = Work([pair[0] for pair in pairs], [pair[1] for pair in pairs])
    paths = [item for work in found.values() for item in work.by_path]
    held = [item for work in found.values() for item in work.in_memory]
    order = rng.permutation(len(paths))
    found["mix"] = Work([paths[place] for place in order], [held[place] for place in order])
    return found


def log_uniform(rng: np.random.Generator, bounds: tuple[int, int]) -> int:
    return round(math.exp(rng.uniform(math.log(bounds[0]), math.log(bounds[1]))))


def make_text(rng: np.random.Generator, processor: UmeProcessor) -> tuple[str, str]:
    wanted = log_uniform(rng, TOKENS)
    words = " ".join(f"{word}{rng.integers(1000)}" for word in rng.choice(WORDS, wanted))
    text = processor.prompt_tokenizer.cut(words, wanted)
    return text, text


def _picture(size: tuple[int, int], rng: np.random.Generator) -> Image.Image:
    """Smooth colours with some grain, so that a JPEG has about the size of a photo's."""
    cells = rng.integers(0, 255, (12, 12, 3), dtype=np.uint8)
    smooth = np.asarray(Image.fromarray(cells).resize(size, Image.Resampling.BICUBIC), dtype=np.int16)
    grain = rng.integers(-12, 12, smooth.shape, dtype=np.int16)
    return Image.fromarray((smooth + grain).clip(0, 255).astype(np.uint8))


def make_image(path: Path, rng: np.random.Generator) -> tuple[Any, Any]:
    _picture((log_uniform(rng, SIDES), log_uniform(rng, SIDES)), rng).save(path, quality=90)
    with Image.open(path) as file:
        return {"image": str(path)}, {"image": file.convert("RGB")}


def _clip(path: Path, rng: np.random.Generator) -> tuple[Any, Any]:
    count, rate = CLIP
    width, height = (2 * round(log_uniform(rng, (96, 384)) / 2) for _ in range(2))
    start, end = (_picture((width, height), rng) for _ in range(2))
    frames = [Image.blend(start, end, number / count) for number in range(count)]
    with av.open(str(path), "w") as film:
        track: Any = film.add_stream("mpeg4", rate=rate)
        track.width, track.height, track.pix_fmt = width, height, "yuv420p"
        for frame in frames:
            film.mux(track.encode(av.VideoFrame.from_image(frame)))
        film.mux(track.encode())
    return {"video": str(path)}, {"video": frames[:: rate // 2]}  # two a second, as films are sampled


def _page(path: Path, rng: np.random.Generator) -> tuple[Any, Any]:
    """A sheet of text, A4 upright or across."""
    size = (595, 842) if rng.random() < 0.7 else (842, 595)
    lines = [" ".join(rng.choice(WORDS, 12)) + f" {rng.integers(10**6)}" for _ in range(size[1] // 16 - 4)]
    shown = " ".join(f"({line}) '" for line in lines)
    body = f"BT /F 11 Tf 40 {size[1] - 40} Td 15 TL {shown} ET"
    _write_pdf(path, size, body.encode())
    with pypdfium2.PdfDocument(path) as file:
        scale = math.sqrt(PAGE_PIXELS / (size[0] * size[1]))
        image = file[0].render(scale=scale).to_pil().convert("RGB")
    return {"document": str(path)}, {"image": image}


def _write_pdf(path: Path, size: tuple[int, int], body: bytes) -> None:
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 %d %d] /Contents 5 0 R "
        b"/Resources << /Font << /F 4 0 R >> >> >>" % size,
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
        b"<< /Length %d >>\nstream\n%s\nendstream" % (len(body), body),
    ]
    out, places = b"%PDF-1.4\n", []
    for number, content in enumerate(objects, 1):
        places.append(len(out))
        out += b"%d 0 obj\n%s\nendobj\n" % (number, content)
    table = b"".join(b"%010d 00000 n \n" % place for place in places)
    end = b"trailer\n<< /Size %d /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF\n"
    count = len(objects) + 1
    path.write_bytes(out + b"xref\n0 %d\n0000000000 65535 f \n" % count + table + end % (count, len(out)))
