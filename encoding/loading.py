"""``umekit.load``: a checkpoint to an encoder, with the installed classes and never a repository's code."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig

from ..modeling.modeling_ume import UmeForDiscriminativeEmbedding
from ..modeling.settings_ume import ROLES, UmeSettings
from ..processing.processing_ume import UmeProcessor
from .adapters import add_adapter
from .encoder import Encoder

CLASSES = {"discriminative": UmeForDiscriminativeEmbedding}
DEFAULT_MODEL = "ume-tiny"


class ProcessorMismatchError(ValueError):
    """A processor and a model do not belong together."""


def load(
    path: str | os.PathLike[str] | None = None,
    preset: str | None = None,
    role: str | None = None,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    compat: str | None = None,
    revision: str | None = None,
    adapter: str | os.PathLike[str] | None = None,
    **model_kwargs: Any,
) -> Encoder:
    """Load a checkpoint.

    Args:
        path: folder or Hub repository; None is ume-tiny, which comes with the package.
        preset: a published system, for checkpoints without our settings; this version knows none.
        role: what to load the checkpoint as; its own role when None.
        device: where it runs; CUDA where there is one, else the CPU, when None.
        dtype: of the weights; the checkpoint's on CUDA and float32 on a CPU when None.
        compat: how a preset treats official defects; goes with ``preset``.
        revision: of the Hub repository.
        adapter: LoRA folder or repository to put on the backbone.
        model_kwargs: go to ``from_pretrained`` (``attn_implementation``, ``quantization_config``, ``device_map``...).

    Raises:
        LoadAuditError: the checkpoint leaves a weight missing.
        UmeSettingsError: it is newer than this umekit, or its settings cannot be had.
        ProcessorMismatchError: its processor belongs to another model.
    """
    source = os.fspath(path) if path is not None else str(packaged_model())
    if preset is not None or compat is not None:
        raise ValueError("this version has no presets: leave preset and compat out")
    hub: dict[str, Any] = {"revision": revision} if revision is not None else {}
    config = AutoConfig.from_pretrained(source, **hub)
    settings = UmeSettings.from_config(config)
    role = role or settings.role
    if role not in ROLES:
        raise ValueError(f"role is {role!r}; use one of {ROLES}")
    if role not in CLASSES:
        raise ValueError(
            f"the role {role!r} cannot be loaded by this version; known are {', '.join(CLASSES)}"
        )
    if role != settings.role:
        settings = UmeSettings(**{**_entries(settings), "role": role})
    device = torch.device(device) if device is not None else _best_device()
    if dtype is None:
        dtype = torch.float32 if device.type == "cpu" else "auto"
    elif isinstance(dtype, str) and dtype != "auto":
        dtype = _dtype(dtype)
    placed = "device_map" in model_kwargs or "quantization_config" in model_kwargs
    model = CLASSES[role].from_pretrained(
        source, config=config, settings=settings, dtype=dtype, **hub, **model_kwargs
    )
    if not placed:
        model.to(device)
    processor = UmeProcessor.from_pretrained(source, **hub)
    check_pair(model, processor)
    if adapter is not None:
        add_adapter(model, os.fspath(adapter))
    return Encoder(model, processor)


def check_pair(model: Any, processor: UmeProcessor) -> None:
    """Raise ``ProcessorMismatchError`` unless the processor is this model's."""
    model_type = model.config.model_type
    if processor.settings.family != model_type:
        raise ProcessorMismatchError(
            f"the processor is for {processor.settings.family}, the model is {model_type}"
        )
    if processor.settings.pooling.kind != model.settings.pooling:
        raise ProcessorMismatchError(
            f"the processor marks {processor.settings.pooling.kind!r} tokens, "
            f"the model was saved for {model.settings.pooling!r}"
        )
    rows = model.get_input_embeddings().weight.shape[0]
    if len(processor.tokenizer) > rows:
        raise ProcessorMismatchError(
            f"the tokenizer has {len(processor.tokenizer)} entries, the model {rows} rows"
        )


def packaged_model() -> Path:
    """Folder of ume-tiny.

    Raises:
        FileNotFoundError: this installation lacks it.
    """
    import umekit.examples

    for base in umekit.examples.__path__:
        folder = Path(base) / DEFAULT_MODEL
        if (folder / "config.json").is_file():
            return folder
    raise FileNotFoundError(
        "ume-tiny is not in this installation: name a model, or install umekit from a wheel"
    )


def _dtype(name: str) -> torch.dtype:
    found = getattr(torch, name, None)
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise ValueError(f"dtype is {name!r}; use 'float32', 'bfloat16', 'float16' or 'auto'")
    return found


def _best_device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _entries(settings: UmeSettings) -> dict[str, Any]:
    return {name: value for name, value in settings.to_dict().items() if name != "schema"}
