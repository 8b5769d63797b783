"""One process's pass over a source: parts that are its own and not finished are made, the others passed over."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm.auto import tqdm

from ..inputs import InputError, Row, Source, Unit
from ..inputs.content import ContentHash
from ..row_encoding import RowEncoder, VectorMaker, chunks
from ..storage.atomic import AtomicFolder
from .files import SURROUNDINGS, Done, Run, part_name, read_done, write_part
from .manifest import finish


@dataclass
class ShardReport:
    """What one call did.

    Attributes:
        made, kept: parts that it wrote, and that it found finished.
        rows, failed, truncated: vectors, failed items, and rows whose text was cut at the limit of tokens, of these
            parts.
        manifest: of the whole folder; None while another process still works on its share.
    """

    made: int = 0
    kept: int = 0
    rows: int = 0
    failed: int = 0
    truncated: int = 0
    manifest: dict[str, Any] | None = None


class ShardWork:
    """One process's pass over the source."""

    def __init__(
        self,
        encoder: VectorMaker,
        source: Source,
        folder: Path,
        scratch: AtomicFolder,
        run: Run,
        digest: str,
    ) -> None:
        self.encoder, self.source, self.folder, self.scratch = encoder, source, folder, scratch
        self.run, self.digest = run, digest
        self.report = ShardReport()

    def do(self, rank: int, world: int, show_progress: bool | None) -> ShardReport:
        units, size, parts = self.source.units(), self.run.shard_size, self.run.parts
        visible = rank == 0 and (sys.stderr.isatty() if show_progress is None else show_progress)
        number = seen = 0
        with tqdm(total=self.run.units, unit="item", desc="encode", disable=not visible) as bar:
            while parts is None or number < parts:
                share = islice(units, size)
                if number % world == rank:
                    count = self._part(number, share, bar)
                else:
                    count = sum(1 for _ in share)
                bar.update(count - min(count, bar.n - seen))
                seen += count
                if count < size and parts is None:
                    number += 1 if count else 0
                    break
                number += 1
        if self.run.units is not None and (seen != self.run.units or next(units, None) is not None):
            raise InputError(f"the source changed: it had {self.run.units} units and now has another number")
        self.report.manifest = finish(self.folder, self.scratch, self.run, self.digest, number)
        return self.report

    def _part(self, number: int, units: Iterator[Unit], bar: Any) -> int:
        """Make one part, unless it is there; returns how many units it has."""
        part = part_name(number, self.run.parts)
        done = read_done(self.folder, part, self.run, self.digest, hashes=True)
        if done is not None and not self._is_current(part, done, units):
            first = number * self.run.shard_size
            units = islice(self.source.units(), first, first + self.run.shard_size)
            done = None
        if done is None:
            done = self._make(part, self._expected(number), units, bar)
            if done is None:
                return 0  # the end of a stream, on the edge of a shard
            self.report.made += 1
        else:
            self.report.kept += 1
        count = done.units
        self.report.rows += done.rows
        self.report.failed += len(done.errors)
        self.report.truncated += done.truncated
        bar.set_postfix({"failed": self.report.failed}, refresh=False)
        return count

    def _is_current(self, part: str, done: Done, units: Iterator[Unit]) -> bool:
        """Whether a finished part is of what is there now; reads all of it.

        Raises:
            InputError: the source has another number of units there.
        """
        counted, content = _Counted(units), ContentHash()
        for row in counted.rows():
            content.add(row)
        if counted.units != done.units:
            raise InputError(
                f"{part} was made of {done.units} units, and the source has {counted.units} there now"
            )
        if content.hexdigest() == done.content:
            return True
        warnings.warn(f"{part} was made of other content than is there now: it is made again", stacklevel=4)
        return False

    def _expected(self, number: int) -> int | None:
        """Units that a part is to have; None in a stream."""
        if self.run.units is None:
            return None
        return min(self.run.shard_size, self.run.units - number * self.run.shard_size)

    def _make(self, part: str, expected: int | None, units: Iterator[Unit], bar: Any) -> Done | None:
        counted, content = _Counted(units), ContentHash()
        ids: list[str] = []
        seen: set[str] = set()
        blocks: list[NDArray[Any]] = [np.zeros((0, self.run.dim), self.run.dtype)]
        errors: list[dict[str, str]] = []
        truncated = 0
        options = {name: value for name, value in self.run.options.items() if name not in SURROUNDINGS}
        encoder = RowEncoder(
            self.encoder, self.run.dim, **options
        )  # anew: no part depends on another's memory
        for rows in chunks(counted.rows()):
            for row in rows:  # before: a file that changes while it is encoded has another hash the next time
                content.add(row)
            encoded = encoder.encode(rows)
            keep = []
            for position, row in enumerate(rows):
                reason = encoded.reasons.get(position) or (
                    "the id is there twice" if row.id in seen else None
                )
                if reason is None:
                    keep.append(position)
                    seen.add(row.id)
                    ids.append(row.id)
                else:
                    errors.append({"id": row.id, "reason": reason})
            blocks.append(encoded.vectors[keep].astype(self.run.dtype))
            truncated += len(encoded.truncated.intersection(keep))
            bar.update(counted.since())
        if counted.units == 0 and self.run.units is None:
            return None
        if expected is not None and counted.units != expected:
            raise InputError(f"the source changed: {part} has {counted.units} units, {expected} were there")
        files = write_part(self.scratch, part, self.run, ids, np.concatenate(blocks))
        done = Done(
            self.digest,
            counted.units,
            len(ids),
            content.hexdigest(),
            files,
            errors,
            encoder.halved_to,
            truncated,
        )
        self.scratch.write(f"{part}.done.json", done.to_json())
        return done


class _Counted:
    """Rows of units, read one after the other, with a count of the units."""

    def __init__(self, units: Iterable[Unit]) -> None:
        self._units = units
        self.units = self._told = 0

    def rows(self) -> Iterator[Row]:
        for unit in self._units:
            self.units += 1
            yield from unit.rows()

    def since(self) -> int:
        told, self._told = self._told, self.units
        return self._told - told
