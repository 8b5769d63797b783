"""A source of items to parts on disk: stopped at any moment, it goes on where it was, with the same bytes.

Batches are planned inside a shard and from nothing but its items, so no vector depends on how many processes share
the work, on which of them made a shard, or on what was finished before.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal

import torch

from ...modeling.pooling import check_dim, whole_number
from ...processing.cut_texts import tell_cuts
from ..calls import check_call
from ..devices import torch_threads
from ..inputs import Source
from ..inputs.tables import import_parquet
from ..row_encoding import VectorMaker
from ..storage.contents import library_versions
from ..storage.ownership import AtomicFolder
from .files import DTYPES, FORMATS, Run, ShardMismatchError, begin_or_resume
from .given_thoughts import GivenThoughts
from .share import ShardReport, Share

__all__ = ["ShardMismatchError", "ShardReport", "encode_shards"]


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
    kappa: float | None = None,
    budget: float | None = None,
    dim: int | None = None,
    max_new_tokens: int | None = None,
    thoughts: GivenThoughts | None = None,
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
        role, instruction, mode, kappa, dim, max_new_tokens: as in ``Encoder.encode``.
        thoughts: to embed with, see :func:`open_thoughts`; a row without one thinks itself.
        budget: likewise; met in each part on its own, so that a part does not depend on those before.
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
        InputError: the source changed while it was read; or none of its first rows has a thought.
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
    deciding = {"kappa": kappa, "budget": budget}
    options |= {name: value for name, value in deciding.items() if value is not None}
    options |= {"batch_tokens": batch_tokens, "threads": threads}
    if max_new_tokens is not None:
        options["max_new_tokens"] = max_new_tokens
    if thoughts is not None:
        options["thoughts"] = thoughts.sha256
        if thoughts.num_samples > 1:
            options["num_samples"] = thoughts.num_samples
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
            report = Share(encoder, source, folder, scratch, run, digest, thoughts).encode(
                rank, world, show_progress
            )
    tell_cuts(report.truncated, str(folder))
    return report
