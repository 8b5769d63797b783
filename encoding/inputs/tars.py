"""webdataset tars: a sample is the members with one key. Nothing is extracted, nothing is unpickled."""

from __future__ import annotations

import json
import lzma
import tarfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path, PurePosixPath
from typing import Any

from ...processing.kinds import HEAD_BYTES
from ...processing.limits import MediaLimits
from .columns import Columns
from .files import TEXT_BYTES, kind_of, kind_of_head, looks_inside, medium_kind, page_count, text_of
from .folder import counted_as
from .sample import Row, Sample, failed_sample, hash_of_files

JSON_BYTES = 1 << 24
DAMAGES = (
    OSError,
    EOFError,
    ValueError,
    tarfile.TarError,
    zlib.error,
    lzma.LZMAError,
)  # of an archive as a whole


@dataclass(frozen=True)
class _Member:
    ending: str
    size: int
    read: Callable[[], bytes]


class TarSource:
    """Samples of webdataset tars, in the order of the archives; an id is ``name.tar/key``.

    Members of kinds that we know, by their ending or else their content, become parts in their order; ``.json`` may
    hold ``text``, ``instruction``, ``page`` and URLs. A sample that is one PDF has a row per page. How many samples
    there are is not known before the end.

    Args:
        files: names, as they stand in ids, and paths; plain or compressed.
        columns: where the text and the instruction stand in a ``.json``.
        limits: no sample may be larger than ``file_bytes``.
    """

    def __init__(
        self,
        files: Sequence[tuple[str, Path]],
        columns: Columns | None = None,
        limits: MediaLimits | None = None,
    ) -> None:
        self.files = list(files)
        self.columns = columns or Columns()
        self.limits = limits or MediaLimits()

    def count(self) -> None:
        return None

    def samples(self) -> Iterator[Sample]:
        for name, path in self.files:
            try:
                yield from self._samples(name, path)
            except DAMAGES as error:
                yield failed_sample(name, error)

    def fingerprint(self) -> str:
        return hash_of_files(self.files)

    @cached_property
    def left_out(self) -> dict[str, int]:
        """How many members are of no kind that is read, by ending. All headers are read for it."""
        found: Counter[str] = Counter()
        for _, path in self.files:
            with suppress(*DAMAGES):  # told by the samples
                for member in _members(path, self.limits):
                    if member.plain and not member.hidden and not _taken(member)[0]:
                        found[counted_as(member.inner)] += 1
        return dict(found.most_common())

    def _samples(self, name: str, path: Path) -> Iterator[Sample]:
        seen: set[str] = set()
        for key, members in _members_by_key(path, self.limits):
            place = f"{name}/{key}"
            if key in seen:
                yield failed_sample(place, "the archive has this key in two places")
            elif isinstance(members, str):
                yield failed_sample(place, members)
            else:
                yield Sample(place, partial(self._rows, place, members))
            seen.add(key)

    def _rows(self, place: str, members: list[_Member]) -> list[Row]:
        item: dict[str, Any] = {}
        images: list[bytes] = []
        for member in members:
            kind = kind_of(f"x{member.ending}")
            if kind == "text":
                text = text_of(member.read()[:TEXT_BYTES], whole=member.size <= TEXT_BYTES)
                if text:
                    _add(item, "text", text)
            elif member.ending == ".json":
                item |= self._said(member)
            else:
                data = member.read()
                kind = medium_kind(data, kind, self.limits)
                if kind == "image":
                    images.append(data)
                    item["images"] = images
                elif kind == "document" and kind in item:
                    raise ValueError("a sample of two documents")
                elif kind is not None:
                    _add(item, kind, data)
        if not item:
            raise ValueError("no image, video, PDF or text in the sample")
        item = {key: v[0] if isinstance(v, list) and len(v) == 1 else v for key, v in item.items()}
        if set(item) == {"document"}:
            return self._pages(place, item["document"])
        if len(images) == 1:
            item = {("image" if key == "images" else key): value for key, value in item.items()}
        return [Row(place, item)]

    def _said(self, member: _Member) -> dict[str, Any]:
        """Parts of an item in a ``.json``; other things there are not ours."""
        if member.size > JSON_BYTES:
            raise ValueError(f"a .json of {member.size} bytes; the limit is {JSON_BYTES}")
        try:
            record = json.loads(member.read().decode("utf-8-sig"))
        except RecursionError:
            raise ValueError("the .json is nested too deeply") from None
        except ValueError as error:
            raise ValueError(f"the .json is not JSON: {error}") from None
        if not isinstance(record, dict) or not self.columns.wanted(list(record)):
            return {}
        row = self.columns.row(record, "", None)
        if row.error is not None:
            raise ValueError(row.error)
        return {"text": row.item} if isinstance(row.item, str) else dict(row.item)

    def _pages(self, place: str, data: bytes) -> list[Row]:
        count = page_count(data, self.limits)
        return [Row(f"{place}#page={page}", {"document": data, "page": page}) for page in range(1, count + 1)]


def _members_by_key(path: Path, limits: MediaLimits) -> Iterator[tuple[str, list[_Member] | str]]:
    """Neighbouring members with one key; a reason instead of members that cannot be taken."""
    key, found = None, []  # type: str | None, list[_Member]
    wrong: str | None = None
    together = 0
    for member in _members(path, limits):
        if member.hidden:
            continue
        inner = PurePosixPath(member.name)
        stem = inner.name.partition(".")[0]
        own = (inner.parent / stem).as_posix().encode("utf-8", "backslashreplace").decode()
        if own != key:
            if key is not None:
                yield key, wrong or found
            key, found, wrong, together = own, [], None, 0
        taken, read = _taken(member) if member.plain else (False, member.read)
        if not member.plain:
            wrong = "a link or special file; an archive holds its own data"
        elif taken:
            together += member.size
            if together > limits.file_bytes:
                wrong = f"a sample of more than {limits.file_bytes} bytes; that is the limit"
        if wrong is not None:
            found = []
        elif taken:
            read = read if member.stays else partial(bytes, read())
            found.append(_Member(member.ending, member.size, read))
    if key is not None:
        yield key, wrong or found


@dataclass(frozen=True)
class _Found:
    name: str
    size: int
    plain: bool
    stays: bool  # readable also once the next header was read
    read: Callable[[], bytes]
    head: Callable[[], bytes]

    @property
    def inner(self) -> str:
        """The last part of its name."""
        return PurePosixPath(self.name).name

    @property
    def hidden(self) -> bool:
        return self.inner.startswith(".") or not self.inner

    @property
    def ending(self) -> str:
        _, dot, ending = self.inner.partition(".")
        return "." + ending.rpartition(".")[2].lower() if dot else ""


def _taken(member: _Found) -> tuple[bool, Callable[[], bytes]]:
    """Whether a member may be a part of the item; and how it is read, which a stream allows once only."""
    named = f"x{member.ending}"
    if member.ending == ".json" or not looks_inside(named):
        return member.ending == ".json" or kind_of(named) is not None, member.read
    if member.stays:
        return kind_of_head(member.head()) is not None, member.read
    data = member.read()
    return kind_of_head(data) is not None, partial(bytes, data)


def _add(item: dict[str, Any], key: str, part: Any) -> None:
    """One more part of a kind; in the place of what a ``.json`` said."""
    if isinstance(item.get(key), list):
        item[key].append(part)
    else:
        item[key] = [part]


def _members(path: Path, limits: MediaLimits) -> Iterator[_Found]:
    """Headers of a tar. A plain one can be read at its offsets later, a compressed one at once only."""
    streamed = is_compressed(path)
    with tarfile.open(path, "r:*" if streamed else "r:") as archive:
        while (member := archive.next()) is not None:
            archive.members.clear()  # type: ignore[attr-defined]  # it would keep every header
            if member.isdir():
                continue
            plain = member.isreg() and not member.issparse()
            if not plain:
                read: Callable[[], bytes] = bytes
                head: Callable[[], bytes] = bytes
            elif streamed:
                if member.size > limits.file_bytes:  # also to leave it out, all of it would be decompressed
                    raise ValueError(
                        f"{member.name}: a member of {member.size} bytes; the limit is {limits.file_bytes}"
                    )
                read = head = partial(_read_here, archive, member)
            else:
                read = partial(read_at, path, member.offset_data, member.size)
                head = partial(read_at, path, member.offset_data, min(member.size, HEAD_BYTES))
            yield _Found(member.name, member.size, plain, not streamed, read, head)


def is_compressed(path: Path) -> bool:
    """Whether an archive is compressed as a whole, so that no member can be read alone."""
    with path.open("rb") as handle:
        return handle.read(6).startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ\x00"))


def _read_here(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    handle = archive.extractfile(member)
    return b"" if handle is None else handle.read()


def read_at(path: Path, offset: int, size: int) -> bytes:
    """A member of a plain tar. Raises ValueError where the file ends before it does."""
    with path.open("rb") as handle:
        handle.seek(offset)
        data = handle.read(size)
    if len(data) != size:
        raise ValueError("the archive is truncated")
    return data
