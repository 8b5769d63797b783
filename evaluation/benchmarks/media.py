"""Pictures, frames and clips of a benchmark, by their names in its rows.

Notable: files are found by their exact names and never by their endings (``9741.mp4`` is not ``209741.mp4``,
evalscope#1752), and folders of frames come before clips.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...encoding.inputs.columns import resolve_within

PICTURES = (".jpg", ".jpeg", ".png")
CLIPS = (".mp4", ".avi", ".mov", ".mkv", ".webm")
_NUMBER = re.compile(r"(\d+)")


class BenchmarkDataError(FileNotFoundError):
    """Rows or media of a task are not where they belong; the message says what was looked for."""


class Media:
    """Files below a task's folder of media, by exact names.

    Args:
        root: the folder; None where rows bring their pictures themselves.
        clips: where whole clips lie, if frames are not there.
    """

    def __init__(self, root: Path | None, clips: Path | None = None) -> None:
        self.root, self.clips = root, clips

    def picture(self, name: str) -> str:
        """Path of a picture. Raises BenchmarkDataError, OutsideRootError."""
        path = self._within(self.root, name)
        if path is None or not path.is_file():
            raise BenchmarkDataError(f"there is no picture {name!r} in {self.root}")
        return str(path)

    def video(self, name: str, frames: int) -> list[str] | str:
        """Frames of a clip, evenly chosen as the official code does; the clip itself where there are no frames.

        Raises:
            BenchmarkDataError: neither is there.
        """
        folder = self._within(self.root, name)
        if folder is not None and folder.is_dir():
            return self._frames(folder, frames)
        for ending in ("", *CLIPS):
            clip = self._within(self.clips, name + ending)
            if clip is not None and clip.is_file():
                return str(clip)
        raise BenchmarkDataError(
            f"there is no folder of frames {name!r} in {self.root}, and no clip of that name in {self.clips}"
        )

    def folders(self, name: str) -> list[str]:
        """Names of the folders in a folder, sorted. Raises BenchmarkDataError."""
        folder = self._within(self.root, name)
        if folder is None or not folder.is_dir():
            raise BenchmarkDataError(f"there is no folder {name!r} in {self.root}")
        return sorted(f"{name}/{one.name}" for one in folder.iterdir() if one.is_dir())

    def _frames(self, folder: Path, count: int) -> list[str]:
        found = sorted((one for one in folder.iterdir() if one.suffix.lower() in PICTURES), key=_natural)
        if not found:
            raise BenchmarkDataError(f"no frames in {folder}")
        return [str(one) for one in chosen_frames(found, count)]

    @staticmethod
    def _within(root: Path | None, name: str) -> Path | None:
        return None if root is None or not name else resolve_within(name, root)


def chosen_frames(frames: Sequence[Any], count: int) -> list[Any]:
    """``count`` of them, evenly, first and last among them; all where there are fewer.

    VLM2Vec ``vision_utils.process_video_frames``.

    >>> chosen_frames(list(range(64)), 8)
    [0, 9, 18, 27, 36, 45, 54, 63]
    """
    if len(frames) < count:
        return list(frames)
    return [frames[place] for place in np.linspace(0, len(frames) - 1, count, dtype=int)]


def _natural(path: Path) -> list[tuple[int, int, str]]:
    """``frame_10`` after ``frame_9``."""
    return [
        (0, int(part), "") if part.isdigit() else (1, 0, part.lower()) for part in _NUMBER.split(path.name)
    ]
