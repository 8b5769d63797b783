"""Folders of rows that umekit made: mined ones, those with a teacher's scores, and those with chosen thoughts."""

from __future__ import annotations

from pathlib import Path

from ...encoding.inputs.json_records import FormatError
from ...encoding.storage.contents import read_object

KINDS = {
    "mining.json": "umekit-mining",
    "scoring.json": "umekit-scoring",
    "selection.json": "umekit-selection",
}
FILES = tuple(f"{name}.{kind}" for name in ("mined", "scored", "selected") for kind in ("jsonl", "parquet"))


def made_rows(folder: Path) -> tuple[Path, str | None]:
    """The file of rows in such a folder, and the folder that its media are relative to.

    Raises:
        FormatError: it is no such folder, or is not finished.
    """
    for name, kind in KINDS.items():
        if not (folder / name).is_file():
            continue
        manifest = read_object(folder / name, FormatError)
        if (
            not isinstance(manifest, dict)
            or manifest.get("kind") != kind
            or manifest.get("file") not in FILES
        ):
            raise FormatError(f"{folder / name} is damaged, or not umekit's")
        root = manifest.get("media_root")
        return folder / manifest["file"], root if isinstance(root, str) else None
    raise FormatError(f"{folder} holds no rows of umekit mine, score or select that are finished")
