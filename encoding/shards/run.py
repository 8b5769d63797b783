"""A source of items to parts on disk: stopped at any moment, it goes on where it was, with the same bytes.

Batches are planned inside a shard and from nothing but its items, so no vector depends on how many processes share
the work, on which of them made a shard, or on what was finished before.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm.auto import tqdm

from ...modeling.pooling import check_dim, whole_number
from ...processing.cut_texts import tell_cuts
from ..calls import check_call
from ..devices import torch_threads
from ..inputs import InputError, Row, Sample, Source
from ..inputs.sample import ContentHash, chunks
from ..inputs.tables import import_parquet
from ..row_encoding import RowEncoder, VectorMaker
from ..storage.contents import library_versions
from ..storage.ownership import AtomicFolder
from .files import (
    DTYPES,
    FORMATS,
    RUN_ONLY,
    Done,
    Run,
    ShardMismatchError,
    begin_or_resume,
    part_name,
    read_done,
)
from .parts import finish, write_part

__all__ = ["ShardMismatchError", "ShardReport", "encode_shards"]


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


def encode_shards(
    encoder: VectorMaker,
    source: Source,
    out: str | os.PathLike[str],
    shard_size: int = 8192,
    resume: bool = True,
    *,
    role: str | None = None,
    instruction: str | None = None,
    mode: str | None = None,
    dim: int | None = None,
    batch_tokens: int | None = None,
    threads: int | None = None,
    rank: int = 0,
    world: int = 1,
    format: Literal["npy", "parquet"] = "npy",
    dtype: Literal["float32", "float16"] = "float32",
    model: str | None = None,
    show_progress: bool | None = None,
) -> ShardReport:
    """Encode this process's share of a source, and write the manifest if everything is there then.

    Shard ``s`` holds the samples ``[s * shard_size, (s + 1) * shard_size)`` and is made by rank ``s % world``. What
    can't be read is in ``errors.jsonl`` and not among the vectors. No process waits for another: whichever finds all
    parts finished writes ``manifest.json``.

    Args:
        encoder: makes the vectors.
        source: ``umekit.encoding.inputs.open_source(...)``.
        out: folder of the parts.
        shard_size: samples (files, lines, rows) of a part; one part's vectors are held in memory.
        resume: go on with a run that ``out`` holds; False refuses. With ``world > 1`` it is always so.
        role, instruction, mode, dim: as in ``Encoder.encode``.
        batch_tokens: padded tokens of a forward; the encoder's, or what the run began with.
        threads: of torch on a CPU, where their number changes the last digits; those that are set, or what the run
            began with.
        rank, world: which of how many processes this is.
        format: ``npy`` with ids in JSON, or ``parquet``.
        dtype: of the vectors on disk.
        model: what the model was loaded by, for the manifest.
        show_progress: None shows a bar on a terminal, for rank 0.

    Raises:
        FileExistsError: ``out`` holds a run, and ``resume`` is False; or files that a run would write over
            (ForeignFileError).
        ShardMismatchError: that run had another model, source or setting.
        InputError: the source changed while it was read.
    """
    check_call(role=role, instruction=instruction, batch_tokens=batch_tokens)
    whole_number("shard_size", shard_size)
    if threads is not None:
        whole_number("threads", threads)
    if mode == "":
        raise ValueError("mode is ''; give a mode, or None for the checkpoint's")
    if not 0 <= rank < world:
        raise ValueError(f"rank is {rank} of {world}")
    if format not in FORMATS or dtype not in DTYPES:
        raise ValueError(f"format is {format!r} of {FORMATS}, dtype {dtype!r} of {DTYPES}")
    if mode == "both":
        raise ValueError("mode 'both' gives two vectors an item: make two runs")
    if format == "parquet":
        import_parquet()
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    options: dict[str, Any] = {"role": role, "instruction": instruction, "mode": mode}
    options |= {"batch_tokens": batch_tokens, "threads": threads}
    options["arithmetic"] = getattr(encoder, "arithmetic", None)
    wanted = Run(
        fingerprint=encoder.fingerprint(),
        source=source.fingerprint(),
        units=source.count(),
        shard_size=shard_size,
        dim=encoder.dim if dim is None else check_dim(dim, encoder.dim),
        format=format,
        dtype=dtype,
        options=options,
        model=model,
        versions=library_versions(),
    )
    with AtomicFolder(folder) as scratch:
        in_force = {
            "batch_tokens": getattr(encoder, "batch_tokens", None),
            "threads": torch.get_num_threads(),
        }
        run, digest = begin_or_resume(folder, scratch, wanted, in_force, resume or world > 1)
        with torch_threads(run.options["threads"]):
            report = _Share(encoder, source, folder, scratch, run, digest).encode(rank, world, show_progress)
    tell_cuts(report.truncated, str(folder))
    return report


class _Share:
    """One process's pass over the source: parts that are its own and not finished are made, the others passed over."""

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
            done = self._make(number, part, samples, bar)
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

    def _is_current(self, part: str, done: Done, samples: Iterator[Sample]) -> bool:
        """Whether a finished part is of what is there now; reads all of it.

        Raises:
            InputError: the source has another number of samples there.
        """
        rows = _Rows(samples)
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
        source, told = _Rows(samples), 0
        ids: list[str] = []
        seen: set[str] = set()
        blocks: list[NDArray[Any]] = [np.zeros((0, self.run.dim), self.run.dtype)]
        errors: list[dict[str, str]] = []
        truncated = 0
        options = {name: value for name, value in self.run.options.items() if name not in RUN_ONLY}
        encoder = RowEncoder(
            self.encoder, self.run.dim, **options
        )  # anew: no part depends on another's memory
        for rows in chunks(source):
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
        done = Done(self.digest, count, len(ids), content, files, errors, halved_to, truncated)
        self.scratch.write(f"{part}.done.json", done.to_json())
        return done


class _Rows:
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
