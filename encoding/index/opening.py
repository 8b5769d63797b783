"""Open an index folder of either kind: exact, or compressed."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...processing.prompts import MODES, ROLES
from .compressed import CompressedIndex
from .compressed_files import KIND, read_compressed_manifest
from .exact import Index
from .manifest import MANIFEST, IndexFormatError, read_manifest


def open_index(
    folder: str | os.PathLike[str], fingerprint: Mapping[str, Any] | None = None
) -> Index | CompressedIndex:
    """The index in a folder, checked.

    Args:
        folder: an index.
        fingerprint: that of the encoder which will search; None skips the comparison.

    Raises:
        IndexFormatError: not an index, or damaged. IndexMismatchError: another model made it.
    """
    if _is_compressed(Path(folder)):
        return CompressedIndex.load(folder, fingerprint)
    return Index.load(folder, fingerprint)


def index_settings(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """How the rows of an index were encoded (model, role, mode).

    Raises:
        IndexFormatError: not an index, or a setting that cannot be one.
    """
    root = Path(folder)
    settings = (
        read_compressed_manifest(root)["settings"] if _is_compressed(root) else read_manifest(root).settings
    )
    for name, allowed in (("role", ROLES), ("mode", MODES)):
        if settings.get(name) not in (None, *allowed):
            raise IndexFormatError(
                f"{root / MANIFEST}: settings.{name} is {settings[name]!r:.80}, not one of {', '.join(allowed)}"
            )
    return dict(settings)


def _is_compressed(root: Path) -> bool:
    try:
        raw = json.loads((root / MANIFEST).read_bytes())
    except (OSError, ValueError, RecursionError):
        return False  # the exact index's own checks say what is wrong
    return isinstance(raw, dict) and raw.get("kind") == KIND
