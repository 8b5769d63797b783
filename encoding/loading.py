"""``umekit.load``: a checkpoint to an encoder, with the installed classes and never a repository's code."""

from __future__ import annotations

import os
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch

from ..modeling.adapters import CONFIG_FILE, AdapterSource, adapter_of, add_adapter
from ..modeling.adaptive import UmeForAdaptiveEmbedding
from ..modeling.discriminative import UmeForDiscriminativeEmbedding
from ..modeling.generative import UmeForGenerativeEmbedding
from ..modeling.packing import pack_on_cpu
from ..modeling.reranker import UmeForReranking
from ..modeling.settings import KINDS, Kind, UmeSettings, UmeSettingsError
from ..processing.processor import UmeProcessor
from .calls import compute_alone_after_fork
from .checkpoint_files import find_file, installed_classes, read_config, read_json
from .compiling import compile_layers
from .devices import device_of
from .encoder import Encoder
from .packaged import EMBEDDER, RERANKER, folder_or_name, packaged_model
from .presets import Preset, fill_rows
from .presets.choosing import choose_preset
from .reasoner import Reasoner
from .reranker import Reranker

CLASSES: dict[str, Any] = {
    "discriminative": UmeForDiscriminativeEmbedding,
    "generative": UmeForGenerativeEmbedding,
    "adaptive": UmeForAdaptiveEmbedding,
    "reranker": UmeForReranking,
}
ST_CONFIG = "config_sentence_transformers.json"


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
    compile: bool = False,
    reasoner: str | os.PathLike[str] | Reasoner | None = None,
    **model_kwargs: Any,
) -> Any:
    """Load a checkpoint: an :class:`Encoder`, or a :class:`Reranker` where it is one.

    Args:
        path: folder or Hub repository; None is ume-tiny, which comes with the package, or with ``role="reranker"`` its
            reranker (``"ume-tiny-reranker"``). An adapter goes onto the base that it names; settings and processor are
            the adapter folder's, where it has them.
        preset: a published system (``umekit.encoding.presets``), for checkpoints without our settings; found by
            itself where the repository is known or the files give it away. ``"none"`` for a plain backbone: where
            nothing is said and nothing found, a warning names what it may be.
        role: what kind of checkpoint to load it as; its own when None.
        device: where it runs; CUDA where there is one, else the CPU, when None.
        dtype: of the weights; the checkpoint's on CUDA and float32 on a CPU when None.
        compat: ``"official"`` reproduces what a preset's official code gets wrong; None does what it means to do.
        revision: of the Hub repository.
        adapter: LoRA folder or repository to put on the backbone.
        compile: ``torch.compile`` the layers of a discriminative checkpoint (:func:`compile_layers`): slow to begin,
            for long runs.
        reasoner: an image-text-to-text model that thinks of every item before it is embedded: a folder or Hub
            repository, loaded with this ``device`` and ``dtype``; or a :class:`Reasoner`, which can be told more.
        model_kwargs: go to ``from_pretrained`` (``attn_implementation``, ``quantization_config``, ``device_map``...).
            ``trust_remote_code=True`` is ignored with a warning: a repository's code is never run.
            With ``"flash_attention_2"`` and ``"packed_sdpa"``, embedding at once computes no padding; on a CPU the
            latter is the default.

    Raises:
        LoadAuditError: the checkpoint leaves a weight missing.
        UmeSettingsError: it is newer than this umekit, or its settings cannot be had.
        ProcessorMismatchError: its processor belongs to another model.
        PresetError: no such preset, or not one of this checkpoint's family or kind; a reranker without its preset.
        CheckpointFilesError: a file is too large, too deep or not what it should be; weights that are no safetensors
            of the folder, or far fewer than the config asks for.
        RemoteCodeError: it can only be opened by running code that it brings.
        DeviceError: no such device here.
        ValueError: no such role, ``compile`` for another one than the discriminative, or a ``reasoner`` for a
            reranker.
    """
    compute_alone_after_fork()
    if path is None:
        path = packaged_model(RERANKER if role == "reranker" else EMBEDDER)
    source = folder_or_name(path)
    hub: dict[str, Any] = {"revision": revision} if revision is not None else {}
    if model_kwargs.pop("trust_remote_code", False):
        warnings.warn(
            "trust_remote_code is ignored: umekit.load never runs a repository's code", stacklevel=2
        )
    if adapter is None and (bare := bare_adapter(source)) is not None:
        source, adapter = bare.base, source
    config = read_config(source, hub)
    names = [os.fspath(adapter)] if adapter is not None else []
    choice = choose_preset(
        source, config, name=preset, role=role, compat=compat, hub=hub, names=names, stacklevel=2
    )
    record = choice.preset
    added: tuple[Any, ...] = ()
    if record is None:
        settings, processor = UmeSettings.from_config(config), None
    else:
        with installed_classes(source):
            settings, processor, added = record.open(source, config.model_type, hub, compat)
        settings.check_backbone(config.model_type)
    settings = with_saved_dim(settings, source, hub, config)
    kind = role or settings.kind
    if kind not in KINDS:
        raise ValueError(f"role is {kind!r}; use one of {KINDS}")
    if kind not in CLASSES:
        raise ValueError(
            f"the role {kind!r} cannot be loaded by this version; known are {', '.join(CLASSES)}"
        )
    if kind != settings.kind:
        settings = replace(settings, kind=cast(Kind, kind), default_mode=None)
    if reasoner is not None and kind == "reranker":
        raise ValueError("a reasoner thinks for an embedder, and this is a reranker")
    if reasoner is not None and not isinstance(reasoner, Reasoner):
        reasoner = Reasoner.from_pretrained(reasoner, device=device, dtype=dtype)
    if device is not None and model_kwargs.get("device_map") is not None:
        raise ValueError("device and device_map both say where the model goes: give one of them")
    device = device_of(device)
    if dtype is None:
        dtype = torch.float32 if device.type == "cpu" else "auto"
    elif isinstance(dtype, str) and dtype != "auto":
        dtype = _dtype(dtype)
    if "quantization_config" in model_kwargs:  # quantised weights cannot be moved afterwards
        model_kwargs.setdefault("device_map", {"": device})
    placed = "device_map" in model_kwargs
    with installed_classes(source):
        model, info = CLASSES[kind].from_pretrained(
            source,
            config=config,
            settings=settings,
            dtype=dtype,
            output_loading_info=True,
            **hub,
            **model_kwargs,
        )
        if processor is None:
            processor = UmeProcessor.from_pretrained(source, **hub)
    if any(weight.is_meta for weight in model.parameters()):
        raise ValueError(
            f"{source}: the device_map leaves weights outside the devices, and a vector would need them all in turn: "
            "give more or larger devices, or a quantization_config"
        )
    model.unexpected_keys = _unexpected(info, record, source)
    if added:
        fill_rows(model, processor.tokenizer, added)
    if not placed:
        model.to(device)
    check_pair(model, processor)
    if adapter is not None:
        add_adapter(model.backbone, os.fspath(adapter))
    if compile:
        compile_layers(model)
    elif device.type == "cpu" and "attn_implementation" not in model_kwargs:
        pack_on_cpu(model.config)
    opened: Encoder | Reranker = (
        Reranker(model, processor) if kind == "reranker" else Encoder(model, processor, reasoner=reasoner)
    )
    opened.assumption = choice.assumption
    return opened


def bare_adapter(source: str) -> AdapterSource | None:
    """The adapter in a folder without settings of ours, as peft saves it; None for any other source."""
    folder = Path(source)
    if not (folder / CONFIG_FILE).is_file():
        return None
    if (folder / "config.json").is_file() and read_json(folder / "config.json").get("ume"):
        return None
    return adapter_of(source, {})


def with_saved_dim(settings: UmeSettings, source: str, hub: dict[str, Any], config: Any) -> UmeSettings:
    """Settings with the ``truncate_dim`` that sentence-transformers has saved beside the weights.

    Raises:
        UmeSettingsError: it is no whole number from 1 to the width of the model.
    """
    path = find_file(source, ST_CONFIG, hub)
    saved = None if path is None else read_json(path, name=f"{source}/{ST_CONFIG}").get("truncate_dim")
    if saved is None:
        return settings
    most = settings.dim or config.get_text_config().hidden_size
    if type(saved) is not int or not 1 <= saved <= most:
        raise UmeSettingsError(f"{source}/{ST_CONFIG}: truncate_dim is {saved!r}; use 1 to {most}, or null")
    return replace(settings, dim=saved)


def check_pair(model: Any, processor: UmeProcessor) -> None:
    """Raise ``ProcessorMismatchError`` unless the processor is this model's."""
    model_type = model.config.model_type
    if processor.settings.family != model_type:
        raise ProcessorMismatchError(
            f"the processor is for {processor.settings.family}, the model is {model_type}"
        )
    if processor.settings.pairs != (model.kind == "reranker"):
        raise ProcessorMismatchError(
            f"the model is a {model.kind} one, and the processor's prompts are "
            f"{'of pairs' if processor.settings.pairs else 'not of pairs'}: a reranker needs its own template"
        )
    if processor.settings.pooling.kind != model.settings.pooling:
        raise ProcessorMismatchError(
            f"the processor marks {processor.settings.pooling.kind!r} tokens, "
            f"the model was saved for {model.settings.pooling!r}"
        )
    for field in ("image_token_id", "video_token_id"):
        asked, marked = getattr(model.config, field, None), getattr(processor, field)
        if asked != marked:
            raise ProcessorMismatchError(
                f"config.json: {field} is {asked}, and the tokenizer's token of it is {marked}: no such medium would "
                "reach the model"
            )
    rows = model.get_input_embeddings().weight.shape[0]
    if len(processor.tokenizer) > rows:
        raise ProcessorMismatchError(
            f"the tokenizer has {len(processor.tokenizer)} entries, the model {rows} rows"
        )


def _unexpected(info: dict[str, Any], record: Preset | None, source: str) -> list[str]:
    """Weights of the files that found no place, but for those that a preset knows; a warning names them."""
    known = record.spare_keys if record is not None else ()
    keys = sorted(key for key in info.get("unexpected_keys") or () if key not in known)
    if keys:
        warnings.warn(
            f"{source}: {len(keys)} weights of the files have no place in the model and were left out ({keys[0]}, ...)",
            stacklevel=3,
        )
    return keys


def _dtype(name: str) -> torch.dtype:
    found = getattr(torch, name, None)
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise ValueError(f"dtype is {name!r}; use 'float32', 'bfloat16', 'float16' or 'auto'")
    return found
