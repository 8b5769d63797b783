"""Averages of LoRA adapters that share a base (RzenEmbed, section 3.4.5).

The paper fuses "low-rank weight matrices" of adapters trained on different mixtures and gives no coefficients. The
mean of ``A`` and the mean of ``B`` do not multiply to the mean of ``B @ A``, so three forms are offered:

* ``delta``: the mean of ``scale * B @ A``, exact, added to the base: a stock checkpoint;
* ``concat``: the same sum as one adapter of the summed rank, exact: an adapter folder;
* ``factors``: means of ``A`` and of ``B``, an approximation that only means something for adapters from one start.
"""

from __future__ import annotations

import json
import math
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor

from ..encoding.golden.folder import GOLDEN_FOLDER, make_golden, vector_of
from ..encoding.golden.items import golden_items, golden_pairs
from ..encoding.storage.ownership import new_folder
from .adapters import ADAPTER_FILE
from .lora_folders import CONFIG_FILE, LoraFolder, LoraModule, SoupError, read_lora_folder
from .lora_surroundings import check_surroundings, write_surroundings
from .merging import open_base, save_checkpoint

Mode = Literal["delta", "concat", "factors"]
MODES: tuple[str, ...] = ("delta", "concat", "factors")
RECORD = "soup.json"  # what went into a soup, beside the result
PROBES = 3


@dataclass(frozen=True)
class SoupReport:
    """What a soup was made of.

    Attributes:
        out: the folder.
        mode: ``delta``, ``concat``, ``factors`` or ``checkpoints``.
        sources: path and sha256 of every ingredient.
        weights: as used, summing to 1.
        changed: modules, or tensors, that are averaged.
        difference: largest change of a number of a probe's vector against the base (``delta``) or the first
            checkpoint; None where no model was run.
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
    mode: Mode = "delta",
    base: str | os.PathLike[str] | None = None,
) -> SoupReport:
    """Average LoRA adapters of one base.

    A module that an adapter does not have counts as unchanged by it (``factors`` refuses that). Ranks may differ
    but for ``factors``, which needs equal ranks and scales.

    Args:
        adapters: adapter folders.
        out: folder to write; must be missing or empty. A stock checkpoint with a golden folder for ``delta``,
            an adapter folder for the others.
        weights: one a adapter, none negative; divided by their sum. Equal when None.
        mode: ``delta``, ``concat`` or ``factors``; see the module.
        base: the base checkpoint; what the adapters name when None, and they must name the same.

    Returns:
        What was done, also written to ``soup.json``.

    Raises:
        SoupError: the adapters do not belong together, cannot be averaged, or the result changes nothing.
        FileNotFoundError: an adapter, or the base, is not there.
        FileExistsError: ``out`` has files already.
    """
    if mode not in MODES:
        raise ValueError(f"mode is {mode!r}; use one of {', '.join(MODES)}")
    shares = normalised(weights, len(adapters))
    folders = [read_lora_folder(Path(path)) for path in adapters]
    check_together(folders, base)
    with new_folder(out) as target:
        if mode == "delta":
            changed, difference = _merge_delta(folders, shares, base, target)
        else:
            make = _concatenated if mode == "concat" else _mean_factors
            changed, difference = _write_adapter(make(folders, shares), folders, base, target), None
        sources = [{"path": str(folder.path), "sha256": folder.sha256()} for folder in folders]
        report = SoupReport(str(out), mode, sources, shares, changed, difference)
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
        check_surroundings(first.path, other.path)
    shapes: dict[str, tuple[Path, Any]] = {}
    for folder in folders:
        for name, module in folder.modules.items():
            where, outer = shapes.setdefault(name, (folder.path, module.outer))
            if outer != module.outer:
                raise SoupError(
                    f"{name}: {folder.path} has inputs and outputs {module.outer}, {where} {outer}"
                )


def all_modules(folders: Iterable[LoraFolder]) -> list[str]:
    return sorted({name for folder in folders for name in folder.modules})


# ---- delta -------------------------------------------------------------------------------------------------------


def _merge_delta(
    folders: Sequence[LoraFolder],
    shares: Sequence[float],
    base: str | os.PathLike[str] | None,
    target: Path,
) -> tuple[int, float]:
    encoder = open_base(folders[0].path, base)
    before = probe(encoder)
    names = all_modules(folders)
    for name in names:
        add_delta(encoder.model.backbone, name, folders, shares)
    after = probe(encoder)
    difference = largest_difference(before, after)
    if difference == 0.0:
        raise SoupError("the soup changes no vector of the base: the adapters are zero or cancel out")
    save_checkpoint(encoder, target)
    make_golden(encoder, target / GOLDEN_FOLDER)
    return len(names), difference


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
    if encoder.model.settings.role == "reranker":
        return np.stack([vector_of(encoder, q, None, c) for _, q, c in golden_pairs()[:PROBES]])
    return np.stack([vector_of(encoder, item, role) for _, role, item in golden_items()[:PROBES]])


def largest_difference(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    return float(np.abs(a - b).max())


# ---- adapters out of adapters ------------------------------------------------------------------------------------

Merged = dict[str, tuple[Tensor, Tensor, float]]  # module -> A, B, scale


def _concatenated(folders: Sequence[LoraFolder], shares: Sequence[float]) -> Merged:
    """Factors stacked along the rank; share and scale are folded into B, so the stack's own scale is 1."""
    found: Merged = {}
    for name in all_modules(folders):
        parts = [
            (folder.factors(name), share * folder.modules[name].scale)
            for folder, share in zip(folders, shares, strict=True)
            if name in folder.modules
        ]
        a = torch.cat([a for (a, _), _ in parts], dim=0)
        b = torch.cat([factor * b for (_, b), factor in parts], dim=1)
        found[name] = (a.contiguous(), b.contiguous(), 1.0)
    return found


def _mean_factors(folders: Sequence[LoraFolder], shares: Sequence[float]) -> Merged:
    found: Merged = {}
    for name in all_modules(folders):
        modules = [folder.modules.get(name) for folder in folders]
        if any(module is None or not _alike(module, modules[0]) for module in modules):
            raise SoupError(
                f"{name}: mode 'factors' needs it in every adapter with one rank and scale; use 'concat' or 'delta'"
            )
        pairs = [folder.factors(name) for folder in folders]
        a = sum(share * a for share, (a, _) in zip(shares, pairs, strict=True))
        b = sum(share * b for share, (_, b) in zip(shares, pairs, strict=True))
        found[name] = (torch.as_tensor(a), torch.as_tensor(b), modules[0].scale)  # type: ignore[union-attr]
    return found


def _alike(a: LoraModule, b: LoraModule | None) -> bool:
    return b is not None and a.rank == b.rank and math.isclose(a.scale, b.scale)


def _write_adapter(
    merged: Merged, folders: Sequence[LoraFolder], base: str | os.PathLike[str] | None, target: Path
) -> int:
    """Write factors in float32 as a peft folder, with the first adapter's settings, processor and code."""
    if not any(torch.count_nonzero(b.flatten(1) @ a.flatten(1)) for a, b, _ in merged.values()):
        raise SoupError("the soup changes nothing: the adapters are zero or cancel out")
    tensors: dict[str, Tensor] = {}
    for name, (a, b, _) in merged.items():
        owner = next(folder.modules[name] for folder in folders if name in folder.modules)
        tensors[owner.key_a], tensors[owner.key_b] = a, b
    save_file(tensors, target / ADAPTER_FILE, metadata={"format": "pt"})
    config = folders[0].config | _ranks(merged)
    if base is not None:
        config["base_model_name_or_path"] = os.fspath(base)
    (target / CONFIG_FILE).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    read_lora_folder(target)  # what was written says of itself what was meant
    write_surroundings(folders[0].path, target)
    return len(merged)


def _ranks(merged: Merged) -> dict[str, Any]:
    """Entries of adapter_config.json: modules by their whole names, the commonest rank, and the exceptions."""
    ranks = {name: a.shape[0] for name, (a, _, _) in merged.items()}
    alphas = {name: ranks[name] * scale for name, (_, _, scale) in merged.items()}
    rank, alpha = (Counter(found.values()).most_common(1)[0][0] for found in (ranks, alphas))
    return {
        "target_modules": sorted(merged),
        "exclude_modules": None,
        "layers_to_transform": None,
        "layers_pattern": None,
        "use_rslora": False,
        "init_lora_weights": True,
        "r": rank,
        "lora_alpha": alpha,
        "rank_pattern": {name: found for name, found in ranks.items() if found != rank},
        "alpha_pattern": {name: found for name, found in alphas.items() if found != alpha},
    }
