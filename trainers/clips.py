"""A long video cut into clips that are each other's hard negatives.

RzenEmbed (section 3.4) trains on 400K clips of long videos, because the other clips of a video look like the right one
and are wrong. An item's video has no start and end, so a clip is read when its row is asked for, as a list of frames.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from PIL import Image
from torch.utils.data import Dataset

from ..encoding.inputs.media_root import MediaRoot, media_root
from ..processing.clip_decoding import Film, av
from ..processing.limits import Deadline, MediaError, MediaLimits, describe, reading
from ..processing.sources import read_bytes
from .formats.records import given


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
        self.media, self.limits = media_root(media, None), limits or MediaLimits()
        self.instruction = instruction
        self.extra = given(task=task, dataset=dataset)
        self.places = [(v, c) for v, video in enumerate(videos) for c in range(len(video["clips"]))]

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> dict[str, Any]:
        row, chosen = self._row(index)
        number, clip = self.places[index]
        video = self.videos[number]
        try:
            video_file = _LongVideo(self.media.find(video["video"]), self.limits)
            stretches = [video["clips"][one] for one in (clip, *chosen)]
            clips = [{"video": video_file.clip(one["start"], one["end"], self.frames)} for one in stretches]
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

    Only the stretch from the key frame before ``start`` is decoded, where the container can go there.

    Args:
        source: path or bytes of a video file.

    Raises:
        MediaError: unreadable, over a limit, or over before ``start``.
        ImportError: PyAV is not installed.
    """
    return _LongVideo(source, limits or MediaLimits()).clip(start, end, frames)


def video_seconds(source: Any, limits: MediaLimits | None = None) -> float:
    """How long a video file is, by its packets and not by its header, which may lie; to ``cut`` it.

    Raises:
        MediaError: unreadable, or its packets have no times.
        ImportError: PyAV is not installed.
    """
    return _LongVideo(source, limits or MediaLimits()).seconds


class _LongVideo:
    """A video file whose packets were read once; its clips are decoded when they are asked for."""

    def __init__(self, source: Any, limits: MediaLimits) -> None:
        if av is None:
            raise ImportError("video files need PyAV: pip install umekit[media]")
        self.name, self.limits = describe(source), limits
        data = read_bytes(source, limits)
        # The limit on frames is for those that are decoded, and a long video has more.
        self.file = Film(
            data, Deadline(self.name, limits), replace(limits, video_frames=sys.maxsize), rate=1.0
        )
        with reading(self.name, "cannot read the video"):
            self.timeline = self.file.timeline()
        if self.timeline.duration is None:
            raise MediaError(f"{self.name} has frames without a time, so that no clip can be cut")
        self.seconds = self.timeline.duration

    def clip(self, start: float, end: float, frames: int) -> list[Image.Image]:
        if start > self.timeline.seconds[-1]:
            raise MediaError(f"{self.name} ends before the clip that starts at {start} s")
        times = start + (end - start) * (np.arange(frames) + 0.5) / frames
        shown = np.searchsorted(self.timeline.seconds, times, side="right") - 1
        numbers, places = np.unique(shown.clip(0), return_inverse=True)
        if numbers[-1] - numbers[0] >= self.limits.video_frames:
            raise MediaError(f"{self.name} has more than {self.limits.video_frames} frames in a clip")
        self.file.deadline.restart()
        with reading(self.name, "cannot read the video"):
            images = list(self.file.pictures(numbers.tolist(), seek=True))
            if len(images) < len(numbers):  # some containers have no index by which a key frame is found
                images = list(self.file.pictures(numbers.tolist()))
        if len(images) < len(numbers):
            raise MediaError(f"{self.name} is damaged between {start} and {end} s")
        return [images[place] for place in places]


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
