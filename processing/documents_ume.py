"""Read documents: pages of a PDF to RGB pictures, through PDFium in processes of its own."""

from __future__ import annotations

from functools import cache, partial
from typing import Any

from PIL import Image

from .arrays_ume import is_array
from .kinds_ume import HEAD_BYTES, format_of
from .limits_ume import MediaError, MediaLimits, describe
from .media_ume import load_image
from .pdfium_process_ume import POOL
from .sources_ume import file_key, read_bytes


def load_document(source: Any, page: int | None, max_pixels: int, limits: MediaLimits) -> list[Image.Image]:
    """Pages of a PDF as RGB pictures, rendered at about ``max_pixels`` so that one small resize is left.

    A local file is read once for many pages that are asked for one after the other: PDFium keeps its last document.

    Args:
        source: path, URL or bytes of a PDF; or anything that ``load_image`` takes, as its only page.
        page: from 1; None gives every page.
        max_pixels: pixels that a page may have after the resize.

    Raises:
        MediaError: not readable, encrypted, without pages, page out of range, more pages than allowed, too slow.
        ImportError: a PDF, and pypdfium2 is not installed.
    """
    if isinstance(source, Image.Image) or is_array(source):
        return _only_page(source, page, source, limits)
    key, read = file_key(source, limits), cache(partial(read_bytes, source, limits))
    if not POOL.holds(key) and not _is_pdf(read()):
        return _only_page({"bytes": read(), "path": describe(source)}, page, source, limits)
    request = {
        "name": describe(source),
        "page": page,
        "most_pages": max(1, limits.document_pages),
        "max_pixels": min(max_pixels, limits.image_pixels),
        "password": limits.document_password,
    }
    return POOL.ask(request, read, limits, key)[1]


def count_pages(source: Any, limits: MediaLimits) -> int:
    """How many pages a PDF has; at least 1.

    Raises:
        MediaError: not a PDF that can be opened, or one without pages.
        ImportError: pypdfium2 is not installed.
    """
    request: dict[str, Any] = {"name": describe(source), "page": None, "most_pages": 0, "max_pixels": 0}
    request["password"] = limits.document_password
    key, read = file_key(source, limits), cache(partial(read_bytes, source, limits))
    if not POOL.holds(key) and not _is_pdf(read()):
        key = None  # PDFium refuses it; what it holds under a key is a PDF
    return POOL.ask(request, read, limits, key)[0]


def _is_pdf(data: bytes) -> bool:
    return format_of(data[:HEAD_BYTES]) == "pdf"


def _only_page(picture: Any, page: int | None, source: Any, limits: MediaLimits) -> list[Image.Image]:
    if page not in (None, 1):
        raise MediaError(f"{describe(source)} is a picture: it has one page, not a page {page}")
    return [load_image(picture, limits)]
