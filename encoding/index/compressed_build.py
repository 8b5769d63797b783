"""Build a compressed index from shards: train on a sample, add shard after shard, save in one step."""

from __future__ import annotations

import json
import os
import secrets
from pathlib import Path
from typing import Any

import numpy as np

from ..shards.reading import ShardSet
from ..storage.atomic import file_sha256, write_atomically
from ..storage.ownership import MARK, check_own, json_of, make_marked, naming_the_disk, remove_marked
from ..storage.provenance import library_versions
from .compressed_files import FAISS, KIND, NAMES, SCHEMA, STARTS, VECTORS, import_faiss
from .manifest import KIND as EXACT_KIND
from .manifest import MANIFEST, IndexFormatError, generation_in_force, remove_stale

FEWEST_ROWS = 1024  # below, an exact index is smaller and faster
TRAIN_PER_LIST = 64  # rows of a list that the training sees


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
