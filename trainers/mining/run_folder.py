"""The folder of a run that rows are made in: a manifest at its end, and until then a work folder to go on from."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from ...encoding.storage.contents import read_object
from ...encoding.storage.ownership import ForeignFileError, check_own, json_of, make_marked, read_mark

WORK = "work"


def finished(path: Path, kind: str, identity: dict[str, Any]) -> dict[str, Any] | None:
    """The manifest of a finished run of the same arguments; None where there is none yet.

    Args:
        path: of the manifest.
        kind: that it names.
        identity: of the run; arguments and inputs by name.

    Raises:
        FileExistsError: a finished run of other arguments.
    """
    check_own(path, json_of(kind), "name another folder for the rows")
    if not path.is_file():
        return None
    manifest = read_object(path, ValueError)
    if not isinstance(manifest.get("identity"), dict) or not isinstance(manifest.get("file"), str):
        raise ValueError(f"{path} is damaged: 'identity' or 'file' is missing or of a wrong type")
    same = json.loads(json.dumps(identity))
    different = [name for name, value in same.items() if manifest["identity"].get(name) != value]
    if different:
        raise FileExistsError(
            f"{path.parent} holds rows that were made with other {', '.join(different)}: name another folder"
        )
    return dict(manifest)


def open_work(folder: Path) -> Path:
    """The work folder, made now or by a run of ours that was broken off, or that goes on beside this one.

    Raises:
        ForeignFileError: there is a folder or a file of that name that no run of ours made.
    """
    folder.mkdir(parents=True, exist_ok=True)
    work = folder / WORK
    if not os.path.lexists(work):
        try:
            make_marked(work)
        except FileExistsError:  # another process of this run was first
            pass
        else:
            return work
    if read_mark(work) is None:
        raise ForeignFileError(
            f"{work} is there and was not made by this version of umekit: move it away, or name another folder"
        )
    return work
