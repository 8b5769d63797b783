"""Thoughts of a source, written in parts that survive a stop. ``given_thoughts`` reads them.

::

    thoughts.json            what is being made: model, processor, options, source, shard size; written first, and again
                             with the number of rows when every part is there
    thoughts-00000.jsonl     a line an item: id, thought, tokens, forced (lists for several samples); or id, error.
                             Of a reasoner: thought and answer apart, and text, what it wrote

A part gets its name when it is complete, and depends on nothing but its items, so a run that was stopped goes on with
the same bytes.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from ...modeling.pooling import whole_number
from ...processing.cut_texts import cuts_untold
from ..inputs import InputError, Row, Sample, Source
from ..inputs.sample import chunks, reason_of
from ..storage.contents import IndexFormatError, library_versions, parse_json, read_object
from ..storage.ownership import AtomicFolder, check_own, json_of
from .files import ShardMismatchError
from .thinkers import Thinker, thinker_of

KIND, RUN = "umekit-thoughts", "thoughts.json"
_COMPARED = ("fingerprint", "source", "units", "shard_size", "options")


@dataclass
class ThoughtsReport:
    """What one call did: parts made and found there; rows, failed items and forced thoughts of all parts, None
    while another process still works on its share."""

    made: int = 0
    kept: int = 0
    rows: int | None = None
    failed: int | None = None
    forced: int | None = None


def write_thoughts(
    encoder: Any,
    source: Source,
    out: str | os.PathLike[str],
    shard_size: int = 1024,
    *,
    role: str | None = None,
    instruction: str | None = None,
    max_new_tokens: int | None = None,
    num_samples: int = 1,
    temperature: float | None = None,
    top_p: float | None = None,
    seed: int = 0,
    rank: int = 0,
    world: int = 1,
) -> ThoughtsReport:
    """Let a model think about every item of a source; what is there already is not made again.

    Args:
        encoder: of a generative checkpoint; or one with a reasoner, which then thinks whatever the checkpoint is.
        source: ``umekit.encoding.inputs.open_source(...)``.
        out: folder of the parts.
        shard_size: samples (files, lines, rows) of a part.
        role, instruction, max_new_tokens, num_samples, temperature, top_p: as in ``Encoder.encode``; a reasoner has
            the last four of its own.
        seed: drawn thoughts depend on it, and on the place of their item in the source alone.
        rank, world: which of how many processes this is; each makes every ``world``-th part.

    Raises:
        ShardMismatchError: ``out`` was begun with another model, source or setting.
        ForeignFileError: it holds files that umekit did not write for this.
        InputError: the source changed while it was read.
        ValueError: nothing here thinks, or a reasoner is to do what it does not.
    """
    whole_number("shard_size", shard_size)
    whole_number("seed", seed, least=0)
    asked: dict[str, Any] = {"role": role, "instruction": instruction, "max_new_tokens": max_new_tokens}
    asked |= {"num_samples": num_samples, "temperature": temperature, "top_p": top_p}
    thinker = thinker_of(encoder, asked)
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    wanted = {
        "kind": KIND,
        "fingerprint": thinker.fingerprint(),
        "source": source.fingerprint(),
        "units": source.count(),
        "shard_size": shard_size,
        "options": asked | {"seed": seed},
        "versions": library_versions(),
    }
    report = ThoughtsReport()
    with AtomicFolder(folder) as scratch:
        _begin(folder, scratch, wanted)
        samples, number = source.samples(), 0
        while share := list(islice(samples, shard_size)):
            if number % world == rank:
                name = part_file(number)
                if (folder / name).exists():
                    report.kept += 1
                else:
                    lines = _thought_lines(thinker, share, asked, [seed, number])
                    scratch.write(name, "".join(f"{line}\n" for line in lines).encode())
                    report.made += 1
            number += 1
        if wanted["units"] not in (None, source.count()):
            raise InputError("the source changed while it was read: it has another number of samples now")
        _finish(folder, scratch, wanted, number, report)
    return report


def read_part(where: str | os.PathLike[str], number: int) -> list[dict[str, Any]]:
    """Lines of a part of :func:`write_thoughts`, those of items without a thought included, in the source's order.

    Raises:
        IndexFormatError: it is not there yet, or a line is none.
    """
    file = Path(where) / part_file(number)
    try:
        lines = file.read_bytes().splitlines()
    except FileNotFoundError:
        raise IndexFormatError(
            f"{file} is not there: the thoughts of these items are not written yet"
        ) from None
    rows = [parse_json(file, line, IndexFormatError, f"line {n}") for n, line in enumerate(lines, start=1)]
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, dict) or not ("thought" in row or "error" in row):
            raise IndexFormatError(f"{file}, line {number}: a line has a thought or an error")
    return rows


def _begin(folder: Path, scratch: AtomicFolder, wanted: dict[str, Any]) -> None:
    check_own(folder / RUN, json_of(KIND), "give another --out")
    if not (folder / RUN).exists():
        if strange := sorted(path.name for path in folder.glob("thoughts-*.jsonl")):
            raise ShardMismatchError(f"{folder} holds {strange[0]} and no {RUN}: give another folder")
        scratch.write(RUN, _json(wanted))
        return
    begun = read_object(folder / RUN, IndexFormatError)
    for name in _COMPARED:
        if begun.get(name) != json.loads(json.dumps(wanted[name])):
            raise ShardMismatchError(
                f"{folder} was begun with another {name}: {begun.get(name)}, now {wanted[name]}; give another folder"
            )


def _finish(
    folder: Path, scratch: AtomicFolder, wanted: dict[str, Any], parts: int, report: ThoughtsReport
) -> None:
    files = [folder / part_file(number) for number in range(parts)]
    if not all(file.is_file() for file in files):
        return  # another process ends the run
    counts = {"rows": 0, "failed": 0, "forced": 0}
    for file in files:
        for line in file.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            counts["failed" if "error" in row else "rows"] += 1
            counts["forced"] += int(np.sum(row.get("forced", False)))
    report.rows, report.failed, report.forced = counts["rows"], counts["failed"], counts["forced"]
    scratch.write(RUN, _json(wanted | counts | {"parts": parts}))


def _thought_lines(
    thinker: Thinker, samples: list[Sample], options: dict[str, Any], seeds: list[int]
) -> Iterator[str]:
    rows = (row for sample in samples for row in sample.rows())
    for number, chunk in enumerate(chunks(rows)):
        seed = int(np.random.SeedSequence([*seeds, number]).generate_state(1)[0])
        yield from _lines_of(thinker, chunk, options, seed)


def _lines_of(thinker: Thinker, rows: list[Row], options: dict[str, Any], seed: int) -> Iterator[str]:
    asked = [place for place, row in enumerate(rows) if row.error is None]
    with cuts_untold():
        thoughts = thinker.think([rows[place].item for place in asked], options, seed)
    found = dict(zip(asked, thoughts, strict=True))
    for place, row in enumerate(rows):
        thought = found.get(place)
        if thought is None or isinstance(thought, Exception):
            thought = {"error": row.error if thought is None else reason_of(thought)}
        yield json.dumps({"id": row.id, **thought}, ensure_ascii=False)


def part_file(number: int) -> str:
    """Name of a part."""
    return f"thoughts-{number:05d}.jsonl"


def _json(value: dict[str, Any]) -> bytes:
    return (json.dumps(value, indent=1, ensure_ascii=False, sort_keys=True) + "\n").encode()
