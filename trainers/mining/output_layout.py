"""What rows and pool hold, seen while they are scanned: in which format they can be written, and where their media lie.

Media that are files, or members of an archive, are named in what is written and not copied into it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ...encoding.inputs.media_root import SEPARATOR, Member
from ...encoding.inputs.sample import MEDIA

ITEMS, LISTS = ("query", "positive"), ("positives", "negatives", "candidates", "negative_queries")
FORMATS = ("jsonl", "parquet")


class OutputLayout:
    """Shown every row and every item of the pool once, before anything is written.

    Attributes:
        root: the folder that all files and archives have in common; None where there is none, or paths stay as they
            stand.
        negatives_at: the first row that has negatives already; None where none has.

    Raises:
        ValueError: ``format`` is none of ``FORMATS``.
    """

    def __init__(self, format: str | None, media_root: str | os.PathLike[str] | None) -> None:
        """
        Args:
            format: to write; None is jsonl where that can hold everything, and parquet otherwise.
            media_root: given, media are written as they stand; None names files relative to ``root``.
        """
        if format not in (None, *FORMATS):
            raise ValueError(f"format is {format!r}; use one of {', '.join(FORMATS)}")
        self.media_root = None if media_root is None else os.fspath(media_root)
        self.root: str | None = None
        self.negatives_at: int | None = None
        self._format = format
        self._is_json = True

    @property
    def format(self) -> str:
        """``jsonl`` or ``parquet``."""
        return self._format or ("jsonl" if self._is_json else "parquet")

    def add_row(self, number: int, row: Mapping[str, Any]) -> None:
        """See a row; its negatives are left out, since others take their place."""
        if self.negatives_at is None and row.get("negatives"):
            self.negatives_at = number
        self._add({name: value for name, value in row.items() if name != "negatives"})

    def add_item(self, item: Any) -> None:
        """See an item of the pool."""
        self._add({"query": item, "positive": None})

    def relative(self, item: Any) -> Any:
        """An item with its files and members of archives named as they are written."""
        if self.root is None or not isinstance(item, Mapping):
            return item
        return {key: self._relative(value) if key in MEDIA else value for key, value in item.items()}

    def _add(self, row: Mapping[str, Any]) -> None:
        if self.media_root is None:
            each_item(row, self._widen)
        if self._format is None and self._is_json:
            self._is_json = _is_json(each_item(row, self.relative))

    def _widen(self, item: Any) -> None:
        for path in _files_of(item):
            folder = os.path.dirname(os.path.abspath(path))
            self.root = folder if self.root is None else os.path.commonpath([self.root, folder])

    def _relative(self, value: Any) -> Any:
        if isinstance(value, (list, tuple)):
            return [self._relative(one) for one in value]
        if isinstance(value, Mapping) and value.get("bytes") is None and value.get("path") is not None:
            return {**value, "path": self._relative(value["path"])}
        if isinstance(value, Member):
            return f"{self._relative_path(value.archive)}{SEPARATOR}{value.member}"
        return self._relative_path(value) if _is_path(value) else value

    def _relative_path(self, path: str | os.PathLike[str]) -> str:
        return Path(os.path.relpath(os.path.abspath(path), self.root)).as_posix()


def each_item(row: Mapping[str, Any], change: Callable[[Any], Any]) -> dict[str, Any]:
    """A row with ``change`` applied to its items."""
    changed = dict(row)
    for name in ITEMS:
        changed[name] = change(row[name])
    for name in LISTS:
        if row.get(name) is not None:
            changed[name] = [change(item) for item in row[name]]
    return changed


def json_line(row: Mapping[str, Any]) -> str:
    """A row as a line of jsonl.

    Raises:
        TypeError: it holds what JSON cannot.
        ValueError: a number that is not finite.
    """
    return json.dumps(row, ensure_ascii=False, allow_nan=False, default=_as_json) + "\n"


def _as_json(value: Any) -> Any:
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"a {type(value).__name__} cannot be written to jsonl: use format 'parquet'")


def _is_json(row: Mapping[str, Any]) -> bool:
    try:
        json_line(row)
    except (TypeError, ValueError):  # of another type, or a number that is not finite
        return False
    return True


def _files_of(item: Any) -> Iterator[str]:
    """Files and archives that an item's media lie in."""
    if not isinstance(item, Mapping):
        return
    for key in MEDIA:
        value = item.get(key)
        for one in value if isinstance(value, (list, tuple)) else [value]:
            path: Any = one.get("path") if isinstance(one, Mapping) and one.get("bytes") is None else one
            if isinstance(path, Member):
                yield path.archive
            elif _is_path(path):
                yield os.fspath(path)


def _is_path(value: Any) -> bool:
    return isinstance(value, (str, os.PathLike)) and not str(value).startswith(("http://", "https://"))
