"""One process's share of a sharded run: each part that is its own is made, or found finished and passed over."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm.auto import tqdm

from ..inputs import InputError, Row, Sample, Source
from ..inputs.sample import ContentHash, chunks
from ..row_encoding import RowEncoder, VectorMaker
from ..storage.ownership import AtomicFolder
from .files import RUN_ONLY, Done, Run, part_name, read_done
from .given_thoughts import GivenThoughts, Lookup
from .parts import finish, write_part


@dataclass
class ShardReport:
    """What one call did.

    Attributes:
        made, kept: parts that it wrote, and that it found finished.
        rows, failed, truncated, without_thought: vectors, failed items, rows whose text was cut at the limit of
            tokens, and rows that had no thought in a run with given ones, of these parts.
        reasoned, thought_tokens: rows that were thought about before they were embedded, and tokens of their thoughts,
            of these parts.
        seconds, made_rows: of making parts, of all processes together, and vectors of these.
        manifest: of the whole folder; None while another process still works on its share.
    """

    made: int = 0
    kept: int = 0
    rows: int = 0
    failed: int = 0
    truncated: int = 0
    without_thought: int = 0
    reasoned: int = 0
    thought_tokens: int = 0
    seconds: float = 0.0
    made_rows: int = 0
    manifest: dict[str, Any] | None = None

    @property
    def invocation_ratio(self) -> float:
        """Share of the rows that were thought about."""
        return self.reasoned / max(self.rows, 1)

    @property
    def tokens_per_item(self) -> float:
        """Thought tokens of a row."""
        return self.thought_tokens / max(self.rows, 1)

    @property
    def seconds_per_item(self) -> float:
        """Of the rows that were made now; 0 where all were there."""
        return self.seconds / max(self.made_rows, 1)


class Share:
    """One process's pass over the source: parts that are its own and not finished are made, the others passed over.

    Args:
        encoder, source: make vectors, of this.
        folder, scratch: of the parts, and where files are written first.
        run, digest: what is being made, and the sha256 of its ``run.json``.
        thoughts: to encode with; None without.
    """

    def __init__(
        self,
        encoder: VectorMaker,
        source: Source,
        folder: Path,
        scratch: AtomicFolder,
        run: Run,
        digest: str,
        thoughts: GivenThoughts | None,
    ) -> None:
        self.encoder, self.source, self.folder, self.scratch = encoder, source, folder, scratch
        self.run, self.digest, self.thoughts = run, digest, thoughts
        self.report = ShardReport()

    def encode(self, rank: int, world: int, show_progress: bool | None) -> ShardReport:
        samples, size, parts = self.source.samples(), self.run.shard_size, self.run.parts
        visible = rank == 0 and (sys.stderr.isatty() if show_progress is None else show_progress)
        number = seen = 0
        with tqdm(total=self.run.units, unit="item", desc="encode", disable=not visible) as bar:
            while parts is None or number < parts:
                share = islice(samples, size)
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
        if self.run.units is not None and (seen != self.run.units or next(samples, None) is not None):
            raise InputError(
                f"the source changed: it had {self.run.units} samples and now has another number"
            )
        self.report.manifest = finish(self.folder, self.scratch, self.run, self.digest, number)
        return self.report

    def _part(self, number: int, samples: Iterator[Sample], bar: Any) -> int:
        """Make one part, unless it is there; returns how many samples it has."""
        part = part_name(number, self.run.parts)
        done = read_done(self.folder, part, self.run, self.digest, hashes=True)
        if done is not None and not self._is_current(part, done, samples):
            first = number * self.run.shard_size
            samples = islice(self.source.samples(), first, first + self.run.shard_size)
            done = None
        if done is None:
            began = perf_counter()
            done = self._make(number, part, samples, bar)
            if done is None:
                return 0  # the end of a stream, on the edge of a shard
            self.report.made += 1
            self.report.made_rows += done.rows
            self.report.seconds += perf_counter() - began
        else:
            self.report.kept += 1
        count = done.units
        self.report.rows += done.rows
        self.report.failed += len(done.errors)
        self.report.truncated += done.truncated
        self.report.without_thought += done.without_thought
        self.report.reasoned += done.reasoned
        self.report.thought_tokens += done.thought_tokens
        bar.set_postfix({"failed": self.report.failed}, refresh=False)
        return count

    def _is_current(self, part: str, done: Done, samples: Iterator[Sample]) -> bool:
        """Whether a finished part is of what is there now; reads all of it.

        Raises:
            InputError: the source has another number of samples there.
        """
        rows = Rows(samples)
        for _ in rows:
            pass
        if rows.samples != done.units:
            raise InputError(
                f"{part} was made of {done.units} samples, and the source has {rows.samples} there now"
            )
        if rows.content.hexdigest() == done.content:
            return True
        warnings.warn(f"{part} was made of other content than is there now: it is made again", stacklevel=4)
        return False

    def _make(self, number: int, part: str, samples: Iterator[Sample], bar: Any) -> Done | None:
        """Encode and write a part; None where a stream ended on the edge of a shard."""
        source, told = Rows(samples), 0
        ids: list[str] = []
        seen: set[str] = set()
        blocks: list[NDArray[Any]] = [np.zeros((0, self.run.dim), self.run.dtype)]
        errors: list[dict[str, str]] = []
        truncated = without = reasoned = tokens = 0
        options = {name: value for name, value in self.run.options.items() if name not in RUN_ONLY}
        encoder = RowEncoder(
            self.encoder, self.run.dim, **options
        )  # anew: no part depends on another's memory
        lookup = None if self.thoughts is None else self._thoughts_of(number)
        for place, rows in enumerate(chunks(source)):
            given = None if lookup is None else [lookup(row.id) for row in rows]
            if place == number == 0:
                self._refuse_strangers(rows, given)
            encoded = encoder.encode(rows, given, **self._drawn(number, place))
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
            without += 0 if given is None else sum(given[position] is None for position in keep)
            reasoned += encoded.reasoned
            tokens += encoded.thought_tokens
            bar.update(source.samples - told)
            told = source.samples
        count = source.samples
        if self.run.units is None:
            if count == 0:
                return None
        elif count != (expected := min(self.run.shard_size, self.run.units - number * self.run.shard_size)):
            raise InputError(f"the source changed: {part} has {count} samples, {expected} were there")
        files = write_part(self.scratch, part, self.run, ids, np.concatenate(blocks))
        content, halved_to = source.content.hexdigest(), encoder.halved_to
        counted = (truncated, without, reasoned, tokens)
        done = Done(self.digest, count, len(ids), content, files, errors, halved_to, *counted)
        self.scratch.write(f"{part}.done.json", done.to_json())
        return done

    def _thoughts_of(self, number: int) -> Lookup:
        assert self.thoughts is not None
        first = number * self.run.shard_size
        end = first + self.run.shard_size
        return self.thoughts.of_samples(first, end if self.run.units is None else min(end, self.run.units))

    def _refuse_strangers(self, rows: list[Row], given: list[Any] | None) -> None:
        """Of the first rows, some have thoughts, if there are any: their ids are not others."""
        readable = [row.id for row in rows if row.error is None]
        if given is not None and readable and all(thought is None for thought in given):
            raise InputError(
                f"there is no thought of any of the first {len(readable)} items, of {readable[0]!r} for one: each is "
                "found by the id of its item; without given thoughts, they would all think themselves"
            )

    def _drawn(self, number: int, chunk: int) -> dict[str, Any]:
        """The seed of what is drawn in a chunk, where a run draws: it depends on the place of the chunk alone."""
        if self.run.options.get("num_samples", 1) == 1:
            return {}
        return {"seed": int(np.random.SeedSequence([number, chunk]).generate_state(1)[0])}


class Rows:
    """Rows of samples, one after the other; with the number of samples so far, and a hash of what they hold.

    A row is hashed before it is encoded: a file that changes meanwhile has another hash the next time.
    """

    def __init__(self, samples: Iterable[Sample]) -> None:
        self._samples = samples
        self.samples, self.content = 0, ContentHash()

    def __iter__(self) -> Iterator[Row]:
        for sample in self._samples:
            self.samples += 1
            for row in sample.rows():
                self.content.add(row)
                yield row
