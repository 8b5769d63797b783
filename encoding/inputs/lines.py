"""jsonl: a sample is a line, which is an item, a text, or an object with columns."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from .columns import Columns
from .sample import Row, Sample, failed_sample, hash_of_files

LINE_BYTES = 1 << 26  # a longer line is refused


class JsonlSource:
    """Lines of one or several files; blank ones are left out.

    Media paths are relative to the folder of the file that names them. Without an id of its own, a row is called
    ``name.jsonl:17`` after its line. A ``.gz`` is read as a stream: how many rows it has is not known before.
    """

    def __init__(self, files: Sequence[tuple[str, Path]], columns: Columns | None = None) -> None:
        """
        Args:
            files: names, as they stand in ids, and paths.
            columns: where the parts of an item stand.
        """
        self.files = list(files)
        self.columns = columns or Columns()
        self._count: int | None = None

    def count(self) -> int | None:
        if self._count is None and not any(path.suffix == ".gz" for _, path in self.files):
            self._count = sum(1 for _ in self.samples())
        return self._count

    def samples(self) -> Iterator[Sample]:
        for name, path in self.files:
            try:
                for number, line in _lines(path):
                    place = f"{name}:{number}"
                    if line is None:
                        yield failed_sample(place, f"a line of more than {LINE_BYTES} bytes")
                    else:
                        yield Sample(place, partial(self._rows, line, place, path.parent))
            except (OSError, EOFError, zlib.error) as error:
                yield failed_sample(name, error)

    def fingerprint(self) -> str:
        return hash_of_files(self.files)

    def _rows(self, line: bytes, place: str, root: Path) -> list[Row]:
        try:
            record = json.loads(line.decode("utf-8-sig"), parse_constant=_refuse)
        except RecursionError:
            raise ValueError("not JSON: nested too deeply") from None
        except ValueError as error:
            raise ValueError(f"not JSON: {error}") from None
        return [self.columns.row(record, place, root)]


def _lines(path: Path) -> Iterator[tuple[int, bytes | None]]:
    """Line numbers from 1 and lines; None for one that is too long."""
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "rb") as handle:
        number = 0
        while line := handle.readline(LINE_BYTES + 1):
            number += 1
            if len(line) > LINE_BYTES:
                while line and not line.endswith(b"\n"):
                    line = handle.readline(LINE_BYTES)
                yield number, None
            elif line.strip():
                yield number, line


def _refuse(name: str) -> float:
    raise ValueError(f"{name} is no number of JSON")
