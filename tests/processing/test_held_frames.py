"""While a video is read, only small frames are held; its patches are those of reading all of it first."""

from __future__ import annotations

import io
import struct
import weakref
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from umekit.processing import animation as animation_module
from umekit.processing import clip_decoding as clip_decoding_module
from umekit.processing import video as video_module
from umekit.processing import vision as vision_module
from umekit.processing.first_resize import FirstResize
from umekit.processing.items import VideoPart
from umekit.processing.limits import MediaError, MediaLimits
from umekit.processing.preparing import patches_of
from umekit.processing.sampling import Timeline
from umekit.processing.settings import ProcessorSettings
from umekit.processing.video import Frames, Sampling, load_video
from umekit.processing.vision import Patches, PatchLayout, PixelBudget, frame_size, image_patches

LIMITS = MediaLimits()
LAYOUT = PatchLayout()
SIZE = (320, 184)  # many times the size after the resize
TOKEN = 28**2
BUDGET = PixelBudget(
    image=(4 * TOKEN, 15 * TOKEN), frame=(4 * TOKEN, 15 * TOKEN), video=(4 * TOKEN, 45 * TOKEN)
)
SETTINGS = ProcessorSettings(budget=BUDGET, sampling=Sampling(max_frames=12))
FIRST = FirstResize(factor=56, least=4 * 56**2, most=6 * 56**2)
VARIANTS = {
    "frame": SETTINGS,
    "volume": replace(SETTINGS, budget=replace(BUDGET, rule="volume")),
    "first": replace(SETTINGS, budget=replace(BUDGET, first_frame=FIRST, list_frame=(4 * TOKEN, 10 * TOKEN))),
    "padded": replace(SETTINGS, sampling=Sampling(max_frames=12, list_pad=True, list_fps=1.0)),
    "images": replace(SETTINGS, budget=replace(BUDGET, first_image=FIRST), video_as_images=True),
}
LOSSLESS: dict[str, dict[str, Any]] = {"GIF": {}, "WEBP": {"lossless": True, "quality": 0, "method": 0}}
KINDS = ["mp4", "webm", "GIF", "WEBP", "paths", "array"]


def pictures(count: int, size: tuple[int, int] = SIZE) -> list[Image.Image]:
    noise = np.random.default_rng(0).integers(0, 255, (count, 9, 16, 3), dtype=np.uint8)
    return [Image.fromarray(one).resize(size) for one in noise]


def animation(kind: str, frames: list[Image.Image]) -> bytes:
    stream = io.BytesIO()
    frames[0].save(stream, kind, save_all=True, append_images=frames[1:], duration=250, **LOSSLESS[kind])
    return stream.getvalue()


def film(kind: str, frames: list[Image.Image]) -> bytes:
    av = pytest.importorskip("av")
    stream = io.BytesIO()
    with av.open(stream, "w", format=kind) as container:
        track: Any = container.add_stream({"mp4": "mpeg4", "webm": "libvpx"}[kind], rate=4)
        track.width, track.height, track.pix_fmt = *frames[0].size, "yuv420p"
        for frame in frames:
            container.mux(track.encode(av.VideoFrame.from_image(frame)))
        container.mux(track.encode())
    return stream.getvalue()


@cache
def encoded(kind: str, count: int) -> bytes:
    return (film if kind.islower() else animation)(kind, pictures(count))


def video(kind: str, count: int, folder: Path) -> Any:
    if kind == "array":
        return np.stack([np.asarray(frame) for frame in pictures(count)])
    if kind == "paths":  # of different sizes
        places = [folder / f"{number}.png" for number in range(count)]
        for number, (place, frame) in enumerate(zip(places, pictures(count), strict=True)):
            frame.crop((0, 0, SIZE[0] - 10 * number, SIZE[1])).save(place)
        return places
    return encoded(kind, count)


def after_reading_all(frames: Frames, settings: ProcessorSettings) -> list[Patches]:
    """What a video became when its frames were resized after the last was read."""
    images, budget = frames.images, settings.budget
    if settings.video_as_images:
        return [image_patches(image, LAYOUT, budget) for image in images]
    size = images[0].size
    if frames.from_list and budget.first_frame is not None:
        images = [budget.first_frame.apply(image) for image in images]
    first = images[0]
    rows, columns = frame_size(len(images), first.height, first.width, LAYOUT, budget, frames.from_list)
    pixels = [
        np.asarray(image.resize((columns, rows), Image.Resampling.BICUBIC))
        if image.size != (columns, rows)
        else np.asarray(image)
        for image in images
    ]
    times = list(frames.seconds)
    if len(pixels) % 2:
        pixels.append(pixels[-1])
        times.append(times[-1])
    steps = len(pixels) // 2
    values = vision_module._cut(np.stack(pixels), LAYOUT, temporal=2)
    middles = tuple((times[2 * step] + times[2 * step + 1]) / 2 for step in range(steps))
    interval = times[2] - times[0] if steps > 1 else None
    return [Patches(values, (steps, rows // 14, columns // 14), size, middles, interval)]


def assert_same(found: list[tuple[str, Patches]], expected: list[Patches]) -> None:
    assert len(found) == len(expected)
    for (_, one), other in zip(found, expected, strict=True):
        assert one.values.dtype == np.uint8
        np.testing.assert_array_equal(one.values, other.values)
        assert replace(one, values=other.values) == other


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_patches_are_those_of_reading_everything_first(variant: str, kind: str, tmp_path: Path) -> None:
    settings, source = VARIANTS[variant], video(kind, 7, tmp_path)
    frames = load_video(source, settings.sampling, LIMITS)
    assert len(frames.images) >= 2
    found = patches_of(VideoPart(source), settings, LAYOUT, LIMITS)
    assert_same(found, after_reading_all(frames, settings))


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """The most whole frames that there were at a time, since the fixture was made."""
    frames: list[weakref.ref[Image.Image]] = []
    most = [0]

    def counting(real: Callable[..., Image.Image]) -> Callable[..., Image.Image]:
        def call(*arguments: Any) -> Image.Image:
            frame = real(*arguments)
            frames.append(weakref.ref(frame))
            most[0] = max(most[0], sum(one() is not None for one in frames))
            return frame

        return call

    for module, name in (
        (clip_decoding_module, "to_rgb"),
        (animation_module, "to_rgb"),
        (video_module, "load_image"),
    ):
        monkeypatch.setattr(module, name, counting(getattr(module, name)))
    return lambda: most[0]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("variant", ["first", "images"])
def test_one_whole_frame_is_held_at_a_time(
    variant: str, kind: str, tmp_path: Path, held: Callable[[], int]
) -> None:
    source = video(kind, 24, tmp_path)
    settings = replace(VARIANTS[variant], sampling=Sampling(max_frames=24, min_frames=24))
    found = patches_of(VideoPart(source), settings, LAYOUT, LIMITS)
    assert (len(found) if variant == "images" else 2 * found[0][1].grid[0]) == 24
    assert held() <= 2  # one is dropped when the next is there
    load_video(source, settings.sampling, LIMITS)
    assert held() >= 24  # so whole frames are seen by this test


@pytest.mark.parametrize("rule", ["frame", "volume"])
def test_a_film_with_fewer_frames_than_packets_is_sized_by_its_frames(
    rule: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = film("mp4", pictures(6))
    settings = VARIANTS[rule]
    few = replace(settings, sampling=Sampling(fps=4.0))  # so that frames share the budget
    expected = after_reading_all(load_video(data, few.sampling, LIMITS), few)
    promised = frame_size(12, SIZE[1], SIZE[0], LAYOUT, few.budget)
    assert (promised[0] // 14, promised[1] // 14) != expected[0].grid[1:]
    told = Timeline.at_rate(12, 4.0, 1.0)  # two packets for each frame
    monkeypatch.setattr(clip_decoding_module.Film, "timeline", lambda film: told)
    assert_same(patches_of(VideoPart(data), few, LAYOUT, LIMITS), expected)


def test_an_animation_whose_frames_grow_keeps_the_size_of_its_first() -> None:
    data = bytearray(animation("GIF", pictures(6)))
    data[6:10] = struct.pack("<HH", 150, 100)  # of the screen: its frames are larger
    frames = load_video(bytes(data), SETTINGS.sampling, LIMITS)
    found = patches_of(VideoPart(bytes(data)), SETTINGS, LAYOUT, LIMITS)
    assert_same(found, after_reading_all(frames, SETTINGS))


@pytest.mark.parametrize("variant", ["frame", "images"])
def test_frames_of_a_shape_that_is_refused_are_told_as_before(variant: str) -> None:
    thin = pictures(3, (1000, 2))
    for source in (thin, animation("GIF", thin)):
        with pytest.raises(MediaError, match=r"^a picture of 1000 x 2: one side is more than 200 times"):
            patches_of(VideoPart(source), VARIANTS[variant], LAYOUT, LIMITS)
