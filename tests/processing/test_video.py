"""Videos: files through PyAV, animations through Pillow, lists of frames; sampled in time, resized once."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from umekit.processing import vision as vision_module
from umekit.processing.items import ItemError
from umekit.processing.limits import MediaError, MediaLimits
from umekit.processing.processor import UmeProcessor
from umekit.processing.settings import ProcessorSettings
from umekit.processing.video import Sampling, load_video, sample_indices

LIMITS = MediaLimits()


def _frames(count: int, size: tuple[int, int] = (64, 48)) -> list[Image.Image]:
    """Frame i is a flat grey whose level tells i."""
    return [Image.new("RGB", size, (10 + 6 * i,) * 3) for i in range(count)]


def _number(frame: Image.Image) -> int:
    return round((float(np.asarray(frame, dtype=np.float64).mean()) - 10) / 6)


def _film(count: int, kind: str, rate: int = 8) -> bytes:
    av = pytest.importorskip("av")
    stream = io.BytesIO()
    codec = {"mp4": "mpeg4", "webm": "libvpx"}[kind]
    with av.open(stream, "w", format=kind) as film:
        track = film.add_stream(codec, rate=rate)
        track.width, track.height, track.pix_fmt = 64, 48, "yuv420p"
        track.bit_rate = 2_000_000
        track.time_base = Fraction(1, rate)
        for frame in _frames(count):
            for packet in track.encode(av.VideoFrame.from_image(frame)):
                film.mux(packet)
        for packet in track.encode():
            film.mux(packet)
    return stream.getvalue()


@pytest.mark.parametrize("kind", ["mp4", "webm"])
def test_films_are_sampled_evenly(kind: str, tmp_path: Path) -> None:
    data = _film(32, kind)  # 4 seconds
    path = tmp_path / f"film.{kind}"
    path.write_bytes(data)
    for source in (data, path, str(path)):
        frames = load_video(source, Sampling(fps=2.0), LIMITS)
        assert [_number(frame) for frame in frames.images] == sample_indices(32, 4.0, Sampling())
        assert frames.seconds == pytest.approx([i / 8 for i in sample_indices(32, 4.0, Sampling())])
    few = load_video(data, Sampling(max_frames=4), LIMITS)
    assert [_number(frame) for frame in few.images] == [0, 10, 21, 31]


@pytest.mark.parametrize("kind", ["gif", "webp"])
def test_animations(kind: str) -> None:
    stream = io.BytesIO()
    first, *rest = _frames(8)
    first.save(stream, kind.upper(), save_all=True, append_images=rest, duration=250, lossless=True)
    frames = load_video(stream.getvalue(), Sampling(fps=2.0), LIMITS)
    assert [_number(frame) for frame in frames.images] == [0, 2, 5, 7]
    assert frames.seconds == pytest.approx([0, 0.5, 1.25, 1.75])


def test_a_list_of_frames_is_kept_whole() -> None:
    frames = load_video(_frames(5), Sampling(), LIMITS)
    assert [_number(frame) for frame in frames.images] == [0, 1, 2, 3, 4]
    assert frames.seconds == [0, 0.5, 1, 1.5, 2]
    many = load_video(_frames(40), Sampling(max_frames=8), LIMITS)
    assert [_number(frame) for frame in many.images] == sample_indices(40, None, Sampling(max_frames=8))
    array = np.stack([np.asarray(frame) for frame in _frames(4)])
    assert [_number(frame) for frame in load_video(array, Sampling(), LIMITS).images] == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("total", "seconds", "expected"),
    [
        (100, 10.0, 20),
        (100, 1.0, 4),
        (3, 10.0, 2),
        (1, 1.0, 1),
        (1000, 500.0, 64),
        (2, 0.1, 2),
        (500, None, 64),
    ],
)
def test_number_of_frames(total: int, seconds: float | None, expected: int) -> None:
    indices = sample_indices(total, seconds, Sampling())
    assert len(indices) == expected
    assert indices == sorted(set(indices))
    assert indices[0] == 0
    assert indices[-1] == total - 1 or expected == 1


def test_bad_films_are_named(tmp_path: Path) -> None:
    path = tmp_path / "broken.mp4"
    path.write_bytes(b"no film" * 100)
    with pytest.raises(MediaError, match=r"broken\.mp4"):
        load_video(path, Sampling(), LIMITS)
    with pytest.raises(MediaError, match="at least one frame"):
        load_video([], Sampling(), LIMITS)
    with pytest.raises(MediaError, match="limit of 3"):
        load_video(_frames(4), Sampling(), MediaLimits(video_frames=3))
    with pytest.raises(MediaError, match="more than 10 frames"):
        load_video(_film(32, "mp4"), Sampling(), MediaLimits(video_frames=10))
    truncated = _film(32, "webm")
    frames = load_video(truncated[: len(truncated) * 2 // 3], Sampling(), LIMITS)
    assert 1 <= len(frames.images) <= 8


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen3_vl"])
def test_frames_are_resized_once_and_share_the_budget(
    family: str, tiny_checkpoint: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    processor = UmeProcessor.from_pretrained(tiny_checkpoint(family))
    resizes: list[tuple[int, int]] = []
    real = vision_module._resize

    def counting(image: Image.Image, rows: int, columns: int) -> np.ndarray:
        resizes.append((rows, columns))
        return real(image, rows, columns)

    monkeypatch.setattr(vision_module, "_resize", counting)
    token = (2 * processor.layout.patch) ** 2
    budget = replace(processor.settings.budget, frame=(4 * token, 16 * token), video=(4 * token, 32 * token))
    processor = processor.with_settings(budget=budget)
    row = processor.prepare({"video": _frames(8, (640, 480))})
    assert len(resizes) == 8
    assert len(set(resizes)) == 1
    steps, rows, columns = row.videos[0].grid
    assert steps == 4
    assert steps * rows * columns // 4 <= 32
    assert int((row.token_types == 2).sum()) == steps * rows * columns // 4


def test_an_odd_frame_is_repeated_at_the_end(tiny_checkpoint: Callable[..., Path]) -> None:
    processor = UmeProcessor.from_pretrained(tiny_checkpoint("qwen2_vl"))
    three, four = (processor.prepare({"video": _frames(n)}).videos[0] for n in (3, 4))
    assert three.grid == four.grid
    assert three.interval == four.interval == 1.0
    half = len(three.values) // 2
    np.testing.assert_array_equal(three.values[half:, :, 0], three.values[half:, :, 1])
    np.testing.assert_array_equal(three.values[:half], four.values[:half])
    with pytest.raises(ItemError):
        processor.prepare({"video": "no-such-film.mp4"})


def test_a_filter_of_frames_is_a_setting_that_others_do_not_see() -> None:
    plain = ProcessorSettings()
    assert "frame_filter" not in plain.to_dict()["budget"]  # fingerprints and earlier versions
    tensor = replace(plain, budget=replace(plain.budget, frame_filter="tensor"))
    assert ProcessorSettings.from_dict(tensor.to_dict()) == tensor
    assert ProcessorSettings.from_dict(plain.to_dict()) == plain
    with pytest.raises(ValueError, match="frame_filter is 'lanczos'"):
        replace(plain.budget, frame_filter="lanczos")


def test_frames_as_tensors_are_near_those_of_pillow() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)
    image = Image.fromarray(noise)
    for size in ((28, 56), (112, 140)):
        one, other = vision_module._resize(image, *size), vision_module._resize_as_tensor(image, *size)
        assert other.dtype == np.uint8
        assert 0 < np.abs(one.astype(int) - other).mean() < 1  # Pillow clips between its two passes
    np.testing.assert_array_equal(vision_module._resize_as_tensor(image, 50, 70), noise)
