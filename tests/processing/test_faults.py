"""Faults of pictures, PDFs and videos: read as they are meant, or refused by name and in time."""

from __future__ import annotations

import io
import multiprocessing
import os
import runpy
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from umekit.processing import clip_decoding as clip_decoding_module
from umekit.processing import pdfium_process as pdfium_process_module
from umekit.processing.documents import count_pages, load_document
from umekit.processing.items import ItemError, parse_item
from umekit.processing.limits import Deadline, MediaError, MediaLimits
from umekit.processing.media import load_image
from umekit.processing.processor import UmeProcessor
from umekit.processing.sources import read_bytes
from umekit.processing.video import Sampling, load_video

hostile = runpy.run_path(str(Path(__file__).parents[1] / "encoding" / "hostile.py"))
picture: Any = hostile["picture"]
saved: Any = hostile["saved"]
LIMITS = MediaLimits()
PIXELS = 300 * 400


def values(image: Image.Image) -> np.ndarray:
    return np.asarray(image).astype(np.int64)


# --- pictures -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("orientation", range(1, 9))
def test_all_eight_orientations(orientation: int) -> None:
    upright = np.zeros((48, 64, 3), dtype=np.uint8)
    upright[:24, :32] = 250  # the corner at the upper left is bright
    upright[:24, 32:] = 120
    turns: dict[int, Callable[[np.ndarray], np.ndarray]] = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: a.transpose(1, 0, 2)[::-1],
        7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
        8: lambda a: a.transpose(1, 0, 2)[:, ::-1],
    }
    stored = Image.fromarray(np.ascontiguousarray(turns[orientation](upright)))
    exif = Image.Exif()
    exif[0x0112] = orientation
    loaded = load_image(saved(stored, "JPEG", exif=exif, quality=95), LIMITS)
    assert loaded.size == (64, 48)
    assert np.abs(values(loaded) - upright).mean() < 2


def test_transparency_is_white_in_every_mode() -> None:
    flat = Image.new("RGB", (8, 8), (10, 200, 30))
    palette = flat.quantize(4)
    index = palette.getpixel((0, 0))
    for data in (
        saved(palette, "PNG", transparency=index),
        saved(palette, "PNG", transparency=bytes(4)),
        saved(palette, "GIF", transparency=index),
        saved(flat, "PNG", transparency=(10, 200, 30)),
        saved(Image.new("L", (8, 8), 90), "PNG", transparency=90),
        saved(Image.new("LA", (8, 8), (90, 0)), "PNG"),
        saved(Image.new("RGBA", (8, 8), (1, 2, 3, 0)), "WEBP", lossless=True),
    ):
        assert (values(load_image(data, LIMITS)) == 255).all()
    half = Image.new("RGBA", (8, 8), (0, 0, 0, 128))
    assert np.abs(values(load_image(half, LIMITS)) - 127).max() <= 1


def test_sixteen_bits_are_scaled_also_where_they_are_dark() -> None:
    for level, expected in ((65535, 255), (32768, 127), (200, 0)):
        image = Image.fromarray(np.full((4, 4), level, dtype=np.uint16))
        for source in (image, saved(image, "PNG"), saved(image, "TIFF")):
            assert np.abs(values(load_image(source, LIMITS)) - expected).max() <= 1


def test_cmyk_and_animations_as_pictures() -> None:
    image = picture(1)
    cmyk = load_image(saved(image.convert("CMYK"), "JPEG", quality=95), LIMITS)
    assert np.abs(values(cmyk) - values(image)).mean() < 4
    frames = [Image.new("RGB", (8, 8), (90 * n, 0, 0)) for n in range(3)]
    for kind in ("GIF", "WEBP"):
        data = saved(frames[0], kind, save_all=True, append_images=frames[1:])
        assert values(load_image(data, LIMITS)).max() <= 2  # the first, which is black


def test_a_tiff_of_several_pages_is_no_picture() -> None:
    """Any of its pages could be meant, so one is named, or it is a document."""
    frames = [Image.new("RGB", (8, 8), (90 * n, 0, 0)) for n in range(3)]
    data = saved(frames[0], "TIFF", save_all=True, append_images=frames[1:])
    with pytest.raises(MediaError, match="a TIFF of several pages: give it as a document"):
        load_image(data, LIMITS)
    assert values(load_image(data, LIMITS, frame=1))[0, 0].tolist() == [90, 0, 0]
    assert values(load_image(saved(frames[2], "TIFF"), LIMITS))[0, 0].tolist() == [180, 0, 0]


def test_a_picture_that_is_not_loaded_yet_may_stand_in_many_items(tmp_path: Path) -> None:
    picture(2, (600, 400)).save(tmp_path / "one.png")
    lazy = Image.open(tmp_path / "one.png")
    found: list[Any] = []
    start = threading.Barrier(8)

    def load() -> None:
        start.wait()
        try:
            found.append(values(load_image(lazy, LIMITS)))
        except MediaError as error:
            found.append(error)

    threads = [threading.Thread(target=load) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    expected = values(picture(2, (600, 400)))
    assert all(isinstance(one, np.ndarray) and (one == expected).all() for one in found), found


def test_only_regular_files_are_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    begin = time.monotonic()
    for place in (tmp_path / "pipe.png", "/dev/zero", "/dev/null", tmp_path):
        with pytest.raises(MediaError, match="not a regular file"):
            read_bytes(place, LIMITS)
    with pytest.raises(MediaError, match="more than the limit of 10"):  # its size is said to be 0
        read_bytes("/proc/self/status", MediaLimits(file_bytes=10))
    with pytest.raises(MediaError, match="null byte"):
        read_bytes("a\0b", LIMITS)
    with pytest.raises(MediaError, match=r"\(100000 characters\): .*too long"):
        read_bytes("x" * 100_000, LIMITS)
    assert time.monotonic() - begin < 20


def test_an_array_that_only_looks_large_is_not_copied() -> None:
    giant = np.broadcast_to(np.float32(0.5), (10**6, 10**6, 3))
    with pytest.raises(MediaError, match="1000000 x 1000000 pixels, more than the limit"):
        load_image(giant, LIMITS)


def test_postscript_is_not_run() -> None:
    eps = saved(picture(), "EPS")
    assert Image.open(io.BytesIO(eps)).format == "EPS"  # Pillow itself would
    with pytest.raises(MediaError, match="not a picture"):
        load_image(eps, LIMITS)


def scans(count: int) -> bytes:
    """A progressive JPEG whose last scan stands there ``count`` times: small, and slow to decode."""
    data = saved(Image.new("L", (2000, 2000), 128), "JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    return data[:last] + data[last:-2] * count + data[-2:]


def test_a_jpeg_of_endless_scans_is_given_up() -> None:
    data = scans(50_000)
    assert len(data) < 2**20
    begin = time.monotonic()
    with pytest.raises(MediaError, match=r"longer than the limit of 0.5 s \(file_seconds\)"):
        load_image(data, MediaLimits(file_seconds=0.5))
    assert time.monotonic() - begin < 60


def test_anything_that_a_decoder_raises_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(saved(picture(), "PNG"))
    for error in (RecursionError("deep"), MemoryError(), IndexError("range"), ZeroDivisionError("x")):

        def broken(*_: Any, error: Exception = error, **__: Any) -> None:
            raise error

        monkeypatch.setattr(Image, "open", broken)
        words = "" if isinstance(error, MemoryError) else r"its data are damaged, .* \("
        with pytest.raises(MediaError, match=rf"a\.png: {words}{type(error).__name__}"):
            load_image(tmp_path / "a.png", LIMITS)


# --- documents ------------------------------------------------------------------------------------------


def test_documents_without_pages_and_locked_ones() -> None:
    pytest.importorskip("pypdfium2")
    empty, locked = hostile["pdf_without_pages"](), hostile["locked"](saved(picture(), "PDF"))
    for _ in range(2):  # one after the other: neither is taken for the other
        for read in (
            lambda data: load_document(data, None, PIXELS, LIMITS),
            lambda data: count_pages(data, LIMITS),
        ):
            with pytest.raises(MediaError, match="it has no pages"):
                read(empty)
            with pytest.raises(MediaError, match="assword"):
                read(locked)
            with pytest.raises(MediaError, match="format error"):
                read(b"%PDF-1.7 and nothing more")


def test_pages_look_as_pypdfium2_renders_them() -> None:
    pdfium = pytest.importorskip("pypdfium2")
    for data in (hostile["pdf_of_forms"](2, 5), saved(picture(3, (300, 200)), "PDF")):
        pdf = pdfium.PdfDocument(data)
        width, height = pdf[0].get_size()
        scale = min((PIXELS / (width * height)) ** 0.5, 300 / 72)
        expected = pdf[0].render(scale=scale).to_pil()
        pdf.close()
        np.testing.assert_array_equal(
            values(load_document(data, None, PIXELS, LIMITS)[0]), values(expected.convert("RGB"))
        )


def test_a_page_as_narrow_as_a_thread_is_refused() -> None:
    pytest.importorskip("pypdfium2")
    data = hostile["pdf_of_forms"](1, 2).replace(b"200 200]", b"200 .01]", 1)
    with pytest.raises(MediaError, match=r"page 1 of 200 x 0.01 points cannot be rendered"):
        load_document(data, None, PIXELS, LIMITS)


def test_a_slow_page_is_given_up_and_the_next_document_is_read() -> None:
    pytest.importorskip("pypdfium2")
    slow = MediaLimits(file_seconds=0.3)
    begin = time.monotonic()
    with pytest.raises(MediaError, match=r"longer than the limit of 0.3 s"):
        load_document(hostile["pdf_of_forms"](3, 14), None, PIXELS, slow)
    assert count_pages(saved(picture(), "PDF"), LIMITS) == 1
    assert time.monotonic() - begin < 60


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """Processes that were started for PDFium, by a pool of this test."""
    found: list[Any] = []
    real = subprocess.Popen

    def start(*args: Any, **kwargs: Any) -> Any:
        found.append(real(*args, **kwargs))
        return found[-1]

    monkeypatch.setattr(pdfium_process_module.subprocess, "Popen", start)
    monkeypatch.setattr(pdfium_process_module.POOL, "_idle", [])
    yield found
    pdfium_process_module.POOL.close()


def test_others_are_read_beside_a_document_that_is_stuck(started: list[Any]) -> None:
    pytest.importorskip("pypdfium2")
    errors: list[Exception] = []

    def stuck() -> None:
        try:
            load_document(hostile["pdf_of_forms"](6, 20), None, PIXELS, MediaLimits(file_seconds=4))
        except MediaError as error:
            errors.append(error)

    thread = threading.Thread(target=stuck)
    thread.start()
    while not started:
        time.sleep(0.01)
    for _ in range(3):
        assert count_pages(saved(picture(), "PDF"), LIMITS) == 1
    assert not errors
    thread.join(30)
    assert "longer than the limit of 4 s" in str(errors[0])
    assert len(started) == 2  # one for each thread, kept for the next document
    assert started[0].poll() is not None


def test_a_crash_is_the_error_of_its_document_alone(started: list[Any]) -> None:
    pytest.importorskip("pypdfium2")

    def kill() -> None:
        while not started:
            time.sleep(0.01)
        time.sleep(1.0)
        started[0].kill()

    thread = threading.Thread(target=kill)
    thread.start()
    with pytest.raises(MediaError, match=r"bytes>: PDFium crashed on it"):
        load_document(hostile["pdf_of_forms"](6, 20), None, PIXELS, LIMITS)
    thread.join()
    assert count_pages(saved(picture(), "PDF"), LIMITS) == 1


def test_a_process_that_died_while_idle_is_replaced(started: list[Any]) -> None:
    pytest.importorskip("pypdfium2")
    data = saved(picture(), "PDF")
    assert count_pages(data, LIMITS) == 1
    started[0].kill()
    started[0].wait()
    assert count_pages(data, LIMITS) == 1
    assert len(started) == 2


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_process_has_its_own(started: list[Any]) -> None:
    pytest.importorskip("pypdfium2")
    data = saved(picture(), "PDF")
    assert count_pages(data, LIMITS) == 1
    with multiprocessing.get_context("fork").Pool(2) as pool:
        assert pool.starmap(count_pages, [(data, LIMITS)] * 6) == [1] * 6
    assert count_pages(data, LIMITS) == 1
    assert len(started) == 1


@pytest.mark.filterwarnings("error::ResourceWarning", "error::pytest.PytestUnraisableExceptionWarning")
def test_one_that_died_leaves_no_pipe_open(started: list[Any]) -> None:
    pytest.importorskip("pypdfium2")
    data = saved(picture(), "PDF")
    for _ in range(2):
        count_pages(data, LIMITS)
        started[-1].kill()
        started[-1].wait()
    assert len(started) == 2
    count_pages(data, LIMITS)
    assert all(pipe.closed for one in started[:2] for pipe in (one.stdin, one.stdout))


def test_nothing_is_left_running() -> None:
    pytest.importorskip("pypdfium2")
    code = (
        "import io; from PIL import Image; from umekit.processing.documents import count_pages\n"
        "from umekit.processing.limits import MediaLimits\n"
        "from umekit.processing.pdfium_process import POOL\n"
        "file = io.BytesIO(); Image.new('RGB', (30, 40)).save(file, 'PDF')\n"
        "print(count_pages(file.getvalue(), MediaLimits()), POOL._idle[0]._process.pid)\n"
    )
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env)
    count, pid = done.stdout.split()
    assert count == "1"
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid), 0)


# --- videos ---------------------------------------------------------------------------------------------


def test_a_film_without_frames_and_one_with_sound_alone() -> None:
    av = pytest.importorskip("av")
    stream = io.BytesIO()
    with av.open(stream, "w", format="wav") as sound:
        track = sound.add_stream("pcm_s16le", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), dtype=np.int16), format="s16", layout="mono")
        frame.rate = 8000
        sound.mux(track.encode(frame))
    with pytest.raises(MediaError, match=r"cannot read the video|no video stream"):
        load_video(stream.getvalue(), Sampling(), LIMITS)
    film = hostile["film"]("webm")
    cluster = film.index(b"\x1f\x43\xb6\x75")  # where frames begin in a webm
    with pytest.raises(MediaError, match=r"no frames|cannot read the video"):
        load_video(film[:cluster], Sampling(), LIMITS)


@pytest.mark.parametrize("kind", ["mp4", "webm", "GIF", "WEBP"])
def test_a_slow_film_is_given_up(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("av")
    frames = [picture(n) for n in range(6)]
    data = (
        hostile["film"](kind, 40)
        if kind.islower()
        else saved(frames[0], kind, save_all=True, append_images=frames[1:], duration=250)
    )
    real = Deadline.check

    def slow(self: Deadline) -> None:
        time.sleep(0.05)
        real(self)

    monkeypatch.setattr(Deadline, "check", slow)
    begin = time.monotonic()
    with pytest.raises(MediaError, match=r"<\d+ bytes>: decoding took longer than the limit of 0.2 s"):
        load_video(data, Sampling(), MediaLimits(file_seconds=0.2))
    assert time.monotonic() - begin < 20


def test_frames_are_limited_in_number_and_size() -> None:
    pytest.importorskip("av")
    frames = [picture(n) for n in range(6)]
    for data in (
        hostile["film"]("mp4", 6),
        saved(frames[0], "GIF", save_all=True, append_images=frames[1:], duration=250),
    ):
        with pytest.raises(MediaError, match="more than 5 frames"):
            load_video(data, Sampling(), MediaLimits(video_frames=5))
        with pytest.raises(MediaError, match="64 x 48 pixels, more than the limit of 3000"):
            load_video(data, Sampling(), MediaLimits(image_pixels=3000))
        assert load_video(data, Sampling(), MediaLimits(video_frames=6)).images


def test_a_playlist_opens_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """FFmpeg would open what it names, a file or an address."""
    av = pytest.importorskip("av")
    (tmp_path / "secret.ts").write_bytes(b"")
    stream = io.BytesIO()
    with av.open(stream, "w", format="mpegts") as film:
        track = film.add_stream("mpeg2video", rate=25)
        track.width, track.height, track.pix_fmt = 64, 48, "yuv420p"
        for number in range(25):
            film.mux(track.encode(av.VideoFrame.from_image(picture(number))))
        film.mux(track.encode())
    (tmp_path / "secret.ts").write_bytes(stream.getvalue())
    lines = [
        "#EXTM3U",
        "#EXT-X-TARGETDURATION:1",
        "#EXTINF:1,",
        f"file://{tmp_path}/secret.ts",
        "#EXT-X-ENDLIST",
    ]
    playlist = ("\n".join(lines) + "\n").encode()
    (tmp_path / "list.m3u8").write_bytes(playlist)
    (tmp_path / "list.mp4").write_bytes(playlist)
    assert load_video(stream.getvalue(), Sampling(), LIMITS).images
    for source in (playlist, tmp_path / "list.m3u8", tmp_path / "list.mp4"):
        with pytest.raises(MediaError, match="cannot read the video"):
            load_video(source, Sampling(), LIMITS)
    assert "hls" not in clip_decoding_module.CONTAINERS.split(",")


def test_the_bad_frame_of_a_list_is_named() -> None:
    for bad, words in (
        (np.full((4, 4), np.nan), "finite"),
        (b"x", "not a picture"),
        ("gone.png", "no such file"),
    ):
        with pytest.raises(MediaError, match=f"frame 2: .*{words}"):
            load_video([picture(0), picture(1), bad], Sampling(), LIMITS)
    with pytest.raises(TypeError, match=r"frame 1: .*not a list"):
        load_video([picture(0), [picture(1)]], Sampling(), LIMITS)
    with pytest.raises(MediaError, match="is no video"):
        load_video(np.zeros((4, 4)), Sampling(), LIMITS)


# --- items ----------------------------------------------------------------------------------------------


def test_values_that_cannot_even_be_printed() -> None:
    for raw, words in (
        ({"document": b"%PDF-", "page": 10**5000}, "counts from 1, not a number of that size"),
        ({"document": b"%PDF-", "page": -(10**5000)}, "counts from 1"),
        ({10**5000: "a"}, "unknown key of type int"),
        ({"k" * 10**6: "a"}, r"unknown key 'k{50}\.\.\.'"),
        ("".join(map(chr, range(0xE000, 0xF900))), "private-use"),
    ):
        with pytest.raises(ItemError, match=f"^item 4: .*{words}") as caught:
            parse_item(raw, 4)
        assert len(str(caught.value)) < 300


def test_limits_are_settings_of_the_processor(tiny_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    """They are given by whoever runs the model, and no checkpoint can loosen them."""
    folder = tiny_checkpoint("qwen2_vl")
    processor = UmeProcessor.from_pretrained(folder, limits=replace(LIMITS, image_pixels=50))
    with pytest.raises(ItemError, match=r"item 3: .*64 x 48 pixels, more than the limit of 50"):
        processor.prepare({"image": picture()}, index=3)
    processor.save_pretrained(tmp_path)
    assert "file_seconds" not in (tmp_path / "processor_config.json").read_text()
    assert UmeProcessor.from_pretrained(tmp_path).limits == LIMITS
    assert processor.with_settings().limits == processor.limits
