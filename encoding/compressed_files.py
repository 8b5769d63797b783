"""Files of a compressed index, and the checks that they must pass before they are used."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from .manifest import COMPRESSED_KIND as KIND
from .manifest import GENERATION, MANIFEST, IndexFormatError

SCHEMA = 1
FAISS, NAMES, STARTS, VECTORS = "index.faiss", "ids.utf8", "ids.npy", "vectors.npy"
FAISS_HEAD = b"IwPQ"  # how a file of an IVF-PQ begins


def read_compressed_manifest(root: Path) -> dict[str, Any]:
    """``manifest.json`` of a compressed index, its fields checked. Raises IndexFormatError."""
    path = root / MANIFEST
    try:
        raw = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise IndexFormatError(f"{root} is not an umekit index: it has no {MANIFEST}") from None
    except (ValueError, RecursionError) as error:
        raise IndexFormatError(f"{path} is not JSON: {error}") from None
    if not isinstance(raw, dict) or raw.get("kind") != KIND or raw.get("schema") != SCHEMA:
        raise IndexFormatError(f"{path} is not the manifest of a compressed index of schema {SCHEMA}")
    kinds = {
        "generation": str,
        "dim": int,
        "count": int,
        "fingerprint": dict,
        "settings": dict,
        "files": dict,
    }
    for name, kind in kinds.items():
        if not isinstance(raw.get(name), kind) or isinstance(raw.get(name), bool):
            raise IndexFormatError(f"{path}: {name!r} is missing or not of type {kind.__name__}")
    if raw["dim"] < 1 or raw["count"] < 1 or not GENERATION.fullmatch(raw["generation"]):
        raise IndexFormatError(f"{path}: dim, count or the name of the data folder is impossible")
    if set(raw["files"]) not in ({FAISS, NAMES, STARTS}, {FAISS, NAMES, STARTS, VECTORS}):
        raise IndexFormatError(f"{path}: lists the files {sorted(raw['files'])}")
    return raw


def read_faiss(path: Path, dim: int, count: int) -> Any:
    """The faiss index, once its head and its sizes are those of the manifest. Raises IndexFormatError."""
    faiss = import_faiss()
    with path.open("rb") as handle:
        head = handle.read(4)
    if head != FAISS_HEAD:
        raise IndexFormatError(f"{path} is not an IVF-PQ index of faiss")
    try:
        index = faiss.read_index(str(path))
    except (RuntimeError, MemoryError) as error:
        raise IndexFormatError(f"{path} can't be read: {' '.join(str(error).split())}") from None
    if index.d != dim or index.ntotal != count or index.metric_type != faiss.METRIC_INNER_PRODUCT:
        raise IndexFormatError(f"{path} has {index.ntotal} rows of {index.d}, the manifest {count} of {dim}")
    return index


def import_faiss() -> Any:
    try:
        import faiss
    except ImportError as error:
        raise ImportError(f"searching an index needs faiss ({error}): pip install umekit[search]") from None
    return faiss
