"""One adapter into its base: a stock checkpoint, checked to give the vectors that base and adapter gave."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

from ...encoding.checkpoint_files import has_settings, installed_classes, read_config
from ...encoding.encoder import Encoder
from ...encoding.golden.folder import GOLDEN_FOLDER, make_golden
from ...encoding.golden.verify import verify
from ...encoding.loading import CLASSES, check_pair, load
from ...encoding.reranker import Reranker
from ...encoding.storage.atomic import new_folder
from ...modeling.adapters import CONFIG_FILE, add_adapter, base_named, lacking_rows, merge_adapter
from ...modeling.settings import UmeSettings
from ...modeling.weight_files import read_json
from ...processing.processor import UmeProcessor


class MergeError(RuntimeError):
    """What was written does not give the vectors that it should; the message says by how much."""


def merge(
    adapter: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    base: str | os.PathLike[str] | None = None,
    dtype: str | torch.dtype = "auto",
) -> Path:
    """Merge an adapter folder into its base and write a stock checkpoint with a golden folder.

    Every adapted weight is summed in float32 and rounded once to its own dtype. The golden folder is made with
    the adapter still on the base, and the written checkpoint must then pass :func:`umekit.verify` against it, so
    a merge that changes vectors leaves no folder behind. Any LoRA that peft can merge is taken, DoRA too.

    Args:
        adapter: LoRA folder; its own settings and processor win over the base's, where it has them.
        out: folder to write; must be missing or empty.
        base: the base checkpoint; what the adapter's configuration names when None.
        dtype: the base is loaded and written in; the checkpoint's own for ``"auto"``.

    Raises:
        FileExistsError: ``out`` has files already.
        FileNotFoundError: no adapter there, or its base is not.
        AdapterError: the adapter does not fit the base or changes nothing.
        MergeError: the written checkpoint gives other vectors.
    """
    with new_folder(out) as folder:
        encoder = open_base(adapter, base, dtype=dtype)
        add_adapter(encoder.model.backbone, os.fspath(adapter))
        make_golden(encoder, folder / GOLDEN_FOLDER)
        merge_adapter(encoder.model.backbone)
        save_checkpoint(encoder, folder)
        result = verify(folder, device="cpu")
        if not result.ok:
            named = "; ".join(str(problem) for problem in result.problems[:3])
            raise MergeError(f"the merged checkpoint is not the adapter on its base: {named}")
    return Path(out)


def open_base(
    adapter: str | os.PathLike[str],
    base: str | os.PathLike[str] | None = None,
    *,
    dtype: str | torch.dtype = "auto",
) -> Any:
    """The base of an adapter on the CPU, with the adapter folder's settings and processor where it has them.

    Returns:
        An Encoder, or a Reranker where it is one; the adapter itself is not put on.
    """
    folder = Path(adapter)
    source = base_of(folder) if base is None else os.fspath(base)
    if not has_settings(str(folder)):
        return load(source, device="cpu", dtype=dtype)
    config = read_config(str(folder))
    settings = UmeSettings.from_config(config)
    with installed_classes(source):
        model = CLASSES[settings.kind].from_pretrained(source, settings=settings, dtype=dtype)
        model.fill_rows(lacking_rows(config, source, {}))
        processor = UmeProcessor.from_pretrained(
            folder if (folder / "processor_config.json").is_file() else source
        )
    check_pair(model, processor)
    return Reranker(model, processor) if settings.kind == "reranker" else Encoder(model, processor)


def base_of(folder: Path) -> str:
    """The base that an adapter's configuration names.

    Raises:
        FileNotFoundError: not an adapter, or one that names no base, or a local base that is not there.
    """
    path = folder / CONFIG_FILE
    if not path.is_file():
        raise FileNotFoundError(f"{folder} is not an adapter folder: it has no {CONFIG_FILE}")
    return base_named(read_json(path), str(folder))


def save_checkpoint(encoder: Any, folder: Path) -> None:
    """Model and processor of an encoder or reranker, in the stock layout."""
    encoder.model.save_pretrained(folder)
    encoder.processor.save_pretrained(folder)
