"""Files that are written aside and then given their names, so that a reader never sees half of one."""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import shutil
import socket
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from .manifest import file_sha256

_NAME = re.compile(r"\.tmp-(?P<place>[0-9a-f]{12})-[0-9a-f]{8}-(?P<pid>\d+)")
ABANDONED_SECONDS = 86_400.0  # after which a scratch folder of elsewhere is taken for a killed process's


class Scratch:
    """Where files are written before they are moved to their names; remains of killed processes are removed.

    A process can tell that another is dead only where both count processes alike: on one machine, since one start of
    it, and in one container, whatever these call themselves. Elsewhere a folder is left until it is a day old.
    """

    def __init__(self, folder: Path) -> None:
        self.target = folder
        self.folder = folder / f".tmp-{_place()}-{secrets.token_hex(4)}-{os.getpid()}"

    def __enter__(self) -> Scratch:
        self.sweep()
        self.folder.mkdir(exist_ok=True)
        return self

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        self.sweep()

    def sweep(self) -> None:
        """Remove what killed processes have left."""
        for path in self.target.glob(".tmp-*"):
            found = _NAME.fullmatch(path.name)
            if found and found["place"] == _place():
                left = not _alive(int(found["pid"]))
            else:
                left = _old(path)
            if left:
                shutil.rmtree(path, ignore_errors=True)

    def put(self, name: str, data: bytes) -> dict[str, Any]:
        """Write a file of the target folder in one step; returns its size and sha256."""
        return self.move(self.write(name, data), name)

    def write(self, name: str, data: bytes) -> Path:
        path = self.folder / name
        path.write_bytes(data)
        return path

    def move(self, path: Path, name: str) -> dict[str, Any]:
        """Give a finished file its name, once it is on the disk."""
        facts = {"bytes": path.stat().st_size, "sha256": file_sha256(path)}
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


def _place() -> str:
    """Where process numbers mean what they mean here: twelve hexadecimal digits."""
    parts = [socket.gethostname()]
    if sys.platform == "linux":  # elsewhere the name has to do
        with suppress(OSError):
            parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        with suppress(OSError):
            parts.append(os.readlink("/proc/self/ns/pid"))
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]


def _old(path: Path) -> bool:
    try:
        return time.time() - path.stat().st_mtime > ABANDONED_SECONDS
    except OSError:  # another process has removed it
        return False


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
