"""Rows of a table -> items; a path in a row is relative to the table's root and cannot lead out of it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from ...processing.items import KEYS
from .sample import MEDIA, Row, is_address

ID_CHARACTERS = 4096
LISTS = 2  # of lists of a medium within each other: clips of frames


class OutsideRootError(ValueError):
    """A row names a file that is not below the root of its source."""


@dataclass(frozen=True)
class Columns:
    """Which column holds what.

    Attributes:
        names: key of an item (``text``, ``image`` ...), ``item`` or ``id`` -> column. Keys that are not named are
            looked for under their own name, unless some key of an item is named: then only those are taken.
    """

    names: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        unknown = set(self.names) - {*KEYS, "item", "id"}
        if unknown:
            raise ValueError(f"unknown key {min(unknown)!r}; known are item, id, {', '.join(KEYS)}")

    @property
    def content(self) -> dict[str, str]:
        """Key of an item -> column, for the keys that were named."""
        return {key: column for key, column in self.names.items() if key not in ("item", "id")}

    def wanted(self, columns: list[str]) -> list[str]:
        """Those of a table's columns that have a say, in the table's order."""
        content = self.content
        named = {self.names.get("id", "id"), self.names.get("item", "item")}
        return [name for name in columns if name in named | set(content.values() if content else KEYS)]

    def row(self, record: Any, fallback: str, root: Path | None) -> Row:
        """The item of one record.

        Args:
            record: a str (a text), or the columns of a row.
            fallback: the id, where the record has none.
            root: what media paths are relative to and confined to; None allows no paths.

        Raises:
            ValueError: no usable column, or an id that cannot be one.
            OutsideRootError: a path leads out of the root.
            TypeError: a value of a type that cannot be embedded.
        """
        if isinstance(record, str):
            return Row(fallback, record)
        if not isinstance(record, Mapping):
            raise TypeError(f"a row is a text or an object, not a {type(record).__name__}")
        name = _id_of(record.get(self.names.get("id", "id")), fallback)
        try:
            return Row(name, self._item(record, root))
        except (ValueError, TypeError) as error:
            return Row(name, error=" ".join(str(error).split()))

    def _item(self, record: Mapping[str, Any], root: Path | None) -> Any:
        whole = record.get(self.names.get("item", "item"))
        if isinstance(whole, str):
            return whole
        if whole is not None:
            if not isinstance(whole, Mapping):
                raise TypeError(f"an item is a text or an object, not a {type(whole).__name__}")
            found = {key: value for key, value in whole.items() if value is not None}
        elif self.content:
            found = {key: record.get(column) for key, column in self.content.items()}
        else:
            found = {key: value for key, value in record.items() if key in KEYS}
        item = {
            key: media_within(value, root) if key in MEDIA else _one(key, value)
            for key, value in found.items()
            if value is not None
        }
        if not item:
            have = ", ".join(map(str, list(record)[:12])) or "none"
            raise ValueError(f"no column of an item (one of item, {', '.join(KEYS)}); the row has {have}")
        return item


ALL_COLUMNS = Columns()  # keys of an item under their own names


def media_within(value: Any, root: Path | None, lists: int = LISTS) -> Any:
    """A media value with its paths made absolute and kept below ``root``; URLs and contents stay what they are.

    Args:
        value: path, URL, bytes, ``{"bytes", "path"}``, frames with their times (``{"array", "fps"}``), an object that
            is media itself, or a list of such, or a list of clips that are lists of frames.
        root: None allows no paths at all.
        lists: how many lists may be within each other; JSON may be nested more deeply than Python's stack goes.

    Raises:
        OutsideRootError: an absolute path, one with ``..``, or a link that leads out.
        TypeError: an object without a source, or too many lists within a list.
    """
    if isinstance(value, (list, tuple)):
        if not lists:
            raise TypeError("a medium is no list of lists of lists")
        return [media_within(one, root, lists - 1) for one in value]
    if isinstance(value, Mapping) and "array" in value:
        if isinstance(value["array"], Mapping):
            raise TypeError("'array' takes a list of frames")
        return {**value, "array": media_within(value["array"], root, min(lists, 1))}
    if isinstance(value, Mapping):
        if {"fps", "video_metadata"} & set(value):
            raise TypeError("times are given with frames: {'array': frames, 'fps': ...}")
        data = value.get("bytes")
        if isinstance(data, (bytes, bytearray)):
            return bytes(data)
        if data is not None or not isinstance(value.get("path"), str):
            raise TypeError("a medium is a path, a URL, bytes, or an object with 'bytes' or 'path'")
        return media_within(value["path"], root, lists)
    if not isinstance(value, (str, os.PathLike)):
        return value
    text = os.fspath(value)
    if is_address(text):
        return text
    if root is None:
        raise OutsideRootError(f"{text}: this source cannot name files")
    return str(resolve_within(text, root))


def _one(key: Any, value: Any) -> Any:
    if key == "text" and isinstance(value, (list, tuple)):
        return [_one(f"{key} of a list", one) for one in value]
    if isinstance(value, (list, tuple, Mapping)):
        raise TypeError(f"{str(key)[:50]!r} takes one value, not a {type(value).__name__}")
    return value


def resolve_within(text: str, root: Path) -> Path:
    """The file ``text`` below ``root``, links followed. Raises OutsideRootError."""
    if "\0" in text or "://" in text:
        raise OutsideRootError(f"{text!r} is neither a path nor an http(s) address")
    posix, windows = PurePosixPath(text), PureWindowsPath(text)
    if posix.is_absolute() or windows.drive or windows.root or ".." in {*posix.parts, *windows.parts}:
        raise OutsideRootError(f"{text}: a row may only name files below its own folder")
    base = root.resolve()
    found = (base / text).resolve()
    if not found.is_relative_to(base):
        raise OutsideRootError(f"{text}: a link that leads out of the folder")
    return found


def _id_of(value: Any, fallback: str) -> str:
    if value is None or value == "":
        return fallback
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        raise ValueError(f"an id is a text or an integer, not a {type(value).__name__}")
    name = str(value)
    if len(name) > ID_CHARACTERS:
        raise ValueError(f"an id of {len(name)} characters; the limit is {ID_CHARACTERS}")
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        raise ValueError("the id is no valid Unicode") from None
    return name
