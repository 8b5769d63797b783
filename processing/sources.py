"""Bytes of a file, wherever it lies: at a path, at an address, or in a record."""

from __future__ import annotations

import base64
import os
import stat
import time
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote, unquote_to_bytes
from urllib.request import url2pathname

from .downloads import download
from .limits import MediaError, MediaLimits, describe

SETTLED_SECONDS = (
    2.0  # after its last change; a second change within one tick of its clock may not show in a file's times
)


def read_bytes(source: Any, limits: MediaLimits) -> bytes:
    """Bytes of a path, an http(s), file or data URL, ``bytes``, or a data set's ``{"bytes": ..., "path": ...}``.

    Raises:
        MediaError: missing, empty, too large, not a regular file, an address that is refused, a record without content.
        TypeError: a source of another type.
    """
    name = describe(source)
    source = local_path(_inner(source))
    if isinstance(source, (bytes, bytearray)):
        data = bytes(source)
    elif isinstance(source, str) and source[:5].lower() == "data:":
        data = _of_data_uri(source, limits)
    elif isinstance(source, str) and "://" in source[:32]:
        data = download(source, limits)
    elif isinstance(source, (str, os.PathLike)):
        data = _read_file(source, limits)
    else:
        raise TypeError(
            "give a path, a URL, bytes, a PIL image, an array or tensor, or for a video a list of frames, "
            f"not a {type(source).__name__}{elements(source)}"
        )
    if not data:
        raise MediaError(f"{name} is empty")
    if len(data) > limits.file_bytes:
        raise MediaError(f"{name} has {len(data)} bytes, more than the limit of {limits.file_bytes}")
    return data


def elements(source: Any) -> str:
    """What an array holds that is no array of numbers."""
    return f" of {source.dtype}" if hasattr(source, "dtype") else ""


def file_key(source: Any, limits: MediaLimits) -> str | None:
    """What names the content of a local file without reading it: another file, or a change, gives another key.

    None where only the bytes can tell, or where :func:`read_bytes` has something to refuse: no path, no regular file,
    empty (as files of /proc are said to be), too large, or changed a moment ago.
    """
    try:
        source = local_path(_inner(source))
    except MediaError:
        return None
    if not isinstance(source, (str, os.PathLike)) or (isinstance(source, str) and "://" in source[:32]):
        return None
    try:
        found = os.stat(source)
    except (OSError, ValueError):  # ValueError: a path with a NUL
        return None
    settled = time.time() - max(found.st_mtime, found.st_ctime) >= SETTLED_SECONDS
    if not stat.S_ISREG(found.st_mode) or not 0 < found.st_size <= limits.file_bytes or not settled:
        return None
    return f"{found.st_dev} {found.st_ino} {found.st_size} {found.st_mtime_ns} {found.st_ctime_ns}"


def _inner(source: Any) -> Any:
    """What a ``{"bytes": ..., "path": ...}`` record holds; anything else as it is."""
    if isinstance(source, Mapping):
        content = source["bytes"] if source.get("bytes") is not None else source.get("path")
        if content is None:
            keys = ", ".join(str(key)[:50] for key in list(source)[:8]) or "nothing"
            raise MediaError(f"a dict of a medium holds its 'bytes' or 'path'; this one holds {keys}")
        return content
    return source


def local_path(source: Any) -> Any:
    """The path that a ``file:`` URL says; anything else as it is. What ``#`` and ``?`` begin belongs to the name."""
    if not isinstance(source, str) or source[:5].lower() != "file:":
        return source
    rest = source[5:]
    if rest.startswith("//"):
        host, slash, rest = rest[2:].partition("/")
        rest = slash + rest
        if host.lower() not in ("", "localhost"):
            raise MediaError(
                f"{describe(source)}: only files of this machine are read, not those of {host[:50]}"
            )
    if not rest.startswith("/") or "\0" in unquote(rest):
        raise MediaError(f"{describe(source)}: no path; a file URL is file:///folder/name")
    return url2pathname(rest)


def _of_data_uri(uri: str, limits: MediaLimits) -> bytes:
    """The bytes that a ``data:`` URL holds.

    Raises:
        MediaError: it is not in the form of one, or too large.
    """
    head, comma, body = uri.partition(",")
    name = describe(uri)
    if not comma:
        raise MediaError(f"{name}: a data URL is data:<type>;base64,<content>")
    encoded = "base64" in head.lower().replace(" ", "").split(";")[1:]
    if (
        len(body) > limits.file_bytes * 4
    ):  # more than percent signs or base64 with line ends could make smaller
        raise MediaError(f"{name} has more bytes than the limit of {limits.file_bytes}")
    data = unquote_to_bytes(body)
    if not encoded:
        return data
    packed = b"".join(data.split()).translate(bytes.maketrans(b"-_", b"+/")).rstrip(b"=")
    try:
        return base64.b64decode(packed + b"=" * (-len(packed) % 4), validate=True)
    except ValueError as error:
        raise MediaError(f"{name}: no valid base64 ({error})") from None


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
