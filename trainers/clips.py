"""A long video cut into clips that are each other's hard negatives.

RzenEmbed (section 3.4) trains on 400K clips of long videos, because the other clips of a video look like the right one
and are wrong. An item's video has no start and end, so a clip is read when its row is asked for, as a list of frames.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from PIL import Image
from torch.utils.data import Dataset

from ..processing.clip_decoding import OPEN_OPTIONS, as_shown, av, decoder_of
from ..processing.limits import Deadline, MediaError, MediaLimits, describe, reason
from ..processing.sources import read_bytes
from .formats.media import MediaRoot, media_root


def cut(
    seconds: float,
    clip_seconds: float,
    *,
    stride: float | None = None,
    least: float | None = None,
    most_clips: int | None = None,
) -> list[tuple[float, float]]:
    """Start and end of the clips of a video, in seconds.

    Args:
        seconds: how long the video is.
        clip_seconds: how long a clip is.
        stride: from start to start; None leaves no gap and no overlap.
        least: a shorter rest at the end is left out; None is half a clip.
        most_clips: so many at most, spread evenly over the video.

    Raises:
        ValueError: lengths that are not positive.
    """
    step = clip_seconds if stride is None else stride
    if min(clip_seconds, step) <= 0 or seconds < 0 or (most_clips is not None and most_clips < 1):
        raise ValueError("lengths of clips and strides must be positive, and most_clips at least 1")
    shortest = clip_seconds / 2 if least is None else least
    starts = np.arange(int(np.ceil(seconds / step))) * step
    clips = [(float(start), float(min(start + clip_seconds, seconds))) for start in starts]
    clips = [(start, end) for start, end in clips if end - start >= max(shortest, 1e-6)]
    if most_clips is not None and len(clips) > most_clips:
        clips = [clips[place] for place in np.linspace(0, len(clips) - 1, most_clips).round().astype(int)]
    return clips


class ClipRows(Dataset):  # type: ignore[type-arg]
    """A row per clip: its text as query, its frames as positive, frames of other clips of the video as negatives.

    Args:
        videos: each has ``video`` (path or bytes) and ``clips``, a list of ``start``, ``end`` (seconds) and ``text``.
        media: root of the paths; None allows none, only bytes.
        frames: frames of a clip, evenly spread, each from the middle of its share.
        negatives: at most so many, drawn by ``seed``; never a clip that overlaps with the positive or has its text.
        seed: of that draw; the same for every reading.
        instruction: for every query.
        task, dataset: given to every row.
        limits: what one video may cost.

    Raises:
        ValueError: a video without clips, or a clip without text or with times that make no sense; names it. From
            ``rows[i]`` a MediaError that names the video.
    """

    def __init__(
        self,
        videos: Sequence[Mapping[str, Any]],
        *,
        media: str | os.PathLike[str] | MediaRoot | None = None,
        frames: int = 8,
        negatives: int = 3,
        seed: int = 0,
        instruction: str | None = None,
        task: str | None = None,
        dataset: str | None = None,
        limits: MediaLimits | None = None,
    ) -> None:
        if frames < 1 or negatives < 0:
            raise ValueError(
                f"frames must be positive and negatives not negative, got {frames} and {negatives}"
            )
        for number, video in enumerate(videos):
            _check(video, number)
        self.videos, self.frames, self.count, self.seed = videos, frames, negatives, seed
        self.media, self.limits, self.instruction = (
            media_root(media, None),
            limits or MediaLimits(),
            instruction,
        )
        extra = {"task": task, "dataset": dataset}
        self.extra = {key: value for key, value in extra.items() if value is not None}
        self.places = [(v, c) for v, video in enumerate(videos) for c in range(len(video["clips"]))]

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> dict[str, Any]:
        row, chosen = self._row(index)
        number, clip = self.places[index]
        video = self.videos[number]
        try:
            data = read_bytes(self.media.find(video["video"]), self.limits)  # once for all clips
            clips = [
                {
                    "video": read_clip(
                        data,
                        video["clips"][one]["start"],
                        video["clips"][one]["end"],
                        self.frames,
                        self.limits,
                    )
                }
                for one in (clip, *chosen)
            ]
        except ValueError as error:
            raise MediaError(f"video {number} ({describe(video['video'])}): {error}") from error
        return {**row, "positive": clips[0], "negatives": clips[1:]}

    def names_only(self) -> list[dict[str, Any]]:
        """The rows with the place of a clip instead of its frames: for planning."""
        return [self._row(index)[0] for index in range(len(self))]

    def negatives_of(self, index: int) -> list[int]:
        """Numbers of the clips, within the video, that are the negatives of a row."""
        number, clip = self.places[index]
        clips = self.videos[number]["clips"]
        own = clips[clip]
        others = [
            place
            for place, one in enumerate(clips)
            if (one["end"] <= own["start"] or one["start"] >= own["end"]) and one["text"] != own["text"]
        ]
        drawn = np.random.default_rng([self.seed, index]).permutation(len(others))[: self.count]
        return [others[place] for place in sorted(drawn.tolist())]

    def _row(self, index: int) -> tuple[dict[str, Any], list[int]]:
        if not 0 <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        number, clip = self.places[index]
        own = self.videos[number]["clips"][clip]
        query: Any = own["text"]
        if self.instruction is not None:
            query = {"text": query, "instruction": self.instruction}
        name = f"video {number} {own['start']}-{own['end']}"
        row = {
            "query": query,
            "positive": {"video": name},
            "negatives": [],
            "positive_id": name,
            **self.extra,
        }
        return row, self.negatives_of(index)


def read_clip(
    source: Any, start: float, end: float, frames: int, limits: MediaLimits | None = None
) -> list[Image.Image]:
    """The frames that a viewer sees at the middles of ``frames`` equal shares of ``start`` to ``end``.

    Only the stretch from the key frame before ``start`` is decoded.

    Args:
        source: path or bytes of a video file.

    Raises:
        MediaError: unreadable, over a limit, or over before ``start``.
        ImportError: PyAV is not installed.
    """
    times = [start + (end - start) * (share + 0.5) / frames for share in range(frames)]
    found: list[Image.Image] = []
    shown, second = None, 0.0
    with _film(source, limits or MediaLimits()) as film:
        for frame, time in film.frames_from(start):
            while shown is not None and len(found) < frames and time > times[len(found)]:
                found.append(film.shown(shown))
            shown, second = frame, time
            if len(found) == frames:
                break
        if shown is None or (len(found) < frames and second < start):
            raise MediaError(f"{film.name} ends before the clip that starts at {start} s")
        while len(found) < frames:
            found.append(film.shown(shown))
    return found


def video_seconds(source: Any, limits: MediaLimits | None = None) -> float:
    """How long a video file is, by its packets and not by its header, which may lie; to ``cut`` it.

    Raises:
        MediaError: unreadable, or its packets have no times.
        ImportError: PyAV is not installed.
    """
    with _film(source, limits or MediaLimits()) as film:
        return film.seconds()


class _Film:
    """An open video; every step is checked against the limits."""

    def __init__(self, name: str, container: Any, limits: MediaLimits, deadline: Deadline) -> None:
        if not container.streams.video:
            raise MediaError(f"{name} has no video stream")
        self.name, self.container, self.limits, self.deadline = name, container, limits, deadline
        self.stream = container.streams.video[0]
        self.begin = float((self.stream.start_time or 0) * self.stream.time_base)
        self._check_size(self.stream.codec_context)

    def frames_from(self, start: float) -> Iterator[tuple[Any, float]]:
        """Frames from the last key frame before ``start`` on, and the second at which each is shown."""
        self.container.seek(
            int((start + self.begin) / self.stream.time_base), stream=self.stream, backward=True
        )
        count = 0
        decoder = decoder_of(self.stream, self.deadline)
        for packet in self.container.demux(self.stream):
            self.deadline.check()
            for frame in decoder.decode(packet):
                count += 1
                if count > self.limits.video_frames:
                    raise MediaError(f"{self.name} has more than {self.limits.video_frames} frames in a clip")
                if frame.time is None:
                    raise MediaError(f"{self.name} has frames without a time, so that no clip can be cut")
                self._check_size(frame)
                yield frame, frame.time - self.begin

    def shown(self, frame: Any) -> Image.Image:
        """A frame as a player shows it."""
        return as_shown(frame, self.stream, self.deadline, self.limits)

    def seconds(self) -> float:
        last = None
        for packet in self.container.demux(self.stream):
            self.deadline.check()
            if packet.pts is not None:
                end = float((packet.pts + (packet.duration or 0)) * self.stream.time_base) - self.begin
                last = end if last is None else max(last, end)
        if last is None:
            raise MediaError(f"{self.name} does not say how long it is")
        return last

    def _check_size(self, frame: Any) -> None:
        if frame.width * frame.height > self.limits.image_pixels:
            raise MediaError(f"{self.name} has frames over the limit of {self.limits.image_pixels} pixels")


@contextmanager
def _film(source: Any, limits: MediaLimits) -> Iterator[_Film]:
    if av is None:
        raise ImportError("video files need PyAV: pip install umekit[media]")
    data, name = read_bytes(source, limits), describe(source)
    deadline = Deadline(name, limits)
    try:
        with av.open(io.BytesIO(data), "r", options=OPEN_OPTIONS, metadata_errors="replace") as container:
            yield _Film(name, container, limits, deadline)
    except MediaError:
        raise
    except Exception as error:  # decoders meet hostile bytes here, and let through whatever they cause
        raise MediaError(f"{name}: cannot read the video ({reason(error)})") from None


def _check(video: Mapping[str, Any], number: int) -> None:
    clips = video.get("clips")
    if video.get("video") is None or not isinstance(clips, Sequence) or len(clips) == 0:
        raise ValueError(f"video {number} needs 'video' and a list of 'clips'")
    for place, clip in enumerate(clips):
        if not isinstance(clip.get("text"), str) or not clip["text"]:
            raise ValueError(f"video {number}, clip {place}: no 'text'")
        start, end = clip.get("start"), clip.get("end")
        if not all(isinstance(time, (int, float)) for time in (start, end)) or not 0 <= start < end < float(
            "inf"
        ):
            raise ValueError(f"video {number}, clip {place}: from {start} to {end} is no stretch of time")
