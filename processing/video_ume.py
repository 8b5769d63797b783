"""Read videos: a file through PyAV (gif and webp through Pillow) or a list of frames, sampled evenly in time."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from PIL import Image, ImageSequence

from .limits_ume import Deadline, MediaError, MediaLimits, describe, reason
from .media_ume import load_image, to_rgb
from .sources_ume import read_bytes

try:
    import av
except ImportError:  # an optional extra: the error is raised where a video file is asked for
    av = None  # type: ignore[assignment]

# Containers that hold their own frames. FFmpeg also reads playlists, which name files and addresses to open.
CONTAINERS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpeg,mpegts,mpegvideo,m4v,h264,hevc,obu,ivf,flv,ogg,asf,mxf,nut,rm,dv,"
    "gif,apng,yuv4mpegpipe"
)
OPEN_OPTIONS = {"format_whitelist": CONTAINERS, "protocol_whitelist": ""}


@dataclass(frozen=True)
class Sampling:
    """How many frames of a video are read.

    Attributes:
        fps: frames per second of film that are kept.
        min_frames: fewest frames of a file that has as many.
        max_frames: most frames.
        multiple: the number of frames is a multiple of this (the vision tower's temporal patch).
        list_fps: frames per second that a list of frames is taken to have; 0 for ``fps``.
        list_frames: most frames of a list; 0 for ``max_frames``.
        list_pad: whether a list is filled up to the ``multiple`` by its last frame, shown again at the next times
            (qwen_vl_utils), instead of at the same time.
    """

    fps: float = 2.0
    min_frames: int = 4
    max_frames: int = 64
    multiple: int = 2
    list_fps: float = 0.0
    list_frames: int = 0
    list_pad: bool = False


@dataclass(frozen=True)
class Frames:
    """Frames in order (RGB, or what a :class:`FrameKeeper` kept of each), the second at which each was shown, and
    whether the user gave a list of them."""

    images: list[Any]
    seconds: list[float]
    from_list: bool = False


class FrameKeeper(Protocol):
    """Says what is kept of each frame while the next ones are read.

    64 frames of 4K take 1.6 GB, so whoever needs small ones has each made small as soon as it is there.
    """

    def begin(self, count: int, from_list: bool) -> None:
        """Before the first frame of ``count``; and once more, from the first on, where there were fewer."""

    def keep(self, frame: Image.Image) -> Any:
        """What is kept of the next frame.

        Raises:
            ValueError: a frame that is not taken; the reader passes its words on as a MediaError.
        """


class WholeFrames:
    """Keeps every frame as it is."""

    def begin(self, count: int, from_list: bool) -> None:
        """Nothing is known to be needed."""

    def keep(self, frame: Image.Image) -> Image.Image:
        return frame


def sample_indices(total: int, seconds: float | None, sampling: Sampling) -> list[int]:
    """Indices of the frames to keep, evenly spread over the whole film, first and last included.

    Args:
        total: frames of the film, at least 1.
        seconds: its duration; None if unknown (then as many as ``max_frames`` allows).
        sampling: rate and limits.
    """
    wanted = sampling.max_frames if seconds is None else int(seconds * sampling.fps)
    wanted = min(max(wanted, sampling.min_frames), sampling.max_frames, total)
    wanted = max(wanted - wanted % sampling.multiple, min(sampling.multiple, total))
    return np.linspace(0, total - 1, wanted).round().astype(int).tolist()


def load_video(
    source: Any, sampling: Sampling, limits: MediaLimits, keeper: FrameKeeper | None = None
) -> Frames:
    """Frames of a video.

    Args:
        source: path, URL or bytes of mp4, webm, gif, webp, ...; a sequence of frames (each what ``load_image``
            takes; evenly spaced, see :class:`Sampling`); or an array ``[T, H, W, 3]``.
        sampling: rate and limits.
        limits: what the video may cost; the keeper's work counts as decoding.
        keeper: what is kept of each frame; None keeps all of them whole.

    Raises:
        MediaError: unreadable, without frames, over a limit, or with a frame that the keeper does not take.
        ImportError: a video file without PyAV installed.
    """
    keeper = keeper or WholeFrames()
    if isinstance(source, (np.ndarray, Sequence)) and not isinstance(source, (str, bytes, bytearray)):
        return _from_frames(source, sampling, limits, keeper)
    data = read_bytes(source, limits)
    deadline = Deadline(describe(source), limits)
    animation = data[:6] in (b"GIF87a", b"GIF89a") or (data[:4] == b"RIFF" and data[8:12] == b"WEBP")
    if av is None and not animation:
        raise ImportError("video files need PyAV: pip install umekit[media]")
    read = _from_animation if animation else _from_film
    try:
        return read(data, deadline, sampling, limits, keeper)
    except MediaError:
        raise
    except Exception as error:  # decoders meet hostile bytes here, and let through whatever they cause
        raise MediaError(f"{deadline.name}: cannot read the video ({reason(error)})") from None


def _kept(keeper: FrameKeeper, frame: Image.Image) -> Any:
    """What the keeper keeps; that it does not take a frame is no fault of the decoder and is told as it is."""
    try:
        return keeper.keep(frame)
    except ValueError as error:
        raise MediaError(str(error)) from None


def _from_frames(source: Any, sampling: Sampling, limits: MediaLimits, keeper: FrameKeeper) -> Frames:
    if isinstance(source, np.ndarray) and source.ndim not in (3, 4):
        raise MediaError(f"an array of shape {source.shape} is no video; give [T, H, W, 3]")
    total = len(source)
    if total == 0:
        raise MediaError("a video needs at least one frame")
    if total > limits.video_frames:
        raise MediaError(f"a list of {total} frames is over the limit of {limits.video_frames}")
    # A list was chosen by the user: all of it is kept, up to the limit.
    most = replace(sampling, max_frames=sampling.list_frames or sampling.max_frames)
    keep = list(range(total)) if total <= most.max_frames else sample_indices(total, None, most)
    rate = sampling.list_fps or sampling.fps
    seconds = [i / rate for i in keep]
    while sampling.list_pad and len(seconds) % sampling.multiple:
        seconds.append(seconds[-1] + 1 / rate)
    keeper.begin(len(seconds), True)
    images = [_kept(keeper, _frame(source[i], i, limits)) for i in keep]
    images += images[-1:] * (len(seconds) - len(keep))
    return Frames(images, seconds, from_list=True)


def _frame(source: Any, number: int, limits: MediaLimits) -> Image.Image:
    try:
        return load_image(source, limits)
    except MediaError as error:
        raise MediaError(f"frame {number}: {error}") from None
    except TypeError as error:
        raise TypeError(f"frame {number}: {error}") from None


def _from_animation(
    data: bytes, deadline: Deadline, sampling: Sampling, limits: MediaLimits, keeper: FrameKeeper
) -> Frames:
    film = Image.open(io.BytesIO(data), formats=["GIF", "WEBP"])
    _check_frame(film.width, film.height, deadline, limits)
    starts, clock = [], 0.0
    for number, frame in enumerate(ImageSequence.Iterator(film)):
        _check_step(number, deadline, limits)
        frame.load()  # WebP tells a frame's duration only then
        starts.append(clock)
        clock += (frame.info.get("duration") or 100) / 1000
    keep = sample_indices(len(starts), clock, sampling)
    wanted = set(keep)
    keeper.begin(len(keep), False)
    images = []
    for number, frame in enumerate(ImageSequence.Iterator(film)):
        deadline.check()
        if number in wanted:
            images.append(_kept(keeper, to_rgb(frame.copy())))
    return Frames(images, [starts[i] for i in keep])


def _check_step(number: int, deadline: Deadline, limits: MediaLimits) -> None:
    """Before frame ``number``, from 0, is read."""
    deadline.check()
    if number >= limits.video_frames:
        raise MediaError(f"{deadline.name} has more than {limits.video_frames} frames")


def _check_frame(width: int, height: int, deadline: Deadline, limits: MediaLimits) -> None:
    if width * height > limits.image_pixels:
        raise MediaError(
            f"{deadline.name} has frames of {width} x {height} pixels, more than the limit of {limits.image_pixels}"
        )


def _from_film(
    data: bytes, deadline: Deadline, sampling: Sampling, limits: MediaLimits, keeper: FrameKeeper
) -> Frames:
    total, seconds = _measure(data, deadline, limits)
    keep = sample_indices(total, seconds, sampling)
    rate = total / seconds if seconds else sampling.fps
    images = _decode(data, set(keep), deadline, limits, keeper)
    if len(images) < len(keep):  # some packets gave no frame, so that frames were sized for too many
        total = _count_decoded(data, deadline, limits)
        if total == 0:
            raise MediaError(f"{deadline.name} has no frame that can be decoded")
        keep = sample_indices(total, total / rate, sampling)
        images = _decode(data, set(keep), deadline, limits, keeper)
    return Frames(images, [i / rate for i in keep])


def _opened(data: bytes) -> Any:
    return av.open(io.BytesIO(data), "r", options=OPEN_OPTIONS, metadata_errors="replace")


def _measure(data: bytes, deadline: Deadline, limits: MediaLimits) -> tuple[int, float | None]:
    """Number of frames and duration in seconds, from the packets and not from the header, which may lie."""
    with _opened(data) as film:
        if not film.streams.video:
            raise MediaError(f"{deadline.name} has no video stream")
        stream = film.streams.video[0]
        _check_frame(stream.codec_context.width, stream.codec_context.height, deadline, limits)
        total = 0
        for packet in film.demux(stream):
            total += packet.size > 0
            _check_step(total - 1, deadline, limits)
        rate = stream.average_rate
    if total == 0:
        raise MediaError(f"{deadline.name} has no frames")
    return total, (total / float(rate) if rate else None)


def _decode(
    data: bytes, keep: set[int], deadline: Deadline, limits: MediaLimits, keeper: FrameKeeper
) -> list[Any]:
    keeper.begin(len(keep), False)
    images = []
    last = max(keep)
    for index, frame in enumerate(_decoded(data, deadline, limits)):
        if index in keep:
            images.append(_kept(keeper, to_rgb(frame.to_image())))
        if index >= last:
            break
    return images


def _count_decoded(data: bytes, deadline: Deadline, limits: MediaLimits) -> int:
    return sum(1 for _ in _decoded(data, deadline, limits))


def _decoded(data: bytes, deadline: Deadline, limits: MediaLimits) -> Iterator[Any]:
    """Frames one by one; packets that give none are counted against the time, too."""
    with _opened(data) as film:
        stream = film.streams.video[0]
        stream.thread_type = "AUTO"
        for packet in film.demux(stream):
            deadline.check()
            for frame in packet.decode():
                deadline.check()
                _check_frame(frame.width, frame.height, deadline, limits)  # it may differ from the header's
                yield frame
