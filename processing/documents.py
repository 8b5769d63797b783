"""Read documents: pages of a PDF (through PDFium in processes of its own) or of a TIFF to RGB pictures."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import Any

from PIL import Image

from .animation import shows_one_of_several
from .arrays import is_array
from .kinds import HEAD_BYTES, PAGED, format_of
from .limits import MediaError, MediaLimits, describe
from .media import load_image, page_frames
from .pdfium_process import POOL
from .sources import file_key, read_bytes


def load_document(
    source: Any,
    page: int | None,
    max_pixels: int,
    limits: MediaLimits,
    keep: Callable[[Image.Image], Any] | None = None,
) -> list[Any]:
    """Pages of a PDF as RGB pictures, rendered at about ``max_pixels`` so that one small resize is left.

    A local file is read once for many pages that are asked for one after the other: PDFium keeps its last document.

    Args:
        source: path, URL or bytes of a PDF or TIFF; or anything that ``load_image`` takes, as its only page.
        page: from 1; None gives every page.
        max_pixels: pixels that a page may have after the resize.
        limits: what the file may cost.
        keep: what is left of a page before the next is read; all of it without.

    Returns:
        The pages, or what ``keep`` made of each.

    Raises:
        MediaError: not readable, encrypted, without pages, page out of range, more pages than allowed, too slow.
        ImportError: a PDF, and pypdfium2 is not installed.
    """
    if isinstance(source, Image.Image) and shows_one_of_several(source):
        raise MediaError(
            f"{describe(source)} shows one of several pages: give the file as the document, or that page as an image"
        )
    if isinstance(source, Image.Image) or is_array(source):
        return _picture_pages(source, page, source, limits, keep)
    key, read = file_key(source, limits), cache(partial(read_bytes, source, limits))
    if not POOL.holds(key) and not _is_pdf(read()):
        return _picture_pages({"bytes": read(), "path": describe(source)}, page, source, limits, keep)
    request = {
        "name": describe(source),
        "page": page,
        "most_pages": max(1, limits.document_pages),
        "max_pixels": min(max_pixels, limits.image_pixels),
        "password": limits.document_password,
    }
    pages = POOL.ask(request, read, limits, key)[1]
    return pages if keep is None else list(map(keep, pages))


def count_pages(source: Any, limits: MediaLimits) -> int:
    """How many pages a PDF or TIFF has; at least 1.

    Raises:
        MediaError: neither a PDF nor a TIFF that can be opened, or one without pages.
        ImportError: pypdfium2 is not installed.
    """
    request: dict[str, Any] = {"name": describe(source), "page": None, "most_pages": 0, "max_pixels": 0}
    request["password"] = limits.document_password
    key, read = file_key(source, limits), cache(partial(read_bytes, source, limits))
    if not POOL.holds(key) and _is_paged(read()):
        return len(page_frames({"bytes": read(), "path": describe(source)}, limits))
    if not POOL.holds(key) and not _is_pdf(read()):
        key = None  # PDFium refuses it; what it holds under a key is a PDF
    return POOL.ask(request, read, limits, key)[0]


def _is_pdf(data: bytes) -> bool:
    return format_of(data[:HEAD_BYTES]) == "pdf"


def _is_paged(data: bytes) -> bool:
    return format_of(data[:HEAD_BYTES]) in PAGED


def _picture_pages(
    picture: Any,
    page: int | None,
    source: Any,
    limits: MediaLimits,
    keep: Callable[[Image.Image], Any] | None,
) -> list[Any]:
    """Pages of a TIFF; any other picture has one."""
    name = describe(source)
    paged = isinstance(picture, dict) and _is_paged(picture["bytes"])
    frames = page_frames(picture, limits) if paged else [0]
    if page is None and len(frames) > max(1, limits.document_pages):
        raise MediaError(
            f"{name} has {len(frames)} pages, more than the limit of {limits.document_pages}; name a page"
        )
    if page is not None and page > len(frames):
        if len(frames) == 1:
            raise MediaError(f"{name} is a picture: it has one page, not a page {page}")
        raise MediaError(f"{name} has {len(frames)} pages, not a page {page}")
    wanted = frames if page is None else [frames[page - 1]]
    pages = (load_image(picture, limits, frame) for frame in wanted)
    return list(pages if keep is None else map(keep, pages))
