"""One self-contained HTML page of queries and their best results, with thumbnails embedded as PNG."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from html import escape
from itertools import groupby
from pathlib import Path

from PIL import Image

from ..encoding.inputs.files import kind_of
from ..processing.documents import load_document
from ..processing.limits import MediaLimits
from ..processing.media import load_image
from ..processing.video import Sampling, load_video
from .queries import Query, Result

SIDE = 140  # longest side of a thumbnail in pixels
STRIP = 4  # frames of a clip
TEXT = 200  # letters of a note

GENERATOR = '<meta name="generator" content="umekit demo">'  # by which a sheet is known to be ours
STYLE = """
:root { color-scheme: light dark; --page: #fafafa; --ink: #1c1c22; --soft: #6a6a76; --card: #fff;
  --line: #dcdce4; --right: #17924a; }
@media (prefers-color-scheme: dark) { :root { --page: #16161a; --ink: #ececf1; --soft: #a0a0ad;
  --card: #212127; --line: #3a3a44; --right: #3ecf7a; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem; max-width: 78rem; background: var(--page); color: var(--ink);
  font: 15px/1.45 system-ui, sans-serif; }
h1 { font-size: 1.5rem; margin: 0 0 .3rem; } h2 { font-size: 1.1rem; margin: 2rem 0 .6rem; }
h2 span, p, figcaption { color: var(--soft); } h2 span { font-weight: normal; font-size: .9rem; }
.row { display: flex; gap: 1rem; padding: .7rem 0; align-items: flex-start;
  border-top: 1px solid var(--line); }
.query { flex: 0 0 15rem; } .hits { display: flex; flex-wrap: wrap; gap: .7rem; flex: 1; }
figure { margin: 0; padding: .4rem; width: 8.5rem; background: var(--card); border: 3px solid var(--line);
  border-radius: .5rem; }
.query figure { width: 100%; border-style: dashed; }
figure.right { border-color: var(--right); } figure.right b { color: var(--right); }
img { width: 7rem; image-rendering: pixelated; border-radius: .2rem; display: inline-block;
  margin: 0 2px 2px 0; }
.strip img { width: 3.35rem; } .query .strip img { width: 3.2rem; }
figcaption { font-size: .78rem; overflow-wrap: anywhere; } blockquote { margin: 0; font-size: .85rem; }
.thought { margin-top: .4rem; font: .78rem/1.4 ui-monospace, monospace; overflow-wrap: anywhere; color: var(--soft); }
.miss { margin-top: .4rem; color: var(--soft); font-size: .85rem; }
@media (max-width: 44rem) { .row { flex-direction: column; } .query { flex-basis: auto; width: 100%; } }
"""


def is_contact_sheet(path: Path) -> bool:
    """Whether a file is a contact sheet that the demo wrote."""
    with path.open("rb") as handle:
        return GENERATOR.encode() in handle.read(1000)


def contact_sheet(results: Sequence[Result], root: Path, title: str, summary: str, top: int = 5) -> str:
    """The page as text.

    Args:
        results: ranked queries; neighbours of one family share a heading.
        root: the folder that the ids are relative to.
        title: heading of the page.
        summary: a line below it.
        top: how many results are shown for each query.
    """
    thumbnails = _Thumbnails(root)
    parts = []
    for family, group in groupby(results, key=lambda result: result.query.family):
        members = list(group)
        first = sum(result.rank == 1 for result in members)
        among = len(members[0].hits)
        note = f"{first} of {len(members)} right in first place, among {among} of that kind"
        parts.append(f"<h2>{escape(family)} <span>{note}</span></h2>")
        parts += [_row(result, thumbnails, top) for result in members]
    body = "\n".join(parts)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n{GENERATOR}\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        f"<h1>{escape(title)}</h1>\n<p>{escape(summary)}</p>\n{body}\n</body>\n</html>\n"
    )


def _row(result: Result, thumbnails: _Thumbnails, top: int) -> str:
    cards = []
    for place, (name, score) in enumerate(result.hits[:top], start=1):
        right = name == result.query.right
        mark = " &#10003;" if right else ""
        caption = f"<b>{place}. {score:.3f}{mark}</b><br>{escape(name)}"
        cards.append(
            f'<figure class="{"right" if right else "other"}">{thumbnails.of(name)}'
            f"<figcaption>{caption}</figcaption></figure>"
        )
    query = _query(result.query, thumbnails)
    if result.thought is not None:
        query += f'<div class="thought">{escape(result.thought)}</div>'
    if not 1 <= result.rank <= top:
        where = f"is number {result.rank}" if result.rank else "is not in the index"
        query += f'<div class="miss">the right one, {escape(result.query.right)}, {where}</div>'
    return f'<div class="row"><div class="query">{query}</div><div class="hits">{"".join(cards)}</div></div>'


def _query(query: Query, thumbnails: _Thumbnails) -> str:
    picture = thumbnails.of_file(query.file, 1) if query.file else ""
    text = f"<blockquote>{escape(query.text)}</blockquote>" if query.text else ""
    instruction = escape(str(query.item.get("instruction", "")))
    return f"<figure>{picture}{text}<figcaption>{instruction}</figcaption></figure>"


class _Thumbnails:
    """Thumbnails of files, each made once."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.made: dict[str, str] = {}

    def of(self, name: str) -> str:
        """HTML for an id of the index."""
        if name not in self.made:
            path, _, page = name.partition("#page=")
            self.made[name] = self.of_file(self.root / path, int(page or 1))
        return self.made[name]

    def of_file(self, file: Path, page: int) -> str:
        """HTML for a file: pictures, or the beginning of a text."""
        kind = kind_of(file)
        if kind == "text":
            text = file.read_text(encoding="utf-8", errors="replace").strip()
            return f"<blockquote>{escape(text[:TEXT])}{'…' if len(text) > TEXT else ''}</blockquote>"
        limits = MediaLimits()
        if kind == "video":
            images = load_video(str(file), Sampling(max_frames=STRIP, min_frames=STRIP), limits).images
        elif kind == "document":
            images = load_document(str(file), page, SIDE * SIDE, limits)
        else:
            images = [load_image(str(file), limits)]
        tags = "".join(f'<img alt="{escape(file.name)}" src="{_data(image)}">' for image in images)
        return f'<div class="{"strip" if len(images) > 1 else "image"}">{tags}</div>'


def _data(image: Image.Image) -> str:
    small = image.convert("RGB")
    small.thumbnail((SIDE, SIDE))
    buffer = io.BytesIO()
    small.save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
