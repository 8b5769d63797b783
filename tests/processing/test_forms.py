"""What was typed into the fields of a PDF form is in the picture of its page, and nothing else changes."""

from __future__ import annotations

import runpy
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from umekit.processing.documents import load_document
from umekit.processing.limits import MediaLimits

pypdfium2 = pytest.importorskip("pypdfium2")
hostile = runpy.run_path(str(Path(__file__).parents[1] / "encoding" / "hostile.py"))
form: Any = hostile["pdf_form"]
stream: Any = hostile["pdf_stream"]

PIXELS = 300 * 200 * 4  # two pixels a point
DRAWN = b"/V(Alice)/AP<</N 4 0 R>>"
NEEDED = b"/Fields[7 0 R]/NeedAppearances true"
XFA = b"/Fields[7 0 R]/XFA[(template) 8 0 R]"
SWITCH = b"/FT/Btn/AP<</N<</Yes 4 0 R/Off 8 0 R>>>>"
EMPTY = stream(b"/Type/XObject/Subtype/Form/BBox[0 0 260 80]", b"")


def dark(data: bytes) -> np.ndarray:
    (page,) = load_document(data, 1, PIXELS, MediaLimits())
    return (np.asarray(page) < 128).any(axis=2)


FILLED = {
    "appearance": form(b"/FT/Tx" + DRAWN),
    "no appearance": form(b"/FT/Tx/V(Alice)"),
    "appearances needed": form(b"/FT/Tx/V(Alice)", fields=NEEDED),
    "not printed": form(b"/FT/Tx/F 0" + DRAWN),
    "listed by no form": form(b"/FT/Tx" + DRAWN, fields=b"/Fields[]"),
    "without a form": form(b"/FT/Tx" + DRAWN, fields=None),
    "choice": form(b"/FT/Ch/Ff 131072/V(Alice)/Opt[(Alice)(Bob)]", fields=NEEDED),
    "list": form(b"/FT/Ch/V(Alice)/Opt[(Alice)(Bob)]", fields=NEEDED),
    "box that is ticked": form(SWITCH + b"/V/Yes/AS/Yes", more=[EMPTY]),
    "tick without appearance": form(b"/FT/Btn/V/Yes/AS/Yes/MK<</CA(4)>>", fields=NEEDED),
    "signature": form(b"/FT/Sig/AP<</N 4 0 R>>"),
    "turned page": form(b"/FT/Tx" + DRAWN, page=b"/Rotate 90"),
    "cropped page": form(b"/FT/Tx" + DRAWN, page=b"/CropBox[0 0 150 200]"),
    "static XFA": form(b"/FT/Tx" + DRAWN, fields=XFA, more=[stream(b"", b"<a/>")]),
}
EMPTY_FORMS = {
    "nothing typed": form(b"/FT/Tx"),
    "nothing typed, appearances needed": form(b"/FT/Tx", fields=NEEDED),
    "hidden": form(b"/FT/Tx" + DRAWN, flags=2),
    "not viewed": form(b"/FT/Tx" + DRAWN, flags=32),
    "box that is not ticked": form(SWITCH + b"/V/Off/AS/Off", more=[EMPTY]),
}


@pytest.mark.parametrize("kind", FILLED)
def test_what_was_typed_is_seen(kind: str) -> None:
    assert dark(FILLED[kind]).sum() > 1000


@pytest.mark.parametrize("kind", EMPTY_FORMS)
def test_what_a_viewer_leaves_blank_is_blank(kind: str) -> None:
    (page,) = load_document(EMPTY_FORMS[kind], 1, PIXELS, MediaLimits())
    assert (np.asarray(page) == 255).all()  # fields have no tint either


def test_values_are_told_apart_and_outdated_appearances_are_not_shown() -> None:
    assert not np.array_equal(dark(form(b"/FT/Tx/V(Alice)")), dark(form(b"/FT/Tx/V(Bob 7)")))
    other = form(b"/FT/Tx/V(Bobby Bob)/AP<</N 4 0 R>>", fields=NEEDED)  # the stream says Alice
    assert np.array_equal(dark(other), dark(form(b"/FT/Tx/V(Bobby Bob)")))


def test_fields_stand_where_the_page_has_them() -> None:
    upright, turned = dark(FILLED["appearance"]), dark(FILLED["turned page"])
    assert upright.shape == turned.shape[::-1]
    rows, columns = np.nonzero(upright)
    assert set(rows) <= set(range(120, 280))
    assert columns.min() >= 40
    assert np.abs(np.rot90(upright, -1).astype(int) - turned).sum() < 0.2 * upright.sum()


def test_a_page_does_not_depend_on_those_before_it() -> None:
    """Fonts without widths are measured by those that stand in for them, which PDFium keeps as they were last."""
    field = form(b"/FT/Tx/V(Alice)")
    names = (b"Unknown", b"Unknown-Bold", b"Unknown-Italic", b"Times-Unknown")
    papers = [field.replace(b"/BaseFont/Helvetica", b"/BaseFont/" + name) for name in names]
    seen = [dark(paper) for paper in papers]
    for _ in range(2):
        for first in papers:
            for paper, expected in zip(papers, seen, strict=True):
                dark(first)
                np.testing.assert_array_equal(dark(paper), expected)


@pytest.mark.parametrize(
    "annotation",
    [
        b"/Subtype/Square/C[1 0 0]/AP<</N 4 0 R>>",
        b"/Subtype/Highlight/QuadPoints[20 140 280 140 20 60 280 60]/C[1 1 0]",
        b"/Subtype/Text/Contents(hello)/C[1 0 0]",
        b"/Subtype/Popup/Open true/Contents(hello)/AP<</N 4 0 R>>",
        b"/Subtype/Link/Border[0 0 3]/C[1 0 0]",
    ],
)
@pytest.mark.parametrize("fields", [None, b"/Fields[]"])
def test_annotations_stay_as_they_were(annotation: bytes, fields: bytes | None) -> None:
    data = form(annotation, fields=fields, widget=b"")
    document = pypdfium2.PdfDocument(data)
    expected = np.asarray(document[0].render(scale=2, rev_byteorder=True).to_pil().convert("RGB"))
    (page,) = load_document(data, 1, PIXELS, MediaLimits())
    np.testing.assert_array_equal(np.asarray(page), expected)


def test_a_dynamic_form_says_that_it_is_only_a_notice() -> None:
    options = {"fields": XFA, "more": [stream(b"", b"<a/>")]}
    with pytest.warns(UserWarning, match=r"bytes> is a dynamic XFA form: .*print it to a plain PDF"):
        dark(form(b"/FT/Tx" + DRAWN, catalogue=b"/NeedsRendering true", **options))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        dark(FILLED["static XFA"])
