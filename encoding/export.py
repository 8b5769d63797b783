"""``umekit.export``: a published checkpoint, a backbone or our own, rewritten as a complete umekit folder."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from ..modeling.adapters import merge_adapter
from .golden.folder import GOLDEN_FOLDER, make_golden
from .loading import load
from .storage.atomic import new_folder


def export(
    src: str | os.PathLike[str],
    out: str | os.PathLike[str],
    preset: str | None = None,
    role: str | None = None,
    compat: str | None = None,
    golden: bool = True,
    mode: str | None = None,
) -> Path:
    """Load and save: weights in native layout, settings, processor, code and sentence-transformers files.

    Args:
        src: folder or Hub repository; an adapter is merged into its base.
        out: folder to write; must be missing or empty. An export that fails leaves nothing.
        preset: a published system, for checkpoints without our settings.
        role: what kind of checkpoint to export it as; its own when None. As ``"discriminative"`` one that can think
            gets stock modules for sentence-transformers, where its settings have such a form.
        compat: see :func:`umekit.load`; goes into the settings that are saved.
        golden: also write ``golden/``, by which ``umekit verify`` tells later whether the folder still gives the
            same vectors; it embeds twenty small items.
        mode: how its items are embedded where nobody names a mode; its own when None.

    Raises:
        FileExistsError: ``out`` has files already.
        ValueError: a mode that its kind has not.
    """
    with new_folder(out) as folder:
        encoder = load(src, preset=preset, role=role, device="cpu", dtype="auto", compat=compat)
        if getattr(encoder.model, "_hf_peft_config_loaded", False):
            merge_adapter(encoder.model.backbone)
        if mode is not None:
            encoder.model.settings = replace(encoder.model.settings, default_mode=mode)
        encoder.model.save_pretrained(folder)
        encoder.processor.save_pretrained(folder)
        if golden:
            make_golden(encoder, folder / GOLDEN_FOLDER)
    return Path(out)
