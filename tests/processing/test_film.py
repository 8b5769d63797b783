"""Films as a player shows them: upright, in shape, on white, and each frame at its own time."""

from __future__ import annotations

import io
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from PIL import Image

from umekit.processing.items import VideoPart
from umekit.processing.limits import MediaError, MediaLimits
from umekit.processing.preparing import patches_of
from umekit.processing.sampling import Timeline, repaired, sample_indices
from umekit.processing.settings import ProcessorSettings
from umekit.processing.video import Frames, Sampling, load_video
from umekit.processing.vision import PatchLayout

av = pytest.importorskip("av")
LIMITS = MediaLimits()
ALL = Sampling(fps=1000.0, max_frames=200)
ONE = 1 << 16  # in a display matrix
MILLISECOND = Fraction(1, 1000)


def grey(number: int) -> np.ndarray:
    return np.full((64, 64, 3), 10 * number, np.uint8)


def numbers(frames: Frames) -> list[int]:
    return [round(image.getpixel((30, 30))[0] / 10) for image in frames.images]


def film(
    pictures: list[np.ndarray],
    container: str = "mp4",
    codec: str = "libx264",
    *,
    times: list[int] | None = None,
    pixels: str = "yuv420p",
    ratio: Fraction | None = None,
    b_frames: int = 0,
    **options: str,
) -> bytes:
    """``times`` in milliseconds; ten frames a second without them."""
    if codec == "libx264":
        options.setdefault("qp", "0")
    stream = io.BytesIO()
    with av.open(stream, "w", format=container) as out:
        track: Any = out.add_stream(codec, rate=10, options=options)
        track.height, track.width = pictures[0].shape[:2]
        track.pix_fmt = pixels
        track.bit_rate = 10_000_000
        if b_frames:
            track.codec_context.max_b_frames = b_frames
        if ratio is not None:
            track.codec_context.sample_aspect_ratio = ratio
        if times is not None:
            track.codec_context.time_base = track.time_base = MILLISECOND
        for number, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(picture, "rgba" if picture.shape[2] == 4 else "rgb24")
            if times is not None:
                frame.pts, frame.time_base = times[number], MILLISECOND
            out.mux(track.encode(frame))
        out.mux(track.encode())
    return stream.getvalue()


def turned(data: bytes, matrix: tuple[int, int, int, int]) -> bytes:
    """An MP4 whose header says how its pictures are turned."""
    changed = bytearray(data)
    at = data.index(b"tkhd") + 44
    for place, value in zip((0, 1, 3, 4), matrix, strict=True):
        changed[at + 4 * place : at + 4 * place + 4] = (value * ONE).to_bytes(4, "big", signed=True)
    return bytes(changed)


# ---- how a frame is shown ---------------------------------------------------------------------------------------


SEEN = np.zeros((96, 64, 3), np.uint8)  # no two of its turns are alike
SEEN[:48, :32] = (250, 0, 0)
SEEN[:48, 32:] = (0, 250, 0)
SEEN[48:, :32] = (0, 0, 250)


@pytest.mark.parametrize(
    ("stored", "matrix"),
    [
        (SEEN, (1, 0, 0, 1)),
        (np.rot90(SEEN, 1), (0, 1, -1, 0)),
        (np.rot90(SEEN, 2), (-1, 0, 0, -1)),
        (np.rot90(SEEN, 3), (0, -1, 1, 0)),
        (SEEN[:, ::-1], (-1, 0, 0, 1)),
        (SEEN[::-1], (1, 0, 0, -1)),
        (SEEN.transpose(1, 0, 2), (0, 1, 1, 0)),
        (np.rot90(SEEN, 2).transpose(1, 0, 2), (0, -1, -1, 0)),
    ],
)
def test_a_film_is_turned_as_its_header_says(stored: np.ndarray, matrix: tuple[int, int, int, int]) -> None:
    data = turned(film([np.ascontiguousarray(stored)] * 4, codec="mpeg4"), matrix)
    images = load_video(data, Sampling(), LIMITS).images
    assert [image.size for image in images] == [(64, 96)] * 4
    for image in images:
        assert np.abs(np.asarray(image, dtype=int) - SEEN).mean() < 12
    grid = patches_of(VideoPart(data), ProcessorSettings(), PatchLayout(), LIMITS)[0][1].grid
    assert grid[1] > grid[2]


@pytest.mark.parametrize(
    ("ratio", "size"), [(Fraction(2), (128, 64)), (Fraction(1, 2), (64, 128)), (Fraction(4, 3), (85, 64))]
)
@pytest.mark.parametrize("container", ["mp4", "matroska"])
def test_pixels_that_are_not_square_are_shown_in_shape(
    ratio: Fraction, size: tuple[int, int], container: str
) -> None:
    data = film([grey(n) for n in range(4)], container, ratio=ratio)
    frames = load_video(data, Sampling(), LIMITS)
    assert {image.size for image in frames.images} == {size}
    assert numbers(frames) == [0, 1, 2, 3]
    with pytest.raises(MediaError, match="more than the limit of 5000"):
        load_video(data, Sampling(), MediaLimits(image_pixels=5000))  # as shown: stored it is smaller


def test_the_shape_is_set_before_the_turn() -> None:
    data = turned(film([grey(1)] * 4, ratio=Fraction(2)), (0, 1, -1, 0))
    assert load_video(data, Sampling(), LIMITS).images[0].size == (64, 128)


ALPHA = np.zeros((64, 64, 4), np.uint8)
ALPHA[:32] = (250, 0, 0, 255)


@pytest.mark.parametrize(
    ("container", "codec", "pixels"),
    [
        ("webm", "libvpx", "yuva420p"),
        ("webm", "libvpx-vp9", "yuva420p"),
        ("mov", "prores_ks", "yuva444p10le"),
        ("mov", "qtrle", "argb"),
        ("mov", "png", "rgba"),
        ("avi", "png", "rgba"),
        ("apng", "apng", "rgba"),
        ("matroska", "ffv1", "bgra"),
    ],
)
def test_transparent_films_lie_on_white(container: str, codec: str, pixels: str) -> None:
    options = {"auto-alt-ref": "0"} if "vpx" in codec else {}
    frames = load_video(
        film([ALPHA] * 4, container, codec, pixels=pixels, **options), Sampling(), LIMITS
    ).images
    assert len(frames) == 4
    for frame in frames:
        assert frame.getpixel((5, 50)) == (255, 255, 255)
        assert np.abs(np.subtract(frame.getpixel((5, 5)), (250, 0, 0))).max() <= 4


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "AVIF"])
def test_animations_have_the_times_of_their_frames_and_lie_on_white(kind: str) -> None:
    if kind not in Image.registered_extensions().values():
        pytest.skip(f"this Pillow has no {kind}")
    full = 2 if kind == "GIF" else -1  # Pillow alone would leave a colour where it is cleared
    pictures = [Image.new("RGBA", (32, 32), (0, 0, 0, 0)) for _ in range(4)]
    for number, picture in enumerate(pictures):
        picture.paste((40 * number + 40, 0, 0, 255), (0, 0, 32, 32 if number == full else 16))
    options = {"WEBP": {"lossless": True}, "AVIF": {"quality": 100}}.get(kind, {"disposal": 2})
    stream = io.BytesIO()
    pictures[0].save(
        stream,
        kind,
        save_all=True,
        append_images=pictures[1:],
        duration=[100, 500, 1000, 10],
        **options,  # type: ignore[arg-type]
    )
    frames = load_video(stream.getvalue(), ALL, LIMITS)
    assert frames.seconds == pytest.approx([0, 0.1, 0.6, 1.6])
    for number, image in enumerate(frames.images):
        assert abs(image.getpixel((4, 4))[0] - 40 * number - 40) <= 3
        low = image.getpixel((4, 28))
        assert low == (255, 255, 255) if number != full else low[1] < 5


def test_the_still_picture_of_an_apng_is_no_frame() -> None:
    pictures = [Image.fromarray(grey(n)) for n in range(5)]
    stream = io.BytesIO()
    pictures[4].save(
        stream, "PNG", save_all=True, append_images=pictures[:4], duration=100, default_image=True
    )
    assert numbers(load_video(stream.getvalue(), ALL, LIMITS)) == [0, 1, 2, 3]


def test_an_animation_is_turned_as_its_exif_says() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    stream = io.BytesIO()
    pictures = [Image.fromarray(np.ascontiguousarray(np.rot90(SEEN, 1))) for _ in range(2)]
    pictures[0].save(stream, "WEBP", save_all=True, append_images=pictures[1:], lossless=True, exif=exif)
    np.testing.assert_array_equal(load_video(stream.getvalue(), Sampling(), LIMITS).images[0], SEEN)


# ---- when a frame is shown --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("container", "codec", "b_frames"),
    [
        ("mp4", "libx264", 2),
        ("matroska", "libx264", 2),
        ("mpegts", "libx264", 2),  # begins at 0.2 s
        ("avi", "libx264", 2),  # numbers its frames in the order in which they are written
        ("avi", "mpeg4", 2),
        ("mpeg", "mpeg2video", 2),
        ("flv", "flv", 0),
        ("mov", "prores_ks", 0),
    ],
)
def test_even_films_give_every_frame_at_its_time(container: str, codec: str, b_frames: int) -> None:
    pixels = "yuv422p10le" if codec == "prores_ks" else "yuv420p"
    data = film([grey(n) for n in range(20)], container, codec, b_frames=b_frames, pixels=pixels)
    frames = load_video(data, Sampling(fps=10.0), LIMITS)
    assert numbers(frames) == list(range(20))
    assert frames.seconds == [n / 10 for n in range(20)]
    few = load_video(data, Sampling(), LIMITS)
    assert numbers(few) == sample_indices(20, 2.0, Sampling())


def test_frames_of_an_uneven_film_are_chosen_in_time() -> None:
    """A burst, then a frame a second."""
    times = [n * 50 for n in range(16)] + [1000 * n for n in range(1, 9)]
    pictures = [grey(n) for n in range(24)]
    for container, codec in (("mp4", "libx264"), ("matroska", "libx264")):
        data = film(pictures, container, codec, times=times)
        frames = load_video(data, Sampling(), LIMITS)
        found = numbers(frames)
        assert frames.seconds == pytest.approx([times[n] / 1000 for n in found])
        assert found[0] == 0
        assert found[16 - 24 :] == list(range(16, 24))  # each that is alone in its second
        assert len(found) == 10  # and so two of the sixteen of the burst
        whole = load_video(data, ALL, LIMITS)
        assert numbers(whole) == list(range(24))
        assert whole.seconds == pytest.approx([time / 1000 for time in times])


def test_a_browsers_webm_without_a_rate() -> None:
    data = bytearray(
        film([grey(n % 20) for n in range(60)], "webm", "libvpx", times=[n * 33 + n % 3 for n in range(60)])
    )
    at = data.find(b"\x23\xe3\x83\x84")  # DefaultDuration
    data[at : at + 8] = b"\xec\x86" + bytes(6)
    frames = load_video(bytes(data), Sampling(), LIMITS)
    assert frames.seconds[-1] == pytest.approx(59 * 0.033 + 0.002)
    assert len(frames.images) == 4
    assert np.diff(frames.seconds).max() < 0.8


def test_joined_recordings_follow_each_other() -> None:
    one = film([grey(n) for n in range(8)], "mpegts", "mpeg2video")
    frames = load_video(one + one, Sampling(fps=10.0), LIMITS)
    assert numbers(frames) == [*range(8), *range(8)]
    assert frames.seconds == pytest.approx([n / 10 for n in range(16)])


def test_what_an_edit_list_cuts_off_is_not_shown() -> None:
    data = bytearray(film([grey(n) for n in range(20)], g="1", bf="0"))
    at = data.index(b"elst")
    scale = int.from_bytes(data[data.index(b"mdhd") + 16 :][:4], "big")
    data[at + 16 : at + 20] = (scale // 2).to_bytes(4, "big")  # begins half a second in
    data[at + 12 : at + 16] = int.from_bytes(data[data.index(b"mvhd") + 16 :][:4], "big").to_bytes(4, "big")
    frames = load_video(bytes(data), Sampling(fps=10.0), LIMITS)
    assert numbers(frames)[0] == 5
    assert frames.seconds == pytest.approx([n / 10 for n in range(len(frames.images))])


def test_frames_that_no_packet_gives_are_not_counted() -> None:
    """VP8 writes packets that are shown by no frame."""
    data = film(
        [grey(n) for n in range(20)], "webm", "libvpx", **{"auto-alt-ref": "1", "lag-in-frames": "16"}
    )
    frames = load_video(data, Sampling(fps=10.0), LIMITS)
    assert numbers(frames) == list(range(20))
    assert frames.seconds == pytest.approx([n / 10 for n in range(20)])


def test_a_film_without_times_has_its_rate() -> None:
    frames = load_video(film([grey(n) for n in range(16)], "h264"), Sampling(fps=25.0), LIMITS)
    assert numbers(frames) == list(range(16))
    assert frames.seconds == pytest.approx([n / 25 for n in range(16)])


def test_a_film_that_is_cut_off_says_so_or_gives_what_is_there() -> None:
    random = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    pictures = [np.roll(random, n, 0) for n in range(30)]
    for container, codec in (
        ("matroska", "libx264"),
        ("avi", "mpeg4"),
        ("webm", "libvpx"),
        ("mpegts", "libx264"),
    ):
        data = film(pictures, container, codec)
        frames = load_video(data[: len(data) * 6 // 10], Sampling(fps=10.0), LIMITS)
        assert 4 <= len(frames.images) <= 20
        assert 0.8 < frames.seconds[-1] < 2.0


@pytest.mark.filterwarnings("ignore:.*damaged or cut off")
def test_a_damaged_film_is_the_same_at_every_reading() -> None:
    """However many are read at a time."""
    cells = np.random.default_rng(0).integers(0, 255, (6, 6, 8, 3), dtype=np.uint8)
    data = film([cell.repeat(8, 0).repeat(8, 1) for cell in cells], "avi", "mpeg4", b_frames=2)
    for seed, place in ((9, 0.56), (43, 0.63), (25, 0.63)):
        broken = bytearray(data)
        at = int(place * len(data))
        broken[at : at + 32] = np.random.default_rng(seed).bytes(32)

        def read(_: int, broken: bytes = bytes(broken)) -> list[bytes]:
            return [image.tobytes() for image in load_video(broken, ALL, LIMITS).images]

        with ThreadPoolExecutor(4) as threads:
            first, *others = threads.map(read, range(24))
        assert len(first) > 3
        assert all(found == first for found in others)


# ---- choosing ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("total", [1, 2, 3, 4, 5, 17, 30, 99, 600])
@pytest.mark.parametrize("rate", [1.0, 8.0, 24000 / 1001, 25.0, 30.0])
@pytest.mark.parametrize("tick", [1 / 1000, 1 / 90000])
def test_constant_rates_choose_as_by_number(total: int, rate: float, tick: float) -> None:
    exact = np.arange(total) / rate
    rounded = 1.4 + np.round(exact / tick) * tick
    for told in (rate, None, 7.3):
        timeline = Timeline.of(rounded.tolist(), 1 / rate, told, tick, 2.0)
        assert timeline.even
        if told == rate or total > 1:
            assert timeline.chosen(Sampling()) == sample_indices(total, total / rate, Sampling())
        np.testing.assert_allclose(timeline.seconds, exact, atol=2 * tick if told != rate else 0)


def test_uneven_frames_are_taken_once_and_reach_the_fewest() -> None:
    times = [n / 30 for n in range(30)] + [60.0]
    timeline = Timeline.of(times, None, None, 0.001, 2.0)
    chosen = timeline.chosen(Sampling())
    assert chosen == sorted(set(chosen))
    assert chosen[0] == 0
    assert chosen[-1] == 30
    assert len(chosen) == 4
    assert Timeline.of([0.0, 0.1, 5.0], None, None, 0.001, 2.0).chosen(Sampling()) == [0, 1, 2]
    same = Timeline.of([3.0] * 6, None, None, 0.001, 2.0)  # says nothing
    assert same.seconds.tolist() == [0, 0.5, 1, 1.5, 2, 2.5]
    assert same.duration is None


def test_times_that_go_back_are_repaired() -> None:
    assert repaired([0, 1, 1, 2]) == [0, 1, 1, 2]
    assert repaired([0, 2, 1, 3]) == [0, 1, 2, 3]
    assert repaired([0, 1, 2, 0, 4, 5]) == [0, 1, 2, 2, 4, 5]
    assert repaired([0, 1, 2, 0, 1, 2]) == [0, 1, 2, 3, 4, 5]
    assert repaired([5]) == [5]
