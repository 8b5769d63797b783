"""Equal items are encoded once, and nobody can tell by the vectors."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import umekit
from umekit.encoding.deduplication import first_occurrences


@pytest.fixture
def encoder(tiny_checkpoint: Callable[..., Path]) -> umekit.Encoder:
    return umekit.load(tiny_checkpoint("qwen2_vl"), device="cpu")


@pytest.fixture
def files(tmp_path: Path, pictures: list[Image.Image]) -> list[str]:
    for number, picture in enumerate(pictures):
        picture.save(tmp_path / f"{number}.png")
    return [str(tmp_path / f"{number}.png") for number in range(len(pictures))]


def prepared(encoder: umekit.Encoder, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Indices that are prepared from now on."""
    asked: list[int] = []
    real = encoder.processor.prepare

    def prepare(item: Any, *, index: int, **options: Any) -> Any:
        asked.append(index)
        return real(item, index=index, **options)

    monkeypatch.setattr(encoder.processor, "prepare", prepare)
    return asked


def test_equal_items_are_found(files: list[str], pictures: list[Image.Image]) -> None:
    data = Path(files[0]).read_bytes()
    copy = pictures[0].copy()
    frames = [pictures[2], pictures[3]]
    changed = pictures[0].copy()
    changed.putpixel((1, 1), (1, 2, 3))  # not among the pixels that are sampled
    items: list[Any] = [
        "a",
        "b",
        "a",
        {"text": "a"},
        {"image": files[0]},
        {"image": files[0], "text": "a"},
        {"text": "a", "image": files[0]},
        {"image": files[0]},
        {"image": data},
        {"image": {"bytes": bytes(bytearray(data)), "path": "x"}},
        {"image": {"bytes": bytes(bytearray(data)), "path": "y"}},
        {"image": pictures[0]},
        {"image": copy},
        {"image": changed},
        {"video": frames},
        {"video": [frame.copy() for frame in frames]},
        {"video": frames[::-1]},
        {"document": "x.pdf", "page": 1},
        {"document": "x.pdf", "page": True},
        {"document": "x.pdf", "page": 1},
        {"image": {1, 2}},
        {"image": {1, 2}},
        7,
    ]
    same = {2: 0, 7: 4, 10: 9, 12: 11, 15: 14, 19: 17}
    assert first_occurrences(items) == [same.get(index, index) for index in range(len(items))]


def test_equal_pixels_that_are_shown_otherwise_are_not_equal(pictures: list[Image.Image]) -> None:
    found = [pictures[0].copy() for _ in range(5)]
    found[1].getexif()[0x0112] = 6
    found[2].getexif()[0x0112] = 8
    found[3].info["icc_profile"] = b"another"
    found[4].getexif()[0x0112] = 6
    assert first_occurrences(found) == [0, 1, 2, 3, 1]


def test_pictures_that_are_alike_are_not_all_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages are white nearly everywhere, and of one size."""
    pages = []
    for number in range(30):
        page = Image.new("RGB", (600, 800), "white")
        page.paste((0, 0, 0), (11 + 4 * number, 13, 14 + 4 * number, 17))
        pages.append(page)
    compared: list[int] = []
    equal = Image.Image.__eq__
    monkeypatch.setattr(Image.Image, "__eq__", lambda a, b: compared.append(1) or equal(a, b))
    assert first_occurrences([*pages, pages[3].copy()]) == [*range(30), 3]
    assert len(compared) == 1


def test_what_is_not_decoded_yet_is_not_decoded_for_it(files: list[str]) -> None:
    opened = [Image.open(files[0]), Image.open(files[0])]
    assert first_occurrences([*opened, opened[0]]) == [0, 1, 0]
    assert all(image.tile for image in opened)
    for image in opened:
        image.load()
    assert first_occurrences(opened) == [0, 0]


def test_a_closed_picture_is_no_end_of_the_call(encoder: umekit.Encoder, files: list[str]) -> None:
    closed = Image.open(files[0])
    closed.load()
    closed.close()
    found = encoder.encode(["a", closed, "b"], on_error="skip", return_details=True)
    assert [index for index, _ in found.errors] == [1]


def test_a_lazy_sequence_is_not_looked_through() -> None:
    class Column(list):  # type: ignore[type-arg]
        pass

    class Lazy:
        def __len__(self) -> int:
            return 3

        def __getitem__(self, index: int) -> Any:
            raise AssertionError("it was read")

    assert first_occurrences(Lazy()) == [0, 1, 2]  # type: ignore[arg-type]
    assert first_occurrences(Column("aa")) == [0, 0]


def test_equal_items_are_encoded_once(
    encoder: umekit.Encoder, files: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    unique: list[Any] = [
        "a text",
        {"image": files[0]},
        "another, longer text",
        {"image": files[1], "text": "a"},
    ]
    alone = encoder.encode(unique)
    asked = prepared(encoder, monkeypatch)
    found = encoder.encode([unique[number] for number in (0, 1, 0, 2, 1, 3, 0)])
    np.testing.assert_array_equal(found, alone[[0, 1, 0, 2, 1, 3, 0]])
    assert sorted(asked) == [0, 1, 3, 5]


def test_equal_items_that_fail_are_all_named(encoder: umekit.Encoder, tmp_path: Path) -> None:
    broken = {"image": str(tmp_path / "missing.png")}
    found = encoder.encode(["a", broken, broken, "a", broken], on_error="skip", return_details=True)
    assert [index for index, _ in found.errors] == [1, 2, 4]
    assert [str(error).split(":")[0] for _, error in found.errors] == ["item 1", "item 2", "item 4"]
    assert np.isnan(found.embeddings[[1, 2, 4]]).all()
    np.testing.assert_array_equal(found.embeddings[0], found.embeddings[3])


def test_drawn_thoughts_stay_their_own(tiny_checkpoint: Callable[..., Path]) -> None:
    encoder = umekit.load(tiny_checkpoint("qwen2_vl", role="generative"), device="cpu")
    texts = ["the same"] * 4
    drawn = encoder.encode(texts, temperature=1.0, seed=0, return_details=True)
    assert len(set(drawn.thoughts)) > 1
    greedy = encoder.encode(texts, return_details=True)
    assert len(set(greedy.thoughts)) == 1
    assert greedy.thoughts[0] is not None
    assert len(set(greedy.thought_tokens)) == 1


def test_a_shared_picture_that_is_broken_is_named(encoder: umekit.Encoder, files: list[str]) -> None:
    stream = io.BytesIO()
    Image.open(files[0]).save(stream, "PNG")
    broken = stream.getvalue()[:200]
    items = [{"image": broken, "text": "a"}, {"image": files[0]}, {"image": broken, "text": "b"}]
    found = encoder.encode(items, on_error="skip", return_details=True)
    assert [str(error).split(":")[0] for _, error in found.errors] == ["item 0", "item 2"]
