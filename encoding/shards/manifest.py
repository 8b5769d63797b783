"""The end of a sharded run: ``errors.jsonl`` and ``manifest.json``, written by whoever finds all parts there.

Any process may do it, several may do it at once, and it may be done again: the bytes are the same.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..inputs import InputError
from ..storage.atomic import AtomicFolder
from .files import ERRORS, KIND, MANIFEST, SCHEMA, Done, Run, part_name, read_done
from .reading import ids_of

NAMED_DOUBLES = 20


def finish(folder: Path, scratch: AtomicFolder, run: Run, digest: str, parts: int) -> dict[str, Any] | None:
    """Write the manifest if all parts are finished.

    Args:
        folder: of the shards.
        scratch: where files are written first.
        run, digest: what is being made, and the sha256 of its ``run.json``.
        parts: how many there are in all.

    Returns:
        The manifest; None while a part is missing.

    Raises:
        InputError: the parts do not have the source's number of units.
    """
    found: list[tuple[str, Done]] = []
    for number in range(parts):
        part = part_name(number, run.parts)
        done = read_done(folder, part, run, digest, hashes=False)
        if done is None:
            return None
        found.append((part, done))
    units = sum(done.units for _, done in found)
    if run.units is not None and units != run.units:
        raise InputError(f"{folder} has parts of {units} units, and the source has {run.units}")
    lines = (
        json.dumps(error, ensure_ascii=False, sort_keys=True) for _, done in found for error in done.errors
    )
    scratch.write(ERRORS, "".join(line + "\n" for line in lines).encode())
    doubles = _doubles(folder, found, run)
    manifest = {
        "kind": KIND,
        "schema": SCHEMA,
        **asdict(run),
        "run": digest,
        "units": units,
        "rows": sum(done.rows for _, done in found),
        "failed": sum(len(done.errors) for _, done in found),
        "truncated": sum(done.truncated for _, done in found),
        "double_ids": len(doubles),
        "double_ids_named": doubles[:NAMED_DOUBLES],
        "parts": [
            {
                "name": part,
                "units": done.units,
                "rows": done.rows,
                "failed": len(done.errors),
                "files": done.files,
            }
            for part, done in found
        ],
    }
    text = json.dumps(manifest, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"
    scratch.write(MANIFEST, text.encode())
    return manifest


def _doubles(folder: Path, found: list[tuple[str, Done]], run: Run) -> list[str]:
    """Ids that stand in two parts; within a part they are told apart when it is made.

    Eight bytes a row are held; names are compared only where these are equal.
    """
    hashes = [np.fromiter(map(_hash, ids), np.uint64, count=len(ids)) for ids in _ids(folder, found, run)]
    every: NDArray[np.uint64] = np.sort(np.concatenate([*hashes, np.zeros(0, np.uint64)]))
    suspects = set(every[1:][every[1:] == every[:-1]].tolist())
    if not suspects:
        return []
    seen: set[str] = set()
    doubles: dict[str, None] = {}
    for ids in _ids(folder, found, run):
        for name in ids:
            if _hash(name) in suspects:
                if name in seen:
                    doubles[name] = None
                seen.add(name)
    return list(doubles)


def _ids(folder: Path, found: list[tuple[str, Done]], run: Run) -> Iterator[list[str]]:
    for part, done in found:
        yield ids_of(folder, part, run.format, done.rows)


def _hash(name: str) -> int:
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little")
