"""What umekit wrote, and may therefore remove or replace. Neither a name nor an age is proof of that.

A folder that is removed again holds a *mark*, written when the folder was made: who made it, its own name, and the
names of the files that are put there. Removing takes away those files, the mark, and the folder if nothing else is left
in it; a link is never followed. A file is replaced only if its content says that it is ours (:func:`check_own`). What
earlier versions left without a mark stays.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import socket
import stat
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from .atomic import naming_the_disk, written_atomically
from .contents import read_object

MARK = ".umekit-mark"
KIND = "umekit-mark"
MARK_BYTES = 1 << 24
ABANDONED_SECONDS = 86_400.0  # after which a marked folder of elsewhere is taken for a killed process's
_ASIDE = re.compile(r"\.tmp-[0-9a-f]{12}-[0-9a-f]{8}-\d+")  # a folder of AtomicFolder
# How written_atomically calls a file before it is whole.
_TEMPORARY = re.compile(r"\.(?P<name>.+)\.[a-z0-9_]{8}")


class ForeignFileError(FileExistsError):
    """A file or folder that umekit did not write is where something is to be written."""


@dataclass(frozen=True)
class Mark:
    """Who made a folder, and which files were registered for it."""

    place: str
    pid: int
    names: frozenset[str]

    @property
    def is_abandoned(self) -> bool:
        """Whether the process that made the folder is gone, where that can be told."""
        return self.place == place() and not _alive(self.pid)

    def holds(self, name: str) -> bool:
        """Whether a file of the folder is one of those registered, or was to become one."""
        temporary = _TEMPORARY.fullmatch(name)
        return name in self.names or (temporary is not None and temporary["name"] in self.names)


# ---- folders -----------------------------------------------------------------------------------------------------


def make_marked(folder: Path, *names: str) -> Path:
    """Make a folder and write its mark; ``names`` are files that will be put there.

    Raises:
        FileExistsError: there is something of that name.
    """
    header = {"kind": KIND, "schema": 1, "folder": folder.name, "place": place(), "pid": os.getpid()}
    with naming_the_disk(folder):
        folder.mkdir()
        with (folder / MARK).open("x", encoding="utf-8") as handle:
            handle.writelines(json.dumps(line) + "\n" for line in (header, *names))
    return folder


def register(folder: Path, name: str) -> Path:
    """The path of a file that is about to be written into a marked folder; the mark knows it from now on."""
    with naming_the_disk(folder), (folder / MARK).open("a", encoding="utf-8") as handle:
        handle.write(json.dumps(name) + "\n")
    return folder / name


def read_mark(folder: Path) -> Mark | None:
    """The mark of a folder; None unless it is a plain file that was written for a folder of this name."""
    path = folder / MARK
    try:
        if folder.is_symlink() or not stat.S_ISREG(path.lstat().st_mode) or path.stat().st_size > MARK_BYTES:
            return None
        lines = path.read_text(encoding="utf-8").split("\n")
        header = json.loads(lines[0])
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(header, dict) or (header.get("kind"), header.get("schema")) != (KIND, 1):
        return None
    found, pid = header.get("place"), header.get("pid")
    if header.get("folder") != folder.name or not isinstance(found, str) or not isinstance(pid, int):
        return None
    names = set()
    for line in lines[1:]:
        with suppress(ValueError, RecursionError):  # the last line of a killed process may be half written
            name = json.loads(line)
            if isinstance(name, str):
                names.add(name)
    return Mark(found, pid, frozenset(names))


def remove_marked(folder: Path, also: re.Pattern[str] | None = None) -> bool:
    """Remove what umekit put into a folder of its own, and the folder if nothing else is in it.

    Args:
        folder: with a mark; without one nothing is done.
        also: paths relative to the folder (POSIX; of a folder with ``/`` at its end) that are umekit's beside those
            that the mark names.

    Returns:
        Whether the folder is gone.
    """
    mark = read_mark(folder)
    if mark is None:
        return False

    def ours(relative: str) -> bool:
        return mark.holds(relative) or (also is not None and also.fullmatch(relative) is not None)

    _clear(folder, "", ours)
    with suppress(OSError):
        (folder / MARK).unlink()
        folder.rmdir()
    return not folder.exists()


def _clear(folder: Path, prefix: str, ours: Callable[[str], bool]) -> None:
    with suppress(OSError), os.scandir(folder) as found:
        for entry in list(found):
            relative = prefix + entry.name
            with suppress(OSError):
                if entry.is_dir(follow_symlinks=False):
                    if ours(relative + "/"):
                        _clear(Path(entry.path), relative + "/", ours)
                        os.rmdir(entry.path)
                elif entry.is_file(follow_symlinks=False) and ours(relative):
                    os.unlink(entry.path)


def is_left_over(folder: Path) -> bool:
    """Whether a folder has a mark whose process is gone: dead here, or of elsewhere and a day old.

    A process can tell that another is dead only where both count processes alike: on one machine, since one start of
    it, and in one container, whatever these call themselves.
    """
    mark = read_mark(folder)
    if mark is None:
        return False
    if mark.place == place():
        return mark.is_abandoned
    try:
        return time.time() - folder.stat().st_mtime > ABANDONED_SECONDS
    except OSError:  # another process has removed it
        return False


class AtomicFolder:
    """Where files are written before they get their names in ``folder``; remains of killed processes are removed.

    Only a folder with a mark of ours is ever removed, and of it only the files that the mark names.
    """

    def __init__(self, folder: Path) -> None:
        self.target = folder
        self.folder = folder / f".tmp-{place()}-{secrets.token_hex(4)}-{os.getpid()}"

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
            if _ASIDE.fullmatch(path.name) and is_left_over(path):
                remove_marked(path)

    def write(self, name: str, data: bytes) -> None:
        """Write a file of the target folder in one step."""
        with self.open(name) as handle:
            handle.write(data)

    def open(self, name: str) -> AbstractContextManager[BinaryIO]:
        """A file that becomes the target folder's ``name`` at the end; see :func:`written_atomically`."""
        return written_atomically(self.target / name, register(self.folder, name))


# ---- files -------------------------------------------------------------------------------------------------------


def check_own(path: Path, ours: Callable[[Path], bool], hint: str = "name another place") -> None:
    """Refuse to write over a file that umekit did not write.

    Args:
        path: that is to be written; nothing there is fine.
        ours: looks at a plain file and says whether it is umekit's.
        hint: what to do.

    Raises:
        ForeignFileError: there is something else.
    """
    try:
        plain = stat.S_ISREG(path.lstat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return
    if not plain or not ours(path):
        raise ForeignFileError(
            f"{path} was not written by umekit for this, and is left as it is: move it away, or {hint}"
        )


def json_of(*kinds: str) -> Callable[[Path], bool]:
    """Says whether a file is an object of JSON of one of our kinds."""

    def ours(path: Path) -> bool:
        try:
            raw = read_object(path, ValueError)
        except (OSError, ValueError):
            return False
        return isinstance(raw, dict) and raw.get("kind") in kinds

    return ours


# ---- processes ---------------------------------------------------------------------------------------------------


def place() -> str:
    """Where process numbers mean what they mean here: twelve hexadecimal digits."""
    parts = [socket.gethostname()]
    if sys.platform == "linux":  # elsewhere the name has to do
        with suppress(OSError):
            parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        with suppress(OSError):
            parts.append(os.readlink("/proc/self/ns/pid"))
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]


def _alive(pid: int) -> bool:
    if pid < 1:  # kill(0) and below are whole groups
        return False
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        return True
    return True
