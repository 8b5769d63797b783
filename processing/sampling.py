"""Which frames of a film are read: evenly spread in time, also where the frames themselves are not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

ROUNDING = 0.001  # seconds: containers of browsers and recorders count in milliseconds


MOST_FRAMES = 100_000


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

    def __post_init__(self) -> None:
        if not 0 < self.fps <= 1000 or not 0 <= self.list_fps <= 1000:
            raise ValueError(f"fps is {self.fps}, list_fps {self.list_fps}: use up to 1000 frames a second")
        if not 1 <= self.min_frames <= self.max_frames <= MOST_FRAMES:
            raise ValueError(
                f"min_frames is {self.min_frames}, max_frames {self.max_frames}: use 1 to {MOST_FRAMES}"
            )
        if not 1 <= self.multiple <= 64 or not 0 <= self.list_frames <= MOST_FRAMES:
            raise ValueError(
                f"multiple is {self.multiple}, list_frames {self.list_frames}: use 1..64 and 0..{MOST_FRAMES}"
            )


@dataclass(frozen=True)
class Timeline:
    """When the frames of a film are shown, from 0, in the order in which they are shown.

    Attributes:
        seconds: float64 ``[frames]``, never falling.
        duration: seconds until the last frame is gone; None where nothing is known of the film's times.
        even: whether the frames are equally far apart.
    """

    seconds: NDArray[np.float64]
    duration: float | None
    even: bool

    @classmethod
    def at_rate(cls, total: int, rate: float | None, otherwise: float) -> Timeline:
        """Of a film that does not say when its frames are shown; ``otherwise`` is its rate where that is not known."""
        return cls(np.arange(total) / (rate or otherwise), total / rate if rate else None, True)

    @classmethod
    def of(
        cls, seconds: Sequence[float], last: float | None, rate: float | None, tick: float, otherwise: float
    ) -> Timeline:
        """Of frames that say when they are shown.

        Args:
            seconds: never falling, at least one.
            last: how long the last frame is shown; None where that is not known.
            rate: frames per second that the film is said to have. Believed where the times bear it out.
            tick: what the container rounds times to.
            otherwise: the rate of frames that all say the same time, where ``rate`` is not known.
        """
        times = np.asarray(seconds, dtype=np.float64) - seconds[0]
        total, length = len(times), float(times[-1])
        if total > 1 and length == 0:
            return cls.at_rate(total, rate, otherwise)
        slack = max(tick, ROUNDING) * 1.001
        if rate and np.abs(times - np.arange(total) / rate).max() <= slack:
            return cls.at_rate(total, rate, otherwise)
        usual = float(np.median(np.diff(times))) if total > 1 else 0.0
        even = bool(np.abs(times - np.linspace(0, length, total)).max() <= slack)
        return cls(times, length + (last or usual), even)

    def __len__(self) -> int:
        return len(self.seconds)

    def chosen(self, sampling: Sampling) -> list[int]:
        """Numbers of the frames to keep, first and last included.

        Of frames that are not equally far apart, those nearest to equally spaced times: one that is shown long is
        taken once, and a burst does not take the place of the rest.
        """
        if self.even:
            return sample_indices(len(self), self.duration, sampling)
        places = np.linspace(0, self.seconds[-1], _count(sampling.max_frames, self.duration, sampling))
        nearest = np.interp(places, self.seconds, np.arange(len(self))).round().astype(int)
        picked = np.unique(nearest)
        while len(picked) < len(self) and (
            len(picked) < min(sampling.min_frames, sampling.max_frames) or len(picked) % sampling.multiple
        ):
            # one more, the one that is farthest from all others
            after = np.searchsorted(picked, np.arange(len(self))).clip(1, len(picked) - 1)
            left, right = self.seconds[picked[after - 1]], self.seconds[picked[after]]
            alone = np.minimum(np.abs(self.seconds - left), np.abs(right - self.seconds))
            alone[picked] = -1.0
            picked = np.sort(np.append(picked, int(alone.argmax())))
        return picked.tolist()


def sample_indices(total: int, seconds: float | None, sampling: Sampling) -> list[int]:
    """Indices of the frames to keep, evenly spread over the whole film, first and last included.

    Args:
        total: frames of the film, at least 1.
        seconds: its duration; None if unknown (then as many as ``max_frames`` allows).
        sampling: rate and limits.
    """
    return np.linspace(0, total - 1, _count(total, seconds, sampling)).round().astype(int).tolist()


def _count(total: int, seconds: float | None, sampling: Sampling) -> int:
    """How many frames are kept of ``total`` that take ``seconds``."""
    wanted = sampling.max_frames if seconds is None else int(min(seconds * sampling.fps, sampling.max_frames))
    wanted = min(max(wanted, sampling.min_frames), sampling.max_frames, total)
    return max(wanted - wanted % sampling.multiple, min(sampling.multiple, total))


def repaired(seconds: Sequence[float]) -> list[float]:
    """Times of frames in the order in which they are shown, never falling.

    Some films number their frames in the order in which they were written; where every time is there once, they are
    only out of order. A single frame that is early is a slip. Where times go back for good, another recording begins
    (recordings are joined, or a clock overflows): it follows upon the one before.
    """
    if all(one <= next_one for one, next_one in pairwise(seconds)):
        return list(seconds)
    if len(set(seconds)) == len(seconds):
        return sorted(seconds)
    gaps = [b - a for a, b in pairwise(seconds) if b > a]
    usual = float(np.median(gaps)) if gaps else 0.0
    found, offset = [seconds[0]], 0.0
    for number, second in enumerate(seconds[1:], start=1):
        time, before = second + offset, found[-1]
        if time < before:
            following = seconds[number + 1] + offset if number + 1 < len(seconds) else before
            if following < before:
                offset += before + usual - time
                time = before + usual
            else:
                time = before
        found.append(time)
    return found
