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

import hashlib
import json
import os
import platform
import re
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from .checked_files import read_object
from .ownership import is_left_over, naming_the_disk, remove_marked, umask_in_force

SCHEMA = 1
MANIFEST = "manifest.json"
KIND, COMPRESSED_KIND = "umekit-index", "umekit-compressed-index"
VECTORS, IDS, METADATA = "vectors.npy", "ids.json", "metadata.jsonl"
UNIT_TOLERANCE = 1e-3
MOST_DIM, MOST_ROWS = 1 << 20, 1 << 40
COMPARED = ("model", "processor", "prompts", "dim")  # the parts of a fingerprint that change vectors
GENERATION = re.compile(r"data-[0-9a-f]{8,64}")


class IndexFormatError(ValueError):
    """The folder is not an index, or it is damaged."""


class IndexMismatchError(ValueError):
    """The index was made by another model, processor, set of prompts or encoding setting."""


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


def library_versions() -> dict[str, str]:
    """Versions of whatever has a say in a vector or in this folder."""
    found = {"python": platform.python_version()}
    for name in ("umekit", "torch", "transformers", "numpy", "pillow", "faiss-cpu", "av", "pypdfium2"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def file_sha256(path: Path) -> str:
    """sha256 of a file in hex, read in pieces."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def write_atomically(path: Path, data: bytes) -> None:
    """Write ``path`` through a temporary file beside it; a reader sees the old or the new bytes."""
    with written_atomically(path) as handle:
        handle.write(data)


@contextmanager
def written_atomically(path: Path) -> Iterator[BinaryIO]:
    """The temporary file that becomes ``path`` at the end; nothing does after an error."""
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with naming_the_disk(path), os.fdopen(descriptor, "wb") as handle:
            yield handle
            handle.flush()
            os.fsync(handle.fileno())
        os.chmod(name, 0o666 & ~umask_in_force())
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


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
    wanted: dict[str, type] = {
        "generation": str,
        "dim": int,
        "count": int,
        "fingerprint": dict,
        "files": dict,
    }
    optional: dict[str, type] = {"settings": dict, "versions": dict, "created": str}
    for name, kind in (wanted | optional).items():
        if name in optional and name not in raw:
            continue
        if not isinstance(raw.get(name), kind) or isinstance(raw.get(name), bool):
            raise IndexFormatError(f"{path}: {name!r} is missing or not of type {kind.__name__}")
    if not 1 <= raw["dim"] <= MOST_DIM or not 0 <= raw["count"] <= MOST_ROWS:
        raise IndexFormatError(f"{path}: dim {raw['dim']} and count {raw['count']} are impossible")
    if raw.get("dtype") != "float32":
        raise IndexFormatError(f"{path}: dtype {raw.get('dtype')!r}, expected 'float32'")
    if not GENERATION.fullmatch(raw["generation"]):
        raise IndexFormatError(f"{path}: {raw['generation']!r} is not the name of a data folder")
    if set(raw["files"]) != {VECTORS, IDS, METADATA}:
        raise IndexFormatError(f"{path}: lists the files {sorted(raw['files'])}")


def check_files(folder: Path, manifest: Manifest) -> Path:
    """The data folder, once each file in it is a plain file with the recorded sha256.

    Raises:
        IndexFormatError: a file is missing, a link, or differs from what was written.
    """
    data = folder / manifest.generation
    if data.is_symlink():
        raise IndexFormatError(f"{data} is a link; an index holds its own data")
    for name, digest in manifest.files.items():
        path = data / name
        if path.is_symlink() or not path.is_file():
            raise IndexFormatError(f"{path} is missing or not a plain file")
        if file_sha256(path) != digest:
            raise IndexFormatError(f"{path} is damaged: its sha256 differs from the manifest's")
    return data


def check_fingerprint(where: str, has: Mapping[str, Any], wants: Mapping[str, Any]) -> None:
    """Compare the fingerprint of an index with that of an encoder.

    Raises:
        IndexMismatchError: naming what differs, on both sides.
    """
    different = [
        name
        for name in differences(has, wants)
        if name not in ("prompts", "dim") or (name in has and name in wants)
    ]
    if not different:
        if is_former(has, wants):
            warnings.warn(
                f"{where} was made by an earlier umekit, which looked at some weights of its model in part only: index "
                "anew (--rebuild) where that model may have been trained further",
                stacklevel=3,
            )
        return
    sides = [", ".join(f"{name} {_short(side.get(name))}" for name in different) for side in (has, wants)]
    raise IndexMismatchError(
        f"{where} was made with {sides[0]}, but the encoder has {sides[1]}; "
        "vectors of different encoders can't be compared: load that encoder, or index anew (--rebuild)"
    )


def differences(has: Mapping[str, Any], wants: Mapping[str, Any]) -> list[str]:
    """Parts of two fingerprints that differ; ``has`` may be one of an earlier version."""
    former = is_former(has, wants)
    asked = {name: wants[name] for name in COMPARED if name in wants} | (
        {"model": wants["model_1"]} if former else {}
    )
    return [name for name in COMPARED if (name in has or name in asked) and has.get(name) != asked.get(name)]


def is_former(has: Mapping[str, Any], wants: Mapping[str, Any]) -> bool:
    """Whether ``has`` names its model as earlier versions did, and ``wants`` as this one does."""
    return "model_1" in wants and "model_1" not in has


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True, default=str)
    return text if len(text) <= 16 else text[:12] + "…"


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


def sweep(root: Path, former: str | None, current: str) -> None:
    """Remove the data folder that was replaced, and those of killed processes; none that lacks our mark."""
    kept = {current, generation_in_force(root)}  # another process may have saved meanwhile
    for path in root.iterdir():
        if path.name in kept or not GENERATION.fullmatch(path.name):
            continue
        if path.name == former or is_left_over(path):
            remove_marked(path)
