"""JSON and npy files of ours that may come from anywhere, read only as far as their heads say what is expected."""

from __future__ import annotations

import json
import math
import tokenize
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import DTypeLike, NDArray

MANIFEST_BYTES = 1 << 28  # a manifest of a million parts has less


def parse_json(path: Path, data: bytes | str, error: type[ValueError], where: str = "") -> Any:
    """What JSON says; raises ``error`` with the file, and ``where`` in it, for what is none or nested too deeply."""
    try:
        return json.loads(data)
    except RecursionError:
        reason = "nested too deeply"
    except ValueError as wrong:  # also no UTF-8, and numbers of thousands of digits
        reason = str(wrong)
    raise error(f"{path}{where} is not JSON: {reason}") from None


def read_object(path: Path, error: type[ValueError]) -> Any:
    """A small file of JSON. Raises ``error``, or OSError where it cannot be opened."""
    size = path.stat().st_size
    if size > MANIFEST_BYTES:
        raise error(f"{path} has {size} bytes; the limit is {MANIFEST_BYTES}")
    return parse_json(path, path.read_bytes(), error)


def read_npy(
    path: Path, dtype: DTypeLike, shape: tuple[int, ...], error: type[ValueError], *, mapped: bool = False
) -> NDArray[Any]:
    """An array of a known dtype and shape, in C order; nothing is allocated before the head says so.

    Args:
        path: a file as ``numpy.save`` writes it.
        dtype, shape: that it must have.
        error: raised with the file's name for anything else.
        mapped: leave it on the disk.
    """
    try:
        with path.open("rb") as handle:
            found, fortran, kind = _head(handle)
            begin = handle.tell()
    except (OSError, ValueError, EOFError, TypeError, SyntaxError, RecursionError, MemoryError) as wrong:
        raise error(f"{path} is damaged, or no npy: {_short(wrong)}") from None
    except tokenize.TokenError as wrong:
        raise error(f"{path} is damaged, or no npy: {_short(wrong)}") from None
    if kind != np.dtype(dtype) or found != shape or (fortran and len(shape) > 1):
        order = ", in Fortran order" if fortran else ""
        told = f"{_short(kind)} {_short(found)}{order}, expected {np.dtype(dtype)} {shape}"
        raise error(f"{path} is damaged: it holds {told}")
    size = begin + math.prod(shape) * kind.itemsize
    if path.stat().st_size != size:
        raise error(f"{path} is damaged: it has {path.stat().st_size} bytes, and its head says {size}")
    try:
        return np.load(path, mmap_mode="r" if mapped else None, allow_pickle=False)  # type: ignore[no-any-return]
    except (OSError, ValueError, EOFError, MemoryError) as wrong:
        raise error(f"{path} can't be read: {_short(wrong)}") from None


def _head(handle: BinaryIO) -> tuple[Any, bool, np.dtype[Any]]:
    """Shape, whether in Fortran order, dtype."""
    version = np.lib.format.read_magic(handle)
    if version == (1, 0):
        return np.lib.format.read_array_header_1_0(handle)
    if version == (2, 0):
        return np.lib.format.read_array_header_2_0(handle)
    raise ValueError(f"version {version} of the format")


def _short(value: object) -> str:
    text = " ".join(str(value).split()) or type(value).__name__
    return text if len(text) <= 120 else text[:117] + "..."
