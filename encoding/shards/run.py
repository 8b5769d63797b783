"""A source of items to parts on disk: stopped at any moment, it goes on where it was, with the same bytes.

Batches are planned inside a shard and from nothing but its items, so no vector depends on how many processes share
the work, on which of them made a shard, or on what was finished before.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from ...modeling.pooling import check_dim, whole_number
from ...processing.cut_texts import tell_cuts
from ..calls import check_call
from ..fingerprint import is_former
from ..inputs import Source
from ..row_encoding import VectorMaker
from ..storage.atomic import AtomicFolder
from ..storage.provenance import library_versions
from .files import DTYPES, FORMATS, RUN, Run, ShardMismatchError, open_folder, read_run
from .work import ShardReport, ShardWork

__all__ = ["ShardMismatchError", "ShardReport", "encode_shards"]

ADOPTED = ("batch_tokens", "threads")  # options that a run which goes on takes from its beginning


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

    Shard ``s`` holds the units ``[s * shard_size, (s + 1) * shard_size)`` and is made by rank ``s % world``. What
    can't be read is in ``errors.jsonl`` and not among the vectors. No process waits for another: whichever finds all
    parts finished writes ``manifest.json``.

    Args:
        encoder: makes the vectors.
        source: ``umekit.encoding.inputs.open_source(...)``.
        out: folder of the parts.
        shard_size: units (files, lines, rows, samples) of a part; one part's vectors are held in memory.
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
        _need_pyarrow()
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
        run, digest = _agree(folder, scratch, wanted, encoder, resume or world > 1)
        with _torch_threads(run.options["threads"]):
            report = ShardWork(encoder, source, folder, scratch, run, digest).do(rank, world, show_progress)
    tell_cuts(report.truncated, str(folder))
    return report


def _agree(
    folder: Path, scratch: AtomicFolder, wanted: Run, encoder: VectorMaker, resume: bool
) -> tuple[Run, str]:
    """The run that is in the folder, or that now is; refuses one that would give other vectors."""
    found = open_folder(folder)
    if found is None:
        own = {"batch_tokens": getattr(encoder, "batch_tokens", None), "threads": _threads_in_use()}
        chosen = {
            name: own[name] if wanted.options[name] is None else wanted.options[name] for name in ADOPTED
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
    different = run.differences(replace(wanted, options=wanted.options | adopted))
    if different:
        raise ShardMismatchError(
            f"{folder} was begun with {'; '.join(different)}: repeat those settings, or use another folder"
        )
    changed = [name for name in wanted.versions if run.versions.get(name) != wanted.versions[name]]
    if changed:
        warnings.warn(f"{folder} was begun with other versions of {', '.join(changed)}", stacklevel=4)
    return run, digest


def _threads_in_use() -> int | None:
    torch = sys.modules.get("torch")
    return None if torch is None else int(torch.get_num_threads())


@contextmanager
def _torch_threads(count: int | None) -> Iterator[None]:
    """As many threads of torch as the run began with, since sums over other numbers of threads differ."""
    torch = sys.modules.get("torch")
    if torch is None or count is None:
        yield
        return
    former = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(former)


def _need_pyarrow() -> None:
    try:
        import pyarrow.parquet  # noqa: F401
    except ImportError:
        raise ImportError("parquet files need pyarrow: pip install umekit[scale]") from None
