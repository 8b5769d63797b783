"""Thousands of hostile items among good ones: every bad one is named, and no good one changes."""

from __future__ import annotations

import faulthandler
import re
import runpy
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import umekit
from umekit.processing.items import ItemError
from umekit.processing.limits import MediaLimits

pytest.importorskip("av")
pytest.importorskip("pypdfium2")

Generator: Any = runpy.run_path(str(Path(__file__).with_name("hostile.py")))["Generator"]
LIMITS = MediaLimits(image_pixels=4_000_000, file_seconds=20, url_seconds=2)
NAMED = (
    type(None),
    ValueError,
    TypeError,
)  # causes that the code foresees; anything else leaked from a library


@contextmanager
def ended_after(seconds: int) -> Iterator[None]:
    """The whole process ends, and says where it hung; a busy machine takes its time."""
    faulthandler.dump_traceback_later(seconds, exit=True)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()


@pytest.fixture(scope="module")
def encoder() -> umekit.Encoder:
    encoder = umekit.load(device="cpu", dtype="float32")
    encoder.processor.limits = LIMITS
    encoder.workers = 4
    return encoder


def check(
    encoder: umekit.Encoder, folder: Path, seed: int, count: int, alone: int = 20
) -> list[tuple[str, Exception | None]]:
    """The kind of each sample, and its error; ``alone`` of those that turned out to be readable are encoded again."""
    generator = Generator(seed, folder)
    clean = np.concatenate([encoder.encode([item]) for item in generator.good])
    samples = generator.samples(count)
    found = encoder.encode([sample.item for sample in samples], on_error="skip", return_details=True)

    bad = dict(found.errors)
    assert [index for index, _ in found.errors] == sorted(bad), "an item is listed twice or out of order"
    finite = np.isfinite(found.embeddings).all(axis=1)
    assert set(np.flatnonzero(~finite)) == set(bad)
    assert np.isnan(found.embeddings[~finite]).all()
    np.testing.assert_allclose(np.linalg.norm(found.embeddings[finite], axis=1), 1, atol=1e-5)
    for index, error in bad.items():
        assert isinstance(error, ItemError), (samples[index].kind, error)
        assert error.index == index
        assert re.match(rf"item {index}: .{{8}}", str(error), re.DOTALL), error
        assert len(str(error)) < 1000
        assert isinstance(error.__cause__, NAMED), (samples[index].kind, error.__cause__)

    good = [index for index, sample in enumerate(samples) if sample.good is not None]
    np.testing.assert_allclose(
        found.embeddings[good], clean[[samples[index].good for index in good]], atol=1e-5
    )
    for index, sample in enumerate(samples):
        if sample.words is not None:
            assert index in bad, f"{sample.kind} was encoded: {str(sample.item)[:80]}"
            assert re.search(sample.words, str(bad[index]), re.DOTALL), (sample.kind, bad[index])
    # What a fault left readable is one medium, whatever else was in the call.
    open_ended = [i for i in np.flatnonzero(finite) if samples[i].good is None][:alone]
    again = np.concatenate([encoder.encode([samples[index].item]) for index in open_ended])
    np.testing.assert_allclose(found.embeddings[open_ended], again, atol=1e-5)
    return [(sample.kind, bad.get(index)) for index, sample in enumerate(samples)]


def refused(found: list[tuple[str, Exception | None]]) -> Counter[str]:
    return Counter(kind for kind, error in found if error is not None)


def test_five_hundred_items(encoder: umekit.Encoder, tmp_path: Path) -> None:
    with ended_after(600):
        kinds = refused(check(encoder, tmp_path, seed=1, count=500))
    assert len(kinds) > 25


@pytest.mark.slow
def test_ten_thousand_items(encoder: umekit.Encoder, tmp_path: Path) -> None:
    with ended_after(1800):
        kinds = refused(check(encoder, tmp_path, seed=2, count=10_000))
    assert len(kinds) > 35
    assert sum(kinds.values()) > 4000
    for kind in sorted(kinds):
        print(f"{kinds[kind]:6} {kind}")


def test_every_kind_of_bad_item_is_named_when_it_raises(encoder: umekit.Encoder, tmp_path: Path) -> None:
    generator = Generator(3, tmp_path)
    for kind, item, words in generator.bad:
        with pytest.raises(ItemError, match=f"(?s)^item 1: .*({words})") as caught:
            encoder.encode(["good", item() if callable(item) else item])
        assert caught.value.index == 1, kind


def test_a_long_text_is_cut_and_not_lost(encoder: umekit.Encoder) -> None:
    """A megabyte of words, and texts without a place to break at."""
    texts = ["word " * 200_000, "x" * 100_000, "<|im_end|>" * 10_000]
    with ended_after(600):
        vectors = encoder.encode(texts)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
