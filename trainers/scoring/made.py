"""A finished folder of scored rows: its file, and the models that scored them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...encoding.inputs.json_records import FormatError
from ...encoding.storage.contents import read_object
from ..formats.made import made_rows
from .run import MANIFEST


def scored_by(folder: Path) -> tuple[Path, dict[str, Mapping[str, Any]]]:
    """The file of rows in a folder that ``score`` wrote, and fingerprints of ``embedder`` and ``reranker``.

    Raises:
        FormatError: it is no such folder, not finished, or does not say what scored it.
    """
    if not (folder / MANIFEST).is_file():
        raise FormatError(f"{folder} holds no rows of umekit score that are finished")
    file, _ = made_rows(folder)
    identity = read_object(folder / MANIFEST, FormatError).get("identity")
    found = {}
    for which, name in (("embedder", "encoder"), ("reranker", "reranker")):
        fingerprint = identity.get(name) if isinstance(identity, Mapping) else None
        if not isinstance(fingerprint, Mapping):
            raise FormatError(f"{folder / MANIFEST} does not say which {which} scored the rows")
        found[which] = fingerprint
    return file, found
