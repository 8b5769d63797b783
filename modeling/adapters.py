"""Adapter folders: the base that an adapter is for, and all of the adapter on a backbone.

An adapter folder of ours holds the adapter, the base's config with the ``ume`` block, the processor's files and our
code, so every door reads the settings from it (attention above all) and only the weights from the base.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoTokenizer
from transformers.utils import cached_file
from transformers.utils.peft_utils import find_adapter_config_file

from .settings import BASE_WEIGHTS, FilledRows, filled_rows
from .versions import need_peft
from .weight_files import INDEX, WEIGHTS, hub_arguments, read_json
from .weights_hash import weights_hash

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
PEFT_PREFIX = "base_model.model."  # of the keys in its files
NO_PEFT = "adapters need peft: pip install umekit[train]"


class AdapterError(RuntimeError):
    """An adapter does not fit the model: other weights, a tensor without a place, or none that changes anything."""


@dataclass(frozen=True)
class AdapterSource:
    """Where an adapter lies, what it goes on, and the Hub arguments of each."""

    folder: str
    base: str
    hub: Mapping[str, Any]
    base_revision: str | None

    def base_arguments(self, config: Any, kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """Arguments that load the base's weights, with the adapter folder's config where that has settings of ours."""
        if getattr(config, "ume", None) is None:
            own = _config_of(self.folder, self.hub)
            config = own if getattr(own, "ume", None) is not None else None
        arguments = {name: value for name, value in kwargs.items() if name not in ("revision", "subfolder")}
        if self.base_revision:
            arguments["revision"] = self.base_revision
        if config is not None:
            arguments["config"] = config
        return arguments


def adapter_of(source: str, kwargs: dict[str, Any]) -> AdapterSource | None:
    """The adapter that ``from_pretrained`` was pointed at; None for a checkpoint with weights of its own.

    Args:
        source: folder or Hub repository.
        kwargs: of ``from_pretrained``; ``adapter_kwargs``, which AutoModel adds, is taken out.

    Raises:
        FileNotFoundError: the adapter's base is not there, or it names none.
    """
    given = (kwargs.pop("adapter_kwargs", None) or {}).get("_adapter_model_path")
    folder = source if given is None else os.fspath(given)  # source is then perhaps the base already
    hub = hub_arguments(kwargs)
    if any((Path(folder) / hub.get("subfolder", "") / name).is_file() for name in (WEIGHTS, INDEX)):
        return None
    path = find_adapter_config_file(folder, **hub)
    if path is None:
        return None
    content = _adapter_config(path)
    if folder != source:  # AutoModel has read the name of the base already
        content = {**content, "base_model_name_or_path": source}
    base = base_named(content, folder)
    return AdapterSource(folder, base, hub, content.get("revision"))


def base_named(config: Mapping[str, Any], folder: str) -> str:
    """Folder or Hub repository of the base that an adapter's configuration names.

    A relative folder is looked for from the adapter's own and then from the working directory, so an adapter and its
    base can be moved together and opened from anywhere.

    Raises:
        FileNotFoundError: it names none, or a folder that is not there.
    """
    said = f"name the base (base=, --base; umekit.load(BASE, adapter={folder!r}))"
    base = config.get("base_model_name_or_path")
    if not base or not isinstance(base, str):
        raise FileNotFoundError(f"the adapter {folder} names no base model: {said}")
    if (place := _folder_of(base, folder)) is not None:
        return place
    if os.path.isabs(base) or not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", base) or base.startswith("."):
        raise FileNotFoundError(
            f"the adapter {folder} was trained on {base}, which is not there: {said}. It was looked for from "
            f"{os.path.abspath(folder)} and {os.getcwd()}"
        )
    return base


def _folder_of(base: str, folder: str) -> str | None:
    """The folder here that an adapter's folder names as its base; None where there is none."""
    for place in (os.path.join(folder, base), base):
        if os.path.isfile(os.path.join(place, "config.json")):
            return os.path.normpath(place)
    return base if os.path.isdir(base) else None


def name_base_from_anywhere(folder: Path) -> None:
    """In a folder that was just saved: a local base that is named from the working directory gets its whole path."""
    path = folder / CONFIG_FILE
    if not path.is_file():
        return
    content = _adapter_config(str(path))
    base = content.get("base_model_name_or_path")
    if isinstance(base, str) and base and not os.path.isabs(base) and os.path.isdir(base):
        content["base_model_name_or_path"] = os.path.abspath(base)
        path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _adapter_config(path: str) -> dict[str, Any]:
    content = read_json(path)
    if not isinstance(content, dict):
        raise AdapterError(f"{path} is no JSON object")
    return content


def lacking_rows(config: Any, base: str, kwargs: Mapping[str, Any]) -> FilledRows:
    """Tokens and rows that were filled when an adapter was trained and that the base's files lack.

    Args:
        config: of the adapter's folder; what it does not record is not filled.
        base: folder or Hub repository. One whose tokenizer has the token was saved with its row, which then counts.
        kwargs: of the base's ``from_pretrained``.
    """
    rows = filled_rows(config)
    if not rows:
        return {}
    known = AutoTokenizer.from_pretrained(base, trust_remote_code=False, **hub_arguments(kwargs)).get_vocab()
    return {token: row for token, row in rows.items() if token not in known}


def add_adapter(backbone: Any, source: str, hub: Mapping[str, Any] | None = None) -> None:
    """Load an adapter onto a native backbone, ready to encode and ready to be trained on.

    Its keys may be the backbone's own, or those of our class (``backbone.``, as PEFT writes them for it), of a stock
    model without a head (``language_model.``, as sentence-transformers writes them) or of older transformers.

    Args:
        backbone: a native model; what it remembers of its own keys is kept in ``backbone.native_conversions``, as an
            adapter's replaces it.
        source: folder or Hub repository of the adapter.
        hub: ``revision``, ``token`` ... of ``source``.

    Raises:
        ImportError: peft is not installed, or transformers does not take this one.
        AdapterError: it was trained on other weights, as its folder says; no safetensors, a tensor of the file matches
            no module, a module has none, or the adapter changes nothing.
    """
    try:
        from peft import PeftConfig, load_peft_weights
        from peft.tuners.tuners_utils import check_target_module_exists
        from peft.utils import get_peft_model_state_dict
    except ImportError:
        raise ImportError(NO_PEFT) from None
    need_peft()
    if cached_file(source, WEIGHTS_FILE, _raise_exceptions_for_missing_entries=False, **(hub or {})) is None:
        raise AdapterError(f"{source} has no {WEIGHTS_FILE}; a pickled .bin is not read")
    remember_base(backbone)
    check_base(backbone, source, hub)
    config = PeftConfig.from_pretrained(source, **(hub or {}))
    if config.base_model_name_or_path and (base := _folder_of(config.base_model_name_or_path, source)):
        config.base_model_name_or_path = os.path.abspath(base)  # PEFT asks the Hub for what it does not find
    stored = {
        _native(key): value for key, value in load_peft_weights(source, device="cpu", **(hub or {})).items()
    }
    modules = sorted({key.split(".lora_")[0] for key in stored if ".lora_" in key})
    known = dict(backbone.named_modules())
    if lost := [name for name in modules if name not in known]:
        raise AdapterError(
            f"{source}: {len(lost)} of {len(modules)} adapted modules match no module of this backbone ({lost[0]}, ...)"
        )
    if not all(check_target_module_exists(config, name) for name in modules):
        config.target_modules = modules  # it names them from another root
    backbone.native_conversions = getattr(backbone, "_weight_conversions", None)
    backbone.load_adapter(peft_config=config, adapter_state_dict=dict(stored), is_trainable=True)
    backbone.eval()
    placed = _plain(get_peft_model_state_dict(backbone, adapter_name=backbone.active_adapters()[0]))
    for without, having, words in (
        (placed, stored, "match no module of"),
        (stored, placed, "are not there for"),
    ):
        if missing := sorted(having.keys() - without.keys()):
            raise AdapterError(
                f"{source}: {len(missing)} of {len(having)} adapter tensors {words} this backbone ({missing[0]}, ...)"
            )
    for key, value in stored.items():
        if placed[key].shape != value.shape:
            raise AdapterError(f"{source}: {key} is {[*value.shape]}, the model's is {[*placed[key].shape]}")
        # load_adapter leaves DoRA's magnitudes as they were made, with no more than a report
        with torch.no_grad():
            placed[key].copy_(value)
    if not any(bool(torch.count_nonzero(value)) for key, value in placed.items() if "lora_B" in key):
        raise AdapterError(f"{source}: the adapter is all zeros and changes nothing")


def remember_base(backbone: Any) -> None:
    """Before an adapter goes on: note the hash of the weights, which the adapter's folder will name.

    Of a backbone that has an adapter already, the hash that was noted before it stays.
    """
    if not getattr(backbone, "_hf_peft_config_loaded", False):
        setattr(backbone, BASE_WEIGHTS, weights_hash(backbone))


def check_base(backbone: Any, source: str, hub: Mapping[str, Any] | None = None) -> None:
    """Raise ``AdapterError`` where an adapter's folder names other weights than those that a backbone has.

    Where either is not known (see :func:`weights_hash`), nothing is said.
    """
    path = cached_file(source, "config.json", _raise_exceptions_for_missing_entries=False, **(hub or {}))
    content = None if path is None else read_json(path)
    block = content.get("ume") if isinstance(content, dict) else None
    wanted = block.get(BASE_WEIGHTS) if isinstance(block, dict) else None
    found = getattr(backbone, BASE_WEIGHTS, None)
    if wanted is not None and found is not None and wanted != found:
        raise AdapterError(
            f"the adapter {source} was trained on other weights ({str(wanted)[:12]}) than those of its base here "
            f"({found[:12]}): put it on the base that it was trained on, or train it anew"
        )


def _plain(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {key.removeprefix(PEFT_PREFIX): value for key, value in tensors.items()}


def _native(key: str) -> str:
    """The key of an adapter's tensor, whichever root it was written from, as the backbone calls it."""
    key = key.removeprefix(PEFT_PREFIX).removeprefix("backbone.")
    if key.startswith(("language_model.", "visual.")):
        return f"model.{key}"
    if key.startswith("model.layers."):
        return key.replace("model.", "model.language_model.", 1)
    return key


class BackboneAdapters:
    """transformers' methods for adapters, which sentence-transformers calls, too: on the backbone.

    So what is saved loads into the plain backbone as well.
    """

    def add_adapter(self: Any, adapter_config: Any, adapter_name: str | None = None) -> None:
        remember_base(self.backbone)
        self.backbone.add_adapter(adapter_config, adapter_name)

    def load_adapter(
        self: Any, peft_model_id: str | None = None, adapter_name: str | None = None, **kwargs: Any
    ) -> Any:
        """As :func:`add_adapter`, strictly; as transformers does it where a name or more arguments are given."""
        if peft_model_id is None or adapter_name not in (None, "default") or kwargs:
            return self.backbone.load_adapter(peft_model_id, adapter_name, **kwargs)
        return add_adapter(self.backbone, os.fspath(peft_model_id))

    def set_adapter(self: Any, adapter_name: list[str] | str) -> None:
        self.backbone.set_adapter(adapter_name)

    def disable_adapters(self: Any) -> None:
        self.backbone.disable_adapters()

    def enable_adapters(self: Any) -> None:
        self.backbone.enable_adapters()

    def active_adapters(self: Any) -> list[str]:
        return list(self.backbone.active_adapters())

    def get_adapter_state_dict(self: Any, *args: Any, **kwargs: Any) -> dict[str, torch.Tensor]:
        return dict(self.backbone.get_adapter_state_dict(*args, **kwargs))

    def delete_adapter(self: Any, adapter_names: list[str] | str) -> None:
        self.backbone.delete_adapter(adapter_names)


def merge_adapter(backbone: nn.Module) -> int:
    """Merge every adapted layer, summed in float32 and rounded once, and put plain layers back; returns how many.

    Raises:
        ImportError: peft is not installed.
        ValueError: a merged weight would not be finite (peft's safe merge).
    """
    try:
        from peft.tuners.tuners_utils import BaseTunerLayer
    except ImportError:
        raise ImportError(NO_PEFT) from None
    layers: list[tuple[str, Any]] = [
        (name, layer) for name, layer in backbone.named_modules() if isinstance(layer, BaseTunerLayer)
    ]
    for name, layer in layers:
        plain = layer.get_base_layer()
        dtype = plain.weight.dtype
        layer.to(torch.float32)
        layer.merge(safe_merge=True)
        parent, _, child = name.rpartition(".")
        setattr(backbone.get_submodule(parent), child, plain.to(dtype))
    told: Any = backbone
    told._hf_peft_config_loaded = False
    vars(told).pop(BASE_WEIGHTS, None)  # these are other weights now
    if hasattr(told, "peft_config"):
        del told.peft_config
    if hasattr(told, "native_conversions"):
        told._weight_conversions = told.native_conversions
    return len(layers)


def _config_of(folder: str, hub: Mapping[str, Any]) -> Any:
    """The config of an adapter folder; None for an adapter that was saved without one."""
    try:
        return AutoConfig.from_pretrained(folder, trust_remote_code=False, **hub)
    except OSError:
        return None
