"""PDFium in a process of its own; ``pdfium_process`` starts this file as a program, so it imports no sibling.

A request is a line of JSON and the bytes of a document; without a ``size`` no bytes follow, and it is about the last
document once more. The answer is a line of JSON with the number of pages (and a ``warning``, where there is one), then
one for each page that was asked for, each before its pixels (RGB, rows of ``stride`` bytes); or, at any place, a line
with an ``error``.
"""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, BinaryIO

try:
    import pypdfium2
except ImportError:  # an optional extra: the error is raised where a PDF is asked for
    pypdfium2 = None
try:
    import resource
except ImportError:  # not on Windows, where remote code with this import outside a try would not load at all
    resource = None  # type: ignore[assignment]

PROGRAM = __file__
MEMORY = 4 * 2**30  # bytes that this process may take: a document of a kilobyte can ask for any number
SHARPEST = 300 / 72  # pixels per point
DYNAMIC = (
    "is a dynamic XFA form: only Adobe's software draws its pages, all else (and this vector) sees a notice that says "
    "so; print it to a plain PDF there"
)
# A page in two fonts that are neither embedded nor known, one with serifs, of known weight and width.
SETTLING = b"""%PDF-1.4
1 0 obj<</Type/Catalog/Pages 2 0 R>>endobj
2 0 obj<</Type/Pages/Kids[3 0 R]/Count 1>>endobj
3 0 obj<</Type/Page/Parent 2 0 R/MediaBox[0 0 90 30]/Contents 4 0 R/Resources<</Font<</F 5 0 R/G 6 0 R>>>>>>endobj
4 0 obj<</Length 46>>stream
BT /F 30 Tf 5 5 Td (A) Tj /G 30 Tf (A) Tj ET
endstream endobj
5 0 obj<</Type/Font/Subtype/TrueType/BaseFont/F/FirstChar 65/LastChar 65/Widths[667]/FontDescriptor 7 0 R>>endobj
6 0 obj<</Type/Font/Subtype/TrueType/BaseFont/G/FirstChar 65/LastChar 65/Widths[667]/FontDescriptor 8 0 R>>endobj
7 0 obj<</Type/FontDescriptor/FontName/F/Flags 32/StemV 80/ItalicAngle 0/Ascent 800/Descent -200>>endobj
8 0 obj<</Type/FontDescriptor/FontName/G/Flags 34/StemV 80/ItalicAngle 0/Ascent 800/Descent -200>>endobj
trailer<</Root 1 0 R>>
%%EOF
"""


class DocumentError(ValueError):
    """A document that cannot be read; the message names it."""


def main() -> None:
    """Answer requests until there are none."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(
        os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno()
    )  # whatever prints must not be taken for an answer
    _limit_memory()
    _write(answers, {"ready": True})
    requests, data = sys.stdin.buffer, b""
    while line := requests.readline():
        request = json.loads(line)
        if request["size"] is not None:
            data = b""  # two documents may be more than the memory
            data = requests.read(request["size"])
        try:
            _answer(request, data, answers)
        except DocumentError as error:
            _write(answers, {"error": str(error)})
        except Exception as error:  # of a foreign decoder: the next document may well be read
            said = f"its data are damaged ({type(error).__name__}: {str(error)[:200]})"
            _write(answers, {"error": f"{request['name']}: {said}"})


def _limit_memory() -> None:
    if resource is not None:
        with suppress(ValueError, OSError):  # there is a lower limit already
            resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))


def _answer(request: dict[str, Any], data: bytes, answers: BinaryIO) -> None:
    name, page, most = request["name"], request["page"], request["most_pages"]
    with _opened(data, name, request["password"]) as pdf:
        count = len(pdf)
        if most == 0:  # only their number is wanted
            _write(answers, {"pages": count, "rendered": 0})
            return
        if page is not None and page > count:
            raise DocumentError(f"{name} has {count} pages, not a page {page}")
        if page is None and count > most:
            raise DocumentError(f"{name} has {count} pages, more than the limit of {most}; name a page")
        wanted = range(count) if page is None else [page - 1]
        head: dict[str, Any] = {"pages": count, "rendered": len(wanted)}
        if pdf.get_formtype() == pypdfium2.raw.FORMTYPE_XFA_FULL:
            head["warning"] = f"{name} {DYNAMIC}"
        _write(answers, head)
        with _fields(pdf) as form:
            for number in wanted:
                bitmap = _render(pdf, number, request["max_pixels"], name, form)
                size = {"width": bitmap.width, "height": bitmap.height, "stride": bitmap.stride}
                _write(answers, size, bytes(bitmap.buffer))


@contextmanager
def _opened(data: bytes, name: str, password: str | None) -> Iterator[Any]:
    raw = pypdfium2.raw
    # PDFium keeps its last error, and sets none for a document without pages. So one is set that no bytes can cause.
    raw.FPDF_LoadDocument(b"", None)
    try:
        pdf = pypdfium2.PdfDocument(data, password=password)
    except pypdfium2.PdfiumError as error:
        raise DocumentError(f"{name}: {_why(raw.FPDF_GetLastError(), error, password)}") from None
    try:
        if len(pdf) == 0:
            raise DocumentError(f"{name} has no pages")
        yield pdf
    finally:
        pdf.close()


def _why(code: int, error: Exception, password: str | None) -> str:
    """PDFium's last error in words that say what to do."""
    why = str(error)
    if code == pypdfium2.raw.FPDF_ERR_FILE:
        why = "it has no pages"
    elif code == pypdfium2.raw.FPDF_ERR_SECURITY:
        why = "it is encrypted in a way that PDFium does not know: save it without encryption"
    elif code == pypdfium2.raw.FPDF_ERR_PASSWORD and password is not None:
        why = "it is encrypted, and the password that was given does not open it"
    elif code == pypdfium2.raw.FPDF_ERR_PASSWORD:
        why = "it is encrypted: give its password (--password, or MediaLimits(document_password=...))"
    return f"cannot open the PDF ({why})"


@contextmanager
def _fields(pdf: Any) -> Iterator[Any]:
    """What draws the fields of a form, for as long as its pages are open; scripts and XFA are never run.

    Not pypdfium2's ``init_forms``: that leaves out fields which no form lists, and draws closed comments.
    """
    raw = pypdfium2.raw
    config = raw.FPDF_FORMFILLINFO(version=2, xfa_disabled=True)
    form = raw.FPDFDOC_InitFormFillEnvironment(pdf, config)
    try:
        yield form
    finally:
        if form:
            raw.FPDFDOC_ExitFormFillEnvironment(form)


def _settle() -> None:
    """Bring the fonts that stand in for those which a document does not embed into one known state.

    PDFium bends them to weight and width, keeps them as it last had them, and measures fonts without widths by that: a
    page would depend on those before it.
    """
    pdf = pypdfium2.PdfDocument(SETTLING)
    try:
        page = pdf[0]
        page.render(scale=0.2)
        page.close()
    finally:
        pdf.close()


@contextmanager
def _page(pdf: Any, number: int, form: Any) -> Iterator[Any]:
    _settle()
    page = pdf[number]
    try:
        if form:
            pypdfium2.raw.FORM_OnAfterLoadPage(page, form)
        yield page
        if form:
            pypdfium2.raw.FORM_OnBeforeClosePage(page, form)
    finally:
        page.close()


def _render(pdf: Any, number: int, max_pixels: int, name: str, form: Any) -> Any:
    with _page(pdf, number, form) as page:
        bitmap = page.render(scale=_scale(page, number, max_pixels, name), rev_byteorder=True)
        if bitmap.mode != "RGB":
            raise DocumentError(f"{name}: page {number + 1} became {bitmap.mode} instead of RGB")
        if form:
            place = (0, 0, bitmap.width, bitmap.height, 0)
            pypdfium2.raw.FPDF_FFLDraw(form, bitmap, page, *place, pypdfium2.raw.FPDF_REVERSE_BYTE_ORDER)
    return bitmap


def _scale(page: Any, number: int, max_pixels: int, name: str) -> float:
    """Pixels per point.

    Raises:
        DocumentError: a page of a shape that cannot be rendered.
    """
    width, height = page.get_size()  # in points of 1/72 inch
    if not (0 < width < 1e5 and 0 < height < 1e5) or max(width, height) > 200 * min(width, height):
        raise DocumentError(f"{name}: page {number + 1} of {width:g} x {height:g} points cannot be rendered")
    scale = min(math.sqrt(max_pixels / (width * height)), SHARPEST)
    return max(scale, 1 / min(width, height))


def _write(answers: BinaryIO, entries: dict[str, Any], pixels: bytes = b"") -> None:
    answers.write(json.dumps(entries).encode() + b"\n" + pixels)
    answers.flush()


if __name__ == "__main__":
    main()
