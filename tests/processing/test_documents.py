"""PDF pages: one, all, or a clear refusal."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, TiffImagePlugin

from umekit.processing import documents as documents_module
from umekit.processing import pdfium_process as pdfium_process_module
from umekit.processing import sources as sources_module
from umekit.processing.documents import count_pages, load_document
from umekit.processing.items import ItemError
from umekit.processing.limits import MediaError, MediaLimits
from umekit.processing.processor import UmeProcessor

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


def test_a_header_that_stands_behind_other_bytes(pdf: Path, tmp_path: Path) -> None:
    data = pdf.read_bytes()
    for before in (b"\xef\xbb\xbf", b"HTTP/1.1 200 OK\r\n\r\n", b"\0" * 1000):
        assert count_pages(before + data, LIMITS) == 3
        assert [_colour(page) for page in load_document(before + data, 2, PIXELS, LIMITS)] == [1]
    with pytest.raises(MediaError):
        count_pages(b"\0" * 1100 + data, LIMITS)


def test_encrypted_documents_need_their_password(
    tmp_path: Path, encrypted_pdf: Callable[[str], bytes]
) -> None:
    path = tmp_path / "letter.pdf"
    path.write_bytes(encrypted_pdf("sesame"))
    with pytest.raises(
        MediaError, match=r"letter\.pdf: cannot open the PDF \(it is encrypted: give its password"
    ):
        count_pages(path, LIMITS)
    with pytest.raises(MediaError, match="the password that was given does not open it"):
        load_document(path, 1, PIXELS, MediaLimits(document_password="simsalabim"))
    limits = MediaLimits(document_password="sesame")
    assert count_pages(path, limits) == 1
    assert _colour(load_document(path, 1, PIXELS, limits)[0]) == 1
    assert "sesame" not in repr(limits)
    with pytest.raises(MediaError, match="encrypted"):  # what a process has seen opens nothing for others
        load_document(path, 1, PIXELS, LIMITS)


def test_a_password_does_not_matter_to_a_document_without(pdf: Path) -> None:
    assert count_pages(pdf, MediaLimits(document_password="sesame")) == 3


def test_pages_of_a_tiff(tmp_path: Path) -> None:
    path = tmp_path / "scan.tif"
    first, *rest = [Image.new("RGB", (300, 400), colour) for colour in COLOURS]
    first.save(path, save_all=True, append_images=rest)
    for source in (path, path.read_bytes()):
        assert count_pages(source, LIMITS) == 3
        assert [_colour(page) for page in load_document(source, None, PIXELS, LIMITS)] == [0, 1, 2]
        assert [_colour(page) for page in load_document(source, 2, PIXELS, LIMITS)] == [1]
    with pytest.raises(MediaError, match=r"scan.tif has 3 pages, not a page 4"):
        load_document(path, 4, PIXELS, LIMITS)
    with pytest.raises(MediaError, match="name a page"):
        load_document(path, None, PIXELS, MediaLimits(document_pages=2))


def test_a_smaller_copy_in_a_tiff_is_no_page(tmp_path: Path) -> None:
    path = tmp_path / "scan.tif"
    with TiffImagePlugin.AppendingTiffWriter(str(path), new=True) as file:
        for side, kind, colour in ((300, 0, COLOURS[0]), (30, 1, COLOURS[1]), (300, 0, COLOURS[2])):
            Image.new("RGB", (side, side), colour).save(file, format="TIFF", tiffinfo={254: kind})
            file.newFrame()
    assert count_pages(path, LIMITS) == 2
    assert [_colour(page) for page in load_document(path, None, PIXELS, LIMITS)] == [0, 2]


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


# --- a document is read once for its pages ------------------------------------------------------------------


@pytest.fixture
def settled(pdf: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A document that may be held at once, and a pool of this test."""
    monkeypatch.setattr(sources_module, "SETTLED_SECONDS", -1.0)
    pool = pdfium_process_module.PdfiumPool()
    monkeypatch.setattr(documents_module, "POOL", pool)
    yield pdf
    pool.close()


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many bytes of a document each request sent."""
    found: list[int] = []
    real = pdfium_process_module.PdfiumProcess._send

    def send(self: Any, request: dict[str, Any], data: bytes) -> None:
        found.append(len(data))
        real(self, request, data)

    monkeypatch.setattr(pdfium_process_module.PdfiumProcess, "_send", send)
    return found


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Sources that were read whole."""
    found: list[Any] = []
    real = documents_module.read_bytes

    def read(source: Any, limits: MediaLimits) -> bytes:
        found.append(source)
        return real(source, limits)

    monkeypatch.setattr(documents_module, "read_bytes", read)
    return found


def test_a_file_is_read_and_sent_once_for_all_of_its_pages(
    settled: Path, sent: list[int], reads: list[Any]
) -> None:
    assert count_pages(settled, LIMITS) == 3
    for source in (settled, str(settled), {"bytes": None, "path": str(settled)}):
        for page in (1, 2, 3):
            (found,) = load_document(source, page, PIXELS, LIMITS)
            assert _colour(found) == page - 1
    with pytest.raises(MediaError, match=r"pages.pdf has 3 pages, not a page 4"):
        load_document(settled, 4, PIXELS, LIMITS)
    assert reads == [settled]
    assert sent == [settled.stat().st_size] + [0] * 10


def test_another_file_and_a_changed_one_are_read(settled: Path, reads: list[Any]) -> None:
    other = settled.with_name("other.pdf")
    Image.new("RGB", (300, 400), COLOURS[2]).save(other, "PDF")
    for _ in range(2):
        assert _colour(load_document(settled, 1, PIXELS, LIMITS)[0]) == 0
        assert _colour(load_document(other, 1, PIXELS, LIMITS)[0]) == 2
    assert len(reads) == 4
    other.replace(settled)
    assert _colour(load_document(settled, 1, PIXELS, LIMITS)[0]) == 2
    Image.new("RGB", (300, 400), COLOURS[1]).save(settled, "PDF")
    assert _colour(load_document(settled, 1, PIXELS, LIMITS)[0]) == 1
    settled.unlink()
    with pytest.raises(MediaError, match="no such file"):
        load_document(settled, 1, PIXELS, LIMITS)


def test_a_held_file_is_still_limited(settled: Path) -> None:
    assert count_pages(settled, LIMITS) == 3
    with pytest.raises(MediaError, match="more than the limit of 10"):
        load_document(settled, 1, PIXELS, MediaLimits(file_bytes=10))
    with pytest.raises(MediaError, match="name a page"):
        load_document(settled, None, PIXELS, MediaLimits(document_pages=2))


def test_what_is_no_settled_file_is_read_each_time(
    settled: Path, reads: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = settled.read_bytes()
    for _ in range(2):
        assert len(load_document(data, None, PIXELS, LIMITS)) == 3
    assert len(reads) == 2
    monkeypatch.setattr(sources_module, "SETTLED_SECONDS", 3600.0)  # its times may not show another change
    for _ in range(2):
        assert len(load_document(settled, None, PIXELS, LIMITS)) == 3
    assert len(reads) == 4
    for source in ("/proc/self/status", settled.parent, "a\0b", "https://a.example/b.pdf", 3):
        assert sources_module.file_key(source, LIMITS) is None


def test_a_picture_that_was_asked_for_its_pages_is_still_a_picture(settled: Path) -> None:
    place = settled.with_name("scan.png")
    Image.new("RGB", (30, 40), COLOURS[1]).save(place)
    with pytest.raises(MediaError, match="cannot open the PDF"):
        count_pages(place, LIMITS)
    assert load_document(place, 1, PIXELS, LIMITS)[0].size == (30, 40)


def test_a_process_that_died_is_sent_the_document_again(settled: Path, sent: list[int]) -> None:
    assert count_pages(settled, LIMITS) == 3
    process = documents_module.POOL._idle[0]
    holds = documents_module.POOL.holds

    def dies_after(key: str | None) -> bool:  # between the question and the request
        found = holds(key)
        process._process.kill()
        process._process.wait()
        return found

    documents_module.POOL.holds = dies_after  # type: ignore[method-assign]
    assert _colour(load_document(settled, 2, PIXELS, LIMITS)[0]) == 1
    assert sent == [settled.stat().st_size] * 2
