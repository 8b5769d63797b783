"""Files of a compressed index: made from shards in one step, and checked before they are used."""

from __future__ import annotations

import codecs
import json
import os
import secrets
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..shards.parts import ShardSet
from ..storage.atomic import naming_the_disk, write_atomically
from ..storage.contents import (
    MOST_DIM,
    IndexFormatError,
    check_types,
    file_sha256,
    library_versions,
    read_npy,
    read_object,
)
from ..storage.ownership import MARK, check_own, json_of, make_marked, remove_marked
from .manifest import COMPRESSED_KIND as KIND
from .manifest import GENERATION, MANIFEST, MOST_ROWS, generation_in_force, import_faiss, remove_stale
from .manifest import KIND as EXACT_KIND

SCHEMA = 1
FAISS, NAMES, STARTS, VECTORS = "index.faiss", "ids.utf8", "ids.npy", "vectors.npy"
FAISS_HEAD = b"IwPQ"  # how a file of an IVF-PQ begins
FEWEST_ROWS = 1024  # below, an exact index is smaller and faster
TRAIN_PER_LIST = 64  # rows of a list that the training sees


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
    check_types(path, raw, kinds, IndexFormatError)
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


def build_compressed(
    shards: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    *,
    lists: int | None,
    code_bytes: int | None,
    nprobe: int | None,
    keep_vectors: bool,
    rebuild: bool,
) -> Path:
    """Write the index; see ``CompressedIndex.build``. Until the last step a former one stays whole."""
    root, source = Path(folder), ShardSet(shards)
    if (root / MANIFEST).exists() and not rebuild:
        raise FileExistsError(f"{root} already holds an index; rebuild it, or name another folder")
    count, dim = len(source), source.run.dim
    if count < FEWEST_ROWS:
        raise ValueError(f"{count} rows are few: the exact index (Index.from_shards) is smaller and faster")
    if source.doubles:
        raise IndexFormatError(f"{source.folder}: {source.doubles}")
    lists = lists or max(8, min(int(4 * count**0.5), count // 39))
    code_bytes = code_bytes or code_bytes_for(dim)
    if dim % code_bytes:
        raise ValueError(f"code_bytes is {code_bytes}, which does not divide the dimension {dim}")
    root.mkdir(parents=True, exist_ok=True)
    check_own(root / MANIFEST, json_of(EXACT_KIND, KIND), "name another folder for the index")
    settings, former = source.index_settings(), generation_in_force(root)
    data = make_marked(root / f"data-{secrets.token_hex(8)}", FAISS, NAMES, STARTS, VECTORS)
    try:
        index = _trained(source, lists, code_bytes)
        index.nprobe = nprobe or max(8, lists // 16)
        with naming_the_disk(data):
            _fill(index, source, data, keep_vectors)
        manifest = {
            "kind": KIND,
            "schema": SCHEMA,
            "generation": data.name,
            "dim": dim,
            "count": count,
            "fingerprint": source.run.fingerprint | {"dim": dim},
            "settings": settings,
            "versions": library_versions(),
            "files": {path.name: file_sha256(path) for path in sorted(data.iterdir()) if path.name != MARK},
        }
        write_atomically(root / MANIFEST, (json.dumps(manifest, indent=2, sort_keys=True) + "\n").encode())
    except BaseException:
        remove_marked(data)
        raise
    remove_stale(root, former, data.name)
    return root


def code_bytes_for(dim: int) -> int:
    """Bytes of a code: as near to an eighth of the dimension as a divisor gets, a quarter below 256."""
    wanted = max(1, dim // (8 if dim >= 256 else 4))
    return min((m for m in range(1, dim + 1) if dim % m == 0), key=lambda m: (abs(m - wanted), m))


def _trained(source: ShardSet, lists: int, code_bytes: int) -> Any:
    """An empty index, trained on rows that are spread evenly over all shards."""
    faiss = import_faiss()
    dim, count = source.run.dim, len(source)
    wanted = min(count, max(TRAIN_PER_LIST * lists, 256 * 39))
    picked = np.linspace(0, count - 1, wanted).round().astype(np.int64)
    sample = np.empty((wanted, dim), dtype=np.float32)
    first = 0
    for ids, rows in source.unit_rows():
        here = np.flatnonzero((picked >= first) & (picked < first + len(ids)))
        sample[here] = rows[picked[here] - first]
        first += len(ids)
    quantizer = faiss.IndexFlatIP(dim)
    index = faiss.IndexIVFPQ(quantizer, dim, lists, code_bytes, 8, faiss.METRIC_INNER_PRODUCT)
    index.cp.spherical = True  # lists of directions: all rows are of length 1
    index.train(sample)
    return index


def _fill(index: Any, source: ShardSet, data: Path, keep_vectors: bool) -> None:
    """Add all rows and write the data files; ids and vectors go to the disk shard by shard."""
    count, dim = len(source), source.run.dim
    starts = np.zeros(count + 1, dtype=np.int64)
    kept = None
    if keep_vectors:
        kept = np.lib.format.open_memmap(data / VECTORS, mode="w+", dtype=np.float16, shape=(count, dim))
    row = 0
    with (data / NAMES).open("wb") as names:
        for ids, rows in source.unit_rows():
            index.add(rows)
            if kept is not None:
                kept[row : row + len(ids)] = rows
            encoded = [name.encode() for name in ids]
            names.write(b"".join(encoded))
            starts[row + 1 : row + 1 + len(ids)] = starts[row] + np.cumsum([len(name) for name in encoded])
            row += len(ids)
        names.flush()
        os.fsync(names.fileno())
    if kept is not None:
        kept.flush()
    np.save(data / STARTS, starts, allow_pickle=False)
    import_faiss().write_index(index, str(data / FAISS))
