"""A file on disk -> the items that stand for it: one for an image, clip or text, one a page for a PDF or TIFF.

What a file is, its first bytes say; its ending counts where they do not. Whatever goes wrong with a file is an
``UnreadableFileError`` of that file, so that nobody who reads many has to know what the decoders raise.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

from ...processing.animation import has_frames
from ...processing.documents import count_pages
from ...processing.kinds import (
    CHECKED,
    ENDINGS,
    HEAD_BYTES,
    OTHERS,
    PAGED,
    ending_of,
    format_of,
    kind_of_format,
)
from ...processing.limits import MediaLimits, reason

TEXTS = frozenset({".txt", ".md", ".markdown"})
TEXT_BYTES = 1 << 20  # more of a text than this can't reach any context window; the processor cuts the rest
PAGES = 10_000  # rows that one file may have
SNIPPET = 160


class UnreadableFileError(ValueError):
    """A file that can't become an item; the message says why."""


def kind_of(path: str | os.PathLike[str]) -> str | None:
    """``image``, ``video``, ``document`` or ``text`` by the name's ending; None for anything else."""
    return _kind_of_ending(ending_of(path))


def kind_by_content(file: Path) -> str | None:
    """:func:`kind_of`, or for an ending that says nothing (or lies often), what the first bytes say.

    Raises:
        OSError: the file can't be read.
    """
    ending = ending_of(file)
    return kind_of_head(file) if _says_little(ending) else _kind_of_ending(ending)


def looks_inside(path: str | os.PathLike[str]) -> bool:
    """Whether a name's ending says nothing, or lies often, so that its first bytes have the say."""
    return _says_little(ending_of(path))


def _kind_of_ending(ending: str) -> str | None:
    return "text" if ending in TEXTS else ENDINGS.get(ending)


def _says_little(ending: str) -> bool:
    return ending not in OTHERS and (ending in CHECKED or _kind_of_ending(ending) is None)


def kind_of_head(source: Path | bytes) -> str | None:
    """What the first bytes of a file that may be anything say."""
    head = source[:HEAD_BYTES] if isinstance(source, bytes) else _head(source)
    found = format_of(head)
    if found == "pdf" and not head.lstrip(b"\xef\xbb\xbf \r\n\t").startswith(b"%PDF-"):
        return None  # any text may speak of a PDF
    return kind_of_format(found)


def file_items(
    path: str | os.PathLike[str], limits: MediaLimits | None = None
) -> list[tuple[str, dict[str, Any], dict[str, Any]]]:
    """The items of one file.

    Args:
        path: of the file.
        limits: what it may cost, and the password of a PDF.

    Returns:
        Triples of a suffix for the id (``""``, or ``#page=3``), the item, and metadata (kind, page, snippet).

    Raises:
        UnreadableFileError: whatever is wrong with it: missing, too large, damaged, of no kind that we know ...
        ImportError: a PDF, and pypdfium2 is not installed.
    """
    file = Path(path)
    try:
        check_regular(file.stat(), limits or MediaLimits())
        return _items(file, limits or MediaLimits())
    except (UnreadableFileError, ImportError):
        raise
    except OSError as error:
        raise UnreadableFileError(error.strerror or reason(error)) from None
    except Exception as error:  # a damaged file can make its library raise anything
        raise UnreadableFileError(reason(error)) from None


def check_regular(found: os.stat_result, limits: MediaLimits) -> None:
    """Before a file is read or hashed. Raises UnreadableFileError: a device or pipe, empty, or too large."""
    if not stat.S_ISREG(found.st_mode):
        raise UnreadableFileError("not a regular file")
    if found.st_size == 0:
        raise UnreadableFileError("the file is empty")
    if found.st_size > limits.file_bytes:
        raise UnreadableFileError(f"{found.st_size} bytes, more than the limit of {limits.file_bytes}")


def medium_kind(source: Path | bytes, named: str | None, limits: MediaLimits) -> str | None:
    """What a file is: ``video`` if it is an animation, ``document`` if it has pages, else as its bytes or name say.

    Args:
        source: the file, or its content.
        named: its kind by its ending.
        limits: what it may cost.

    Raises:
        UnreadableFileError: an animation or a TIFF that can't be opened.
    """
    head = source[:HEAD_BYTES] if isinstance(source, bytes) else _head(source)
    if named == "text" and b"\0" not in head:
        return named
    found = format_of(head)
    if _is_animated(source):
        return "video"
    if found in PAGED and count_pages(source, limits) > 1:
        return "document"
    return kind_of_format(found) or named


def page_count(source: str | os.PathLike[str] | bytes, limits: MediaLimits) -> int:
    """How many rows a document has.

    Raises:
        MediaError: it can't be opened. UnreadableFileError: too many pages. ImportError: pypdfium2 is missing.
    """
    count = count_pages(source, limits)
    if count > PAGES:
        raise UnreadableFileError(f"a document of {count} pages; the limit is {PAGES}")
    return count


def text_of(data: bytes, whole: bool) -> str:
    """The content of a text file; the end of one that is not ``whole`` may lie within a character.

    Raises:
        UnreadableFileError: not UTF-8, or with NUL bytes.
    """
    try:
        text = data.decode("utf-8-sig", errors="strict" if whole else "ignore")
    except UnicodeDecodeError as error:
        raise UnreadableFileError(f"not UTF-8 text: {error}") from None
    if "\x00" in text:
        raise UnreadableFileError("not a text: it holds NUL bytes")
    return text.strip()


def _items(file: Path, limits: MediaLimits) -> list[tuple[str, dict[str, Any], dict[str, Any]]]:
    kind = medium_kind(file, kind_by_content(file), limits)
    if kind is None:
        raise UnreadableFileError(f"can't tell what {file.name} is, neither by its ending nor by its content")
    if kind == "text":
        with file.open("rb") as handle:
            data = handle.read(TEXT_BYTES)
        text = text_of(data, whole=len(data) < TEXT_BYTES)
        if not text:
            raise UnreadableFileError("the text is empty")
        return [("", {"text": text}, {"kind": kind, "snippet": " ".join(text[:1000].split())[:SNIPPET]})]
    if kind != "document":
        return [("", {kind: str(file)}, {"kind": kind})]
    count = page_count(file, limits)
    return [
        (f"#page={page}", {"document": str(file), "page": page}, {"kind": kind, "page": page, "pages": count})
        for page in range(1, count + 1)
    ]


def _head(file: Path) -> bytes:
    with file.open("rb") as handle:
        return handle.read(HEAD_BYTES)


def _is_animated(source: Path | bytes) -> bool:
    try:
        return has_frames(source)
    except Exception as error:  # a damaged file can make Pillow raise anything
        raise UnreadableFileError(f"not an image that can be opened: {reason(error)}") from None
