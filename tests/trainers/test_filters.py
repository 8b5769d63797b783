"""Filters: what is dropped, why, and that no near-duplicate is missed."""

from __future__ import annotations

import io
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFilter

from umekit.evaluation.digit_world import DigitWorld
from umekit.processing.limits import MediaLimits
from umekit.trainers.filters import NearDuplicates, dhash, filter_rows, sharpness
from umekit.trainers.sampling import Subset


def scene(seed: int = 0, size: tuple[int, int] = (64, 48)) -> Image.Image:
    """Coarse shapes under fine noise."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 255, (6, 8, 3), dtype=np.uint8)).resize(
        size, Image.Resampling.BILINEAR
    )
    fine = rng.normal(0, 25, (size[1], size[0], 3))
    return Image.fromarray(np.clip(np.asarray(coarse) + fine, 0, 255).astype(np.uint8))


def jpeg(image: Image.Image, quality: int = 60) -> bytes:
    data = io.BytesIO()
    image.save(data, "JPEG", quality=quality)
    return data.getvalue()


def row(image: Any, text: str = "a caption") -> dict[str, Any]:
    return {"query": {"image": image}, "positive": text}


def test_sharpness_is_the_variance_of_the_laplacian() -> None:
    image = scene()
    grey = np.asarray(image.convert("L"), dtype=float)
    values = [
        grey[y - 1, x] + grey[y + 1, x] + grey[y, x - 1] + grey[y, x + 1] - 4 * grey[y, x]
        for y, x in itertools.product(range(1, 47), range(1, 63))
    ]
    assert sharpness(image) == pytest.approx(np.var(values))
    assert sharpness(image.filter(ImageFilter.GaussianBlur(3))) < 0.05 * sharpness(image)
    assert sharpness(Image.new("RGB", (40, 40), "red")) == 0
    assert sharpness(Image.new("RGB", (2, 40))) == 0
    large = scene(size=(2048, 1024))
    assert sharpness(large) == pytest.approx(sharpness(large.resize((512, 256), Image.Resampling.BOX)))


def test_dhash_compares_neighbours() -> None:
    ramp = Image.fromarray(np.tile(np.arange(0, 90, 10, dtype=np.uint8), (8, 1)))
    assert dhash(ramp) == 2**64 - 1
    assert dhash(ramp.transpose(Image.Transpose.FLIP_LEFT_RIGHT)) == 0
    image = scene()
    same = [
        image.resize((128, 96)),
        Image.open(io.BytesIO(jpeg(image))),
        image.point(lambda value: value * 0.8),
    ]
    assert all((dhash(image) ^ dhash(one)).bit_count() <= 4 for one in same)
    assert (dhash(image) ^ dhash(scene(1))).bit_count() > 12
    assert dhash(image, 16).bit_length() <= 256


def test_every_reason(tmp_path: Path) -> None:
    (tmp_path / "cut.jpg").write_bytes(jpeg(scene(2))[:300])
    rows = [
        row(scene(0)),
        row(tmp_path / "cut.jpg"),
        row(b"no picture"),
        row(scene(3, (10, 80))),
        row(scene(4).filter(ImageFilter.GaussianBlur(6))),
        row(jpeg(scene(0))),
        row(jpeg(scene(0)), "another caption"),
        {"query": "only text", "positive": "only text"},
        {"query": "only text", "positive": "only text"},
        {"query": {"image": scene(5)}, "positive": "p", "negatives": ["n", {"image": b"broken"}]},
        {"query": {"text": 3}, "positive": "p"},
    ]
    found = filter_rows(rows, min_side=16, min_sharpness=50, duplicate_distance=4)
    assert found.kept.tolist() == [0, 6, 7, 8]
    assert [(one.index, one.reason) for one in found.dropped] == [
        (1, "corrupt"),
        (2, "corrupt"),
        (3, "small"),
        (4, "blurred"),
        (5, "duplicate"),
        (9, "corrupt"),
        (10, "corrupt"),
    ]
    details = {one.index: one.detail for one in found.dropped}
    assert "cut.jpg" in details[1]
    assert details[3] == "10 pixels; at least 16 are wanted"
    assert details[5] == "of row 0"
    assert "'text' takes a str" in details[10]
    assert found.counts() == {"kept": 4, "corrupt": 4, "small": 1, "blurred": 1, "duplicate": 1}
    assert Subset(rows, found.kept)[1]["positive"] == "another caption"


def test_nothing_is_dropped_but_what_was_asked_for() -> None:
    rows = [row(scene(3, (10, 80))), row(Image.new("RGB", (9, 9))), row(Image.new("RGB", (9, 9)))]
    assert filter_rows(rows).kept.tolist() == [0, 1, 2]
    over = filter_rows([row(jpeg(scene()))], limits=MediaLimits(image_pixels=100))
    assert over.counts() == {"kept": 0, "corrupt": 1}


def test_columns_and_unreadable_rows() -> None:
    class Rows:
        def __len__(self) -> int:
            return 3

        def __getitem__(self, index: int) -> dict[str, Any]:
            if index == 1:
                raise OSError("x.jsonl:2: gone")
            return {"query": {"image": scene()}, "positive": {"image": b"broken"}}

    found = filter_rows(Rows(), columns=("query",), duplicate_distance=0)
    assert [(one.index, one.reason, one.detail) for one in found.dropped] == [
        (1, "corrupt", "x.jsonl:2: gone"),
        (2, "duplicate", "of row 0"),
    ]


def test_videos_and_pages() -> None:
    sharp, soft = scene(), scene().filter(ImageFilter.GaussianBlur(6))
    rows = [
        {"query": {"video": [soft, soft, sharp, soft]}, "positive": "as sharp as its sharpest frame"},
        {"query": {"video": [soft, soft]}, "positive": "blurred"},
        {"query": {"video": b"no film"}, "positive": "corrupt"},
        {"query": {"document": b"%PDF-1.4 broken"}, "positive": "corrupt"},
        {"query": {"document": jpeg(sharp)}, "positive": "a page as a picture"},
    ]
    found = filter_rows(rows, min_sharpness=50)
    assert found.kept.tolist() == [0, 4]
    assert [one.reason for one in found.dropped] == ["blurred", "corrupt", "corrupt"]


def test_a_pdf_after_other_bytes_and_pages_of_a_tiff() -> None:
    def paged(*pages: Image.Image) -> bytes:
        stream = io.BytesIO()
        pages[0].save(stream, "TIFF", save_all=True, append_images=pages[1:])
        return stream.getvalue()

    sharp, soft = scene(), scene().filter(ImageFilter.GaussianBlur(6))
    rows = [
        {"query": {"document": b"mail\r\n%PDF-1.4 broken"}},
        {"query": {"document": paged(sharp, sharp)}},
        {"query": {"document": paged(sharp, soft)}},
        {"query": {"document": paged(sharp, soft), "page": 1}},
    ]
    found = filter_rows(rows, min_sharpness=50)
    assert found.kept.tolist() == [1, 3]
    assert "PDF" in found.dropped[0].detail
    assert found.dropped[1].reason == "blurred"


def test_digit_world_loses_no_row_to_corruption() -> None:
    rows = DigitWorld("train", 0).rows("retrieve_clip", 3)
    assert filter_rows(rows, min_side=8).counts() == {"kept": 3}


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 6), st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2**16 - 1)), max_size=40))
def test_no_near_duplicate_is_missed(distance: int, entries: list[tuple[int, int]]) -> None:
    finder, kept = NearDuplicates(distance, bits=16), []
    for index, (key, value) in enumerate(entries):
        near = [
            one
            for one in kept
            if entries[one][0] == key and (entries[one][1] ^ value).bit_count() <= distance
        ]
        assert finder.add(index, [value], key) == (near[0] if near else None)
        if not near:
            kept.append(index)


def test_all_pictures_of_a_row_must_be_near() -> None:
    finder = NearDuplicates(1, bits=8)
    assert finder.add(0, [0b1, 0b11110000]) is None
    assert finder.add(1, [0b0, 0b00001111]) is None
    assert finder.add(2, [0b0, 0b11110001]) == 0
    assert finder.add(3, [0b0]) is None
    with pytest.raises(ValueError, match="makes no sense"):
        NearDuplicates(8, bits=8)
