"""Files with several pictures: pages of a TIFF are a document's, of an animation the first is the still."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from umekit.processing.documents import load_document
from umekit.processing.limits import MediaError, MediaLimits
from umekit.processing.media import load_image

LIMITS = MediaLimits()


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def pages(*kinds: int | None, sizes: tuple[int, ...] = (64, 64, 64)) -> bytes:
    """A TIFF of pictures in grey 0, 100, 200, with what their headers say of the kind of each."""
    found = [
        Image.new("L", (side, 48), 100 * number)
        for number, side in zip(range(len(kinds)), sizes, strict=False)
    ]
    for image, kind in zip(found, kinds, strict=True):
        image.encoderinfo = {"tiffinfo": {} if kind is None else {254: kind}}  # type: ignore[attr-defined]
    first = {} if kinds[0] is None else {254: kinds[0]}
    return saved(found[0], "TIFF", save_all=True, append_images=found[1:], tiffinfo=first)


def test_a_tiff_of_several_pages_is_no_picture_but_a_document(tmp_path: Path) -> None:
    data = pages(None, None, None)
    (tmp_path / "scan.tif").write_bytes(data)
    for source in (data, str(tmp_path / "scan.tif"), {"bytes": data, "path": None}):
        with pytest.raises(
            MediaError, match=r"TIFF of several pages: .*\{\"document\": \.\.\., \"page\": 1\}"
        ):
            load_image(source, LIMITS)
        every = load_document(source, None, 10**6, LIMITS)
        assert [page.getpixel((9, 9))[0] for page in every] == [0, 100, 200]
        assert load_document(source, 2, 10**6, LIMITS)[0].getpixel((9, 9)) == (100,) * 3
    third = Image.open(io.BytesIO(data))
    third.seek(2)
    assert load_image(third, LIMITS).getpixel((9, 9)) == (200,) * 3  # one of its pictures was chosen
    sizes: list[Any] = load_document(data, None, 10**6, LIMITS, lambda page: page.size)
    assert sizes == [(64, 48)] * 3


@pytest.mark.parametrize(
    ("kinds", "shown"), [((0, 1), 0), ((0, 4, 1), 0), ((1, 0), 100), ((None, 1), 0), ((1, 4), 0), ((2,), 0)]
)
def test_smaller_copies_and_masks_are_no_pages(kinds: tuple[int | None, ...], shown: int) -> None:
    data = pages(*kinds, sizes=(64, 32, 16))
    assert load_image(data, LIMITS).getpixel((9, 9)) == (shown,) * 3
    assert len(load_document(data, None, 10**6, LIMITS)) == 1


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "MPO"])
def test_an_animation_as_a_picture_is_its_first(kind: str) -> None:
    frames = [Image.new("RGB", (32, 16), (grey,) * 3) for grey in (0, 200)]
    data = saved(frames[0], kind, save_all=True, append_images=frames[1:])
    assert load_image(data, LIMITS).getpixel((9, 9)) == (0, 0, 0)
