"""Draw the README's picture: four queries of the demo and their best results, as ume-tiny finds them.

python benchmarks/readme_picture.py            # writes docs/search.png; a minute on two cores
python benchmarks/readme_picture.py --demo umekit-demo    # takes the files and the index of a demo that has run
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import textwrap
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

import umekit
from umekit.demo.gallery import write_gallery
from umekit.demo.queries import Result, make_queries, rank
from umekit.encoding.index.folder_index import index_folder
from umekit.encoding.storage.contents import stored_model
from umekit.processing.documents import load_document
from umekit.processing.limits import MediaLimits
from umekit.processing.media import load_image
from umekit.processing.video import Sampling, load_video

ROOT = Path(__file__).resolve().parent.parent
PICKED = {  # the query of each family that is drawn, and what is said of it
    "text -> image": (3, "a text finds a picture"),
    "image + text -> image": (2, "a picture and a change find a picture"),
    "text -> video": (2, "a text finds a clip"),
    "text -> document": (2, "a text finds a page of a PDF"),
}
SETTINGS = {"role": "document", "mode": None, "model": stored_model(None)}  # as the demo's own
TOP = 3
WIDTH, ROW, HEAD, MARGIN = 1640, 262, 74, 36
ARROW, HITS, CARD = 600, 716, 304  # columns, and the width of a result
BOX = (250, 176)  # of a thumbnail
PAGE, INK, SOFT, LINE, RIGHT = "#ffffff", "#1c1c22", "#6a6a76", "#dcdce4", "#17924a"


def font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Pillow's own, so that the picture looks the same everywhere."""
    return ImageFont.load_default(size)


def thumbnail(file: Path, page: int = 1) -> Image.Image:
    """A picture, four frames of a clip or the upper part of a page, as a thumbnail."""
    limits = MediaLimits()
    if file.suffix == ".mp4":
        frames = load_video(str(file), Sampling(max_frames=4, min_frames=4), limits).images
        sheet = Image.new("RGB", (2 * frames[0].width + 3, 2 * frames[0].height + 3), PAGE)
        for number, frame in enumerate(frames):
            sheet.paste(frame, (number % 2 * (frame.width + 3), number // 2 * (frame.height + 3)))
        return fitted(sheet)
    if file.suffix == ".pdf":
        sheet = load_document(str(file), page, 600 * 800, limits)[0]
        return fitted(sheet.crop((0, 0, sheet.width, round(sheet.width * BOX[1] / BOX[0]))))
    return fitted(load_image(str(file), limits))


def fitted(image: Image.Image) -> Image.Image:
    """The picture as large as the box allows."""
    scale = min(BOX[0] / image.width, BOX[1] / image.height)
    return image.convert("RGB").resize((round(image.width * scale), round(image.height * scale)))


def draw(results: Sequence[tuple[Result, str]], root: Path, rows: int) -> Image.Image:
    """The whole picture.

    Args:
        results: queries with their hits and what is said of them.
        root: the folder that the ids are relative to.
        rows: how many rows the index holds.
    """
    sheet = Image.new("RGB", (WIDTH, HEAD + ROW * len(results)), PAGE)
    pen = ImageDraw.Draw(sheet)
    pen.text((MARGIN, 24), "what you ask with", SOFT, font(28))
    pen.text((HITS, 24), f"what is nearest, among {rows} pictures, clips, pages and notes", SOFT, font(28))
    for number, (result, words) in enumerate(results):
        top = HEAD + ROW * number
        pen.line((MARGIN, top, WIDTH - MARGIN, top), LINE, 2)
        _query(sheet, pen, result, words, top)
        middle = top + ROW // 2
        pen.line((ARROW, middle, ARROW + 64, middle), SOFT, 5)
        pen.polygon([(ARROW + 60, middle - 13), (ARROW + 84, middle), (ARROW + 60, middle + 13)], SOFT)
        for place, (name, score) in enumerate(result.hits[:TOP]):
            path, _, page = name.partition("#page=")
            small = thumbnail(root / path, int(page or 1))
            left = HITS + CARD * place
            right = name == result.query.right
            frame = (left, top + 16, left + CARD - 24, top + ROW - 16)
            pen.rounded_rectangle(frame, 12, PAGE, RIGHT if right else LINE, 6 if right else 2)
            sheet.paste(small, (left + (CARD - 24 - small.width) // 2, top + 26))
            caption = f"{score:.2f}   {Path(path).name}" + (f" p. {page}" if page else "")
            pen.text((left + 16, top + ROW - 50), caption, RIGHT if right else SOFT, font(22))
    return sheet


def _query(sheet: Image.Image, pen: ImageDraw.ImageDraw, result: Result, words: str, top: int) -> None:
    query, left = result.query, MARGIN
    if query.file:
        small = thumbnail(query.file)
        sheet.paste(small, (left, top + 62))
        left += small.width + 20
    if query.text:
        lines = textwrap.wrap(("+ " if query.file else "") + f"“{query.text}”", 24 if query.file else 32)
        pen.multiline_text((left, top + 74), "\n".join(lines), INK, font(30), spacing=10)
    pen.text((MARGIN, top + 16), words, SOFT, font(24))


def found(folder: Path) -> tuple[list[tuple[Result, str]], Path, int]:
    """The demo's files, searched: the queries that are drawn, the gallery, and the number of rows."""
    gallery = write_gallery(folder / "gallery")
    queries = make_queries(gallery, folder / "queries")
    encoder = umekit.load(device="cpu")
    index, _ = index_folder(encoder, gallery.root, settings=SETTINGS)
    vectors = encoder.encode([query.item for query in queries], role="query")
    results = rank(queries, vectors, index)
    picked = [
        ([result for result in results if result.query.family == family][place], words)
        for family, (place, words) in PICKED.items()
    ]
    return picked, gallery.root, len(index)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--demo", type=Path, metavar="DIR", help="where `umekit demo` wrote, or may write")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "search.png")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        sheet = draw(*found(args.demo or Path(name)))
    sheet.quantize(128).save(args.out, optimize=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
