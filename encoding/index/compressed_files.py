"""Files of a compressed index, and the checks that they must pass before they are used."""

from __future__ import annotations

import codecs
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..storage.checked_files import read_npy, read_object
from .manifest import COMPRESSED_KIND as KIND
from .manifest import GENERATION, MANIFEST, MOST_DIM, MOST_ROWS, IndexFormatError

SCHEMA = 1
FAISS, NAMES, STARTS, VECTORS = "index.faiss", "ids.utf8", "ids.npy", "vectors.npy"
FAISS_HEAD = b"IwPQ"  # how a file of an IVF-PQ begins


def read_compressed_manifest(root: Path) -> dict[str, Any]:
    """``manifest.json`` of a compressed index, its fields checked. Raises IndexFormatError."""
    path = root / MANIFEST
    try:
        raw = read_object(path, IndexFormatError)
    except FileNotFoundError:
        raise IndexFormatError(f"{root} is not an umekit index: it has no {MANIFEST}") from None
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
    possible = 1 <= raw["dim"] <= MOST_DIM and 1 <= raw["count"] <= MOST_ROWS
    if not possible or not GENERATION.fullmatch(raw["generation"]):
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
    _check_parts(path, index)
    _check_rows(path, index, count)
    return index


def _check_parts(path: Path, index: Any) -> None:
    """The parts of an IVF-PQ index have the sizes that its search takes for granted. Raises IndexFormatError."""
    pq, lists = index.pq, index.invlists
    facts = {
        "quantizer.d": (index.quantizer.d, index.d),
        "quantizer.ntotal": (index.quantizer.ntotal, index.nlist),
        "pq.d": (pq.d, index.d),
        "pq.nbits": (pq.nbits, 8),
        "pq.code_size": (pq.code_size, index.code_size),
        "pq.centroids": (pq.centroids.size(), pq.M * pq.ksub * pq.dsub),
        "invlists.nlist": (lists.nlist, index.nlist),
        "invlists.code_size": (lists.code_size, index.code_size),
    }
    for name, (found, wanted) in facts.items():
        if found != wanted:
            raise IndexFormatError(f"{path}: {name} is {found}, expected {wanted}")
    if index.nprobe < 1:
        raise IndexFormatError(f"{path}: nprobe is {index.nprobe}")


def _check_rows(path: Path, index: Any, count: int) -> None:
    """Each row is in one list, by a number that the manifest has. Raises IndexFormatError."""
    faiss, lists = import_faiss(), index.invlists
    seen = np.zeros(count, dtype=bool)
    total = 0
    for number in range(index.nlist):
        size = lists.list_size(number)
        if size == 0:
            continue
        rows = faiss.rev_swig_ptr(lists.get_ids(number), size)
        if rows.min() < 0 or rows.max() >= count:
            odd = int(rows.min()) if rows.min() < 0 else int(rows.max())
            raise IndexFormatError(f"{path}: list {number} holds the row {odd}; there are {count}")
        seen[rows] = True
        total += size
    if total != count or not seen.all():
        raise IndexFormatError(f"{path}: its lists do not hold each of the {count} rows once")


def read_names(data: Path, count: int) -> tuple[bytes, NDArray[np.int64]]:
    """All ids of a compressed index in UTF-8, and where each begins: int64 [count + 1]. Raises IndexFormatError."""
    starts = read_npy(data / STARTS, np.int64, (count + 1,), IndexFormatError, mapped=True)
    names = (data / NAMES).read_bytes()
    if starts[0] != 0 or starts[-1] != len(names) or not (np.diff(starts) > 0).all():
        raise IndexFormatError(f"{data / STARTS} does not say where {count} ids begin")
    first = np.frombuffer(names, np.uint8)[starts[:-1]]
    try:
        decoder = codecs.getincrementaldecoder("utf-8")()
        for begin in range(0, len(names), 1 << 20):
            decoder.decode(names[begin : begin + (1 << 20)])
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        raise IndexFormatError(f"{data / NAMES} is not UTF-8") from None
    if ((first & 0xC0) == 0x80).any():
        raise IndexFormatError(f"{data / STARTS}: an id begins inside of a letter")
    return names, starts


def import_faiss() -> Any:
    try:
        import faiss
    except ImportError as error:
        raise ImportError(f"searching an index needs faiss ({error}): pip install umekit[search]") from None
    return faiss
