"""What an index folder says of itself, and the checks that it must pass before a byte of it is used.

An index folder holds ``manifest.json`` and one data folder that the manifest names::

    manifest.json                    schema, versions, fingerprint, dim, count, dtype, sha256 of files
    data-<generation>/vectors.npy    float32 [n, d], unit rows
    data-<generation>/ids.json       n strings
    data-<generation>/metadata.jsonl n JSON objects

Every save writes a fresh data folder and then replaces the manifest, in one step of the file system. A
process that is killed at any moment therefore leaves the former index whole.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..storage.contents import MOST_DIM, IndexFormatError, check_plain, check_types, read_object
from ..storage.ownership import is_left_over, remove_marked

SCHEMA = 1
MANIFEST = "manifest.json"
KIND, COMPRESSED_KIND = "umekit-index", "umekit-compressed-index"
VECTORS, IDS, METADATA = "vectors.npy", "ids.json", "metadata.jsonl"
MOST_ROWS = 1 << 40
GENERATION = re.compile(r"data-[0-9a-f]{8,64}")


@dataclass(frozen=True)
class Manifest:
    """The contents of ``manifest.json``; ``generation`` names the data folder."""

    generation: str
    dim: int
    count: int
    fingerprint: dict[str, Any]
    files: dict[str, str]  # file name in the data folder -> sha256
    settings: dict[str, Any] = field(default_factory=dict)  # how the rows were encoded: model, role, mode ...
    versions: dict[str, str] = field(default_factory=dict)
    created: str = ""
    dtype: str = "float32"
    schema: int = SCHEMA

    def to_json(self) -> str:
        return json.dumps({"kind": KIND, **asdict(self)}, indent=2, sort_keys=True) + "\n"


def read_manifest(folder: Path) -> Manifest:
    """Read and check ``manifest.json``.

    Raises:
        IndexFormatError: no manifest, not JSON, another schema, a missing or impossible field, or a file
            name that would lead out of the folder.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise IndexFormatError(f"{folder} is not an umekit index: it has no {MANIFEST}")
    raw = read_object(path, IndexFormatError)
    if not isinstance(raw, dict) or raw.get("kind") != KIND:
        raise IndexFormatError(f"{path} is not the manifest of an umekit index")
    if raw.get("schema") != SCHEMA:
        raise IndexFormatError(f"{path} has schema {raw.get('schema')!r}; this umekit reads {SCHEMA}")
    _check_types(path, raw)
    known = {name: raw[name] for name in Manifest.__dataclass_fields__ if name in raw}
    return Manifest(**known)


def _check_types(path: Path, raw: Mapping[str, Any]) -> None:
    wanted = {"generation": str, "dim": int, "count": int, "fingerprint": dict, "files": dict}
    optional = {"settings": dict, "versions": dict, "created": str}
    wanted |= {name: kind for name, kind in optional.items() if name in raw}
    check_types(path, raw, wanted, IndexFormatError)
    if not 1 <= raw["dim"] <= MOST_DIM or not 0 <= raw["count"] <= MOST_ROWS:
        raise IndexFormatError(f"{path}: dim {raw['dim']} and count {raw['count']} are impossible")
    if raw.get("dtype") != "float32":
        raise IndexFormatError(f"{path}: dtype {raw.get('dtype')!r}, expected 'float32'")
    if not GENERATION.fullmatch(raw["generation"]):
        raise IndexFormatError(f"{path}: {raw['generation']!r} is not the name of a data folder")
    if set(raw["files"]) != {VECTORS, IDS, METADATA}:
        raise IndexFormatError(f"{path}: lists the files {sorted(raw['files'])}")


def check_files(data: Path, files: Mapping[str, str], *, hashes: bool = True) -> Path:
    """The data folder, once each file in it is a plain file with the recorded sha256.

    Raises:
        IndexFormatError: a file is missing, a link, or differs from what was written.
    """
    if data.is_symlink():
        raise IndexFormatError(f"{data} is a link; an index holds its own data")
    for name, sha256 in files.items():
        check_plain(data / name, sha256 if hashes else None, IndexFormatError)
    return data


def generation_in_force(root: Path) -> str | None:
    """The data folder that the manifest of an index of either kind names; None without a readable manifest."""
    try:
        raw = json.loads((root / MANIFEST).read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(raw, dict) or raw.get("kind") not in (KIND, COMPRESSED_KIND):
        return None
    name = raw.get("generation")
    return name if isinstance(name, str) and GENERATION.fullmatch(name) else None


def remove_stale(root: Path, former: str | None, current: str) -> None:
    """Remove the data folder that was replaced, and those of killed processes; none that lacks our mark."""
    kept = {current, generation_in_force(root)}  # another process may have saved meanwhile
    for path in root.iterdir():
        if path.name in kept or not GENERATION.fullmatch(path.name):
            continue
        if path.name == former or is_left_over(path):
            remove_marked(path)


def import_faiss() -> Any:
    try:
        import faiss
    except ImportError as error:
        raise ImportError(f"searching an index needs faiss ({error}): pip install umekit[search]") from None
    return faiss
