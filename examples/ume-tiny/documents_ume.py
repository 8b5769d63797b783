"""Read documents: pages of a PDF to RGB pictures, through pypdfium2."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from PIL import Image

from .limits_ume import Deadline, MediaError, MediaLimits, describe, reason
from .media_ume import load_image, to_rgb
from .sources_ume import read_bytes

try:
    import pypdfium2
except ImportError:  # an optional extra: the error is raised where a PDF is asked for
    pypdfium2 = None

GRACE_SECONDS = 2.0  # what a call of PDFium may take beyond the limit before it is given up
WAIT_SECONDS = 0.1  # how often those that wait look whether the one before them is stuck


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
        return [load_image(source if data is None else {"bytes": data, "path": describe(source)}, limits)]
    name, content = describe(source), data

    def pages(deadline: Deadline) -> list[Image.Image]:
        with _opened(content, name) as pdf:
            count = len(pdf)
            if page is not None and page > count:
                raise MediaError(f"{name} has {count} pages, not a page {page}")
            if page is None and count > limits.document_pages:
                raise MediaError(
                    f"{name} has {count} pages, more than the limit of {limits.document_pages}; name a page"
                )
            wanted = range(count) if page is None else [page - 1]
            return [_render(pdf, number, max_pixels, limits, deadline) for number in wanted]

    found: list[Image.Image] = _PDFIUM.run(pages, name, limits)
    return found


def count_pages(source: Any, limits: MediaLimits) -> int:
    """How many pages a PDF has; at least 1.

    Raises:
        MediaError: not a PDF that can be opened, or one without pages.
        ImportError: pypdfium2 is not installed.
    """
    data, name = read_bytes(source, limits), describe(source)

    def count(deadline: Deadline) -> int:
        with _opened(data, name) as pdf:
            return len(pdf)

    found: int = _PDFIUM.run(count, name, limits)
    return found


class _Pdfium:
    """Runs one thing after the other: PDFium is not thread-safe, not even for different documents.

    No call of it can be interrupted, and a file of a kilobyte can keep one busy for days (forms within forms). So
    each file has a thread of its own, which is left behind when its time is over; until that thread comes back,
    other PDFs are refused at once instead of waiting for it.
    """

    def __init__(self) -> None:
        self._busy = threading.Lock()
        self._state = threading.Lock()
        self._stuck: str | None = None

    def run(self, work: Callable[[Deadline], Any], name: str, limits: MediaLimits) -> Any:
        """What ``work`` gives, or raises; its time begins when PDFium is free.

        Raises:
            MediaError: the time is over, or PDFium is stuck in a file before.
            ImportError: pypdfium2 is not installed.
        """
        if pypdfium2 is None:
            raise ImportError("PDF pages need pypdfium2: pip install umekit[media]")
        while not self._busy.acquire(timeout=WAIT_SECONDS):
            if self._stuck is not None:
                raise MediaError(
                    f"{name}: cannot be read, because PDFium is still busy with {self._stuck}, whose time is over: "
                    "encode this one again in a new process, without that file"
                )
        deadline = Deadline(name, limits)
        outcome: list[Any] = []
        done = threading.Event()

        def body() -> None:
            try:
                outcome.append(work(deadline))
            except Exception as error:  # raised again in the caller's thread
                outcome.append(error)
            finally:
                with self._state:
                    self._stuck = None
                    done.set()
                self._busy.release()

        threading.Thread(target=body, name="umekit-pdf", daemon=True).start()
        if not done.wait(limits.file_seconds + GRACE_SECONDS):
            with self._state:
                if not done.is_set():
                    self._stuck = name
                    raise deadline.error()
        if isinstance(outcome[0], MediaError):
            raise outcome[0]
        if isinstance(outcome[0], Exception):
            raise MediaError(f"{name}: {reason(outcome[0])}") from outcome[0]
        return outcome[0]


_PDFIUM = _Pdfium()


@contextmanager
def _opened(data: bytes, name: str) -> Iterator[Any]:
    raw = pypdfium2.raw
    # PDFium keeps its last error, and sets none for a document without pages. So one is set that no bytes can cause.
    raw.FPDF_LoadDocument(b"", None)
    try:
        pdf = pypdfium2.PdfDocument(data)
    except pypdfium2.PdfiumError as error:
        why = "it has no pages" if raw.FPDF_GetLastError() == raw.FPDF_ERR_FILE else error
        raise MediaError(f"{name}: cannot open the PDF ({why})") from None
    try:
        if len(pdf) == 0:
            raise MediaError(f"{name} has no pages")
        yield pdf
    finally:
        pdf.close()


def _render(pdf: Any, number: int, max_pixels: int, limits: MediaLimits, deadline: Deadline) -> Image.Image:
    deadline.check()
    page = pdf[number]
    width, height = page.get_size()  # in points of 1/72 inch
    if not (0 < width < 1e5 and 0 < height < 1e5) or max(width, height) > 200 * min(width, height):
        raise MediaError(
            f"{deadline.name}: page {number + 1} of {width:g} x {height:g} points cannot be rendered"
        )
    scale = min(math.sqrt(min(max_pixels, limits.image_pixels) / (width * height)), 300 / 72)
    image = _drawn(page, max(scale, 1 / min(width, height)), deadline)
    page.close()
    return to_rgb(image)


def _drawn(page: Any, scale: float, deadline: Deadline) -> Image.Image:
    """The same as ``page.render(scale=scale).to_pil()``, but stopped between the page's objects."""
    raw = pypdfium2.raw
    width, height = math.ceil(page.get_width() * scale), math.ceil(page.get_height() * scale)
    bitmap = pypdfium2.PdfBitmap.new_native(width, height, raw.FPDFBitmap_BGR)
    raw.FPDFBitmap_FillRect(bitmap, 0, 0, width, height, 0xFFFFFFFF)
    pause = raw.IFSDK_PAUSE(version=1)
    callback = dict(raw.IFSDK_PAUSE._fields_)["NeedToPauseNow"]
    pause.NeedToPauseNow = callback(lambda _: deadline.passed)
    state = raw.FPDF_RenderPageBitmap_Start(bitmap, page, 0, 0, width, height, 0, raw.FPDF_ANNOT, pause)
    raw.FPDF_RenderPage_Close(page)
    deadline.check()
    if state != raw.FPDF_RENDER_DONE:
        raise MediaError(f"{deadline.name}: PDFium could not render a page")
    image: Image.Image = bitmap.to_pil()
    return image
