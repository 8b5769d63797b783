"""Read documents: pages of a PDF to RGB pictures, through pypdfium2."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from PIL import Image

from .media_ume import MediaError, MediaLimits, describe, load_image, read_bytes, to_rgb

try:
    import pypdfium2
except ImportError:  # an optional extra: the error is raised where a PDF is asked for
    pypdfium2 = None

# PDFium is not thread-safe, not even for different documents, and items are prepared in threads.
_ONE_AT_A_TIME = threading.Lock()


def load_document(source: Any, page: int | None, max_pixels: int, limits: MediaLimits) -> list[Image.Image]:
    """Pages of a PDF as RGB pictures, rendered at about ``max_pixels`` so that one small resize is left.

    Args:
        source: path, URL or bytes of a PDF; or anything that ``load_image`` takes, as its only page.
        page: from 1; None gives every page.
        max_pixels: pixels that a page may have after the resize.

    Raises:
        MediaError: not readable, encrypted, without pages, page out of range, or more pages than allowed.
        ImportError: a PDF, and pypdfium2 is not installed.
    """
    data = None if isinstance(source, (Image.Image, np.ndarray)) else read_bytes(source, limits)
    if data is None or not data[:1024].lstrip().startswith(b"%PDF-"):
        if page not in (None, 1):
            raise MediaError(f"{describe(source)} is a picture: it has one page, not a page {page}")
        return [load_image(source if data is None else data, limits)]
    with _opened(data, describe(source)) as pdf:
        count = len(pdf)
        if page is not None and page > count:
            raise MediaError(f"{describe(source)} has {count} pages, not a page {page}")
        if page is None and count > limits.document_pages:
            raise MediaError(
                f"{describe(source)} has {count} pages, more than the limit of {limits.document_pages}; name a page"
            )
        wanted = range(count) if page is None else [page - 1]
        return [_render(pdf[number], max_pixels, limits) for number in wanted]


def count_pages(source: Any, limits: MediaLimits) -> int:
    """How many pages a PDF has; at least 1.

    Raises:
        MediaError: not a PDF that can be opened, or one without pages.
        ImportError: pypdfium2 is not installed.
    """
    with _opened(read_bytes(source, limits), describe(source)) as pdf:
        return len(pdf)


@contextmanager
def _opened(data: bytes, name: str) -> Iterator[Any]:
    if pypdfium2 is None:
        raise ImportError("PDF pages need pypdfium2: pip install umekit[media]")
    with _ONE_AT_A_TIME:
        try:
            pdf = pypdfium2.PdfDocument(data)
        except pypdfium2.PdfiumError as error:
            raise MediaError(f"{name}: cannot open the PDF ({error})") from None
        try:
            if len(pdf) == 0:
                raise MediaError(f"{name} has no pages")
            yield pdf
        except pypdfium2.PdfiumError as error:
            raise MediaError(f"{name}: {error}") from None
        finally:
            pdf.close()


def _render(page: Any, max_pixels: int, limits: MediaLimits) -> Image.Image:
    width, height = page.get_size()  # in points of 1/72 inch
    if not (0 < width < 1e5 and 0 < height < 1e5):
        raise MediaError(f"a page of {width} x {height} points cannot be rendered")
    scale = min(math.sqrt(min(max_pixels, limits.image_pixels) / (width * height)), 300 / 72)
    image = page.render(scale=max(scale, 1 / min(width, height))).to_pil()
    page.close()
    return to_rgb(image)
