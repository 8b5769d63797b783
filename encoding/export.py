"""``umekit.export``: a published checkpoint, a backbone or our own, rewritten as a complete umekit folder."""

from __future__ import annotations

import os
from pathlib import Path

from .loading import load


def export(
    src: str | os.PathLike[str],
    out: str | os.PathLike[str],
    preset: str | None = None,
    role: str | None = None,
) -> Path:
    """Load and save: weights in native layout, settings, processor, code and sentence-transformers files.

    Args:
        src: folder or Hub repository.
        out: folder to write; must be missing or empty.
        preset: a published system, for checkpoints without our settings.
        role: what to export it as; its own role when None.

    Raises:
        FileExistsError: ``out`` has files already.
    """
    folder = Path(out)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"{folder} exists and is not an empty folder; name another")
    encoder = load(src, preset=preset, role=role, device="cpu", dtype="auto")
    encoder.model.save_pretrained(folder)
    encoder.processor.save_pretrained(folder)
    return folder
