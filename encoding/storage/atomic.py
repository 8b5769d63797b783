"""Atomic writing: files are written aside and then given their names, so that a reader never sees half of one."""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from .ownership import announce, is_left_over, make_marked, naming_the_disk, remove_marked, umask_in_force
from .ownership import place as _place

_NAME = re.compile(r"\.tmp-[0-9a-f]{12}-[0-9a-f]{8}-\d+")


def file_sha256(path: Path) -> str:
    """sha256 of a file in hex, read in pieces."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def write_atomically(path: Path, data: bytes) -> None:
    """Write ``path`` through a temporary file beside it; a reader sees the old or the new bytes."""
    with written_atomically(path) as handle:
        handle.write(data)


@contextmanager
def written_atomically(path: Path) -> Iterator[BinaryIO]:
    """The temporary file that becomes ``path`` at the end; nothing does after an error."""
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with naming_the_disk(path), os.fdopen(descriptor, "wb") as handle:
            yield handle
            handle.flush()
            os.fsync(handle.fileno())
        os.chmod(name, 0o666 & ~umask_in_force())
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


class AtomicFolder:
    """Where files are written before they are moved to their names; remains of killed processes are removed.

    Only a folder with a mark of ours is ever removed, and of it only the files that the mark names.
    """

    def __init__(self, folder: Path) -> None:
        self.target = folder
        self.folder = folder / f".tmp-{_place()}-{secrets.token_hex(4)}-{os.getpid()}"

    def __enter__(self) -> AtomicFolder:
        self.remove_stale()
        make_marked(self.folder)
        return self

    def __exit__(self, *_: object) -> None:
        remove_marked(self.folder)
        self.remove_stale()

    def remove_stale(self) -> None:
        """Remove what killed processes have left."""
        for path in self.target.glob(".tmp-*"):
            if _NAME.fullmatch(path.name) and is_left_over(path):
                remove_marked(path)

    def write(self, name: str, data: bytes) -> dict[str, Any]:
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
