"""A folder of images, clips, PDFs and texts: a unit is a file, a PDF has a row per page."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ..files import file_items, kind_of
from .unit import InputError, Row, Unit, failed_unit


@dataclass(frozen=True)
class Entry:
    """A file by its path relative to the root, its size, and why it cannot be read if that is known already."""

    name: str
    size: int
    error: str | None = None


class FolderSource:
    """All files below ``root`` that can be items, in the order of their names; nothing hidden.

    Raises:
        InputError: there is no such file.
    """

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = Path(root)
        self.entries = sorted(_walk(self.root), key=lambda entry: entry.name)
        if not self.entries:
            raise InputError(f"{self.root} holds no image, video, PDF or text")

    def count(self) -> int:
        return len(self.entries)

    def units(self) -> Iterator[Unit]:
        for entry in self.entries:
            if entry.error is not None:
                yield failed_unit(entry.name, entry.error)
            else:
                yield Unit(entry.name, partial(self._rows, entry.name))

    def fingerprint(self) -> str:
        digest = hashlib.sha256(b"folder")
        for entry in self.entries:
            digest.update(f"{entry.name}\0{entry.size}\n".encode())
        return digest.hexdigest()

    def _rows(self, name: str) -> list[Row]:
        return [Row(name + suffix, item) for suffix, item, _ in file_items(self.root / name)]


def _walk(root: Path) -> Iterator[Entry]:
    inside = root.resolve()
    unlisted: list[OSError] = []
    for folder, subfolders, names in os.walk(root, onerror=unlisted.append):
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        for name in names:
            file = Path(folder, name)
            if name.startswith(".") or kind_of(file) is None:
                continue
            yield _entry(file, file.relative_to(root).as_posix(), inside)
    for error in unlisted:
        name = Path(error.filename).relative_to(root).as_posix()
        yield Entry(_printable(name), 0, f"can't be listed: {error.strerror}")


def _entry(file: Path, name: str, inside: Path) -> Entry:
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return Entry(_printable(name), 0, "its name is not valid UTF-8")
    try:
        if file.is_symlink() and not file.resolve().is_relative_to(inside):
            return Entry(name, 0, "a link that leads out of the folder")
        if not file.is_file():
            return Entry(name, 0, "not a regular file")
        return Entry(name, file.stat().st_size)
    except (OSError, RuntimeError) as error:  # RuntimeError: links in a circle
        return Entry(name, 0, getattr(error, "strerror", None) or str(error))


def _printable(name: str) -> str:
    return name.encode("utf-8", "backslashreplace").decode("utf-8")
