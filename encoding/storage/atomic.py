"""Atomic writing: files are written aside and then given their names, so that a reader never sees half of one."""

from __future__ import annotations

import errno
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

_LITTLE = 1 << 20  # bytes free on a disk where a write that failed without a reason failed for this one


def write_atomically(path: Path, data: bytes) -> None:
    """Write ``path`` in one step; a reader sees the old or the new bytes."""
    with written_atomically(path) as handle:
        handle.write(data)


@contextmanager
def written_atomically(path: Path, temporary: Path | None = None) -> Iterator[BinaryIO]:
    """A file that becomes ``path`` at the end, once it is on the disk; nothing does after an error.

    Args:
        path: of the file; one that is there is replaced.
        temporary: what it is called until then, on the same disk; None takes a new name beside ``path``.
    """
    if temporary is None:
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        os.close(descriptor)
        os.chmod(name, 0o666 & ~umask_in_force())
        temporary = Path(name)
    try:
        with naming_the_disk(path):
            with temporary.open("wb") as handle:
                yield handle
                handle.flush()
                os.fsync(handle.fileno())
            temporary.replace(path)
        _sync_folder(path.parent)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _sync_folder(folder: Path) -> None:
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:  # a folder can't be opened on every system
        return
    try:
        os.fsync(descriptor)
    except OSError:  # nor synced
        return
    finally:
        os.close(descriptor)


@contextmanager
def new_folder(out: str | os.PathLike[str]) -> Iterator[Path]:
    """A folder beside ``out`` that gets its name if the block ends well, and is removed otherwise.

    Raises:
        FileExistsError: ``out`` exists and is not an empty folder.
    """
    target = Path(os.path.abspath(out))
    if target.is_symlink() or (target.exists() and (not target.is_dir() or any(target.iterdir()))):
        raise FileExistsError(f"{target} exists and is not an empty folder; name another")
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{target.name}.writing-", dir=target.parent))
    try:
        scratch.chmod(0o777 & ~umask_in_force())
        with naming_the_disk(target):
            yield scratch
        scratch.replace(target)  # over an empty folder; one that was filled meanwhile makes this fail
    except BaseException:
        shutil.rmtree(scratch, ignore_errors=True)  # made above under a name that nobody else has
        raise


@contextmanager
def naming_the_disk(path: Path) -> Iterator[None]:
    """A full disk's error says which disk, and how much is free there; libraries say less, or nothing."""
    try:
        yield
    except Exception as error:
        near = next((one for one in (path, *path.absolute().parents) if one.exists()), Path("/"))
        usage = shutil.disk_usage(near)
        if not _is_full(error, usage.free):
            raise
        free, size = (f"{count / 2**20:.0f} MiB" for count in (usage.free, usage.total))
        what = (
            "the disk quota is used up"
            if getattr(error, "errno", None) == errno.EDQUOT
            else "the disk is full"
        )
        raise OSError(
            errno.ENOSPC, f"{what}: {free} of {size} are free there; make room, then run it again", str(path)
        ) from error


def _is_full(error: Exception, free: int) -> bool:
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return True
    text = str(error)  # safetensors and Arrow wrap it, NumPy counts what it could write, torch says neither
    if "No space left on device" in text or re.search(r"\d+ requested and \d+ written", text):
        return True
    return free < _LITTLE and ("failed writing" in text or "file write failed" in text)


def umask_in_force() -> int:
    umask = os.umask(0)
    os.umask(umask)
    return umask
