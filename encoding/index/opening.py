"""Open an index folder of either kind: exact, or compressed; and say which model is loaded for it.

An index may come from anywhere. The name of the model in its manifest is one of the Hub, or of a folder elsewhere: it
never leads into the index itself, and never depends on where a command is called from. Whether the model is the right
one, the fingerprint says, once it is loaded.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...processing.prompts import MODES, ROLES
from .compressed import CompressedIndex
from .compressed_files import KIND, read_compressed_manifest
from .exact import Index
from .manifest import MANIFEST, IndexFormatError, read_manifest

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")


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


def named_model(folder: Path, settings: Mapping[str, Any]) -> str | None:
    """What to load for an index or shards that have these settings; None is ume-tiny.

    Raises:
        IndexFormatError: the name is no Hub id and no absolute path, could be read as either, or leads into the index.
        FileNotFoundError: the folder that it names is not there.
    """
    name = settings.get("model")
    path = folder / MANIFEST
    if name is None:
        return None
    if not isinstance(name, str) or "\0" in name:
        raise IndexFormatError(f"{path}: settings.model is {name!r:.80}, not the name of a model")
    if os.path.isabs(name):
        if Path(name).resolve().is_relative_to(folder.resolve()):
            raise IndexFormatError(
                f"{path}: settings.model names a folder inside the index ({name:.200}), which may come from anywhere: "
                "give the model as --model"
            )
        if not Path(name).is_dir():
            raise FileNotFoundError(
                f"{folder} was made with the model in {name:.200}, which is not there: say where it is with --model"
            )
        return name
    if not HUB_ID.fullmatch(name):
        raise IndexFormatError(
            f"{path}: settings.model is the relative path {name[:200]!r}, and nobody knows relative to what: give the "
            "model as --model"
        )
    if os.path.lexists(name):
        raise IndexFormatError(
            f"{path}: settings.model is {name!r}, which may be a model of the Hub or the folder of that name here: say "
            "which with --model"
        )
    return name


def _is_compressed(root: Path) -> bool:
    try:
        raw = json.loads((root / MANIFEST).read_bytes())
    except (OSError, ValueError, RecursionError):
        return False  # the exact index's own checks say what is wrong
    return isinstance(raw, dict) and raw.get("kind") == KIND
