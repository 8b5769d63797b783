"""Arrays and tensors as pictures and clips: whichever axis the channels are on, whatever library they are from.

One rule of axes. Channels are 1, 3 or 4 long, and last (``[H, W, C]``, clips ``[T, H, W, C]``) or first (``[C, H, W]``,
clips ``[T, C, H, W]``). Where both could be meant, they are last in a NumPy array and first in a tensor, as is usual
there.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from .limits import MediaError

CHANNELS = (1, 3, 4)


def is_array(value: Any) -> bool:
    """Whether a value is an array of numbers or a tensor; not an array of texts or objects."""
    return isinstance(value, torch.Tensor) or (isinstance(value, np.ndarray) and value.dtype.kind in "buif")


def picture_of(array: Any) -> np.ndarray:
    """A picture as ``[H, W]`` or ``[H, W, 1|3|4]``.

    Raises:
        MediaError: a shape that no picture has, or a tensor without values.
    """
    values = values_of(array)
    if values.ndim == 3:
        values = _channels_last(values, isinstance(array, torch.Tensor))
    elif values.ndim != 2:
        raise MediaError(
            f"an array of shape {tuple(values.shape)} is no picture; give [H, W], [H, W, 1|3|4] or [1|3|4, H, W]"
        )
    return values


def clip_of(array: Any) -> np.ndarray:
    """A clip as ``[T, H, W]`` or ``[T, H, W, 1|3|4]``.

    Raises:
        MediaError: a shape that no clip has, or one that may be a picture's; or a tensor without values.
    """
    values = values_of(array)
    shape = tuple(values.shape)
    if values.ndim == 3 and not {shape[0], shape[2]} & set(CHANNELS):
        return values
    if values.ndim == 3:
        raise MediaError(
            f"an array of shape {shape} may be one picture; give a clip as [T, H, W, 1|3|4] or [T, 1|3|4, H, W]"
        )
    if values.ndim != 4:
        raise MediaError(f"an array of shape {shape} is no video; give [T, H, W, 1|3|4] or [T, 1|3|4, H, W]")
    return _channels_last(values, isinstance(array, torch.Tensor))


def values_of(array: Any) -> np.ndarray:
    """An array as it is; a tensor of any device, type and layout as one.

    Raises:
        MediaError: a tensor without values, or values that NumPy cannot hold; an array of which some are masked.
    """
    if isinstance(array, np.ndarray):
        if isinstance(array, np.ma.MaskedArray) and np.ma.is_masked(array):
            raise MediaError("an array with masked values; say what is there instead: array.filled(value)")
        return array
    tensor = array.detach()
    if tensor.is_meta:
        raise MediaError("a tensor on the meta device has no values")
    try:
        if tensor.layout != torch.strided:
            tensor = tensor.to_dense()
        if tensor.is_floating_point():
            tensor = tensor.float()  # NumPy has no bfloat16
        return tensor.cpu().numpy()
    except (RuntimeError, TypeError) as error:  # quantised and nested ones
        raise MediaError(
            f"a tensor of {tensor.dtype} is no array: {' '.join(str(error).split())[:200]}"
        ) from None


def _channels_last(values: np.ndarray, first: bool) -> np.ndarray:
    """``first``: whether channels are first where that is unclear."""
    shape = values.shape
    may_be_first, may_be_last = shape[-3] in CHANNELS, shape[-1] in CHANNELS
    if may_be_first and (first or not may_be_last):
        return np.moveaxis(values, -3, -1)
    if may_be_last:
        return values
    kind = "picture; give [H, W, 1|3|4] or [1|3|4, H, W]"
    if values.ndim == 4:
        kind = "video; give [T, H, W, 1|3|4] or [T, 1|3|4, H, W]"
    raise MediaError(f"an array of shape {tuple(shape)} is no {kind}")
