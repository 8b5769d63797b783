"""A hash of weights: which ones a checkpoint holds, however they are stored.

Values are sampled from the weights in memory and rounded to bfloat16 first, so that the same checkpoint has the same
hash on a GPU in bfloat16 and on a CPU in float32, however its files are sharded; training moves it.
"""

from __future__ import annotations

import hashlib
from typing import Any

import torch
from torch import Tensor, nn

SAMPLES = 1 << 14  # values of a weight; of one with more rows, two of each row
EXACT = (torch.float32, torch.bfloat16)  # dtypes that round to the same bfloat16


def weights_hash(module: nn.Module) -> str | None:
    """sha256 of values of every weight; None where they are not as they were stored.

    That is so of half precision, which moves small values, of quantised weights, and of weights that are elsewhere
    (meta, or dealt out over processes).
    """
    for weight in module.parameters():
        if weight.dtype not in EXACT or weight.is_meta or weight.numel() == 0:
            return None
    digest = hashlib.sha256()
    feed_weights(digest, module)
    return digest.hexdigest()


def feed_weights(digest: Any, module: nn.Module) -> None:
    """Values of every weight of a module into a digest."""
    for name, weight in sorted(module.state_dict().items()):
        flat = weight.detach().reshape(-1)
        wanted = max(SAMPLES, 2 * weight.shape[0] if weight.dim() else 0)
        if flat.numel() > wanted:
            flat = flat[spread_over(flat.numel(), wanted).to(flat.device)]
        feed_values(digest, name, weight, flat)


def spread_over(count: int, wanted: int) -> Tensor:
    """``wanted`` positions of ``count``, evenly from the first to the last: int64 [wanted]."""
    return torch.arange(wanted, dtype=torch.int64) * (count - 1) // (wanted - 1)


def feed_values(digest: Any, name: str, weight: Tensor, values: Tensor) -> None:
    """Some values of a weight, with its name and shape, into a digest."""
    values = values.to("cpu")
    if values.is_floating_point():
        values = values.to(torch.bfloat16).view(torch.int16)
    digest.update(f"{name}{tuple(weight.shape)}".encode())
    digest.update(values.contiguous().numpy().tobytes())
