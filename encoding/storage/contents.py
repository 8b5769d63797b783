"""Files of ours that may come from anywhere: read only as far as their heads say what is expected, and checked."""

from __future__ import annotations

import hashlib
import json
import math
import os
import platform
import tokenize
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import DTypeLike, NDArray

from ..._version import __version__

MANIFEST_BYTES = 1 << 28  # a manifest of a million parts has less
MOST_DIM = 1 << 20
UNIT_TOLERANCE = 1e-3


class IndexFormatError(ValueError):
    """A folder is no index and no shards, or it is damaged."""


def file_sha256(path: Path) -> str:
    """sha256 of a file in hex, read in pieces."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def file_facts(path: Path) -> dict[str, Any]:
    """Size and sha256 of a file, as manifests list them."""
    return {"bytes": path.stat().st_size, "sha256": file_sha256(path)}


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


def check_types(
    path: Path, raw: Mapping[str, Any], kinds: Mapping[str, type | tuple[type, ...]], error: type[ValueError]
) -> None:
    """The fields of an object are there and of their types; raises ``error`` with the name of one that is not."""
    for name, kind in kinds.items():
        if name not in raw or not isinstance(raw[name], kind) or isinstance(raw[name], bool):
            raise error(f"{path}: {name!r} is missing or of a wrong type")


def check_plain(path: Path, sha256: str | None, error: type[ValueError]) -> None:
    """A file is there, no link, and has the sha256 that its manifest says (None: not compared); raises ``error``."""
    if path.is_symlink() or not path.is_file():
        raise error(f"{path} is missing or not a plain file")
    if sha256 is not None and file_sha256(path) != sha256:
        raise error(f"{path} is damaged: its sha256 differs from the manifest's")


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


def check_ids(names: Sequence[object], known: set[str], error: type[ValueError]) -> None:
    """Ids are non-empty strings, each once and none of ``known``; raises ``error``."""
    seen: set[object] = set(known)
    for name in names:
        if not isinstance(name, str) or not name:
            raise error(f"an id is a non-empty string, not {name!r}")
        if name in seen:
            raise error(f"the id {name!r} is there twice")
        try:
            name.encode("utf-8")
        except UnicodeEncodeError:
            raise error(f"the id {name!r} is no valid Unicode") from None
        seen.add(name)


def check_rows(names: Sequence[str], rows: NDArray[np.float32], error: type[ValueError]) -> None:
    """Rows [n, d] are finite and of length 1; raises ``error`` with the names of those that are not."""
    lengths = np.sqrt(np.einsum("ij,ij->i", rows, rows, dtype=np.float64))  # no copy of the rows in float64
    bad = np.flatnonzero(~(np.abs(lengths - 1.0) <= UNIT_TOLERANCE))  # NaN fails the comparison too
    if len(bad):
        shown = ", ".join(f"{names[row]} (length {lengths[row]:.3g})" for row in bad[:5])
        more = f" and {len(bad) - 5} more" if len(bad) > 5 else ""
        raise error(f"not unit vectors: {shown}{more}")


def library_versions() -> dict[str, str]:
    """Versions of whatever has a say in a vector or in this folder."""
    found = {"python": platform.python_version(), "umekit": __version__}
    for name in ("torch", "transformers", "numpy", "pillow", "faiss-cpu", "av", "pypdfium2"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def stored_model(model: str | os.PathLike[str] | None) -> str | None:
    """The name for a manifest: the absolute path of a folder, a Hub id as it is, None for ume-tiny."""
    if model is None:
        return None
    return os.path.abspath(model) if os.path.exists(model) else os.fspath(model)
