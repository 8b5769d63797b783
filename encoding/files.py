"""A file on disk -> the items that stand for it: one for an image, clip or text, one a page for a PDF."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from ..processing.documents_ume import count_pages
from ..processing.limits_ume import MediaError, MediaLimits

IMAGES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif"})
VIDEOS = frozenset({".mp4", ".webm", ".mov", ".mkv", ".avi"})
TEXTS = frozenset({".txt", ".md", ".markdown"})
DOCUMENTS = frozenset({".pdf"})
TEXT_BYTES = 1 << 20  # more of a text than this can't reach any context window; the processor cuts the rest
PDF_PAGES = 10_000  # rows that one file may have
SNIPPET = 160


class UnreadableFileError(ValueError):
    """A file that can't become an item; the message says why."""


def kind_of(path: str | os.PathLike[str]) -> str | None:
    """``image``, ``video``, ``document`` or ``text`` by the name's ending; None for anything else."""
    ending = Path(path).suffix.lower()
    for kind, endings in (("image", IMAGES), ("video", VIDEOS), ("document", DOCUMENTS), ("text", TEXTS)):
        if ending in endings:
            return kind
    return None


def file_items(path: str | os.PathLike[str]) -> list[tuple[str, dict[str, Any], dict[str, Any]]]:
    """The items of one file.

    Returns:
        Triples of a suffix for the id (``""``, or ``#page=3``), the item, and metadata (kind, page, snippet).

    Raises:
        UnreadableFileError: an ending that we don't know, an empty text, or a PDF that can't be opened.
        ImportError: a PDF, and pypdfium2 is not installed.
    """
    file = Path(path)
    kind = kind_of(file)
    if kind is None:
        raise UnreadableFileError(f"can't tell what {file.name} is by its ending")
    if file.stat().st_size == 0:
        raise UnreadableFileError("the file is empty")
    if kind == "text":
        text = _read_text(file)
        return [("", {"text": text}, {"kind": kind, "snippet": " ".join(text[:1000].split())[:SNIPPET]})]
    if kind == "document":
        count = page_count(file)
        return [
            (
                f"#page={page}",
                {"document": str(file), "page": page},
                {"kind": kind, "page": page, "pages": count},
            )
            for page in range(1, count + 1)
        ]
    if kind == "image" and file.suffix.lower() in (".gif", ".webp") and _is_animated(file):
        kind = "video"
    return [("", {kind: str(file)}, {"kind": kind})]


def page_count(path: str | os.PathLike[str]) -> int:
    """How many pages a PDF has. Raises UnreadableFileError, or ImportError without pypdfium2."""
    try:
        count = count_pages(path, MediaLimits())
    except MediaError as error:
        raise UnreadableFileError(str(error)) from None
    if count > PDF_PAGES:
        raise UnreadableFileError(f"a PDF of {count} pages; the limit is {PDF_PAGES}")
    return count


def _read_text(file: Path) -> str:
    with file.open("rb") as handle:
        data = handle.read(TEXT_BYTES)
    whole = len(data) < TEXT_BYTES
    try:
        text = data.decode("utf-8-sig", errors="strict" if whole else "ignore")
    except UnicodeDecodeError as error:
        raise UnreadableFileError(f"not UTF-8 text: {error}") from None
    if "\x00" in text:
        raise UnreadableFileError("not a text: it holds NUL bytes")
    if not text.strip():
        raise UnreadableFileError("the text is empty")
    return text.strip()


def _is_animated(file: Path) -> bool:
    from PIL import Image

    try:
        with Image.open(file) as image:
            return getattr(image, "n_frames", 1) > 1
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UnreadableFileError(f"not an image that can be opened: {error}") from None
