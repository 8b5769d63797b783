"""Files that are written aside and then given their names, so that a reader never sees half of one."""

from __future__ import annotations

import os
import re
import secrets
from pathlib import Path
from typing import Any

from .manifest import file_sha256
from .ownership import announce, is_left_over, make_marked, naming_the_disk, remove_marked
from .ownership import place as _place

_NAME = re.compile(r"\.tmp-[0-9a-f]{12}-[0-9a-f]{8}-\d+")


class Scratch:
    """Where files are written before they are moved to their names; remains of killed processes are removed.

    Only a folder with a mark of ours is ever removed, and of it only the files that the mark names.
    """

    def __init__(self, folder: Path) -> None:
        self.target = folder
        self.folder = folder / f".tmp-{_place()}-{secrets.token_hex(4)}-{os.getpid()}"

    def __enter__(self) -> Scratch:
        self.sweep()
        make_marked(self.folder)
        return self

    def __exit__(self, *_: object) -> None:
        remove_marked(self.folder)
        self.sweep()

    def sweep(self) -> None:
        """Remove what killed processes have left."""
        for path in self.target.glob(".tmp-*"):
            if _NAME.fullmatch(path.name) and is_left_over(path):
                remove_marked(path)

    def put(self, name: str, data: bytes) -> dict[str, Any]:
        """Write a file of the target folder in one step; returns its size and sha256."""
        path = self.path(name)
        with naming_the_disk(self.target):
            path.write_bytes(data)
        return self.move(path, name)

    def path(self, name: str) -> Path:
        """Where a file is written before :meth:`move`."""
        return announce(self.folder, name)

    def move(self, path: Path, name: str) -> dict[str, Any]:
        """Give a finished file its name, once it is on the disk."""
        facts = {"bytes": path.stat().st_size, "sha256": file_sha256(path)}
        with naming_the_disk(self.target):
            _sync(path)
        os.replace(path, self.target / name)
        _sync(self.target)
        return facts


def _sync(path: Path) -> None:
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:  # a folder can't be opened on every system
        return
    try:
        os.fsync(descriptor)
    except OSError:
        if not path.is_dir():
            raise
    finally:
        os.close(descriptor)
