"""Averages of LoRA adapters that share a base (RzenEmbed, section 3.4.5).

The paper fuses "low-rank weight matrices" of adapters trained on different mixtures and gives no coefficients. The
mean of ``A`` and the mean of ``B`` do not multiply to the mean of ``B @ A``, so what is averaged is ``scale * B @ A``;
the mean is added to the base, and the soup is a stock checkpoint.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ...encoding.golden.folder import GOLDEN_FOLDER, make_golden, vector_of
from ...encoding.golden.items import golden_items, golden_pairs
from ...encoding.storage.atomic import new_folder
from ...encoding.storage.contents import file_sha256
from ...modeling.adapters import WEIGHTS_FILE
from .checkpoint_metadata import check_metadata
from .folders import LoraFolder, SoupError, read_lora_folder
from .merging import open_base, save_checkpoint

RECORD = "soup.json"  # what went into a soup, beside the result
PROBES = 3


@dataclass(frozen=True)
class SoupReport:
    """What a soup was made of.

    Attributes:
        out: the folder.
        mode: ``delta`` (of adapters) or ``checkpoints``.
        sources: path and sha256 of every ingredient.
        weights: as used, summing to 1.
        changed: modules, or tensors, that are averaged.
        difference: largest change of a number of a probe's vector against the base, or the first checkpoint; None
            where no model was run.
    """

    out: str
    mode: str
    sources: list[dict[str, str]]
    weights: list[float]
    changed: int
    difference: float | None = None

    def write(self, folder: Path) -> None:
        """``soup.json``; it names no output path, so equal soups are equal files."""
        record = {key: value for key, value in asdict(self).items() if key != "out"}
        (folder / RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def soup(
    adapters: Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    *,
    weights: Sequence[float] | None = None,
    base: str | os.PathLike[str] | None = None,
) -> SoupReport:
    """Average LoRA adapters of one base.

    A module that an adapter does not have counts as unchanged by it. Ranks may differ.

    Args:
        adapters: adapter folders.
        out: folder to write, a stock checkpoint with a golden folder; must be missing or empty.
        weights: one a adapter, none negative; divided by their sum. Equal when None.
        base: the base checkpoint; what the adapters name when None, and they must name the same.

    Returns:
        What was done, also written to ``soup.json``.

    Raises:
        SoupError: the adapters do not belong together, cannot be averaged, or the result changes nothing.
        FileNotFoundError: an adapter, or the base, is not there.
        FileExistsError: ``out`` has files already.
    """
    shares = normalised(weights, len(adapters))
    folders = [read_lora_folder(Path(path)) for path in adapters]
    check_together(folders, base)
    with new_folder(out) as target:
        encoder = open_base(folders[0].path, base)
        before = probe(encoder)
        names = sorted({name for folder in folders for name in folder.modules})
        for name in names:
            add_delta(encoder.model.backbone, name, folders, shares)
        difference = float(np.abs(before - probe(encoder)).max())
        if difference == 0.0:
            raise SoupError("the soup changes no vector of the base: the adapters are zero or cancel out")
        save_checkpoint(encoder, target)
        make_golden(encoder, target / GOLDEN_FOLDER)
        sources = [
            {"path": str(folder.path), "sha256": file_sha256(folder.path / WEIGHTS_FILE)}
            for folder in folders
        ]
        report = SoupReport(str(out), "delta", sources, shares, len(names), difference)
        report.write(target)
    return report


def normalised(weights: Sequence[float] | None, count: int) -> list[float]:
    """Weights divided by their sum, equal ones for None.

    Raises:
        SoupError: nothing to average, a wrong number of weights, one that is negative or not finite, or all zero.
    """
    if count < 1:
        raise SoupError("nothing to average: give at least one folder")
    given = [1.0] * count if weights is None else [float(weight) for weight in weights]
    if len(given) != count:
        raise SoupError(f"{len(given)} weights for {count} folders")
    if any(not math.isfinite(weight) or weight < 0 for weight in given) or sum(given) == 0:
        raise SoupError(f"weights are {given}: none may be negative, and some must be above zero")
    return [weight / math.fsum(given) for weight in given]


def check_together(folders: Sequence[LoraFolder], base: str | os.PathLike[str] | None) -> None:
    """Raise SoupError unless the adapters share base, settings, processor, and shapes of what they adapt."""
    first = folders[0]
    for other in folders[1:]:
        if base is None and other.base != first.base:
            raise SoupError(
                f"{other.path} was trained on {other.base or 'an unnamed base'}, {first.path} on "
                f"{first.base or 'an unnamed base'}: only adapters of one base can be averaged (or name it)"
            )
        check_metadata(first.path, other.path)
    shapes: dict[str, tuple[Path, Any]] = {}
    for folder in folders:
        for name, module in folder.modules.items():
            where, outer = shapes.setdefault(name, (folder.path, module.outer))
            if outer != module.outer:
                raise SoupError(
                    f"{name}: {folder.path} has inputs and outputs {module.outer}, {where} {outer}"
                )


def add_delta(backbone: Any, name: str, folders: Sequence[LoraFolder], shares: Sequence[float]) -> None:
    """Add the weighted mean of the adapters' changes to one weight: summed in float32, rounded once.

    Raises:
        SoupError: the backbone has no such module, the shapes do not fit, or the sum is not finite.
    """
    try:
        weight = backbone.get_submodule(name).weight
    except AttributeError:
        raise SoupError(
            f"the base has no module {name}: it is not what these adapters were trained on"
        ) from None
    total = weight.detach().float().clone()
    for folder, share in zip(folders, shares, strict=True):
        if name in folder.modules:
            total += share * folder.delta(name, weight.shape)
    merged = total.to(weight.dtype)
    if not torch.isfinite(merged).all():
        raise SoupError(f"{name} would hold NaN or infinity in {weight.dtype}")
    with torch.no_grad():
        weight.copy_(merged)


def probe(encoder: Any) -> NDArray[np.float32]:
    """Vectors (of a reranker, scores) of a few fixed items, [n, d] or [n, 1]; a non-finite one raises."""
    if encoder.model.settings.kind == "reranker":
        return np.stack([vector_of(encoder, q, None, c) for _, q, c in golden_pairs()[:PROBES]])
    return np.stack([vector_of(encoder, item, role) for _, role, item in golden_items()[:PROBES]])
