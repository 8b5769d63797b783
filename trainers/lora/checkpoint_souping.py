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

import numpy as np
import torch
from huggingface_hub import split_state_dict_into_shards_factory
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from ...encoding.checkpoint_files import has_settings
from ...encoding.golden.folder import GOLDEN_FOLDER, make_golden
from ...encoding.loading import load
from ...encoding.storage.atomic import new_folder
from ...encoding.storage.contents import file_sha256
from ...modeling.strategies import PROBE_FILE
from ...modeling.weight_files import INDEX, WEIGHTS, weight_files
from .checkpoint_metadata import check_metadata, write_metadata
from .folders import SoupError
from .souping import SoupReport, normalised, probe

GENERATION = "generation_config.json"
SHARD_BYTES = 4 << 30


class _Weights:
    """The tensors of a checkpoint folder, mapped from its files."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        paths = weight_files(str(folder))
        if paths is None:
            raise FileNotFoundError(f"{folder} has no {WEIGHTS}; only safetensors are read")
        self.folder, self.paths = folder, [Path(path) for path in paths]
        self._files: dict[str, Any] = {}
        for path in self.paths:
            file = stack.enter_context(safe_open(path, framework="pt"))
            self._files |= dict.fromkeys(file.keys(), file)
        self.shapes = {key: file.get_slice(key).get_shape() for key, file in self._files.items()}

    def get(self, key: str) -> Tensor:
        return self._files[key].get_tensor(key)  # type: ignore[no-any-return]

    def sha256(self) -> str:
        return hashlib.sha256(b"".join(bytes.fromhex(file_sha256(path)) for path in self.paths)).hexdigest()


def soup_checkpoints(
    checkpoints: Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    *,
    weights: Sequence[float] | None = None,
    shard_bytes: int = SHARD_BYTES,
) -> SoupReport:
    """Average the weights of checkpoints of one model (Wortsman et al. 2022, "Model soups").

    Sums are float32 and rounded once to the first checkpoint's dtype. Integer tensors must be equal. Settings,
    processor and code are written as the first checkpoint has them, and so is a probe, which was fitted on its states:
    ``umekit probe`` fits one on those of the mean.

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
        if not has_settings(str(folder)):
            raise SoupError(f"{folder} has no settings of ours: umekit export it first")
        check_metadata(folders[0], folder)
    with new_folder(out) as target, ExitStack() as stack:
        sources = [_Weights(folder, stack) for folder in folders]
        _check_tensors(sources)
        _write_weights(sources, shares, target, shard_bytes)
        write_metadata(folders[0], target)
        for name in (GENERATION, PROBE_FILE):
            if (folders[0] / name).is_file():
                shutil.copyfile(folders[0] / name, target / name)
        before = probe(load(folders[0], device="cpu", dtype="auto"))
        result = load(target, device="cpu", dtype="auto")
        make_golden(result, target / GOLDEN_FOLDER)
        named = [{"path": str(source.folder), "sha256": source.sha256()} for source in sources]
        difference = float(np.abs(before - probe(result)).max())
        report = SoupReport(str(out), "checkpoints", named, shares, len(sources[0].shapes), difference)
        report.write(target)
    return report


def _check_tensors(sources: Sequence[_Weights]) -> None:
    """Raise SoupError unless all have the same keys and shapes."""
    first = sources[0]
    for other in sources[1:]:
        only = sorted(first.shapes.keys() ^ other.shapes.keys())
        if only:
            has, lacks = (first, other) if only[0] in first.shapes else (other, first)
            raise SoupError(
                f"{len(only)} tensors are not in both: {only[0]} is in {has.folder} and not in {lacks.folder}"
            )
        for key, shape in sorted(first.shapes.items()):
            if shape != other.shapes[key]:
                raise SoupError(
                    f"{key} is {shape} in {first.folder} and {other.shapes[key]} in {other.folder}"
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
    split = split_state_dict_into_shards_factory(
        dict(sorted(sources[0].shapes.items())),
        get_storage_size=lambda shape: 4 * math.prod(shape),  # numbers are summed in float32
        filename_pattern="model{suffix}.safetensors",
        max_shard_size=shard_bytes,
    )
    size = 0
    for name, keys in split.filename_to_tensors.items():
        tensors = {key: _mean(key, sources, shares) for key in keys}
        size += sum(tensor.nbytes for tensor in tensors.values())
        save_file(tensors, target / name, metadata={"format": "pt"})
    if split.is_sharded:
        index = {
            "metadata": {"total_size": size},
            "weight_map": dict(sorted(split.tensor_to_filename.items())),
        }
        (target / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
