"""A stock image-text-to-text checkpoint, opened for a reasoner: its weights, processor and chat template."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import torch
from transformers import AutoProcessor
from transformers.processing_utils import ProcessorMixin

from ..modeling.adapters import CONFIG_FILE
from ..modeling.backbone import load_backbone
from ..processing.families import FAMILIES
from ..processing.processor import UmeProcessor
from .calls import compute_alone_after_fork
from .checkpoint_files import CheckpointFilesError, find_file, installed_classes, read_config, stored_tensors
from .devices import device_of


def open_stock(
    source: str | os.PathLike[str],
    *,
    device: str | torch.device | None = None,
    dtype: Any = None,
    revision: str | None = None,
    model_kwargs: Mapping[str, Any] | None = None,
) -> tuple[Any, Any, str]:
    """Model in evaluation mode, processor and chat template of a checkpoint; see :meth:`Reasoner.from_pretrained`."""
    compute_alone_after_fork()
    source = os.fspath(source)
    hub: dict[str, Any] = {} if revision is None else {"revision": revision}
    config = read_config(source, hub)
    if own := getattr(config, "ume", None):
        if isinstance(own, Mapping) and own.get("role") == "reranker":
            raise CheckpointFilesError(f"{source} is a reranker: it scores pairs, and writes no thoughts")
        raise CheckpointFilesError(
            f"{source} is an embedder: write its thoughts with `umekit think`, and give them as thoughts"
        )
    if find_file(source, CONFIG_FILE, hub) is not None:
        raise CheckpointFilesError(f"{source} is an adapter: merge it into its base, and load that")
    if stored_tensors(source, hub) is None:
        raise CheckpointFilesError(f"{source} has no safetensors; nothing pickled is read")
    more = dict(model_kwargs or {})
    if device is not None and more.get("device_map") is not None:
        raise ValueError("device and device_map both say where the model goes: give one of them")
    place = device_of(device)
    if dtype is None:
        dtype = torch.float32 if place.type == "cpu" else "auto"
    if "quantization_config" in more:
        more.setdefault("device_map", {"": place})
    with installed_classes(source):
        processor, template = stock_processor(source, config.model_type, hub)
        model: Any = load_backbone(source, config=config, dtype=dtype, **hub, **more)
    if "device_map" not in more:
        model.to(place)
    return model.eval(), processor, template


def stock_processor(source: str, model_type: str, hub: Mapping[str, Any]) -> tuple[Any, str]:
    """A checkpoint's processor by an installed class, and its chat template.

    Where our own processor knows the family it takes the pixels' part, whose native one needs torchvision.

    Raises:
        CheckpointFilesError: it has no chat template.
    """
    if model_type in FAMILIES:
        processor: Any = UmeProcessor.from_pretrained(source, **hub)
        template = ProcessorMixin.get_processor_dict(source, **hub)[0].get("chat_template")
    else:
        processor = AutoProcessor.from_pretrained(source, trust_remote_code=False, **hub)
        template = getattr(processor, "chat_template", None)
    template = template or getattr(processor.tokenizer, "chat_template", None)
    if isinstance(template, Mapping):
        template = template.get("default")
    if not isinstance(template, str):
        raise CheckpointFilesError(
            f"{source} has no chat template: a model that follows instructions has one"
        )
    return processor, template
