"""What one file may cost, and how a message names it."""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from PIL import Image, UnidentifiedImageError

NAME_CHARACTERS = 200  # of a source's name in a message
DAMAGED = "its data are damaged, cut off, or of a kind that the decoder does not know"
_DECODER_ERROR = re.compile(r"(?:decoder error )?(-\d+)(?: when reading image file)?$")
DECODED_PIXELS = 2**27  # of large pictures that are in memory at once, each with 3 to 7 bytes
LARGE_PIXELS = 2**22  # a picture of fewer is not counted


class MediaError(ValueError):
    """A file cannot be read or is over a limit; the message names it."""


@dataclass(frozen=True)
class MediaLimits:
    """What one file may cost.

    Attributes:
        file_bytes: largest file or download.
        image_pixels: largest picture, width times height.
        video_frames: most frames that are decoded of one video.
        document_pages: most pages of a document that is embedded whole.
        document_password: opens PDFs that are encrypted; others do not mind it. Never saved or shown.
        file_seconds: most time for decoding one file.
        url_seconds: most time for one download, redirects included.
        allow_urls: whether http(s) sources are fetched at all.
        allow_private_urls: whether hosts in private networks may be fetched from, and proxies of the environment
            used. Without it, only addresses that were checked are connected to.
        draft_pixels: JPEGs are decoded at a half, a quarter or an eighth of their size where both sides can be
            divided by it and at least this many pixels stay; 0 decodes them whole. Several times faster for photos of
            many megapixels. Vectors change a little, so use it for queries and documents alike. Grids and token ids
            stay for at least four times the checkpoint's most pixels of a picture; less would also blur it.
    """

    file_bytes: int = 2**30
    image_pixels: int = 178_956_970
    video_frames: int = 200_000
    document_pages: int = 64
    document_password: str | None = field(default=None, repr=False)
    file_seconds: float = 300.0
    url_seconds: float = 20.0
    allow_urls: bool = True
    allow_private_urls: bool = False
    draft_pixels: int = 0


class Deadline:
    """When the time for a file is over; it is asked between the steps of decoding.

    Args:
        name: of the file, for the message.
        limits: whose ``file_seconds`` count from now.
    """

    def __init__(self, name: str, limits: MediaLimits) -> None:
        self.name, self.seconds = name, limits.file_seconds
        self.restart()

    def restart(self) -> None:
        """After a wait that was not the file's fault."""
        self._end = time.monotonic() + self.seconds

    @property
    def passed(self) -> bool:
        return time.monotonic() > self._end

    def check(self) -> None:
        """Raise ``MediaError`` once the time is over."""
        if self.passed:
            raise self.error()

    def error(self) -> MediaError:
        return MediaError(
            f"{self.name}: decoding took longer than the limit of {self.seconds:g} s (file_seconds)"
        )


class Room:
    """Room for the pixels that threads decode side by side: several giants would not fit into memory.

    A thread that has room never waits for another, so that no two wait for each other; one that has none waits in
    line. It has room for the largest of its pictures, because it decodes one after the other. A picture that is
    larger than the whole room has it for itself.

    Args:
        pixels: how many there may be.
        least: pictures of fewer pixels are not counted.
    """

    def __init__(self, pixels: int = DECODED_PIXELS, least: int = LARGE_PIXELS) -> None:
        self.pixels, self.least = pixels, least
        self.empty()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self.empty)  # the threads that held it are not there

    def empty(self) -> None:
        self._free = self.pixels
        self._freed, self._line = threading.Condition(), threading.Lock()
        self._own = threading.local()

    @contextmanager
    def released(self) -> Iterator[None]:
        """What this thread claims within is free at the end; within another such block, at the end of that one."""
        if hasattr(self._own, "pixels"):
            yield
            return
        self._own.pixels = 0
        try:
            yield
        finally:
            with self._freed:
                self._free += self._own.__dict__.pop("pixels", 0)
                self._freed.notify()

    def claim(self, pixels: int) -> None:
        """Before a picture is decoded, in a :meth:`released` block; waits for room."""
        more = min(pixels, self.pixels) - self._own.pixels
        if pixels < self.least or more <= 0:
            return
        if self._own.pixels:
            with self._freed:
                self._free -= more
        else:
            with self._line, self._freed:
                self._freed.wait_for(lambda: self._free >= more)
                self._free -= more
        self._own.pixels += more


ROOM = Room()


def check_step(number: int, deadline: Deadline, limits: MediaLimits) -> None:
    """Before frame ``number``, from 0, is read."""
    deadline.check()
    if number >= limits.video_frames:
        raise MediaError(f"{deadline.name} has more than {limits.video_frames} frames")


def check_frame(width: int, height: int, deadline: Deadline, limits: MediaLimits) -> None:
    """Of a size as it is stored, or as it is shown."""
    if width * height > limits.image_pixels:
        raise MediaError(
            f"{deadline.name} has frames of {width} x {height} pixels, more than the limit of {limits.image_pixels}"
        )


def describe(source: Any) -> str:
    """A short, printable name of a source for messages."""
    if isinstance(source, (bytes, bytearray)):
        return f"<{len(source)} bytes>"
    if isinstance(source, Mapping) and isinstance(source.get("path"), (str, os.PathLike)):
        source = source["path"]
    if not isinstance(source, (str, os.PathLike)):
        return f"<{type(source).__name__}>"
    if isinstance(source, str) and source[:5].lower() == "data:":
        head = source[:60].partition(",")[0]
        return f"<{head.encode('utf-8', 'backslashreplace').decode()} of {len(source)} characters>"
    name = os.fsdecode(source).encode("utf-8", "backslashreplace").decode().replace("\0", "\\0")
    return name if len(name) <= NAME_CHARACTERS else f"{name[:NAME_CHARACTERS]}... ({len(name)} characters)"


@contextmanager
def reading(name: str, what: str = "") -> Iterator[None]:
    """What a foreign decoder raises becomes a ``MediaError`` that names the file: hostile bytes cause anything."""
    try:
        yield
    except MediaError:
        raise
    except Exception as error:
        said = f"{what} ({reason(error)})" if what else reason(error)
        raise MediaError(f"{name}: {said}") from None


def reason(error: BaseException) -> str:
    """What an exception of a foreign decoder says, in one line of bounded length."""
    if isinstance(error, UnidentifiedImageError):
        return "not a picture that Pillow can read"  # its own words are an address in memory
    of_bytes = getattr(error, "filename", None) == "<none>"  # PyAV's, whose errors are not all OSErrors
    words = getattr(error, "strerror", error) if of_bytes else error
    said = " ".join(str(words).split()).encode("utf-8", "backslashreplace").decode()[:NAME_CHARACTERS]
    code = _DECODER_ERROR.match(said)
    if code is not None:  # all that Pillow passes on of what libtiff and OpenJPEG say
        return f"{DAMAGED} (error {code[1]})"
    if isinstance(error, (OSError, SyntaxError, ValueError)) and said:
        return said
    said = f"{type(error).__name__}: {said}" if said else type(error).__name__
    if isinstance(error, (Image.DecompressionBombError, MemoryError, ImportError)):
        return said
    return f"{DAMAGED} ({said})"
