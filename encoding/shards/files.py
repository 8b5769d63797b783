"""What a folder of shards holds, and the checks that it must pass.

::

    run.json                          what is being made: model, processor, options, source, shard size; written first
    part-00000-of-00012.npy           [rows, d], or .parquet with the columns id and embedding
    part-00000-of-00012.ids.json      their ids (npy only)
    part-00000-of-00012.done.json     sizes, hashes, failed items of this part; written after its data
    errors.jsonl  manifest.json       written last, when every part is there

Without a known number of samples, parts are called ``part-00000``. Nothing in these files depends on the time, on the
number of processes or on how often the run was stopped, so two runs of the same source with the same settings are
equal byte for byte. Threads and tokens of a batch are settings, whether they were given or probed; they stand in
``run.json``.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ..fingerprint import IndexMismatchError, is_former
from ..storage.contents import MOST_DIM, IndexFormatError, check_types, file_sha256, parse_json
from ..storage.ownership import AtomicFolder, ForeignFileError, check_own, json_of

SCHEMA = 1
RUN, MANIFEST, ERRORS = "run.json", "manifest.json", "errors.jsonl"
FORMATS = ("npy", "parquet")
DTYPES = ("float32", "float16")
PART = re.compile(r"part-\d{5,}(-of-\d{5,})?")
PART_FILE = re.compile(PART.pattern + r"\.(npy|ids\.json|done\.json|parquet)")
KIND = "umekit-shards"  # of the manifest
ADOPTED = ("batch_tokens", "threads")  # options that a run which goes on takes from its beginning
RUN_ONLY = ("threads", "arithmetic", "thoughts")  # options of a run that ``encode`` is not called with


class ShardFormatError(IndexFormatError):
    """A folder of shards is damaged, incomplete, or not one."""


class ShardMismatchError(IndexMismatchError):
    """A folder of shards was begun with another model, source or setting."""


@dataclass(frozen=True)
class Run:
    """The contents of ``run.json``.

    Attributes:
        fingerprint: ``Encoder.fingerprint()``.
        source: hash of what is read. units: how many samples it has; None if only its end tells.
        shard_size: samples of a shard.
        dim, format, dtype: of the vectors.
        options: role, instruction, mode, batch_tokens, and ``RUN_ONLY``: whatever has a say in a vector (``thoughts``
            is the sha256 of given ones).
        model: path or name that the model was loaded by; not compared.
        versions: of libraries; not compared.
    """

    fingerprint: dict[str, Any]
    source: str
    units: int | None
    shard_size: int
    dim: int
    format: str
    dtype: str
    options: dict[str, Any]
    model: str | None
    versions: dict[str, str]

    @property
    def parts(self) -> int | None:
        return None if self.units is None else -(-self.units // self.shard_size)

    def to_json(self) -> bytes:
        return to_json({"kind": "umekit-shard-run", "schema": SCHEMA, **asdict(self)})

    def differences(self, other: Run) -> list[str]:
        """``name here, name there`` for everything that has a say in the output."""
        mine, theirs = (
            {**asdict(run), **{f"the {name}": made for name, made in run.fingerprint.items()}}
            for run in (self, other)
        )
        found = []
        for name in sorted({*mine, *theirs} - {"model", "versions", "options", "fingerprint"}):
            if mine.get(name) != theirs.get(name):
                found.append(f"{name} {_short(mine.get(name))}, not {_short(theirs.get(name))}")
        for name in sorted(set(self.options) | set(other.options)):
            here, there = self.options.get(name), other.options.get(name)
            if here != there:
                told = "given thoughts of sha256" if name == "thoughts" else name
                found.append(f"{told} {here!r}, not {there!r}")
        return found


def read_run(folder: Path) -> tuple[Run, str] | None:
    """``run.json`` and its sha256; None where there is none. Raises ShardFormatError for a damaged one."""
    path = folder / RUN
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    return run_of(parse(path, data, "umekit-shard-run"), path), hashlib.sha256(data).hexdigest()


def open_folder(folder: Path) -> tuple[Run, str] | None:
    """:func:`read_run` of a folder that is to be written to; with a run in it, all that it writes is the run's.

    Raises:
        ForeignFileError: a file that was not written by a run of ours has the name of one that a run writes.
        ShardFormatError: ``run.json`` is damaged, or not ours.
    """
    names = sorted(os.listdir(folder))  # first: what another process adds comes after run.json
    found = read_run(folder)
    if found is None:
        for name in names:
            if name in (RUN, MANIFEST, ERRORS) or PART_FILE.fullmatch(name):
                raise ForeignFileError(
                    f"{folder / name} is there, and {folder} holds no run of shards: name another folder, so that "
                    "nothing of yours is written over"
                )
    check_own(folder / MANIFEST, json_of(KIND), "name another folder for the shards")
    check_own(folder / ERRORS, _lists_errors, "name another folder for the shards")
    return found


def begin_or_resume(
    folder: Path, scratch: AtomicFolder, wanted: Run, in_force: Mapping[str, Any], resume: bool
) -> tuple[Run, str]:
    """The run that is in the folder, or that now is, and the sha256 of its ``run.json``.

    Args:
        folder, scratch: of the shards, and where files are written first.
        wanted, resume: the run that is asked for, and whether to go on with one that is there.
        in_force: what ``ADOPTED`` options are in a run that begins, where nothing else is asked for.

    Raises:
        FileExistsError: there is one, and ``resume`` is False. ShardMismatchError: it would give other vectors.
    """
    found = open_folder(folder)
    if found is None:
        chosen = {
            name: in_force[name] if wanted.options[name] is None else wanted.options[name] for name in ADOPTED
        }
        scratch.write(RUN, replace(wanted, options=wanted.options | chosen).to_json())
        found = read_run(folder)
        assert found is not None
    elif not resume:
        raise FileExistsError(f"{folder} holds a run already: resume it, or give another folder")
    run, digest = found
    if is_former(run.fingerprint, wanted.fingerprint):
        raise ShardMismatchError(
            f"{folder} was begun by an earlier umekit, which did not note what its parts were made of: begin anew in "
            "another folder"
        )
    adopted = {name: run.options.get(name) for name in ADOPTED if wanted.options[name] is None}
    if different := run.differences(replace(wanted, options=wanted.options | adopted)):
        raise ShardMismatchError(
            f"{folder} was begun with {'; '.join(different)}: repeat those settings, or use another folder"
        )
    changed = [name for name in wanted.versions if run.versions.get(name) != wanted.versions[name]]
    if changed:
        warnings.warn(f"{folder} was begun with other versions of {', '.join(changed)}", stacklevel=4)
    return run, digest


def _lists_errors(path: Path) -> bool:
    """Whether a file is the ``errors.jsonl`` of a run: lines of an id and a reason, and nothing else."""
    try:
        with path.open(encoding="utf-8") as lines:
            return all(set(json.loads(line)) == {"id", "reason"} for line in lines)
    except (OSError, ValueError, TypeError, RecursionError):
        return False


def run_of(raw: Mapping[str, Any], path: Path) -> Run:
    """The fields of a run, their types checked."""
    kinds: dict[str, type | tuple[type, ...]] = {
        "fingerprint": dict,
        "source": str,
        "units": (int, type(None)),
        "shard_size": int,
        "dim": int,
        "format": str,
        "dtype": str,
        "options": dict,
        "model": (str, type(None)),
        "versions": dict,
    }
    check_types(path, raw, kinds, ShardFormatError)
    run = Run(**{name: raw[name] for name in kinds})
    if run.shard_size < 1 or not 1 <= run.dim <= MOST_DIM or (run.units or 0) < 0:
        raise ShardFormatError(f"{path}: shard size {run.shard_size}, dim {run.dim}, units {run.units}")
    if run.format not in FORMATS or run.dtype not in DTYPES:
        raise ShardFormatError(f"{path}: format {run.format!r}, dtype {run.dtype!r}")
    for name in ("role", "instruction", "mode"):
        if not isinstance(run.options.get(name), (str, type(None))):
            raise ShardFormatError(f"{path}: options.{name} is {run.options[name]!r:.80}, not a text")
    return run


COUNTED = ("truncated", "without_thought", "reasoned", "thought_tokens")  # of a part, beside its rows


@dataclass(frozen=True)
class Done:
    """``part-….done.json``: a finished part.

    Attributes:
        run: sha256 of the ``run.json`` that it belongs to.
        units, rows: how many samples were read, and how many vectors came of it.
        content: hash of all that its items hold, files that they name included: with another, the part is made anew.
        files: name -> ``{"bytes", "sha256"}``.
        errors: ``{"id", "reason"}`` of every item that has no vector.
        halved_to: tokens of a batch, where memory did not hold those that were asked for. Other batches round
            otherwise: such a part is as right, but not byte for byte that of a machine with more memory.
        truncated: rows whose text was cut at the limit of tokens.
        without_thought: rows that had none, in a run with given thoughts, and thought themselves.
        reasoned, thought_tokens: rows that were thought about before they were embedded, and tokens of their thoughts.
    """

    run: str
    units: int
    rows: int
    content: str
    files: dict[str, dict[str, Any]]
    errors: list[dict[str, str]]
    halved_to: int | None = None
    truncated: int = 0
    without_thought: int = 0
    reasoned: int = 0
    thought_tokens: int = 0

    def to_json(self) -> bytes:
        return to_json({"kind": "umekit-shard", "schema": SCHEMA, **asdict(self)})


def part_name(number: int, parts: int | None) -> str:
    return f"part-{number:05d}" + ("" if parts is None else f"-of-{parts:05d}")


def data_names(part: str, format: str) -> tuple[str, ...]:
    return (f"{part}.npy", f"{part}.ids.json") if format == "npy" else (f"{part}.parquet",)


def read_done(folder: Path, part: str, run: Run, digest: str, *, hashes: bool) -> Done | None:
    """The record of a part whose files are all there and whole; None otherwise: then it is to be made.

    Args:
        folder, part: of the shards, and the part's name.
        run, digest: what is being made, and the sha256 of its ``run.json``.
        hashes: compare contents too, and not only sizes.

    Raises:
        ShardMismatchError: the part was made by another run.
    """
    path = folder / f"{part}.done.json"
    try:
        raw = parse(path, path.read_bytes(), "umekit-shard")
        raw = dict.fromkeys(COUNTED, 0) | raw  # older parts do not know them
        done = Done(**{name: raw[name] for name in Done.__dataclass_fields__})
        _check_record(path, done)
        whole = set(done.files) == set(data_names(part, run.format))
        for name, facts in done.files.items():
            file = folder / name
            whole = whole and not file.is_symlink() and file.stat().st_size == facts["bytes"]
            whole = whole and (not hashes or file_sha256(file) == facts["sha256"])
    except (OSError, ShardFormatError, KeyError, TypeError, AttributeError):
        return None
    if whole and done.run != digest:
        raise ShardMismatchError(f"{path} belongs to another run than {folder / RUN}: use an empty folder")
    return done if whole else None


def _check_record(path: Path, done: Done) -> None:
    """Raise ShardFormatError unless the counts of a record are counts and its errors name items."""
    counts = {"units": done.units, "rows": done.rows, "halved_to": done.halved_to or 0}
    for name, count in counts.items():
        if isinstance(count, bool) or not isinstance(count, int) or count < 0:
            raise ShardFormatError(f"{path}: {name} is {count!r:.80}")
    if not isinstance(done.errors, list) or not all(
        isinstance(error, dict)
        and set(error) == {"id", "reason"}
        and all(isinstance(one, str) for one in error.values())
        for error in done.errors
    ):
        raise ShardFormatError(f"{path}: errors is not a list of ids and reasons")


def parse(path: Path, data: bytes, kind: str) -> dict[str, Any]:
    """An object of ours in JSON. Raises ShardFormatError."""
    raw = parse_json(path, data, ShardFormatError)
    if not isinstance(raw, dict) or raw.get("kind") != kind:
        raise ShardFormatError(f"{path} is not a file of {kind}")
    if raw.get("schema") != SCHEMA:
        raise ShardFormatError(f"{path} has schema {raw.get('schema')!r}; this umekit reads {SCHEMA}")
    return raw


def to_json(value: Mapping[str, Any]) -> bytes:
    """The one spelling of an object: sorted, a field on a line."""
    return (json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n").encode()


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True, default=str)
    return text if len(text) <= 60 else text[:57] + "..."
