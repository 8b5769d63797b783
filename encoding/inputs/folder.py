"""A folder of images, clips, PDFs and texts: a unit is a file; a PDF or TIFF has a row per page."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from ...processing.limits import MediaLimits
from .files import file_items
from .sample import InputError, Row, Unit, failed_unit
from .walking import counted, list_files


class FolderSource:
    """All files below ``root`` that can be items, in the order of their names; nothing hidden.

    ``left_out`` counts the others by their endings.

    Raises:
        InputError: there is no such file.
    """

    def __init__(self, root: str | os.PathLike[str], limits: MediaLimits | None = None) -> None:
        self.root, self.limits = Path(root), limits or MediaLimits()
        listing = list_files(self.root)
        self.entries, self.left_out = listing.files, dict(listing.left_out.most_common())
        if not self.entries:
            others = f" (only {counted(self.left_out)})" if self.left_out else ""
            raise InputError(f"{self.root} holds no image, video, PDF or text{others}")

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
        return [Row(name + suffix, item) for suffix, item, _ in file_items(self.root / name, self.limits)]
