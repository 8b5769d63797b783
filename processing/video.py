"""Read videos: a file through PyAV, an animated picture through Pillow, or a list of frames; sampled evenly in time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
from PIL import Image

from .animation import Animation, has_frames, is_animation, shows_one_of_several
from .arrays import clip_of, is_array
from .clip_decoding import Film, av
from .kinds import other_kind
from .limits import Deadline, MediaError, MediaLimits, describe, reading
from .media import load_image
from .sampling import Sampling, Timeline, repaired, sample_indices
from .sources import read_bytes


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


class Decoder(Protocol):
    """A film that its owner decodes, as data sets hand over: ``torchcodec.decoders.VideoDecoder``."""

    metadata: Any

    def __len__(self) -> int:
        """Frames of the film."""

    def get_frame_at(self, index: int) -> Any:
        """A frame with ``data`` (uint8 ``[C, H, W]`` or ``[H, W, C]``) and ``pts_seconds``."""


def is_decoder(value: Any) -> bool:
    """Whether a value is a film that decodes itself, told by what torchcodec documents."""
    return hasattr(value, "get_frame_at") and hasattr(value, "metadata") and hasattr(value, "__len__")


class WholeFrames:
    """Keeps every frame as it is."""

    def begin(self, count: int, from_list: bool) -> None:
        """Nothing is known to be needed."""

    def keep(self, frame: Image.Image) -> Image.Image:
        return frame


def load_video(
    source: Any, sampling: Sampling, limits: MediaLimits, keeper: FrameKeeper | None = None
) -> Frames:
    """Frames of a video.

    Args:
        source: path, URL or bytes of mp4, webm, gif, webp, ...; a sequence of frames (each what ``load_image``
            takes; evenly spaced, see :class:`Sampling`); an array or tensor ``[T, H, W, C]`` or ``[T, C, H, W]``; or
            ``{"array": frames, "video_metadata": {"fps", "frames_indices", "duration", "total_num_frames"}}``, as
            sentence-transformers writes frames with times of their own: frame ``i`` is shown at
            ``frames_indices[i] / fps``, without indices at ``i / fps``; or a :class:`Decoder`.
        sampling: rate and limits.
        limits: what the video may cost; the keeper's work counts as decoding.
        keeper: what is kept of each frame; None keeps all of them whole.

    Raises:
        MediaError: unreadable, without frames, over a limit, or with a frame that the keeper does not take.
        ImportError: a video file without PyAV installed.
    """
    keeper = keeper or WholeFrames()
    if is_decoder(source):
        return _from_decoder(source, sampling, limits, keeper)
    told: Mapping[str, Any] = {}
    if isinstance(source, Mapping) and "array" in source:
        source, told = _told(source)
    if is_array(source) or (isinstance(source, Sequence) and not isinstance(source, (str, bytes, bytearray))):
        return _from_frames(source, told, sampling, limits, keeper)
    if told or (isinstance(source, Mapping) and {"fps", "video_metadata"} & set(source)):
        raise MediaError(
            f"times are given with frames, and a {type(source).__name__} is none; give a list or array"
        )
    if isinstance(source, Image.Image):
        raise MediaError(
            "a PIL image is one picture: give it as 'image', and a clip as a path, bytes or list of frames"
        )
    data = read_bytes(source, limits)
    deadline = Deadline(describe(source), limits)
    animation = is_animation(data)
    if av is None and not animation:
        raise ImportError("video files need PyAV: pip install umekit[media]")
    other = None if animation else other_kind(data, "video")
    with reading(deadline.name, other or "cannot read the video"):
        film = Animation(data, deadline, limits) if animation else Film(data, deadline, limits, sampling.fps)
        return _from_film(film, sampling, keeper)


def _kept(keeper: FrameKeeper, frame: Image.Image) -> Any:
    """What the keeper keeps; that it does not take a frame is no fault of the decoder and is told as it is."""
    try:
        return keeper.keep(frame)
    except ValueError as error:
        raise MediaError(str(error)) from None


def _told(source: Mapping[str, Any]) -> tuple[Any, Mapping[str, Any]]:
    """Frames, and what is told of their times."""
    unknown = sorted(map(str, set(source) - {"array", "video_metadata", "fps"}))
    if unknown:
        raise MediaError(f"unknown key {unknown[0][:50]!r} of a video; known are array, video_metadata, fps")
    told = source.get("video_metadata")
    if told is None:
        told = {}
    if not isinstance(told, Mapping):
        raise MediaError(f"'video_metadata' takes a dict, not a {type(told).__name__}")
    return source["array"], {**told, **({} if source.get("fps") is None else {"fps": source["fps"]})}


def _times(told: Mapping[str, Any], total: int, otherwise: float) -> list[float]:
    """When each of ``total`` frames is shown; ``otherwise`` is their rate where none is told.

    Raises:
        MediaError: a rate or indices that make no sense.
    """
    rate, indices = told.get("fps"), told.get("frames_indices")
    if rate is None and told.get("duration") is not None:
        length = _positive("duration", told["duration"])
        rate = _positive("total_num_frames", told.get("total_num_frames") or total) / length
    rate = otherwise if rate is None else _positive("fps", rate)
    if indices is None:
        return [number / rate for number in range(total)]
    try:
        places = [float(place) for place in indices]
    except (TypeError, ValueError):
        places = []
    if len(places) != total or any(not 0 <= a <= b < np.inf for a, b in pairwise([0.0, *places])):
        raise MediaError(f"'frames_indices' must be {total} numbers that rise, one for each frame")
    return [place / rate for place in places]


def _positive(name: str, value: Any) -> float:
    try:  # Fractions, as PyAV's rates, and tensors of one number are numbers, too
        number = -1.0 if isinstance(value, (str, bool)) else float(value)
    except (TypeError, ValueError, OverflowError, RuntimeError):
        number = -1.0
    if not 0 < number < np.inf:
        raise MediaError(f"{name!r} of a video must be a positive number, not {str(value)[:50]}")
    return number


def _from_frames(
    source: Any, told: Mapping[str, Any], sampling: Sampling, limits: MediaLimits, keeper: FrameKeeper
) -> Frames:
    if is_array(source):
        source = clip_of(source)
    total = len(source)
    if total == 0:
        raise MediaError("a video needs at least one frame")
    if total > limits.video_frames:
        raise MediaError(f"a list of {total} frames is over the limit of {limits.video_frames}")
    # A list was chosen by the user: all of it is kept, up to the limit.
    most = replace(sampling, max_frames=sampling.list_frames or sampling.max_frames)
    keep = list(range(total)) if total <= most.max_frames else sample_indices(total, None, most)
    rate = sampling.list_fps or sampling.fps
    times = _times(told, total, rate)
    seconds = [times[i] for i in keep]
    step = times[1] - times[0] if told and total > 1 else 1 / rate
    while sampling.list_pad and len(seconds) % sampling.multiple:
        seconds.append(seconds[-1] + step)
    keeper.begin(len(seconds), True)
    images = [_kept(keeper, _frame(source[i], i, limits)) for i in keep]
    images += images[-1:] * (len(seconds) - len(keep))
    return Frames(images, seconds, from_list=True)


def _frame(source: Any, number: int, limits: MediaLimits) -> Image.Image:
    try:
        if isinstance(source, Image.Image):
            animated = shows_one_of_several(source)
        elif not is_array(source):
            name, source = describe(source), read_bytes(source, limits)
            with reading(name):
                animated = has_frames(source)
            source = {"bytes": source, "path": name}
        else:
            animated = False
        if animated:
            raise MediaError(
                f"{describe(source)} is an animation and no frame; give its frames as copies "
                "([frame.copy() for frame in ImageSequence.Iterator(image)]), or a list of clips alone"
            )
        return load_image(source, limits)
    except MediaError as error:
        raise MediaError(f"frame {number}: {error}") from None
    except TypeError as error:
        raise TypeError(f"frame {number}: {error}") from None


def _from_decoder(film: Decoder, sampling: Sampling, limits: MediaLimits, keeper: FrameKeeper) -> Frames:
    deadline = Deadline(describe(film), limits)
    seconds, images = [], []
    with reading(deadline.name, "cannot read the video"):
        total, rate = len(film), getattr(film.metadata, "average_fps", None)
        rate = None if rate is None or not 0 < float(rate) < np.inf else float(rate)  # as unknown
        if total == 0:
            raise MediaError(f"{deadline.name} has no frames")
        keep = Timeline.at_rate(total, rate, sampling.fps).chosen(sampling)
        keeper.begin(len(keep), False)
        for number in keep:
            deadline.check()
            frame = film.get_frame_at(number)
            seconds.append(float(frame.pts_seconds))
            images.append(_kept(keeper, _frame(frame.data, number, limits)))
    if not np.isfinite(seconds).all():
        raise MediaError(f"{deadline.name} has frames without a time")
    seconds = repaired(seconds)
    return Frames(images, [second - seconds[0] for second in seconds])


def _from_film(film: Film | Animation, sampling: Sampling, keeper: FrameKeeper) -> Frames:
    timeline = film.timeline()
    keep = timeline.chosen(sampling)
    images = _read_frames(film, keep, keeper)
    if len(images) < len(keep):  # some packets gave no frame, so that frames were sized for too many
        timeline = film.decoded_timeline()
        keep = timeline.chosen(sampling)
        images = _read_frames(film, keep, keeper)
    return Frames(images, timeline.seconds[keep[: len(images)]].tolist())


def _read_frames(film: Film | Animation, keep: list[int], keeper: FrameKeeper) -> list[Any]:
    keeper.begin(len(keep), False)
    return [_kept(keeper, picture) for picture in film.pictures(keep)]
