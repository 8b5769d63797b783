"""Read images: from a path, a URL, bytes, a PIL image or an array to RGB PIL images.

Files are hostile: bytes, pixels, pages and frames are limited by :class:`MediaLimits` before they are decoded, and
decoding has a time limit. Documents are in ``documents_ume.py``, video in ``video_ume.py``.
"""

from __future__ import annotations

import http.client
import io
import ipaddress
import os
import socket
import stat
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from PIL.JpegImagePlugin import JpegImageFile

NAME_CHARACTERS = 200  # of a source's name in a message
JPEG_BLOCK = 4096  # bytes between two looks at the time; a dozen are one more scan over the whole picture
NETWORKS_64 = [
    ipaddress.IPv6Network(text) for text in ("64:ff9b::/96", "64:ff9b:1::/48")
]  # IPv4 behind NAT64

# Pillow's decoders are safe to run side by side, but not two of them on one picture that is not loaded yet.
_LOADING = [threading.Lock() for _ in range(64)]


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
        self._end = time.monotonic() + limits.file_seconds

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


class _TimedBytes(io.BytesIO):
    """Bytes for a decoder that reads them piece by piece: also a small file can make it work for hours."""

    def __init__(self, data: bytes, deadline: Deadline) -> None:
        super().__init__(data)
        self._deadline = deadline

    def read(self, size: int | None = -1, /) -> bytes:
        self._deadline.check()
        return super().read(size)


def describe(source: Any) -> str:
    """A short, printable name of a source for messages."""
    if isinstance(source, (bytes, bytearray)):
        return f"<{len(source)} bytes>"
    if isinstance(source, Mapping) and isinstance(source.get("path"), (str, os.PathLike)):
        source = source["path"]
    if not isinstance(source, (str, os.PathLike)):
        return f"<{type(source).__name__}>"
    name = os.fsdecode(source).encode("utf-8", "backslashreplace").decode().replace("\0", "\\0")
    return name if len(name) <= NAME_CHARACTERS else f"{name[:NAME_CHARACTERS]}... ({len(name)} characters)"


def reason(error: BaseException) -> str:
    """What an exception of a foreign decoder says, in one line of bounded length."""
    if isinstance(error, UnidentifiedImageError):
        return "not a picture that Pillow can read"  # its own words are an address in memory
    said = " ".join(str(error).split()).encode("utf-8", "backslashreplace").decode()[:NAME_CHARACTERS]
    if isinstance(error, (OSError, SyntaxError, ValueError)) and said:
        return said
    return f"{type(error).__name__}: {said}" if said else type(error).__name__


def read_bytes(source: Any, limits: MediaLimits) -> bytes:
    """Bytes of a path, an http(s) URL, ``bytes`` or a ``{"bytes": ..., "path": ...}`` record of a data set.

    Raises:
        MediaError: missing, empty, too large, not a regular file, or an address that is refused.
        TypeError: a source of another type.
    """
    name = describe(source)
    if isinstance(source, Mapping):
        source = source["bytes"] if source.get("bytes") is not None else source.get("path")
    if isinstance(source, (bytes, bytearray)):
        data = bytes(source)
    elif isinstance(source, str) and "://" in source[:32]:
        data = _download(source, limits)
    elif isinstance(source, (str, os.PathLike)):
        data = _read_file(source, limits)
    else:
        raise TypeError(f"give a path, a URL or bytes, not a {type(source).__name__}")
    if not data:
        raise MediaError(f"{name} is empty")
    if len(data) > limits.file_bytes:
        raise MediaError(f"{name} has {len(data)} bytes, more than the limit of {limits.file_bytes}")
    return data


def _read_file(path: str | os.PathLike[str], limits: MediaLimits) -> bytes:
    name = describe(path)
    try:
        with open(path, "rb", opener=_open_at_once) as file:
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode):
                raise MediaError(f"not a regular file: {name}")
            if found.st_size > limits.file_bytes:
                raise MediaError(
                    f"{name} has {found.st_size} bytes, more than the limit of {limits.file_bytes}"
                )
            return file.read(limits.file_bytes + 1)  # one that grows, or lies about its size as in /proc
    except MediaError:
        raise
    except FileNotFoundError:
        raise MediaError(f"no such file: {name}") from None
    except IsADirectoryError:
        raise MediaError(f"not a regular file: {name}") from None
    except (OSError, ValueError) as error:  # ValueError: a path with a NUL
        raise MediaError(
            f"{name}: cannot read the file ({getattr(error, 'strerror', None) or error})"
        ) from None


def _open_at_once(path: str, flags: int) -> int:
    """Without waiting: a pipe that nobody writes to would block here."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _is_public(address: str) -> bool:
    """Whether an address is one of the open internet; one of IPv4 inside IPv6 is judged by itself."""
    found = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(found, ipaddress.IPv6Address):
        inner = found.ipv4_mapped or found.sixtofour or (found.teredo or (None, None))[1]
        if any(found in network for network in NETWORKS_64):
            inner = ipaddress.IPv4Address(int(found) & 0xFFFFFFFF)
        found = inner or found
    return found.is_global and not found.is_multicast


class _Fetch:
    """One download: its time, and the connection that is open for it.

    A server that sends a byte now and then keeps every read within its timeout. So a timer shuts the connection
    down when the time is over.
    """

    def __init__(self, url: str, limits: MediaLimits) -> None:
        self.name, self.limits = describe(url), limits
        self.over = False
        self._end = time.monotonic() + limits.url_seconds
        self._socket: socket.socket | None = None
        self._timer = threading.Timer(limits.url_seconds, self._stop)
        self._timer.daemon = True

    def __enter__(self) -> _Fetch:
        self._timer.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()
        self._hold(None)

    def connect(self, address: tuple[str, int], *_: Any, **__: Any) -> socket.socket:
        """Connect to a host by an address that was checked: what DNS says a second time does not count."""
        last: OSError = OSError("the host has no address")
        for family, kind, protocol, _name, place in socket.getaddrinfo(*address, type=socket.SOCK_STREAM):
            if not self.limits.allow_private_urls and not _is_public(str(place[0])):
                raise MediaError(
                    f"{self.name}: the host is in a private network; allow_private_urls=True permits it"
                )
            opened = socket.socket(family, kind, protocol)
            try:
                opened.settimeout(max(self._end - time.monotonic(), 0.01))
                opened.connect(place)
            except OSError as error:
                opened.close()
                last = error
                continue
            self._hold(opened.dup())  # TLS will take the other one over
            return opened
        raise last

    def _hold(self, opened: socket.socket | None) -> None:
        if self._socket is not None:
            self._socket.close()
        self._socket = opened

    def _stop(self) -> None:
        self.over = True
        if self._socket is not None:
            try:
                self._socket.shutdown(socket.SHUT_RDWR)
            except OSError:
                self._socket.close()  # it was closed by the server already

    def opener(self) -> urllib.request.OpenerDirector:
        """An opener whose every connection, also those after redirects, goes through :meth:`connect`."""
        fetch = self

        class Http(urllib.request.HTTPHandler):
            def http_open(self, req: Any) -> Any:
                return self.do_open(fetch._made(http.client.HTTPConnection), req)

        class Https(urllib.request.HTTPSHandler):
            def https_open(self, req: Any) -> Any:
                return self.do_open(fetch._made(http.client.HTTPSConnection), req)

        own: list[Any] = [Http(), Https(), _CheckedRedirects(self.name)]
        if not self.limits.allow_private_urls:
            own.append(urllib.request.ProxyHandler({}))
        return urllib.request.build_opener(*own)

    def _made(self, kind: Any) -> Any:
        def connection(host: str, **options: Any) -> Any:
            made = kind(host, **options)
            made._create_connection = self.connect
            return made

        return connection


class _CheckedRedirects(urllib.request.HTTPRedirectHandler):
    """Redirects stay with http and https."""

    def __init__(self, name: str) -> None:
        self.name = name

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        _check_scheme(newurl, f"{self.name} leads to {describe(newurl)}")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _check_scheme(url: str, name: str) -> None:
    try:
        parsed = urllib.parse.urlsplit(url)
        good = parsed.scheme in ("http", "https") and bool(parsed.hostname) and (parsed.port or 1) > 0
    except ValueError:
        good = False
    if not good:
        raise MediaError(f"{name}: only http and https addresses are read")
    if "@" in parsed.netloc:
        raise MediaError(
            "an address with a user name or password is not read; fetch it yourself and give bytes"
        )


def _download(url: str, limits: MediaLimits) -> bytes:
    name = describe(url)
    if not limits.allow_urls:
        raise MediaError(f"{name}: addresses are not read here (allow_urls=False)")
    _check_scheme(url, name)
    with _Fetch(url, limits) as fetch:
        try:
            with fetch.opener().open(url, timeout=limits.url_seconds) as response:
                data: bytes = response.read(limits.file_bytes + 1)
                if response.length and len(data) <= limits.file_bytes and not fetch.over:
                    raise MediaError(f"{name}: the download broke off, {response.length} bytes are missing")
        except MediaError:
            raise
        except (OSError, ValueError, http.client.HTTPException) as error:
            if not fetch.over:
                raise MediaError(f"{name}: {reason(error)}") from None
            data = b""
    if fetch.over:  # what was read by then may look like a whole answer
        raise MediaError(f"{name}: the download took longer than the limit of {limits.url_seconds:g} s")
    return data


def load_image(source: Any, limits: MediaLimits) -> Image.Image:
    """One still picture as RGB, upright, transparency on white.

    Args:
        source: path, URL, bytes, ``{"bytes", "path"}``, PIL image, or array ``[H, W]``, ``[H, W, 1|3|4]`` of uint8,
            or of floats in 0..1.

    Raises:
        MediaError: unreadable, too large or not a picture.
        TypeError: a source of another type.
    """
    if isinstance(source, np.ndarray):
        _check_size(source.shape[1::-1] if source.ndim > 1 else (), describe(source), limits)
        return to_rgb(_from_array(source))
    if isinstance(source, Image.Image):
        with _LOADING[id(source) // 64 % len(_LOADING)]:
            return _decoded(source, describe(source), limits)
    name = describe(source)
    data = _TimedBytes(read_bytes(source, limits), Deadline(name, limits))
    try:
        image = Image.open(data, formats=_formats())
    except MediaError:
        raise
    except Exception as error:  # Pillow meets hostile bytes here, and lets through whatever they cause
        raise MediaError(f"{name}: {reason(error)}") from None
    if isinstance(image, JpegImageFile):
        image.decodermaxblock = JPEG_BLOCK
        _check_size(image.size, name, limits)  # of the whole picture, whatever is decoded of it
        _draft(image, limits.draft_pixels)
    return _decoded(image, name, limits)


def _draft(image: JpegImageFile, least: int) -> None:
    """Have a JPEG decoded at a part of its size, an exact one so that its shape and with it the grid stay."""
    width, height = image.size
    for scale in (8, 4, 2):
        if least and width % scale == 0 == height % scale and width * height >= least * scale**2:
            image.draft(None, (width // scale, height // scale))
            return


def _formats() -> list[str]:
    """All that Pillow reads but for PostScript, which it would have Ghostscript run."""
    Image.init()
    return [name for name in Image.ID if name != "EPS"]


def _check_size(size: tuple[int, ...], name: str, limits: MediaLimits) -> None:
    pixels = int(np.prod(size, dtype=object))
    if pixels > limits.image_pixels:
        shown = " x ".join(map(str, size))
        raise MediaError(f"{name} has {shown} pixels, more than the limit of {limits.image_pixels}")
    if pixels == 0:
        raise MediaError(f"{name} has no pixels ({' x '.join(map(str, size))})")


def _decoded(image: Image.Image, name: str, limits: MediaLimits) -> Image.Image:
    _check_size(image.size, name, limits)
    try:
        return to_rgb(ImageOps.exif_transpose(image))
    except MediaError:
        raise
    except Exception as error:  # as above
        raise MediaError(f"{name}: {reason(error)}") from None


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert any Pillow mode to RGB: 16-bit and float pictures are scaled, transparency is laid on white."""
    keyed = isinstance(image.info.get("transparency"), tuple)  # a PNG's one transparent colour
    if image.mode == "RGB" and not keyed:
        return image
    if image.mode.startswith("I") or image.mode == "F":
        values = np.asarray(image, dtype=np.float64)
        if not np.isfinite(values).all():
            raise ValueError("the picture has values that are not finite")
        top = 65535.0 if image.mode.startswith("I;16") or values.max() > 255 else 255.0
        return Image.fromarray((values.clip(0, top) * (255.0 / top)).astype(np.uint8)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")


def _from_array(array: np.ndarray) -> Image.Image:
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (1, 3, 4)) or array.size == 0:
        raise MediaError(f"an array of shape {array.shape} is no picture; give [H, W] or [H, W, 1|3|4]")
    if np.issubdtype(array.dtype, np.floating):
        if not np.isfinite(array).all():
            raise MediaError("the array has values that are not finite")
        if array.min() < 0 or array.max() > 1:
            raise MediaError("a float array must lie in 0..1; give uint8 for 0..255")
        array = (array * 255).round().astype(np.uint8)
    elif array.dtype != np.uint8:
        raise MediaError(f"an array of {array.dtype} is no picture; give uint8, or floats in 0..1")
    return Image.fromarray(array[..., 0] if array.ndim == 3 and array.shape[2] == 1 else array)
