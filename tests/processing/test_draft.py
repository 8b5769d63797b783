"""JPEG drafts: off unless asked for, smaller by an exact part, the same grid, nearly the same pixels."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from umekit.processing.limits import MediaError, MediaLimits
from umekit.processing.media import load_image
from umekit.processing.vision import PatchLayout, PixelBudget, fit, image_patches

MOST = 20 * 28**2
BUDGET = PixelBudget(image=(784, MOST), frame=(784, MOST), video=(784, MOST))
DRAFT = MediaLimits(draft_pixels=4 * MOST)


def jpeg(width: int, height: int) -> bytes:
    cells = np.random.default_rng(width * height).integers(0, 255, (9, 9, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(cells).resize((width, height), Image.Resampling.BICUBIC).save(stream, "JPEG", quality=90)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((4032, 3024), (504, 378)),
        ((1000, 1000), (500, 500)),
        ((1002, 1000), (501, 500)),
        ((1001, 1000), (1001, 1000)),  # cannot be halved
        ((300, 400), (300, 400)),  # too small
    ],
)
def test_a_draft_is_an_exact_part(size: tuple[int, int], expected: tuple[int, int]) -> None:
    data = jpeg(*size)
    assert load_image(data, DRAFT).size == expected
    assert load_image(data, MediaLimits()).size == size


def test_grids_stay_and_pixels_nearly() -> None:
    rng = np.random.default_rng(0)
    for _ in range(40):
        width, height = (int(side) * 8 for side in rng.integers(40, 220, 2))
        whole, draft = (
            image_patches(load_image(jpeg(width, height), limits), PatchLayout(), BUDGET)
            for limits in (MediaLimits(), DRAFT)
        )
        assert whole.grid == draft.grid
        assert np.abs(whole.values.astype(int) - draft.values).mean() < 2


def test_every_size_that_is_drafted_keeps_its_grid() -> None:
    """The rule alone, for many sizes: half the sides give the same grid while both are over the budget."""
    rng = np.random.default_rng(1)
    layout = PatchLayout()
    for width, height in rng.integers(1, 1500, (2000, 2)) * 8:
        if max(width, height) > 200 * min(width, height):
            continue
        for scale in (8, 4, 2):
            if width * height < DRAFT.draft_pixels * scale**2:
                continue
            sizes = [(int(height), int(width)), (int(height) // scale, int(width) // scale)]
            whole, draft = (fit_of(*size, layout) for size in sizes)
            assert whole == draft


def fit_of(height: int, width: int, layout: PatchLayout) -> tuple[int, int]:
    return fit(height, width, layout.factor, *BUDGET.image)


def test_the_limit_counts_the_whole_picture() -> None:
    with pytest.raises(MediaError, match="1600 x 1200 pixels"):
        load_image(jpeg(1600, 1200), replace(DRAFT, image_pixels=1_000_000))
