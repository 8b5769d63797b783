"""Media that several items show go through the tower once, and nobody can tell by the vectors."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import umekit
from umekit.encoding import encoder as encoder_module
from umekit.encoding import prefetching as prefetching_module
from umekit.encoding.shared_features import SharedFeatures
from umekit.modeling import vision_features as vision_features_module
from umekit.modeling.backbone import base_of


@pytest.fixture
def towered(monkeypatch: pytest.MonkeyPatch) -> Callable[[umekit.Encoder], list[int]]:
    """Numbers of media of every run of an encoder's vision tower from now on."""

    def watch(encoder: umekit.Encoder) -> list[int]:
        runs: list[int] = []
        inside: list[bool] = []  # Qwen3-VL's videos are run as images
        base = base_of(encoder.model.backbone)
        for name in ("get_image_features", "get_video_features"):
            real = getattr(base, name)

            def run(pixels: Any, grid: Any, *, _real: Any = real, **options: Any) -> Any:
                if not inside:
                    runs.append(len(grid))
                inside.append(True)
                try:
                    return _real(pixels, grid, **options)
                finally:
                    inside.pop()

            monkeypatch.setattr(base, name, run)
        return runs

    return watch


@pytest.fixture
def items(pictures: list[Image.Image]) -> list[Any]:
    """Two pictures and a clip, each with questions of several lengths, beside items that share nothing."""
    clip = [pictures[2], pictures[2].rotate(90)]
    return [
        {"image": pictures[0], "text": "what is it?"},
        {"image": pictures[0], "text": "what is it, and why is it shown here of all places? " * 4},
        {"image": pictures[0]},
        {"image": pictures[1], "text": "which colour?"},
        {"images": [pictures[1], pictures[0]], "text": "which one is larger?"},
        {"video": clip, "text": "short"},
        {"video": clip, "text": "somewhat longer than the other " * 3},
        {"image": pictures[4]},
        "only a text",
    ]


def test_each_medium_is_encoded_once_and_vectors_stay(
    tiny_checkpoint: Callable[..., Path],
    family: str,
    items: list[Any],
    towered: Callable[[umekit.Encoder], list[int]],
) -> None:
    encoder = umekit.load(tiny_checkpoint(family), device="cpu")
    runs = towered(encoder)
    alone = np.concatenate([encoder.encode([item]) for item in items])
    before = sum(runs)
    runs.clear()
    together = encoder.encode(items, batch_tokens=400)
    np.testing.assert_allclose(together, alone, atol=2e-5)
    assert before == 9
    assert sum(runs) == 4
    assert np.abs(together[0] - together[3]).max() > 1e-3


def test_thoughts_too(
    tiny_checkpoint: Callable[..., Path],
    items: list[Any],
    towered: Callable[[umekit.Encoder], list[int]],
) -> None:
    encoder = umekit.load(tiny_checkpoint("qwen2_vl", role="generative"), device="cpu")
    runs = towered(encoder)
    alone = [encoder.encode([item], mode="both", max_new_tokens=4) for item in items]
    runs.clear()
    together = encoder.encode(items, mode="both", max_new_tokens=4)
    for part, vectors in together.items():
        np.testing.assert_allclose(vectors, np.concatenate([one[part] for one in alone]), atol=2e-5)
    assert sum(runs) == 4


def test_nothing_shared_means_no_features(
    tiny_checkpoint: Callable[..., Path], pictures: list[Image.Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = umekit.load(tiny_checkpoint("qwen2_vl"), device="cpu")
    monkeypatch.setattr(
        vision_features_module.VisionFeatureCache, "outputs", lambda *_: pytest.fail("features were kept")
    )
    assert encoder.encode([{"image": picture} for picture in pictures]).shape == (6, encoder.dim)


@pytest.mark.parametrize(("kept", "expected"), [(2**20, 1), (0, 2)])
def test_features_outlive_their_window_as_far_as_they_may(
    tiny_checkpoint: Callable[..., Path],
    pictures: list[Image.Image],
    towered: Callable[[umekit.Encoder], list[int]],
    monkeypatch: pytest.MonkeyPatch,
    kept: int,
    expected: int,
) -> None:
    monkeypatch.setattr(encoder_module, "WINDOW", 2)
    real = SharedFeatures
    monkeypatch.setattr(
        prefetching_module, "SharedFeatures", lambda model, processor: real(model, processor, keep_bytes=kept)
    )
    encoder = umekit.load(tiny_checkpoint("qwen2_vl"), device="cpu")
    runs = towered(encoder)
    encoder.encode([{"image": pictures[0], "text": word} for word in ("a", "b", "c", "d")])
    assert sum(runs) == expected


def test_waiting_features_are_let_go_after_their_last_item(
    tiny_checkpoint: Callable[..., Path], pictures: list[Image.Image]
) -> None:
    encoder = umekit.load(tiny_checkpoint("qwen2_vl"), device="cpu")
    features = SharedFeatures(encoder.model, encoder.processor, keep_bytes=0)
    rows = [encoder.processor.prepare({"image": pictures[0], "text": word}) for word in ("a", "b", "c")]
    features.begin_window(rows)
    key = features.cache.key(rows[0].images[0])
    held = []
    for row in rows:
        batch = features.collate([row], "right")
        assert "pixel_values" not in batch
        held.append(key in features.cache)
    assert held == [True, True, False]
