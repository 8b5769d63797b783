"""Media that a row names: a file below a root, a member of an archive there, an http(s) address, or bytes.

Archives are read in place. A zip has its index; a tar is scanned once for the offsets of its members. Members go into
memory and never become files, so that their names can do no harm; links in archives are refused.
"""

from __future__ import annotations

import os
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...processing.limits import MediaError, MediaLimits
from .columns import media_within, resolve_within
from .sample import MEDIA, is_address
from .tars import is_compressed, read_at

SEPARATOR = "::"


class Member(bytes):
    """The content of a member of an archive, which knows where it is from: what is written again can name it.

    Attributes:
        archive: absolute path. member: its name in there.
    """

    archive: str
    member: str

    def __new__(cls, data: bytes, archive: str | os.PathLike[str], member: str) -> Member:
        made = super().__new__(cls, data)
        made.archive, made.member = os.path.abspath(archive), member
        return made

    def __getnewargs__(self) -> tuple[bytes, str, str]:  # type: ignore[override]
        return bytes(self), self.archive, self.member


class MediaRoot:
    """Where the media of some rows lie.

    Args:
        where: a folder, to which paths are relative and which they cannot leave; ``images.zip::a.jpg`` is
            the member ``a.jpg`` of an archive below it. Or an archive (zip, plain tar): paths are its members. None:
            rows bring bytes or addresses, and no file can be named.
        limits: no member may be larger than ``file_bytes``.

    Raises:
        FileNotFoundError: there is no such folder or archive.
    """

    def __init__(self, where: str | os.PathLike[str] | None, limits: MediaLimits | None = None) -> None:
        self.where = None if where is None else Path(where)
        self.limits = limits or MediaLimits()
        if self.where is not None and not self.where.exists():
            raise FileNotFoundError(f"there is no {self.where} to find media in")
        self._archives: dict[tuple[int, Path], _Zip | _Tar] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_archives": {}}

    def item(self, item: Any) -> Any:
        """An item with its media found; keys whose value is None are left out.

        Raises:
            OutsideRootError, MediaError: a path that leads out, or a member that is not there.
            TypeError: not an item.
        """
        if item is None or isinstance(item, str):
            return item
        if not isinstance(item, Mapping):
            raise TypeError(f"an item is a text or an object, not a {type(item).__name__}")
        return {
            key: self.find(value) if key in MEDIA else value
            for key, value in item.items()
            if value is not None
        }

    def find(self, value: Any) -> Any:
        """A medium: a :class:`Member`, an absolute path, an address, or what it was if it is content itself."""
        if isinstance(value, (list, tuple)):
            return [self.find(one) for one in value]
        if isinstance(value, Mapping) and isinstance(value.get("array"), (list, tuple)):
            return {**value, "array": self.find(value["array"])}
        if isinstance(value, Mapping) and value.get("bytes") is None and isinstance(value.get("path"), str):
            value = value["path"]
        if not isinstance(value, (str, os.PathLike)):
            return media_within(value, None)
        text = os.fspath(value)
        if is_address(text):
            return text
        if self.where is not None and self.where.is_file():
            return self._read(self.where, text)
        if SEPARATOR in text and self.where is not None:
            archive, _, member = text.partition(SEPARATOR)
            return self._read(resolve_within(archive, self.where), member)
        return media_within(text, self.where)

    def _read(self, archive: Path, member: str) -> Member:
        # A handle must not be shared with a forked worker: both would move its position.
        key = (os.getpid(), archive)
        if key not in self._archives:
            self._archives[key] = _open(archive)
        opened, most = self._archives[key], self.limits.file_bytes
        size = opened.size(member)
        if size is None:
            raise MediaError(f"{archive.name} has no member {member!r}")
        name = f"{archive.name}{SEPARATOR}{member}"
        if size <= most:
            try:
                data = opened.read(member, most + 1)  # a zip's header may lie about the size
            except (zipfile.BadZipFile, RuntimeError, NotImplementedError, EOFError, ValueError) as error:
                raise MediaError(f"{name}: {error}") from None
            size = len(data)
        if size > most:
            raise MediaError(f"{name} has {size} bytes; the limit is {most}")
        return Member(data, archive, member)


class MediaNames(MediaRoot):
    """Leaves every medium as it is named: for what needs no content."""

    def __init__(self) -> None:
        super().__init__(None)

    def find(self, value: Any) -> Any:
        return value


def media_root(media: str | os.PathLike[str] | MediaRoot | None, folder: Path | None) -> MediaRoot:
    """What the reader's caller gave, or else the folder of the file that is read."""
    return media if isinstance(media, MediaRoot) else MediaRoot(folder if media is None else media)


class _Zip:
    def __init__(self, path: Path) -> None:
        self.file = zipfile.ZipFile(path)

    def size(self, member: str) -> int | None:
        try:
            found = self.file.getinfo(member)
        except KeyError:
            return None
        return None if found.is_dir() else found.file_size

    def read(self, member: str, most: int) -> bytes:
        with self.file.open(member) as handle:
            return handle.read(most)


class _Tar:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.members: dict[str, tuple[int, int]] = {}
        with tarfile.open(path, "r:") as archive:
            while (member := archive.next()) is not None:
                archive.members.clear()  # type: ignore[attr-defined]  # it would keep every header
                if member.isreg() and not member.issparse():
                    self.members[member.name.removeprefix("./")] = (member.offset_data, member.size)

    def size(self, member: str) -> int | None:
        return self.members.get(member.removeprefix("./"), (0, None))[1]

    def read(self, member: str, most: int) -> bytes:
        return read_at(self.path, *self.members[member.removeprefix("./")])


def _open(path: Path) -> _Zip | _Tar:
    if not path.is_file():
        raise MediaError(f"there is no archive {path}")
    if zipfile.is_zipfile(path):
        try:
            return _Zip(path)
        except zipfile.BadZipFile as error:
            raise MediaError(f"{path.name}: {error}") from None
    if is_compressed(path):
        raise MediaError(
            f"{path.name} is compressed as a whole, so a member cannot be read alone: unpack it once"
        )
    try:
        return _Tar(path)
    except tarfile.TarError as error:
        raise MediaError(f"{path.name} is neither a zip nor a plain tar ({error})") from None
