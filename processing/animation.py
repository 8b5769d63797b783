"""Animated pictures through Pillow: GIF, WebP, APNG and AVIF, with the time that each frame is shown."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageOps, ImageSequence
from PIL.GifImagePlugin import GifImageFile

from .kinds import ANIMATED, HEAD_BYTES, format_of, kind_of_format
from .limits import Deadline, MediaLimits, check_frame, check_step
from .media import to_rgb
from .sampling import Timeline
from .sources import local_path, read_bytes

# What browsers do: a frame that asks for less is shown for a tenth of a second.
SHORTEST, DEFAULT = 11, 100  # milliseconds
WEBP_FLAGS, WEBP_ALPHA = 20, 0x10  # the byte of an extended WebP's flags, and the bit for transparency


def is_animation(data: bytes) -> bool:
    """Whether a file is read here; a still GIF or WebP is an animation of one frame."""
    if data[:6] in (b"GIF87a", b"GIF89a") or (data[:4] == b"RIFF" and data[8:12] == b"WEBP"):
        return True
    if data[4:12] == b"ftypavis":
        return "AVIF" in Image.registered_extensions().values()
    return data[:8] == b"\x89PNG\r\n\x1a\n" and b"acTL" in data[: data.find(b"IDAT")]


def has_frames(source: Path | bytes) -> bool:
    """Whether a file is an animated picture of more than one frame. Raises what Pillow raises for a damaged one."""
    if format_of(_head(source)) not in ANIMATED:
        return False
    with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
        return bool(getattr(image, "is_animated", False))


def shows_one_of_several(image: Image.Image) -> bool:
    """Whether an open image is at one picture of a file that has more."""
    try:
        return bool(getattr(image, "is_animated", False))
    except Exception:  # of a closed or damaged file; told where it is read
        return False


def is_film(source: Any) -> bool:
    """Whether bytes, a data URL or a local file are a film or an animated picture. Nothing is fetched."""
    try:
        if isinstance(source, str) and source[:5].lower() == "data:":
            source = read_bytes(source, MediaLimits())
        elif not isinstance(source, bytes):
            source = Path(os.fsdecode(local_path(source)))
            if not source.is_file():  # a pipe would not end
                return False
        return kind_of_format(format_of(_head(source))) == "video" or has_frames(source)
    except Exception:  # what is wrong with it is told where it is read
        return False


def _head(source: Path | bytes) -> bytes:
    if isinstance(source, bytes):
        return source[:HEAD_BYTES]
    with source.open("rb") as handle:
        return handle.read(HEAD_BYTES)


class Animation:
    """An animated picture; the same two questions are asked as of a film.

    Args:
        data: the file.
        deadline: time for all that is done with it.
        limits: what it may cost.
    """

    def __init__(self, data: bytes, deadline: Deadline, limits: MediaLimits) -> None:
        self.deadline, self.limits = deadline, limits
        if data[8:16] == b"WEBPVP8X" and len(data) > WEBP_FLAGS:
            # Opaque frames may leave a part of the picture out, which is transparent then and Pillow makes black.
            data = data[:WEBP_FLAGS] + bytes([data[WEBP_FLAGS] | WEBP_ALPHA]) + data[WEBP_FLAGS + 1 :]
        self.image = Image.open(io.BytesIO(data), formats=["GIF", "WEBP", "PNG", "AVIF"])
        check_frame(self.image.width, self.image.height, deadline, limits)

    def timeline(self) -> Timeline:
        """When the frames are shown."""
        starts, clock, shown = [], 0.0, 0.0
        for number, frame in enumerate(self._frames()):
            check_step(number, self.deadline, self.limits)
            frame.load()  # WebP tells a frame's duration only then
            shown = frame.info.get("duration") or 0
            shown = (shown if shown >= SHORTEST else DEFAULT) / 1000
            starts.append(clock)
            clock += shown
        return Timeline.of(starts, shown, None, 0.0, 1000 / DEFAULT)

    def decoded_timeline(self) -> Timeline:
        """The same: there are no packets that could promise something else."""
        return self.timeline()

    def pictures(self, keep: Sequence[int]) -> Iterator[Image.Image]:
        """The frames of those numbers, which rise, as RGB: upright, transparency on white."""
        wanted = set(keep)
        for number, frame in enumerate(self._frames()):
            self.deadline.check()
            if number in wanted:
                yield to_rgb(ImageOps.exif_transpose(frame.copy()))
            if number >= keep[-1]:
                return

    def _frames(self) -> Iterator[Image.Image]:
        """All but the picture of an APNG for those who cannot show animations."""
        still = self.image.info.get("default_image", False)
        for number, frame in enumerate(ImageSequence.Iterator(self.image)):
            if number or not still:
                yield frame
            self._clear_to_white()

    def _clear_to_white(self) -> None:
        """Where a GIF clears a frame that has no transparency of its own, Pillow leaves the colour of a background
        that no viewer shows."""
        image = self.image
        if (
            isinstance(image, GifImageFile)
            and image.disposal_method == 2
            and image.dispose is not None
            and image.mode in ("RGB", "RGBA")
        ):
            image.dispose = Image.new(image.mode, image.dispose.size, "white").im
