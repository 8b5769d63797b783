"""What an index calls the model that made it, and which model is loaded for it: one of the Hub, or a folder elsewhere.

An index may come from anywhere. The name in its manifest never leads into the index itself, and never depends on where
a command is called from; whether the model is the right one, the fingerprint says, once it is loaded.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .manifest import MANIFEST, IndexFormatError

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")


def stored_model(model: str | os.PathLike[str] | None) -> str | None:
    """The name for a manifest: the absolute path of a folder, a Hub id as it is, None for ume-tiny."""
    if model is None:
        return None
    return os.path.abspath(model) if os.path.exists(model) else os.fspath(model)


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
