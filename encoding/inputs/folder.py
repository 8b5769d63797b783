"""A folder of images, clips, PDFs and texts: its files that can be items, and what is left out, counted by ending.

As a source, a sample is a file; a PDF or TIFF has a row per page.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from ...processing.kinds import ending_of
from ...processing.limits import MediaLimits
from .files import file_items, kind_by_content, kind_of
from .sample import InputError, Row, Sample, failed_sample

ENDING_CHARACTERS = 12  # of an ending that is counted by itself
FOLDER_LINK, BROKEN_LINK, SPECIAL = "links to folders", "broken links", "sockets, pipes and devices"
NO_ENDING, ODD_ENDING = "without an ending", "of odd endings"


@dataclass(frozen=True)
class Found:
    """A file by its path relative to the root, and why it can't be read if that is known already."""

    name: str
    path: Path
    size: int = 0
    error: str | None = None


@dataclass
class Listing:
    """What :func:`list_files` saw: files in the order of their names, and how many of which ending it left out."""

    files: list[Found] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)


def list_files(root: Path, *, recursive: bool = True, skip: Path | None = None) -> Listing:
    """All files below ``root`` that can be items, by their ending or else by their content.

    Nothing hidden is looked at, links to folders are not followed, and a link that leads out of the root is an error.
    No file ends the listing, and neither does a folder that can't be listed.

    Args:
        root: the folder.
        recursive: go into subfolders.
        skip: a subfolder that is passed over, links followed.
    """
    listing = Listing()
    inside = root.resolve()

    def unlisted(folder: str, error: OSError) -> None:
        name = printable(os.path.relpath(folder, root))
        listing.files.append(Found(name, Path(folder), error=f"can't be listed: {error.strerror or error}"))

    for entry in scan(root, recursive=recursive, skip=skip, unlisted=unlisted):
        found = _as_listed(entry, Path(entry.path).relative_to(root).as_posix(), inside)
        if isinstance(found, Found):
            listing.files.append(found)
        else:
            listing.left_out[found] += 1
    listing.files.sort(key=lambda found: found.name)
    return listing


def scan(
    root: Path,
    *,
    recursive: bool = True,
    skip: Path | None = None,
    unlisted: Callable[[str, OSError], None] = lambda folder, error: None,
) -> Iterator[os.DirEntry[str]]:
    """Entries below a folder that are no folders and not hidden; however deep, since nothing recurs."""
    folders = [os.fspath(root)]
    while folders:
        folder = folders.pop()
        try:
            with os.scandir(folder) as opened:
                entries = [entry for entry in opened if not entry.name.startswith(".")]
        except OSError as error:
            unlisted(folder, error)
            continue
        for entry in entries:
            if not entry.is_dir(follow_symlinks=False):
                yield entry
            elif recursive and (skip is None or Path(entry.path).resolve() != skip):
                folders.append(entry.path)


def counted(left_out: Mapping[str, int], most: int = 12) -> str:
    """``12 .zip, 3 .txt``, the most frequent first."""
    ordered = sorted(left_out.items(), key=lambda pair: (-pair[1], pair[0]))
    shown = [f"{count} {ending}" for ending, count in ordered[:most]]
    rest = sum(count for _, count in ordered[most:])
    return ", ".join([*shown, f"{rest} of other endings"] if rest else shown)


def printable(name: str) -> str:
    """A name that is not valid UTF-8 with its odd bytes written out."""
    return name.encode("utf-8", "backslashreplace").decode("utf-8")


def _as_listed(entry: os.DirEntry[str], name: str, inside: Path) -> Found | str:
    """A file that can be an item; else what it is counted as."""
    path, known = Path(entry.path), kind_of(entry.name) is not None
    if printable(name) != name:
        error = "its name is not valid UTF-8"
        return Found(printable(name), path, error=error) if known else counted_as(entry.name)
    try:
        if entry.is_symlink():
            target = path.resolve(strict=True)
            if target.is_dir():
                return FOLDER_LINK
            if not target.is_relative_to(inside):
                error = "a link that leads out of the folder"
                return Found(name, path, error=error) if known else counted_as(entry.name)
        if not entry.is_file():
            return Found(name, path, error="not a regular file") if known else SPECIAL
        if kind_by_content(path) is None:
            return counted_as(entry.name)
        return Found(name, path, entry.stat().st_size)
    except (OSError, RuntimeError) as wrong:  # RuntimeError: links in a circle
        said = getattr(wrong, "strerror", None) or str(wrong)
        if entry.is_symlink():
            return Found(name, path, error=f"a link that leads nowhere: {said}") if known else BROKEN_LINK
        return Found(name, path, error=said) if known else counted_as(entry.name)


def counted_as(name: str) -> str:
    """What a file that is left out is counted under: its ending."""
    ending = ending_of(name)
    if not ending:
        return NO_ENDING
    return ending if len(ending) <= ENDING_CHARACTERS and ending.isprintable() else ODD_ENDING


class FolderSource:
    """All files below ``root`` that can be items, in the order of their names; nothing hidden.

    ``left_out`` counts the others by their endings.

    Raises:
        InputError: there is no such file.
    """

    def __init__(self, root: str | os.PathLike[str], limits: MediaLimits | None = None) -> None:
        self.root, self.limits = Path(root), limits or MediaLimits()
        listing = list_files(self.root)
        self.files, self.left_out = listing.files, dict(listing.left_out.most_common())
        if not self.files:
            others = f" (only {counted(self.left_out)})" if self.left_out else ""
            raise InputError(f"{self.root} holds no image, video, PDF or text{others}")

    def count(self) -> int:
        return len(self.files)

    def samples(self) -> Iterator[Sample]:
        for found in self.files:
            yield sample_of(found, found.name, self.limits)

    def fingerprint(self) -> str:
        digest = hashlib.sha256(b"folder")
        for found in self.files:
            digest.update(f"{found.name}\0{found.size}\n".encode())
        return digest.hexdigest()


def sample_of(found: Found, name: str, limits: MediaLimits) -> Sample:
    """A file as a sample that is called ``name``."""
    if found.error is not None:
        return failed_sample(name, found.error)
    return Sample(name, partial(_rows, found.path, name, limits))


def _rows(path: Path, name: str, limits: MediaLimits) -> list[Row]:
    return [Row(name + suffix, item) for suffix, item, _ in file_items(path, limits)]
