"""PDF pages: one, all, or a clear refusal."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from umekit.processing.documents_ume import load_document
from umekit.processing.items_ume import ItemError
from umekit.processing.limits_ume import MediaError, MediaLimits
from umekit.processing.processing_ume import UmeProcessor

pypdfium2 = pytest.importorskip("pypdfium2")

LIMITS = MediaLimits()
COLOURS = [(200, 0, 0), (0, 200, 0), (0, 0, 200)]
PIXELS = 300 * 400


@pytest.fixture
def pdf(tmp_path: Path) -> Path:
    first, *rest = [Image.new("RGB", (300, 400), colour) for colour in COLOURS]
    path = tmp_path / "pages.pdf"
    first.save(path, "PDF", save_all=True, append_images=rest)
    return path


def _colour(page: Image.Image) -> int:
    return int(np.asarray(page)[100, 100].argmax())


def test_pages(pdf: Path) -> None:
    for source in (pdf, str(pdf), pdf.read_bytes()):
        pages = load_document(source, None, PIXELS, LIMITS)
        assert [_colour(page) for page in pages] == [0, 1, 2]
        assert all(page.mode == "RGB" for page in pages)
        assert all(page.width * page.height <= 1.05 * PIXELS for page in pages)
        assert [_colour(page) for page in load_document(source, 2, PIXELS, LIMITS)] == [1]


def test_pages_that_are_not_there(pdf: Path) -> None:
    with pytest.raises(MediaError, match=r"pages.pdf has 3 pages, not a page 4"):
        load_document(pdf, 4, PIXELS, LIMITS)
    with pytest.raises(MediaError, match="name a page"):
        load_document(pdf, None, PIXELS, MediaLimits(document_pages=2))
    assert len(load_document(pdf, 3, PIXELS, MediaLimits(document_pages=2))) == 1


def test_a_picture_is_a_document_of_one_page(tmp_path: Path) -> None:
    image = Image.new("RGB", (30, 40), COLOURS[1])
    path = tmp_path / "scan.png"
    image.save(path)
    for source in (path, image, np.asarray(image)):
        assert len(load_document(source, None, PIXELS, LIMITS)) == 1
        assert len(load_document(source, 1, PIXELS, LIMITS)) == 1
        with pytest.raises(MediaError, match="one page"):
            load_document(source, 2, PIXELS, LIMITS)


def test_broken_and_locked_documents(tmp_path: Path, pdf: Path) -> None:
    (tmp_path / "broken.pdf").write_bytes(b"%PDF-1.7 and nothing more")
    with pytest.raises(MediaError, match=r"broken\.pdf"):
        load_document(tmp_path / "broken.pdf", None, PIXELS, LIMITS)
    (tmp_path / "locked.pdf").write_bytes(_locked(pdf.read_bytes()))
    with pytest.raises(MediaError, match=r"locked\.pdf"):
        load_document(tmp_path / "locked.pdf", None, PIXELS, LIMITS)


def _locked(data: bytes) -> bytes:
    """The document with an encryption dictionary that no password opens."""
    key = b"00" * 32
    entry = b"/Encrypt << /Filter /Standard /V 1 /R 2 /P -4 /O <" + key + b"> /U <" + key + b"> >>"
    head, _, tail = data.rpartition(b"trailer\n<<")
    assert head
    identity = b" /ID [<00><00>] "
    return head + b"trailer\n<<" + identity + entry + tail


def test_documents_become_pictures(pdf: Path, tiny_checkpoint: Callable[..., Path]) -> None:
    processor = UmeProcessor.from_pretrained(tiny_checkpoint("qwen2_vl"))
    whole = processor.prepare({"document": pdf})
    assert len(whole.images) == 3
    page = processor.prepare(
        {"document": io.BytesIO(pdf.read_bytes()).getvalue(), "page": 2, "text": "total?"}
    )
    assert len(page.images) == 1
    np.testing.assert_array_equal(page.images[0].values, whole.images[1].values)
    with pytest.raises(ItemError, match="item 5"):
        processor.prepare({"document": pdf, "page": 9}, index=5)
