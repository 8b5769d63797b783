"""The only pooling there is: the mean of the states that a slot names.

Last token, a special token and a masked mean are all the same operation; which tokens carry the embedding is the
processor's knowledge and arrives as ``pooling_slots``.
"""

from __future__ import annotations

import math
import numbers
import operator
from typing import Any

import torch
from torch import Tensor

NO_SLOT = 0
DIRECT_SLOT = 1
GENERATED_SLOT = 2


class DegenerateVectorError(ValueError):
    """A vector is zero, not finite or constant: the model, the checkpoint or the dtype is broken."""


def pool(states: Tensor, slots: Tensor, slot: int = DIRECT_SLOT, *, partial: bool = False) -> Tensor:
    """Average the states whose slot is ``slot``, in float32.

    Args:
        states: ``[B, L, d]``, any float dtype, after the final norm.
        slots: int8 ``[B, L]``.
        slot: 1 for the direct embedding, 2 for the generated one.
        partial: a row without the slot is zero.

    Returns:
        float32 ``[B, d]``, not normalised.

    Raises:
        ValueError: shapes differ, or a row has no such slot (which never means a fallback) and ``partial`` is False.
    """
    if slots.shape != states.shape[:2]:
        raise ValueError(f"pooling_slots {tuple(slots.shape)} do not fit states {tuple(states.shape[:2])}")
    weights = (slots == slot).to(torch.float32)
    count = weights.sum(dim=1, keepdim=True)
    if not partial and not bool((count > 0).all()):
        rows = torch.nonzero(count.squeeze(1) == 0).flatten().tolist()
        raise ValueError(f"rows {rows} have no token in pooling slot {slot}")
    # Unpooled states may be padding's: a product would carry their NaN into the mean, a selection does not.
    chosen = torch.where(weights.unsqueeze(-1) > 0, states.float(), 0.0)
    return chosen.sum(dim=1) / count.clamp(min=1)


def finish(pooled: Tensor, *, normalize: bool = True, dim: int | None = None) -> Tensor:
    """Truncate to ``dim`` numbers, then scale to length one, in float32.

    Args:
        pooled: float32 ``[B, d]``.
        normalize: scale rows to length one.
        dim: keep the first ``dim`` numbers; None keeps all.

    Raises:
        ValueError: ``dim`` is no whole number from 1 to d.
    """
    if dim is not None:
        pooled = pooled[..., : check_dim(dim, pooled.shape[-1])]
    return torch.nn.functional.normalize(pooled, dim=-1) if normalize else pooled


def check_dim(dim: Any, most: int) -> int:
    """``dim`` as an int.

    Raises:
        ValueError: it is no whole number (a bool is none), or not in 1..``most``.
    """
    number = _as_int(dim)
    if number is None or not 1 <= number <= most:
        raise ValueError(f"dim is {dim!r}; use a whole number from 1 to {most}, or None for all")
    return number


def whole_number(name: str, value: Any, least: int = 1) -> int:
    """An argument that must be a whole number from ``least`` on, as an int.

    Raises:
        ValueError: it is another; a bool and a float are none.
    """
    number = _as_int(value)
    if number is None or number < least:
        raise ValueError(f"{name} is {value!r}; give a whole number from {least} on")
    return number


def is_number(value: Any) -> bool:
    """Whether it is a finite number; a bool is none."""
    return isinstance(value, numbers.Real) and not isinstance(value, bool) and math.isfinite(value)


def _as_int(value: Any) -> int | None:
    try:
        return None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        return None


def degenerate_rows(vectors: Tensor) -> Tensor:
    """Which of ``[B, d]`` or ``[B, k, d]`` have a vector that is zero, not finite or constant: bool ``[B]``."""
    finite = torch.isfinite(vectors).all(dim=-1)
    spread = vectors.amax(dim=-1) - vectors.amin(dim=-1)
    flat = (spread <= 1e-12) if vectors.shape[-1] > 1 else (vectors.abs().squeeze(-1) <= 1e-12)
    return (~finite | flat).flatten(1).any(dim=1) if vectors.dim() > 2 else ~finite | flat


def check_vectors(vectors: Tensor) -> None:
    """Raise ``DegenerateVectorError`` if a row of ``[B, d]`` is zero, not finite or constant."""
    bad = degenerate_rows(vectors)
    if bool(bad.any()):
        rows = torch.nonzero(bad).flatten().tolist()
        raise DegenerateVectorError(
            f"rows {rows[:10]} of the vectors are zero, constant or not finite; "
            "the weights, the dtype or the attention kernel of this model are broken"
        )
