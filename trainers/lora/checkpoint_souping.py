"""Averages of whole checkpoints, a tensor at a time: memory holds one shard of the result and no model."""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from ...encoding.golden.folder import GOLDEN_FOLDER, make_golden
from ...encoding.loading import load
from ...encoding.storage.ownership import new_folder
from ...modeling.weight_files import INDEX, INDEX_BYTES, WEIGHTS, read_json, shard_names
from .checkpoint_metadata import check_metadata, write_metadata
from .folders import SoupError, has_settings
from .souping import SoupReport, largest_difference, normalised, probe

GENERATION = "generation_config.json"
SHARD_BYTES = 4 << 30


class _Weights:
    """The tensors of a checkpoint folder, mapped from its files."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.folder = folder
        self._files: dict[str, Any] = {}
        for path in _weight_files(folder):
            file = stack.enter_context(safe_open(path, framework="pt"))
            self._files |= dict.fromkeys(file.keys(), file)

    def keys(self) -> set[str]:
        return set(self._files)

    def shape(self, key: str) -> list[int]:
        return list(self._files[key].get_slice(key).get_shape())

    def get(self, key: str) -> Tensor:
        return self._files[key].get_tensor(key)  # type: ignore[no-any-return]


def soup_checkpoints(
    checkpoints: Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    *,
    weights: Sequence[float] | None = None,
    shard_bytes: int = SHARD_BYTES,
) -> SoupReport:
    """Average the weights of checkpoints of one model (Wortsman et al. 2022, "Model soups").

    Sums are float32 and rounded once to the first checkpoint's dtype. Integer tensors must be equal. Settings,
    processor and code are written as the first checkpoint has them.

    Args:
        checkpoints: folders in native layout with our settings.
        out: folder to write; must be missing or empty.
        weights: one a checkpoint, none negative; divided by their sum. Equal when None.
        shard_bytes: most bytes of a weight file, counted in float32; also what is held in memory.

    Raises:
        SoupError: other keys, shapes, settings or processors, or a sum that is not finite.
        FileNotFoundError: a folder has no safetensors weights (pickled ones are not read).
        FileExistsError: ``out`` has files already.
    """
    shares = normalised(weights, len(checkpoints))
    folders = [Path(path) for path in checkpoints]
    for folder in folders:
        if not has_settings(folder):
            raise SoupError(f"{folder} has no settings of ours: umekit export it first")
        check_metadata(folders[0], folder)
    with new_folder(out) as target, ExitStack() as stack:
        sources = [_Weights(folder, stack) for folder in folders]
        _check_tensors(sources)
        _write_weights(sources, shares, target, shard_bytes)
        write_metadata(folders[0], target)
        if (folders[0] / GENERATION).is_file():
            shutil.copyfile(folders[0] / GENERATION, target / GENERATION)
        before = probe(load(folders[0], device="cpu", dtype="auto"))
        result = load(target, device="cpu", dtype="auto")
        make_golden(result, target / GOLDEN_FOLDER)
        named = [{"path": str(folder), "sha256": _sha256(folder)} for folder in folders]
        difference = largest_difference(before, probe(result))
        report = SoupReport(str(out), "checkpoints", named, shares, len(sources[0].keys()), difference)
        report.write(target)
    return report


def _check_tensors(sources: Sequence[_Weights]) -> None:
    """Raise SoupError unless all have the same keys and shapes."""
    first = sources[0]
    for other in sources[1:]:
        mine, theirs = first.keys(), other.keys()
        only = sorted(mine ^ theirs)
        if only:
            has, lacks = (first, other) if only[0] in mine else (other, first)
            raise SoupError(
                f"{len(only)} tensors are not in both: {only[0]} is in {has.folder} and not in {lacks.folder}"
            )
        for key in sorted(mine):
            if first.shape(key) != other.shape(key):
                raise SoupError(
                    f"{key} is {first.shape(key)} in {first.folder} and {other.shape(key)} in {other.folder}"
                )


def _mean(key: str, sources: Sequence[_Weights], shares: Sequence[float]) -> Tensor:
    first = sources[0].get(key)
    if not first.is_floating_point():
        if not all(torch.equal(first, other.get(key)) for other in sources[1:]):
            raise SoupError(f"{key} holds integers that differ, which have no mean")
        return first
    total = torch.zeros_like(first, dtype=torch.float32)
    for source, share in zip(sources, shares, strict=True):
        total += share * source.get(key).float()
    mean = total.to(first.dtype)
    if not torch.isfinite(mean).all():
        raise SoupError(f"{key} would hold NaN or infinity in {first.dtype}")
    return mean


def _write_weights(
    sources: Sequence[_Weights], shares: Sequence[float], target: Path, shard_bytes: int
) -> None:
    """Weight files of at most ``shard_bytes`` (or one tensor), and the index that transformers reads."""
    shards = _plan(sources[0], shard_bytes)
    names = [
        WEIGHTS if len(shards) == 1 else f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        for number in range(1, len(shards) + 1)
    ]
    size = 0
    for name, keys in zip(names, shards, strict=True):
        tensors = {key: _mean(key, sources, shares) for key in keys}
        size += sum(tensor.nbytes for tensor in tensors.values())
        save_file(tensors, target / name, metadata={"format": "pt"})
    if len(shards) > 1:
        places = {key: name for name, keys in zip(names, shards, strict=True) for key in keys}
        index = {"metadata": {"total_size": size}, "weight_map": dict(sorted(places.items()))}
        (target / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _plan(source: _Weights, shard_bytes: int) -> list[list[str]]:
    """Keys of each weight file, in order of their names; a number is counted as float32, as it is summed."""
    shards: list[list[str]] = [[]]
    held = 0
    for key in sorted(source.keys()):
        size = 4 * math.prod(source.shape(key))
        if shards[-1] and held + size > shard_bytes:
            shards.append([])
            held = 0
        shards[-1].append(key)
        held += size
    return shards


def _weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a checkpoint: one, or those that its index names (inside the folder)."""
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    if not (folder / INDEX).is_file():
        raise FileNotFoundError(f"{folder} has no {WEIGHTS}; only safetensors are read")
    path = folder / INDEX
    return [folder / name for name in shard_names(read_json(path, INDEX_BYTES), str(path))]


def _sha256(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in _weight_files(folder):
        with path.open("rb") as handle:
            digest.update(hashlib.file_digest(handle, "sha256").digest())
    return digest.hexdigest()
