"""Read images: from a path, a URL, bytes, a PIL image or an array to RGB PIL images.

Files are hostile: bytes, pixels, pages and frames are limited by :class:`MediaLimits` before they are decoded.
Documents are in ``documents_ume.py``, video in ``video_ume.py``.
"""

from __future__ import annotations

import io
import ipaddress
import os
import socket
import urllib.parse
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError


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
        url_seconds: connection and read timeout of a download.
        allow_urls: whether http(s) sources are fetched at all.
        allow_private_urls: whether hosts in private networks may be fetched from.
    """

    file_bytes: int = 2**30
    image_pixels: int = 178_956_970
    video_frames: int = 200_000
    document_pages: int = 64
    url_seconds: float = 20.0
    allow_urls: bool = True
    allow_private_urls: bool = False


def describe(source: Any) -> str:
    """A short name of a source for messages."""
    if isinstance(source, (str, os.PathLike)):
        return str(source)
    if isinstance(source, (bytes, bytearray)):
        return f"<{len(source)} bytes>"
    return f"<{type(source).__name__}>"


def read_bytes(source: Any, limits: MediaLimits) -> bytes:
    """Bytes of a path, an http(s) URL, ``bytes`` or a ``{"bytes": ..., "path": ...}`` record of a data set.

    Raises:
        MediaError: missing, empty, too large, or not a file.
    """
    if isinstance(source, Mapping):
        source = source["bytes"] if source.get("bytes") is not None else source.get("path")
    if isinstance(source, (bytes, bytearray)):
        data = bytes(source)
    elif isinstance(source, str) and source.startswith(("http://", "https://")):
        data = _download(source, limits)
    elif isinstance(source, (str, os.PathLike)):
        data = _read_file(Path(source), limits)
    else:
        raise TypeError(f"give a path, a URL or bytes, not a {type(source).__name__}")
    if not data:
        raise MediaError(f"{describe(source)} is empty")
    if len(data) > limits.file_bytes:
        raise MediaError(
            f"{describe(source)} has {len(data)} bytes, more than the limit of {limits.file_bytes}"
        )
    return data


def _read_file(path: Path, limits: MediaLimits) -> bytes:
    if not path.exists():
        raise MediaError(f"no such file: {path}")
    if not path.is_file():
        raise MediaError(f"not a regular file: {path}")
    size = path.stat().st_size
    if size > limits.file_bytes:
        raise MediaError(f"{path} has {size} bytes, more than the limit of {limits.file_bytes}")
    return path.read_bytes()


class _CheckedRedirects(urllib.request.HTTPRedirectHandler):
    """Every hop of a redirect is checked like the first address."""

    def __init__(self, limits: MediaLimits) -> None:
        self.limits = limits

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        _check_url(newurl, self.limits)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _check_url(url: str, limits: MediaLimits) -> None:
    parsed = urllib.parse.urlsplit(url)
    if parsed.scheme not in ("http", "https") or not parsed.hostname:
        raise MediaError(f"{url}: only http and https addresses are read")
    if limits.allow_private_urls:
        return
    try:
        found = socket.getaddrinfo(parsed.hostname, parsed.port or 443, proto=socket.IPPROTO_TCP)
    except OSError as error:
        raise MediaError(f"{url}: cannot resolve the host ({error})") from None
    for entry in found:
        if not ipaddress.ip_address(entry[4][0]).is_global:
            raise MediaError(f"{url}: the host is in a private network; allow_private_urls=True permits it")


def _download(url: str, limits: MediaLimits) -> bytes:
    if not limits.allow_urls:
        raise MediaError(f"{url}: addresses are not read here (allow_urls=False)")
    _check_url(url, limits)
    opener = urllib.request.build_opener(_CheckedRedirects(limits))
    try:
        with opener.open(url, timeout=limits.url_seconds) as response:
            return response.read(limits.file_bytes + 1)
    except MediaError:
        raise
    except (OSError, ValueError) as error:
        raise MediaError(f"{url}: {error}") from None


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
        image = _from_array(source)
    elif isinstance(source, Image.Image):
        image = source
    else:
        data = read_bytes(source, limits)
        try:
            image = Image.open(io.BytesIO(data))
        except UnidentifiedImageError:
            raise MediaError(f"{describe(source)} is not a picture that Pillow can read") from None
        except Image.DecompressionBombError as error:
            raise MediaError(f"{describe(source)}: {error}") from None
    if image.width * image.height > limits.image_pixels:
        raise MediaError(
            f"{describe(source)} has {image.width} x {image.height} pixels, "
            f"more than the limit of {limits.image_pixels}"
        )
    if min(image.size) == 0:
        raise MediaError(f"{describe(source)} has no pixels ({image.width} x {image.height})")
    try:
        return to_rgb(ImageOps.exif_transpose(image))
    except (OSError, SyntaxError, ValueError) as error:
        raise MediaError(f"{describe(source)}: {error}") from None


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert any Pillow mode to RGB: 16-bit and float pictures are scaled, transparency is laid on white."""
    if image.mode == "RGB":
        return image
    if image.mode.startswith("I") or image.mode == "F":
        values = np.asarray(image, dtype=np.float64)
        if not np.isfinite(values).all():
            raise ValueError("the picture has values that are not finite")
        top = 65535.0 if values.max() > 255 else 255.0
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
