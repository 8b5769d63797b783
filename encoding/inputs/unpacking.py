"""A compressed archive to a folder, once: nothing in it may lead out of that folder, be a link, or be a bomb.

What is compressed as a whole cannot be read a member at a time, as media are. Parts (``x.tar.gz.00``, ``.part-aa``) are
read one after the other, as ``cat`` would.
"""

from __future__ import annotations

import hashlib
import io
import re
import shutil
import tarfile
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO

from ...processing.limits import MediaError, MediaLimits
from ..storage.atomic import new_folder
from .columns import resolve_within
from .sample import EDGE_BYTES

ENDINGS = (".tar", ".tar.gz", ".tgz", ".tar.xz", ".tar.bz2", ".zip")
_PART = re.compile(r"(?P<whole>.+\.(?:tar|tar\.gz|tgz|zip))[.-]?(?:part)?[-_.]?(?P<number>\d{1,4}|[a-z]{2})")
BOMB = 200  # times its size that an archive may unpack to; frames and pictures are compressed already
SPARE = 1 << 30


def archives_in(folder: Path) -> dict[str, list[Path]]:
    """Archives of a folder by name, parts of one together and in order."""
    found: dict[str, list[Path]] = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        if not path.is_file():
            continue
        if path.name.endswith(ENDINGS):
            found.setdefault(path.name, []).append(path)
        elif part := _PART.fullmatch(path.name):
            found.setdefault(part["whole"], []).append(path)
    return found


def unpacked(parts: Sequence[Path], cache: Path, limits: MediaLimits | None = None) -> Path:
    """The folder of an archive's files below ``cache``; unpacked if it is not there.

    Raises:
        MediaError: not an archive, damaged, or with a member that is a link, leads out, is there twice, or is larger
            than ``file_bytes``; or unpacking to more than an archive of its size may.
    """
    digest = hashlib.sha256()
    for path in parts:
        digest.update(f"{path.name}\0{path.stat().st_size}\0".encode())
        with path.open("rb") as handle:
            digest.update(handle.read(EDGE_BYTES))
    target = cache / f"{parts[0].name.partition('.')[0]}-{digest.hexdigest()[:16]}"
    if target.is_dir():
        return target
    cache.mkdir(parents=True, exist_ok=True)
    try:
        with new_folder(target) as folder:
            _unpack(parts, folder, limits or MediaLimits())
    except FileExistsError:  # another process was faster
        if not target.is_dir():
            raise
    except (tarfile.TarError, zipfile.BadZipFile, EOFError, ValueError, RuntimeError) as error:
        if isinstance(error, MediaError):
            raise
        raise MediaError(f"{parts[0].name}: {error}") from None
    return target


def _unpack(parts: Sequence[Path], folder: Path, limits: MediaLimits) -> None:
    name, left = parts[0].name, BOMB * sum(path.stat().st_size for path in parts) + SPARE
    for member, size, handle in _zip_members(parts) if ".zip" in name else _tar_members(parts):
        if size > limits.file_bytes:
            raise MediaError(f"{name}: {member} has {size} bytes; the limit is {limits.file_bytes}")
        left -= size
        if left < 0:
            raise MediaError(f"{name} unpacks to more than {BOMB} times its size")
        path = resolve_within(member, folder)
        if path.exists():
            raise MediaError(f"{name}: {member} is there twice, or is a file and a folder")
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("xb") as out:
            shutil.copyfileobj(handle, out, 1 << 20)
        if path.stat().st_size != size:
            raise MediaError(f"{name}: {member} is not of the size that its header says")


def _tar_members(parts: Sequence[Path]) -> Iterator[tuple[str, int, BinaryIO]]:
    with ExitStack() as stack:
        joined: Any = _Joined([stack.enter_context(path.open("rb")) for path in parts])
        archive = stack.enter_context(tarfile.open(fileobj=io.BufferedReader(joined), mode="r|*"))
        for member in archive:
            if member.isdir():
                continue
            handle = archive.extractfile(member) if member.isreg() and not member.issparse() else None
            if handle is None:
                raise MediaError(f"{parts[0].name}: {member.name} is a link or special file")
            yield member.name, member.size, handle  # type: ignore[misc]


def _zip_members(parts: Sequence[Path]) -> Iterator[tuple[str, int, BinaryIO]]:
    if len(parts) > 1:
        raise MediaError(f"{parts[0].name}: a zip in parts; join them first")
    with zipfile.ZipFile(parts[0]) as archive:
        for info in archive.infolist():
            if not info.is_dir():
                if (info.external_attr >> 16) & 0o170000 not in (0, 0o100000):
                    raise MediaError(f"{parts[0].name}: {info.filename} is a link or special file")
                with archive.open(info) as handle:
                    yield info.filename, info.file_size, handle  # type: ignore[misc]


class _Joined(io.RawIOBase):
    """Files read as one."""

    def __init__(self, handles: Sequence[BinaryIO]) -> None:
        self.handles = list(handles)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray) -> int:  # type: ignore[override]
        while self.handles:
            data = self.handles[0].read(len(buffer))
            if data:
                buffer[: len(data)] = data
                return len(data)
            self.handles.pop(0)
        return 0
