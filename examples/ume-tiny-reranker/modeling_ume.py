# Made by umekit 0.1.0 when this checkpoint was saved. Do not edit: change the sources and save again.
# Sources, in this order: weight_files config_words config_checks packing settings backbone batching versions
#   weights_hash adapters patches saving composed evaluating pooling vision_features prefix reranker

from __future__ import annotations

import contextlib
import copy
import functools
import hashlib
import importlib
import inspect
import json
import math
import numbers
import numpy as np
import operator
import os
import re
import shutil
import threading
import torch
import warnings
from collections import Counter
from collections import OrderedDict
from collections.abc import Callable
from collections.abc import Hashable
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import asdict
from dataclasses import dataclass
from dataclasses import field
from dataclasses import fields
from functools import cached_property
from importlib import metadata
from itertools import groupby
from pathlib import Path
from pathlib import PureWindowsPath
from torch import Tensor
from torch import nn
from transformers import AttentionInterface
from transformers import AttentionMaskInterface
from transformers import AutoConfig
from transformers import AutoModelForImageTextToText
from transformers import AutoTokenizer
from transformers import PreTrainedModel
from transformers.activations import ACT2FN
from transformers.cache_utils import Cache
from transformers.cache_utils import DynamicLayer
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask
from transformers.utils import ModelOutput
from transformers.utils import cached_file
from transformers.utils.hub import cached_files
from transformers.utils.peft_utils import find_adapter_config_file
from types import SimpleNamespace
from typing import Any
from typing import ClassVar
from typing import Literal
from typing import TypeVar
from weakref import WeakKeyDictionary


# ---- weight_files ------------------------------------------------------------------------------------------
# What is looked at before a model is built: a checkpoint's weight files.
#
# The files of a checkpoint are not trusted. Weights are safetensors inside of its folder and nothing else.


WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
JSON_BYTES = 2**23
INDEX_BYTES = 2**26
HEADER_BYTES = 100_000_000  # as in safetensors
JSON_DEPTH = 64

_HUB = ("cache_dir", "token", "revision", "subfolder", "local_files_only", "force_download", "proxies")


class CheckpointFilesError(ValueError):
    """A file of a checkpoint cannot be used as it stands; the message names the file and what is wrong."""


def read_json(path: str | Path, most_bytes: int = JSON_BYTES, name: str = "") -> Any:
    """A JSON file that may be hostile.

    Raises:
        CheckpointFilesError: larger than ``most_bytes``, nested deeper than 64, or not JSON.
    """
    path = Path(path)
    name = name or str(path)
    if path.stat().st_size > most_bytes:
        raise CheckpointFilesError(
            f"{name} has {path.stat().st_size:,} bytes, more than {most_bytes:,} are not read"
        )
    return parse_json(path.read_bytes(), name)


def parse_json(text: bytes, name: str) -> Any:
    """Bounded :func:`json.loads` of a file's bytes; see :func:`read_json`."""
    try:
        content = json.loads(text)
    except RecursionError:
        raise CheckpointFilesError(f"{name} is nested too deeply: more than {JSON_DEPTH} levels") from None
    except ValueError as error:
        raise CheckpointFilesError(f"{name} is not JSON: {error}") from None
    level, depth = [content], 0
    while level:  # by levels and not by recursion, which is what runs out
        depth += 1
        if depth > JSON_DEPTH:
            raise CheckpointFilesError(f"{name} is nested too deeply: more than {JSON_DEPTH} levels")
        nested = [
            one.values() if isinstance(one, dict) else one for one in level if isinstance(one, (dict, list))
        ]
        level = [value for values in nested for value in values if isinstance(value, (dict, list))]
    return content


def stored_tensors(source: str, arguments: Mapping[str, Any] | None = None) -> dict[str, list[int]] | None:
    """Names and shapes of a checkpoint's weights, from the files' headers.

    Args:
        source: folder or Hub repository; the files of the latter are fetched.
        arguments: of ``from_pretrained``: ``revision``, ``subfolder``, ``variant`` and so on.

    Returns:
        None where there are no safetensors.

    Raises:
        CheckpointFilesError: an index names a file outside of its folder, or a header cannot be read.
    """
    arguments = arguments or {}
    paths = weight_files(source, arguments)
    if paths is None:
        return None
    found: dict[str, list[int]] = {}
    for path in paths:
        for name, tensor in read_header(Path(path)).items():
            if name != "__metadata__":
                found[name] = tensor["shape"]
    return found


def read_header(path: Path) -> dict[str, Any]:
    """Head of a safetensors file: ``dtype``, ``shape`` and place of each tensor by its name, and ``__metadata__``.

    Raises:
        CheckpointFilesError: it is not safetensors, or was cut off.
    """
    with path.open("rb") as handle:
        length = int.from_bytes(handle.read(8), "little")
        if not 2 <= length <= min(HEADER_BYTES, path.stat().st_size):
            raise CheckpointFilesError(f"{path} is not a safetensors file, or was cut off")
        header = parse_json(handle.read(length), str(path))
    named = isinstance(header, dict) and all(
        name == "__metadata__" or (isinstance(tensor, dict) and _is_shape(tensor.get("shape")))
        for name, tensor in header.items()
    )
    if not named:
        raise CheckpointFilesError(f"{path} is not a safetensors file")
    return dict(header)


def weight_files(source: str, arguments: Mapping[str, Any] | None = None) -> list[str] | None:
    """The safetensors files of a checkpoint: one, or those that its index names.

    Raises:
        CheckpointFilesError: the index names a file outside of its folder, or one that is not safetensors.
    """
    arguments = arguments or {}
    hub = hub_arguments(arguments)
    quiet: dict[str, Any] = {
        "_raise_exceptions_for_missing_entries": False,
        "_raise_exceptions_for_gated_repo": False,
        "_raise_exceptions_for_connection_errors": False,
    }
    variant = arguments.get("variant")
    names = [WEIGHTS, INDEX]
    if variant:
        names = [f"model.{variant}.safetensors", f"model.safetensors.index.{variant}.json"]
    single = cached_file(source, names[0], **hub, **quiet)
    if single is not None:
        return [str(single)]
    index = cached_file(source, names[1], **hub, **quiet)
    if index is None:
        return None
    shards = shard_names(read_json(str(index), INDEX_BYTES, f"{source}/{names[1]}"), f"{source}/{names[1]}")
    return [str(path) for path in cached_files(source, shards, **hub) or ()]


def shard_names(index: Any, name: str) -> list[str]:
    """The weight files that an index names, sorted.

    Raises:
        CheckpointFilesError: a file outside of the index's folder, or none of safetensors.
    """
    places = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(places, dict) or not places or not all(isinstance(one, str) for one in places.values()):
        raise CheckpointFilesError(f"{name}: weight_map must say in which file each weight is")
    for file in sorted(set(places.values())):
        plain = Path(file).name == file and PureWindowsPath(file).name == file and file.isprintable()
        if not plain:
            raise CheckpointFilesError(f"{name} names {file!r}, which is not a file of its folder")
        if not file.endswith(".safetensors"):
            raise CheckpointFilesError(f"{name} names {file!r}; only safetensors are read, nothing pickled")
    return sorted(set(places.values()))


def hub_arguments(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Of the arguments of a ``from_pretrained`` those that say where the files are."""
    return {name: arguments[name] for name in _HUB if arguments.get(name) not in (None, "", False)}


def count_numbers(tensors: Mapping[str, list[int]]) -> int:
    """How many numbers the weights of these shapes have."""
    return sum(math.prod(shape) for shape in tensors.values())


def _is_shape(shape: Any) -> bool:
    return isinstance(shape, list) and all(type(size) is int and size >= 0 for size in shape)


# ---- config_words ------------------------------------------------------------------------------------------
# Words, token ids and places in a config that no model has: each is named before transformers meets it.


MOST_LABELS = 1_000_000  # transformers makes two dicts of as many entries
_ACTIVATIONS = ("hidden_act", "hidden_activation")
_DTYPES = ("dtype", "torch_dtype")
_KERNELS = ("attn_implementation", "_attn_implementation", "_attn_implementation_internal")
_MEDIA_TOKENS = ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id")
_TEXT_TOKENS = ("pad_token_id", "bos_token_id", "eos_token_id", "sep_token_id")
_BLOCKS = ("deepstack_visual_indexes", "fullatt_block_indexes")  # places of layers of the vision tower
_NESTED = ("text_config", "vision_config")


def check_words(raw: Mapping[str, Any], name: str) -> None:
    """Raise where a config names what there is not.

    Args:
        raw: content of ``config.json``.
        name: of the file, for messages.

    Raises:
        CheckpointFilesError: names the field.
    """
    for prefix, section in (("", raw), *((f"{key}.", raw.get(key)) for key in _NESTED)):
        if not isinstance(section, Mapping):
            continue
        for field, problem in _problems(section, nested=bool(prefix)):
            raise CheckpointFilesError(f"{name}: {prefix}{field} is {_short(section.get(field))}: {problem}")
    rows = _rows(raw)
    for prefix, section in (("", raw), ("text_config.", raw.get("text_config"))):
        if rows is None or not isinstance(section, Mapping):
            continue
        for field, lowest in (*((one, 0) for one in _MEDIA_TOKENS), *((one, -rows) for one in _TEXT_TOKENS)):
            value = section.get(field)
            ids = value if isinstance(value, list) else [value]
            if any(type(one) is int and not lowest <= one < rows for one in ids):
                raise CheckpointFilesError(
                    f"{name}: {prefix}{field} is {_short(value)}: the vocabulary has {rows} entries"
                )


def _problems(section: Mapping[str, Any], *, nested: bool) -> Iterator[tuple[str, str]]:
    """Fields of a config, or of a part of it, that cannot be, and why."""
    for field in _ACTIVATIONS:
        if field in section and (not isinstance(section[field], str) or section[field] not in ACT2FN):
            yield field, "no activation of transformers"
    for field in _DTYPES:
        if section.get(field) is not None and not _is_dtype(section[field]):
            yield field, "no dtype of torch"
    for field in _KERNELS:
        named = section.get(field)
        for one in named.values() if isinstance(named, Mapping) else [named]:
            if one is not None and not _is_kernel(one):
                # a name of the Hub would be fetched and run
                yield field, f"use one of eager, {', '.join(sorted(AttentionInterface()))}, or leave it out"
    if nested and not isinstance(section.get("model_type"), str | None):
        yield "model_type", "no name of a model"
    labels = section.get("num_labels")
    if labels is not None and (type(labels) is not int or not 0 <= labels <= MOST_LABELS):
        yield "num_labels", f"a whole number up to {MOST_LABELS} is needed"
    for field in ("id2label", "label2id"):
        if not isinstance(section.get(field), Mapping | None):
            yield field, "a JSON object is needed"
    depth, width, heads = section.get("depth"), section.get("embed_dim"), section.get("num_heads")
    for field in _BLOCKS:
        places = section.get(field)
        if type(depth) is int and isinstance(places, list):
            if any(type(one) is not int or not 0 <= one < depth for one in places):
                yield field, f"the tower has layers 0 to {depth - 1}"
            elif len(set(places)) < len(places):
                yield field, "a layer is named twice"
    width = section.get("hidden_size") if width is None else width
    if type(width) is int and type(heads) is int and heads > 0 and width % heads:
        yield "num_heads", f"{width} cannot be shared out among them"


def _rows(raw: Mapping[str, Any]) -> int | None:
    """Entries of the vocabulary, as far as the file says."""
    text = raw.get("text_config")
    found = (text if isinstance(text, Mapping) else raw).get("vocab_size")
    return found if type(found) is int and found > 0 else None


def _is_dtype(value: Any) -> bool:
    return isinstance(value, str) and isinstance(
        getattr(torch, value.removeprefix("torch."), None), torch.dtype
    )


def _is_kernel(value: Any) -> bool:
    return isinstance(value, str) and (value == "eager" or value in AttentionInterface())


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "..."


# ---- config_checks -----------------------------------------------------------------------------------------
# Whether a checkpoint's config can be that of its weights: looked at before anything of its size is made.
#
# A config that asks for more layers or numbers than the files hold is refused, and so is a word or a token that no model
# has: transformers would fail far from it, ask the Hub for code, or give other vectors without a word.


MOST_LAYERS = 10_000
PACKED = 16  # numbers that a stored one can stand for: 2 bits each in an int32

# Fields of a config (or of its text and vision part) that are counts of layers, and that are sizes of a matrix.
_LAYERS = ("num_hidden_layers", "depth")
_SIZES = (
    *(
        "hidden_size",
        "intermediate_size",
        "vocab_size",
        "num_attention_heads",
        "num_key_value_heads",
        "head_dim",
    ),
    *(
        "embed_dim",
        "num_heads",
        "out_hidden_size",
        "num_position_embeddings",
        "patch_size",
        "temporal_patch_size",
    ),
    *("spatial_merge_size", "spatial_patch_size", "in_channels", "in_chans", "mlp_ratio", "window_size"),
    *("max_position_embeddings", "linear_num_value_heads", "linear_num_key_heads", "linear_key_head_dim"),
    *("linear_value_head_dim", "moe_intermediate_size", "num_experts"),
)
# Products of them that are (parts of) weights; the first name that a section has counts, those in brackets are 1
# where it has none.
_PRODUCTS: tuple[tuple[tuple[str, ...], ...], ...] = (
    (("vocab_size",), ("hidden_size",)),
    (("num_hidden_layers", "depth"), ("embed_dim", "hidden_size"), ("intermediate_size",)),
    (("num_hidden_layers", "depth"), ("embed_dim", "hidden_size"), ("num_attention_heads",), ("head_dim",)),
    (("depth",), ("embed_dim", "hidden_size"), ("embed_dim", "hidden_size")),
    (("depth",), ("embed_dim", "hidden_size"), ("embed_dim", "hidden_size"), ("mlp_ratio",)),
    (
        ("embed_dim", "hidden_size"),
        ("patch_size",),
        ("patch_size",),
        ("temporal_patch_size",),
        ("in_channels",),
    ),
    (("embed_dim", "hidden_size"), ("out_hidden_size",)),
    (("embed_dim", "hidden_size"), ("num_position_embeddings",)),
)


def check_config(raw: Any, name: str, tensors: Mapping[str, Any] | None = None) -> None:
    """Raise where a config's numbers are none, or more than its weights could hold.

    Before transformers reads the config, which itself makes lists as long as there are layers.

    Args:
        raw: content of ``config.json``.
        name: of the file, for messages.
        tensors: names and shapes of the weights, where there are any.

    Raises:
        CheckpointFilesError: names the field.
    """
    if not isinstance(raw, dict):
        raise CheckpointFilesError(f"{name} is no JSON object")
    held = count_numbers(tensors) if tensors is not None else 0
    for prefix, section in (
        ("", raw),
        *((f"{key}.", raw.get(key)) for key in ("text_config", "vision_config")),
    ):
        if section is None:
            continue
        if not isinstance(section, dict):
            raise CheckpointFilesError(f"{name}: {prefix[:-1]} is no JSON object")
        for field in (*_LAYERS, *_SIZES):
            if section.get(field) is not None:
                _check_number(section[field], f"{name}: {prefix}{field}", field)
        for field in _LAYERS:
            layers = section.get(field)
            if layers is None:
                continue
            if layers > (MOST_LAYERS if tensors is None else len(tensors)):
                has = (
                    f"the files hold {len(tensors)} weights"
                    if tensors is not None
                    else "no model has so many"
                )
                raise CheckpointFilesError(f"{name}: {prefix}{field} is {layers}, and {has}")
        for field in _SIZES:
            size = section.get(field)
            if (
                size is not None
                and tensors is not None
                and field != "max_position_embeddings"
                and size > PACKED * held
            ):
                raise CheckpointFilesError(
                    f"{name}: {prefix}{field} is {size}, and the files hold {held:,} numbers in all"
                )
    check_words(raw, name)


def check_size(config: Any, name: str, tensors: Mapping[str, Any]) -> None:
    """Raise where a config, its defaults included, asks for a model far larger than its files.

    Raises:
        CheckpointFilesError: names the fields whose product is too large.
    """
    most = PACKED * max(count_numbers(tensors), 1024)
    for section in (config.get_text_config(), getattr(config, "vision_config", None)):
        if section is None:
            continue
        for product in _PRODUCTS:
            factors = {}
            for names in product:
                found = next(
                    (one for one in names if isinstance(getattr(section, one, None), (int, float))), None
                )
                if found is None:
                    break
                factors[found] = getattr(section, found)
            else:
                if math.prod(factors.values()) > most:
                    asked = ", ".join(f"{field}={value}" for field, value in factors.items())
                    raise CheckpointFilesError(
                        f"{name}: {type(section).__name__} with {asked} is far larger than the weights in the files"
                    )


def check_before_building(source: str, config: Any, arguments: Mapping[str, Any]) -> None:
    """Look at a checkpoint's files before ``from_pretrained`` does.

    Raises:
        CheckpointFilesError: weights outside of the folder or pickled, or a config that is not these files'.
    """
    if arguments.get("use_safetensors") is False:
        raise CheckpointFilesError(
            f"{source}: only safetensors are read; a .bin is a pickle, which can run code"
        )
    if arguments.get("gguf_file") is not None:
        return
    tensors = stored_tensors(source, arguments)
    if tensors is None:
        return  # from_pretrained says what is missing
    path = cached_file(
        source, "config.json", _raise_exceptions_for_missing_entries=False, **hub_arguments(arguments)
    )
    if path is not None:
        check_config(read_json(str(path), name=f"{source}/config.json"), f"{source}/config.json", tensors)
    if config is not None:
        check_size(config, f"{source}/config.json", tensors)


def _check_number(value: Any, name: str, field: str) -> None:
    whole = type(value) is int or (field == "mlp_ratio" and type(value) is float and math.isfinite(value))
    if not whole or value <= 0:
        raise CheckpointFilesError(f"{name} is {repr(value)[:40]}: a positive whole number is needed")


# ---- packing -----------------------------------------------------------------------------------------------
# Rows laid end to end: attention by sequence lengths instead of by a padding mask.
#
# A padded batch ``[B, L]`` becomes one row of its real tokens ``[1, T]``, so that no layer computes padding and no
# attention needs a mask; the states go back to their places. Flash attention reads such a row natively, by cumulative
# lengths. ``packed_sdpa`` does the same with torch's own kernel on any device and dtype: one call for each run of
# sequences of one length, of which a batch planned by length has few. Vision towers of transformers work this way by
# themselves, with either.


PACKED_SDPA = "packed_sdpa"
PACKED_ON_CPU = "packed_sdpa_on_cpu"  # the same; plain sdpa should the model move to another device


def packed_sdpa(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    cu_seq_lens_q: Tensor | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """``sdpa`` within each sequence of a packed row; plain ``sdpa`` where no lengths are given.

    Args:
        query, key, value: ``[1, heads, T, d]``; fewer heads in key and value where they are grouped.
        attention_mask: None for a packed row.
        cu_seq_lens_q: int32 ``[sequences + 1]``, where each begins and the last one ends.
        kwargs: ``is_causal``, ``scaling``, ``dropout``; as of ``sdpa_attention_forward``.

    Raises:
        ValueError: a packed row with a mask or a sliding window, which would be left out.
    """
    if cu_seq_lens_q is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    if attention_mask is not None or kwargs.get("sliding_window") is not None:
        raise ValueError(f"{PACKED_SDPA} knows neither masks nor sliding windows in a packed row")
    attended = []
    begin = 0
    for length, run in groupby(length for length in cu_seq_lens_q.diff().tolist() if length):
        count = len(list(run))
        # [1, heads, count * length, d] -> [count, heads, length, d]: sequences of one length are a batch.
        q, k, v = (
            tensor.narrow(2, begin, count * length).unflatten(2, (count, length)).squeeze(0).transpose(0, 1)
            for tensor in (query, key, value)
        )
        states = sdpa_attention_forward(module, q, k, v, None, **kwargs)[0]  # [count, length, heads, d]
        attended.append(states.flatten(0, 1))
        begin += count * length
    return torch.cat(attended).unsqueeze(0), None


for _name in (PACKED_SDPA, PACKED_ON_CPU):
    # The first one stays: code that a checkpoint brings along must not replace the kernel of models loaded before it.
    if _name not in AttentionInterface():
        AttentionInterface.register(_name, packed_sdpa)
        AttentionMaskInterface.register(_name, sdpa_mask)


def can_pack(config: Any) -> bool:
    """Whether every layer of a backbone's language model attends, so that rows can lie end to end.

    A linear-attention layer would carry its state from one sequence into the next; a window needs a mask.
    """
    layers = getattr(config.get_text_config(), "layer_types", None) or ["full_attention"]
    return set(layers) == {"full_attention"}


def packs(config: Any, device: torch.device) -> bool:
    """Whether a backbone's language model reads packed rows there: it can, and its kernel knows lengths."""
    kernel = config.get_text_config()._attn_implementation or ""
    knows = kernel == PACKED_SDPA or (kernel == PACKED_ON_CPU and device.type == "cpu") or "flash" in kernel
    return knows and can_pack(config)


def pack_on_cpu(config: Any) -> None:
    """Have a loaded backbone that uses ``sdpa`` read packed rows on a CPU. Its vision tower does so already.

    One call per sequence means many small kernels on a GPU, where it was not measured.
    """
    text = config.get_text_config()
    if text._attn_implementation == "sdpa" and can_pack(config):
        text._attn_implementation = PACKED_ON_CPU


def packed_states(
    base: Any,
    input_ids: Tensor,
    attention_mask: Tensor,
    positions: Tensor,
    features: dict[str, Any],
    **attention: Any,
) -> Tensor:
    """States ``[B, L, d]`` of a padded batch by one forward without padding; zeros where the mask is 0.

    Args:
        base: a native model without its output matrix, for which :func:`packs` holds.
        input_ids, attention_mask: ``[B, L]``; left or right padding.
        positions: ``[3, B, L]``.
        features: of the media, in the order of their placeholders (``mm_encoder_outputs``).
        attention: goes to the forward (``is_causal``).
    """
    rows, width = attention_mask.shape
    real = attention_mask.flatten().nonzero().squeeze(1)
    lengths = attention_mask.bool().sum(dim=1)
    ends = torch.nn.functional.pad(lengths.cumsum(0), (1, 0)).to(torch.int32)
    longest = int(lengths.max())
    found = base(
        input_ids=input_ids.flatten()[real].unsqueeze(0),
        attention_mask=None,
        position_ids=positions.flatten(1)[:, real].unsqueeze(1),
        mm_encoder_outputs=features,
        cu_seq_lens_q=ends,
        cu_seq_lens_k=ends,
        max_length_q=longest,
        max_length_k=longest,
        use_cache=False,
        return_dict=True,
        **attention,
    ).last_hidden_state.squeeze(0)
    found = found.to(input_ids.device)  # a model that is spread over devices leaves it on its last one
    states = found.new_zeros(rows * width, found.shape[-1]).index_copy(0, real, found)
    return states.view(rows, width, -1)


# ---- settings ----------------------------------------------------------------------------------------------
# What a checkpoint says about itself: the ``ume`` block of ``config.json``.
#
# Everything that changes a vector and that the *model* must know stands here and is saved with the weights; the
# processor's half (template, pixels, frames) is in ``processor_config.json``. The block has a schema number, so that
# an old umekit refuses a newer checkpoint instead of reading it wrongly.


SCHEMA = 1
BLOCK = "config.json: ume"
FilledRows = dict[
    str, int | list[int]
]  # token to row, or to row and source; see `UmePreTrainedModel.fill_rows`
ADAPTIVE_ONLY = ("kappa", "strategy")  # what is decided by: vectors of any choice can be compared
FILLED_ROWS = "filled_rows"  # entry of the block of an adapter folder, see `filled_rows`
BASE_WEIGHTS = "base_weights"  # the same: `weights_hash` of what the adapter was trained on

Kind = Literal["discriminative", "generative", "adaptive", "reranker"]
KINDS: tuple[str, ...] = ("discriminative", "generative", "adaptive", "reranker")
DEFAULT_MODES: dict[str, tuple[str, ...]] = {  # a kind's own first
    "discriminative": ("discriminative",),
    "generative": ("generative", "discriminative"),
    "adaptive": ("adaptive", "generative", "discriminative"),
    "reranker": (),
}

# Families whose linear-attention layers stay causal whatever mask they are given.
LINEAR_ATTENTION_FAMILIES = frozenset({"qwen3_5", "qwen3_5_moe", "qwen3_next"})
# Families that write a video's times out, or count its positions in seconds.
TIMED_FAMILIES = frozenset({"qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe", "qwen3_5", "qwen3_5_moe"})
DEEPSTACK_FAMILIES = frozenset({"qwen3_vl", "qwen3_vl_moe"})


class UmeSettingsError(ValueError):
    """The ``ume`` block of a config cannot be used; the message says which entry and what to do."""


@dataclass(frozen=True)
class UmeSettings:
    """Settings of one checkpoint.

    Attributes:
        kind: what the checkpoint is for; picks the AutoModel class. In ``config.json`` it is the ``role``.
        attention: ``"causal"``, or ``"bidirectional"`` for every token seeing every other one (U-MARVEL);
            ``"bidirectional_if_padded"`` is U-MARVEL's published defect: causal in a batch without any padding.
        positions: ``"mrope"`` for the backbone's own 3-D positions, ``"1d"`` for 0..L-1 on all axes
            (RzenEmbed, U-MARVEL, LamRA; GME).
        deepstack: whether Qwen3-VL's DeepStack features reach the language model (U-MARVEL drops them).
        pooling: which tokens the processor marks: ``"last"`` (one slot at the end), ``"token"`` (one slot at a
            special token elsewhere), ``"mean"`` (all tokens but the instruction's). The model only averages slots;
            the word is for engines that have no slots.
        normalize: whether vectors are scaled to length one.
        dim: keep only the first ``dim`` numbers (Matryoshka); None keeps all.
        tokens: ids that the model itself must know while generating (thought, ``<gen_emb>``, actions, answers).
        default_mode: how items are embedded where the caller names no mode; None for the kind's own,
            ``"discriminative"`` where a checkpoint can think and seldom should.
        max_new_tokens: most tokens of a thought where the caller says nothing (generative kind).
        kappa: p(reason) over which an item is thought about where the caller says nothing (adaptive kind).
        strategy: what decides (adaptive kind): ``"policy"``, the tokens ``<direct>`` and ``<reason>``; or ``"probe"``,
            the linear probe that lies beside the weights. See ``strategies``.
        thought_end: ``"forced"``: the vector is the state of the first ``<gen_emb>``, which a thought without one is
            given; ``"official"``: UME-R1's published loop, see ``reasoning.think``.
    """

    kind: Kind = "discriminative"
    attention: Literal["causal", "bidirectional", "bidirectional_if_padded"] = "causal"
    positions: Literal["mrope", "1d"] = "mrope"
    deepstack: bool = True
    pooling: Literal["last", "token", "mean"] = "last"
    normalize: bool = True
    dim: int | None = None
    tokens: dict[str, int | list[int]] = field(default_factory=dict)
    default_mode: str | None = None
    max_new_tokens: int = 8192
    thought_end: Literal["forced", "official"] = "forced"
    kappa: float = 0.5
    strategy: Literal["policy", "probe"] = "policy"

    def __post_init__(self) -> None:
        allowed = {
            "kind": KINDS,
            "attention": ("causal", "bidirectional", "bidirectional_if_padded"),
            "positions": ("mrope", "1d"),
            "pooling": ("last", "token", "mean"),
            "thought_end": ("forced", "official"),
            "strategy": ("policy", "probe"),
        }
        for name, values in allowed.items():
            value = getattr(self, name)
            if not isinstance(value, str) or value not in values:
                raise UmeSettingsError(f"{BLOCK}.{_stored(name)} is {_shown(value)}; use one of {values}")
        known = DEFAULT_MODES[self.kind]
        if self.default_mode is not None and self.default_mode not in known:
            raise UmeSettingsError(
                f"{BLOCK}.default_mode is {_shown(self.default_mode)}; the {self.kind} kind knows "
                f"{', '.join(known) or 'none'}, or null"
            )
        for name in ("deepstack", "normalize"):
            if type(getattr(self, name)) is not bool:
                raise UmeSettingsError(f"{BLOCK}.{name} is {_shown(getattr(self, name))}; use true or false")
        if self.dim is not None and not _whole(self.dim, 1):
            raise UmeSettingsError(f"{BLOCK}.dim is {_shown(self.dim)}; use a positive whole number or null")
        if not _whole(self.max_new_tokens, 1):
            raise UmeSettingsError(
                f"{BLOCK}.max_new_tokens is {_shown(self.max_new_tokens)}; use a positive whole number"
            )
        if type(self.kappa) not in (int, float) or not 0 <= self.kappa <= 1:
            raise UmeSettingsError(f"{BLOCK}.kappa is {_shown(self.kappa)}; use a number from 0 to 1")
        if not isinstance(self.tokens, dict):
            raise UmeSettingsError(f"{BLOCK}.tokens is {_shown(self.tokens)}; use names with token ids")
        for name, ids in self.tokens.items():
            if not all(_whole(one, 0) for one in (ids if isinstance(ids, list) else [ids])):
                raise UmeSettingsError(f"{BLOCK}.tokens.{name} is {_shown(ids)}; use token ids")

    @classmethod
    def from_config(cls, config: Any) -> UmeSettings:
        """Read ``config.ume``; defaults where a published checkpoint has none.

        Raises:
            UmeSettingsError: schema newer than this code, or an unknown or impossible entry.
        """
        stored = getattr(config, "ume", None)
        if stored is not None and not isinstance(stored, dict):
            raise UmeSettingsError(f"{BLOCK} is {_shown(stored)}; an object is needed")
        block = dict(stored or {})
        schema = block.pop("schema", SCHEMA)
        if not _whole(schema, 1) or schema > SCHEMA:
            raise UmeSettingsError(
                f"{BLOCK}.schema is {_shown(schema)}, this code reads up to {SCHEMA}: update umekit"
            )
        for entry in (FILLED_ROWS, BASE_WEIGHTS):  # of the weights of an adapter's base, no settings
            block.pop(entry, None)
        names = {_stored(f.name): f.name for f in fields(cls)}
        unknown = set(block) - set(names)
        if unknown:
            raise UmeSettingsError(f"{BLOCK} has entries that this version does not know: {sorted(unknown)}")
        settings = cls(**{names[entry]: value for entry, value in block.items()})
        settings.check_backbone(getattr(config, "model_type", ""))
        return settings

    def check_backbone(self, model_type: str) -> None:
        """Raise where the backbone family cannot do what the settings ask."""
        if self.attention != "causal" and model_type in LINEAR_ATTENTION_FAMILIES:
            raise UmeSettingsError(
                f"{model_type} has linear-attention layers, which stay causal: "
                "attention='bidirectional' would be half true; use attention='causal'"
            )

    @property
    def mode(self) -> str | None:
        """How items are embedded where the caller names no mode; None for a kind that embeds nothing."""
        return self.default_mode or next(iter(DEFAULT_MODES[self.kind]), None)

    def to_dict(self) -> dict[str, Any]:
        """The block as it is written into ``config.json``."""
        left_out = () if self.kind == "adaptive" else ADAPTIVE_ONLY
        own = {_stored(name): value for name, value in asdict(self).items() if name not in left_out}
        return {"schema": SCHEMA, **own}


def _stored(name: str) -> str:
    """Entry of the block that holds a setting: what a checkpoint is has always been called its role there."""
    return "role" if name == "kind" else name


def _whole(value: Any, least: int) -> bool:
    return type(value) is int and least <= value < 2**31


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def filled_rows(config: Any) -> FilledRows:
    """Tokens and rows (with sources, of copies) that an adapter folder's config says were filled when it was trained.

    The files of the base have other numbers there, so whoever puts the adapter on them fills these rows again.

    Raises:
        UmeSettingsError: the entry is not tokens with rows behind the first.
    """
    block = getattr(config, "ume", None)
    found = block.get(FILLED_ROWS, {}) if isinstance(block, dict) else {}
    if not isinstance(found, dict) or not all(_is_row(row) for row in found.values()):
        raise UmeSettingsError(f"{BLOCK}.{FILLED_ROWS} is {_shown(found)}; it names tokens and their rows")
    return dict(found)


def _is_row(row: Any) -> bool:
    """A row behind the first, or one and the row that it is a copy of."""
    numbers = row if isinstance(row, list) and len(row) == 2 else [row]
    return all(type(number) is int and number >= 0 for number in numbers) and numbers[0] >= 1


def expressible(settings: UmeSettings, target: str, model_type: str = "") -> tuple[bool, str]:
    """Whether ``target`` can give the same vectors as these settings without any of our code.

    Of a checkpoint that can think and by default embeds at once that is said of its direct vectors; but not of
    sentence-transformers, whose ``encode`` would lose the other modes.

    Said of texts and pictures; what stock code does otherwise is in the reason of a True, too. Videos differ where
    their time is written out or in the positions (Qwen2.5-VL, Qwen3-VL, Qwen3.5): transformers 5.23 takes frames
    without metadata for 24 a second, and wraps the steps of Qwen3-VL's videos twice; sentence-transformers passes no
    metadata of frame lists.

    Args:
        settings: settings of the checkpoint.
        target: ``"sentence-transformers"`` (native Transformer + Pooling + Normalize), ``"vllm"`` or
            ``"transformers"`` (native class and last-token pooling by hand).
        model_type: the backbone's ``model_type``.

    Returns:
        ``(True, limits)`` or ``(False, reason)``.
    """
    if target not in ("sentence-transformers", "vllm", "transformers"):
        raise ValueError(f"unknown target {target!r}: use 'sentence-transformers', 'vllm' or 'transformers'")
    pairs = settings.kind == "reranker" and target == "sentence-transformers"  # its CrossEncoder
    if settings.mode != "discriminative" and not pairs:
        return False, f"the {settings.kind} kind needs umekit's own loop"
    if settings.attention == "bidirectional_if_padded":
        return False, "attention that depends on the batch has no form outside umekit"
    if settings.positions == "1d":
        return False, "1-D positions have no form outside umekit"
    if not settings.deepstack and model_type in DEEPSTACK_FAMILIES:
        return False, "dropped DeepStack features have no form outside umekit"
    if settings.pooling == "mean":
        return False, "a mean without the instruction's tokens needs a span per row"
    if settings.pooling == "token":
        return False, "the pooled token is not the last one"
    if settings.dim is not None and target != "transformers":
        return False, "stock pooling does not truncate before it normalises"
    if settings.attention == "bidirectional" and target == "vllm":
        return False, "vLLM runs these backbones with causal attention"
    if not settings.normalize and target == "vllm":
        return False, "vLLM normalises embeddings"
    if len(DEFAULT_MODES[settings.kind]) > 1 and target == "sentence-transformers":
        return False, "only its direct vectors have a form there (`umekit export --role discriminative`)"
    return True, _limits(target, model_type)


def _limits(target: str, model_type: str) -> str:
    """What stock code does otherwise than ours, although the settings have a form there."""
    limits = ["a text over the limit is not cut as ours is", "pictures are resized by torchvision"]
    if model_type in TIMED_FAMILIES:
        limits.append("a list of frames counts as 24 a second")
    if target == "sentence-transformers":
        limits.append("a clip's path needs torchcodec")
        limits.append("the keys 'images', 'document', 'page' and 'instruction' are refused")
    return ", ".join(limits)


# ---- backbone ----------------------------------------------------------------------------------------------
# Run a stock vision-language backbone and give back its states after the final norm.
#
# One function per thing that our settings change: positions, attention, DeepStack. Nothing here copies a modeling
# file; the native classes of transformers do the work, reached through public accessors only.


# What bitsandbytes should leave alone (``llm_int8_skip_modules``): the vision tower, whose sizes are no multiples of
# its blocks, and the output matrix. Names as in memory; "visual", as on disk, would match nothing.
UNQUANTISED_MODULES = ("model.visual", "lm_head")


# transformers lays a call's is_causal into the shared config for as long as the forward takes: where batches differ in
# it, one thread's would be seen by another's.
_CONFIGURED = threading.Lock()


class LoadAuditError(RuntimeError):
    """A checkpoint does not fill the model: keys are missing or have another shape."""


def load_backbone(name_or_path: str, **kwargs: Any) -> nn.Module:
    """``AutoModelForImageTextToText.from_pretrained`` that refuses a checkpoint which leaves a weight random.

    Raises:
        LoadAuditError: a key is missing or mismatched (transformers only warns and draws random weights).
        CheckpointFilesError: the weights are no safetensors of the folder, or the config is not theirs.
    """
    kwargs.pop("output_loading_info", None)
    model, info = load_stock(name_or_path, **kwargs)
    audit_loading(info, name_or_path)
    return model


def load_stock(source: str, *args: Any, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
    """``AutoModelForImageTextToText.from_pretrained`` by a stock class, from safetensors that were looked at before.

    Returns:
        The backbone and transformers' loading info.

    Raises:
        CheckpointFilesError: the weights are no safetensors of the folder, or the config is not theirs.
        LoadAuditError: weights have another shape than the config asks for.
    """
    check_before_building(source, kwargs.get("config"), kwargs)
    # The backbone is always a stock class, whatever the door that was opened trusts; a .bin is a pickle.
    safe = {"trust_remote_code": False, "use_safetensors": True, "output_loading_info": True}
    auto: Any = AutoModelForImageTextToText
    try:
        model, info = auto.from_pretrained(source, *args, **{**kwargs, **safe})
    except RuntimeError as error:
        if "ignore_mismatched_sizes" not in str(error):
            raise
        raise LoadAuditError(
            f"{source}: weights have another shape than config.json asks for: they are of another model, or one of "
            "its sizes is wrong (transformers has listed them)"
        ) from error
    return model, info


def audit_loading(info: dict[str, Any], source: str) -> None:
    """Raise ``LoadAuditError`` unless every weight came from the checkpoint."""
    missing = sorted(info.get("missing_keys") or ())
    mismatched = sorted(str(key) for key in (info.get("mismatched_keys") or ()))
    if missing or mismatched:
        some = ", ".join((missing + mismatched)[:5])
        raise LoadAuditError(
            f"{source}: {len(missing)} weights are missing and {len(mismatched)} have another shape ({some}, ...); "
            "they would be random. The checkpoint is incomplete or belongs to another architecture."
        )


def flag_attention(config: Any, settings: UmeSettings) -> None:
    """Say in a backbone's config what the settings say of its attention.

    Stock classes go by it. Ours say it with every call, but transformers lays a call's flag into the config for as
    long as the forward takes and then takes it out again, which the forward of another thread would see.
    """
    text = config.get_text_config()
    if settings.attention == "bidirectional":
        text.is_causal = False
    elif getattr(text, "is_causal", True) is False:
        text.is_causal = True


def base_of(backbone: Any) -> Any:
    """The backbone without its output matrix: calling it never computes logits."""
    return backbone.base_model


def sequence_positions(attention_mask: Tensor) -> Tensor:
    """Positions 0..n-1 of the real tokens of each row, 0 under padding; int64 ``[B, L]``."""
    return (attention_mask.long().cumsum(-1) - 1).clamp(min=0)


def positions_of(base: Any, inputs: dict[str, Tensor], kind: str) -> Tensor:
    """Explicit positions ``[3, B, L]``, so that neither padding nor module state (``rope_deltas``) can move them."""
    mask = inputs["attention_mask"]
    grids = {name: inputs.get(name) for name in ("image_grid_thw", "video_grid_thw")}
    if kind == "1d" or all(grid is None for grid in grids.values()):
        return sequence_positions(mask).unsqueeze(0).expand(3, -1, -1)
    given = {
        "input_ids": inputs["input_ids"],
        "mm_token_type_ids": inputs["mm_token_type_ids"],
        "attention_mask": mask,
        **grids,
    }
    if inputs.get("second_per_grid_ts") is not None:
        given["second_per_grid_ts"] = inputs["second_per_grid_ts"]
    known = inspect.signature(base.get_rope_index).parameters
    positions, _ = base.get_rope_index(**{name: value for name, value in given.items() if name in known})
    return positions


def vision_features(base: Any, inputs: dict[str, Tensor], *, deepstack: bool) -> dict[str, Any]:
    """Run the vision tower on the batch's images and videos, unless their features are given.

    Returns:
        ``mm_encoder_outputs`` as the native forward takes it; with ``deepstack=False`` their DeepStack features
        are dropped.
    """
    features: dict[str, Any] = dict(inputs.get("mm_encoder_outputs") or {})
    if inputs.get("pixel_values") is not None:
        features["image"] = base.get_image_features(
            inputs["pixel_values"], inputs["image_grid_thw"], return_dict=True
        )
    if inputs.get("pixel_values_videos") is not None:
        features["video"] = base.get_video_features(
            inputs["pixel_values_videos"], inputs["video_grid_thw"], return_dict=True
        )
    if not deepstack:
        for output in features.values():
            if getattr(output, "deepstack_features", None) is not None:
                output.deepstack_features = []
    return features


def sees_all(attention: str, attention_mask: Tensor) -> bool:
    """Whether a batch's tokens see the ones after them."""
    padded = attention == "bidirectional_if_padded" and not bool(attention_mask.all())
    return attention == "bidirectional" or padded


def states_of(backbone: Any, inputs: dict[str, Tensor], settings: UmeSettings) -> Tensor:
    """States after the final norm, ``[B, L, d]`` in the backbone's dtype.

    Args:
        backbone: a native ``...ForConditionalGeneration``.
        inputs: ``input_ids``, ``attention_mask``, ``mm_token_type_ids`` ``[B, L]`` and, where there are media,
            ``pixel_values``/``image_grid_thw`` and ``pixel_values_videos``/``video_grid_thw``, or
            ``mm_encoder_outputs`` in place of pixels.
        settings: attention, positions and DeepStack of the checkpoint.
    """
    base = base_of(backbone)
    attention_mask = inputs.get("attention_mask")
    if attention_mask is None:
        attention_mask = torch.ones_like(inputs["input_ids"])
    inputs = {**inputs, "attention_mask": attention_mask}
    # Always told per call: a flag left in the config would also change generate().
    attention = {"is_causal": False} if sees_all(settings.attention, attention_mask) else {}
    positions = positions_of(base, inputs, settings.positions)
    features = vision_features(base, inputs, deepstack=settings.deepstack)
    alone = _CONFIGURED if settings.attention == "bidirectional_if_padded" else contextlib.nullcontext()
    with alone:
        if packs(base.config, attention_mask.device):
            return packed_states(base, inputs["input_ids"], attention_mask, positions, features, **attention)
        output = base(
            input_ids=inputs["input_ids"],
            attention_mask=attention_mask,
            position_ids=positions,
            mm_encoder_outputs=features,
            use_cache=False,
            return_dict=True,
            **attention,
        )
    return back_home(output.last_hidden_state, attention_mask)


def back_home(states: Tensor, inputs: Tensor) -> Tensor:
    """States where their inputs are: a model that is spread over devices leaves them on its last one."""
    return states.to(inputs.device)


@functools.cache
def _takes_cache(kind: Hashable) -> bool:
    forward: Any = getattr(kind, "forward")  # noqa: B009 - a class of modules; mypy takes those for unhashable
    return "cache" in inspect.signature(forward).parameters


def cache_argument(base: Any, cache: Any) -> dict[str, Any]:
    """The argument that hands a cache to ``base``: ``cache`` from transformers 5.24 on, ``past_key_values`` before
    (a name that warns from 5.24 and is gone in 5.40)."""
    return {"cache" if _takes_cache(base.__class__) else "past_key_values": cache}


def cache_of(output: Any) -> Any:
    """The cache that a forward of a base model gave back, under either name."""
    return output.cache if hasattr(output, "cache") else output.past_key_values


# ---- batching ----------------------------------------------------------------------------------------------
# Which rows go through a model together: planned by tokens, fewer where memory runs out, and collated.


T = TypeVar("T")

TOKENS_ON_CPU = 2048  # padded tokens of one forward; more run out of the cores' caches, and are no faster
TOKENS_ON_GPU = 32768
TOKENS_OF_A_BATCH = 64  # what a forward costs beside its tokens, in tokens
_MEMORY_WORDS = (  # of allocators without an error of their own
    "can't allocate memory",
    "not enough memory",
    "out of memory",
    "alloc_failed",
)


def plan_batches(
    lengths: Sequence[int], budget: int, *, rows: int | None = None, extra: Sequence[int] | None = None
) -> list[list[int]]:
    """Indices in batches of similar length whose padded size is at most ``budget`` tokens.

    Of all ways to cut the sorted lengths, the one with the fewest padded tokens, where each batch counts
    ``TOKENS_OF_A_BATCH`` more: without them every length would be a batch of its own, and with the largest batches
    that the budget allows a fifth of a mix of texts would be padding. An item longer than the budget is a batch of
    its own. The longest batch comes first, so that a lack of memory shows at once.

    Args:
        lengths: tokens of every item.
        budget: most padded tokens of a batch.
        rows: most items of a batch.
        extra: what each item takes beside its padded tokens, in tokens, such as the vision tower's share.

    >>> plan_batches([300, 900, 310, 2], budget=900)
    [[1], [2, 0], [3]]
    >>> plan_batches([3, 9, 4, 20], budget=10, extra=[0, 0, 4, 0])
    [[3], [1], [2], [0]]
    """
    if budget < 1:
        raise ValueError(f"a budget of {budget} tokens holds nothing")
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    beside = np.cumsum([0, *(0 if extra is None else extra[i] for i in order)])
    # least[i]: cost of the items from place i on; end[i]: where the batch that begins there ends.
    least = np.zeros(len(order) + 1, dtype=np.int64)
    end = [0] * len(order)
    for first in reversed(range(len(order))):
        longest = lengths[order[first]]  # sorted downwards
        most = min(max(budget // max(longest, 1), 1), len(order) - first, rows or len(order))
        padded = np.arange(1, most + 1) * longest
        taken = padded + beside[first + 1 : first + 1 + most] - beside[first]
        padded = padded[: max(int(np.searchsorted(taken, budget, side="right")), 1)]
        costs = padded + least[first + 1 : first + 1 + len(padded)]
        best = int(costs.argmin())
        least[first] = costs[best] + TOKENS_OF_A_BATCH
        end[first] = first + best + 1
    batches: list[list[int]] = []
    place = 0
    while place < len(order):
        batches.append(order[place : end[place]])
        place = end[place]
    return batches


def default_tokens(device: torch.device) -> int:
    """Padded tokens of one forward where nobody has said how many."""
    return TOKENS_ON_CPU if device.type == "cpu" else TOKENS_ON_GPU


@dataclass
class TokenBudget:
    """Padded tokens of one forward on a device; half as many each time that memory did not hold them.

    Attributes:
        rows: most rows of one forward; None for any number.
        halved: whether memory did not hold what was asked for.
    """

    tokens: int
    device: torch.device
    rows: int | None = None
    halved: bool = False

    def halve(self, too_many: int) -> None:
        """At most half of what was too much; the first time, it is said."""
        former = self.tokens
        self.tokens = max(1, min(former, too_many) // 2)
        if not self.halved:
            warnings.warn(
                f"out of memory on {self.device}: batch_tokens is now {self.tokens} instead of {former}, and becomes "
                "less if need be; give batch_tokens to begin with less",
                stacklevel=5,
            )
        self.halved = True

    def attempt(self, run: Callable[[], T]) -> T | None:
        """What ``run`` gives; None where memory did not hold it."""
        try:
            return run()
        except Exception as error:
            if not out_of_memory(error):
                raise
        # Only here: the error is gone, and with it the frames that hold tensors.
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        return None


class Collator:
    """Collates batches when they are asked for.

    Args:
        processor: the checkpoint's.
        device: where batches go.
    """

    def __init__(self, processor: Any, device: torch.device) -> None:
        self.processor, self.device = processor, device

    def prefetch(self, rows: Sequence[Any], padding_side: str) -> None:
        """A batch that will be asked for soon."""

    def collate(self, rows: Sequence[Any], padding_side: str) -> Any:
        """A padded batch on the model's device."""
        return self.processor.collate(rows, padding_side).to(self.device)

    def release(self) -> bool:
        """Let go of what is held for later batches; whether that was anything."""
        return False


def out_of_memory(error: BaseException) -> bool:
    """Whether an error of a forward says that its batch was too large for the device (or for the host)."""
    if isinstance(error, (torch.cuda.OutOfMemoryError, MemoryError)):
        return True
    said = str(error).lower()
    return isinstance(error, RuntimeError) and any(words in said for words in _MEMORY_WORDS)


# ---- versions ----------------------------------------------------------------------------------------------
# Which versions of other packages go together, in one place: asked for at use, and shown by ``umekit doctor``.


# (from this transformers on, the peft that its adapters ask for), newest first
PEFT_OF_TRANSFORMERS = (("5.24", "0.22"), ("5.18", "0.20"))


def number(version: str) -> tuple[int, ...]:
    """The first three numbers of a version.

    >>> number("2.13.0+cpu")
    (2, 13, 0)
    """
    parts = version.split("+")[0].split(".")[:3]
    return tuple(int("".join(letter for letter in part if letter.isdigit()) or 0) for part in parts)


def transformers_problem(versions: Mapping[str, str]) -> str | None:
    """What is wrong with the installed transformers, and what to do; None where it is one that umekit runs on."""
    found = versions.get("transformers")
    # 5.17 ignores mm_encoder_outputs, silently; with 5.18 AutoModel fails on remote code of native configs.
    if found is None or (5, 23) <= number(found) < (6,):
        return None
    return f"transformers must be >=5.23,<6, not {found}: pip install 'transformers>=5.23,<6'"


def peft_problem(versions: Mapping[str, str]) -> str | None:
    """What is wrong with the pair of transformers and peft, and what to do; None where adapters work."""
    transformers, peft = versions.get("transformers"), versions.get("peft")
    if transformers is None or peft is None:
        return None
    for since, needed in PEFT_OF_TRANSFORMERS:
        if number(transformers) >= number(since):
            if number(peft) >= number(needed):
                return None
            return (
                f"transformers {transformers} takes adapters only with peft>={needed}, not {peft}: pip install "
                "'umekit[train]' gives a pair that works, as does pip install 'transformers==5.23.0' 'peft==0.21.2'"
            )
    return None


@functools.cache
def installed(*names: str) -> Mapping[str, str]:
    """Versions of those of ``names`` that are installed."""
    found = {}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def need_transformers() -> None:
    """Raises ImportError, in one line, for a transformers that umekit does not run on."""
    problem = transformers_problem(installed("transformers"))
    if problem:
        raise ImportError(problem)


def need_peft() -> None:
    """Raises ImportError, in one line, for a pair of transformers and peft whose adapters do not work."""
    problem = peft_problem(installed("transformers", "peft"))
    if problem:
        raise ImportError(problem)


# ---- weights_hash ------------------------------------------------------------------------------------------
# A hash of weights: which ones a checkpoint holds, however they are stored.
#
# Values are sampled from the weights in memory and rounded to bfloat16 first, so that the same checkpoint has the same
# hash on a GPU in bfloat16 and on a CPU in float32, however its files are sharded; training moves it.


SAMPLES = 1 << 14  # values of a weight; of one with more rows, two of each row
EXACT = (torch.float32, torch.bfloat16)  # dtypes that round to the same bfloat16


def weights_hash(module: nn.Module) -> str | None:
    """sha256 of values of every weight; None where they are not as they were stored.

    That is so of half precision, which moves small values, of quantised weights, and of weights that are elsewhere
    (meta, or dealt out over processes).
    """
    for weight in module.parameters():
        if weight.dtype not in EXACT or weight.is_meta or weight.numel() == 0:
            return None
    digest = hashlib.sha256()
    feed_weights(digest, module)
    return digest.hexdigest()


def feed_weights(digest: Any, module: nn.Module) -> None:
    """Values of every weight of a module into a digest."""
    for name, weight in sorted(module.state_dict().items()):
        flat = weight.detach().reshape(-1)
        wanted = max(SAMPLES, 2 * weight.shape[0] if weight.dim() else 0)
        if flat.numel() > wanted:
            flat = flat[spread_over(flat.numel(), wanted).to(flat.device)]
        feed_values(digest, name, weight, flat)


def spread_over(count: int, wanted: int) -> Tensor:
    """``wanted`` positions of ``count``, evenly from the first to the last: int64 [wanted]."""
    return torch.arange(wanted, dtype=torch.int64) * (count - 1) // (wanted - 1)


def feed_values(digest: Any, name: str, weight: Tensor, values: Tensor) -> None:
    """Some values of a weight, with its name and shape, into a digest."""
    values = values.to("cpu")
    if values.is_floating_point():
        values = values.to(torch.bfloat16).view(torch.int16)
    digest.update(f"{name}{tuple(weight.shape)}".encode())
    digest.update(values.contiguous().numpy().tobytes())


# ---- adapters ----------------------------------------------------------------------------------------------
# Adapter folders: the base that an adapter is for, and all of the adapter on a backbone.
#
# An adapter folder of ours holds the adapter, the base's config with the ``ume`` block, the processor's files and our
# code, so every door reads the settings from it (attention above all) and only the weights from the base.


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


# ---- patches -----------------------------------------------------------------------------------------------
# Patches embedded by a matrix product.
#
# Qwen's vision towers cut a picture into patches beforehand and then convolve each of them alone, with a kernel of the
# patch's own size: a matrix product that is written as a convolution, which a CPU computes more slowly (``convolved`` in
# ``benchmarks/attention.py``).


class PatchProjection(nn.Conv3d):
    """A ``Conv3d`` that multiplies where its input is single patches; weights, names and file layout stay its own."""

    def forward(self, input: Tensor) -> Tensor:
        """``[patches, channels, frames, height, width]`` -> ``[patches, width of the tower, 1, 1, 1]``."""
        if tuple(input.shape[2:]) != self.kernel_size:
            return super().forward(input)
        found = nn.functional.linear(input.flatten(1), self.weight.flatten(1), self.bias)
        return found[:, :, None, None, None]


def multiply_patches(backbone: nn.Module) -> None:
    """Have a backbone's patch convolutions work as products. LoRA, checkpoints and quantisation see a ``Conv3d``."""
    for module in backbone.modules():
        if type(module) is nn.Conv3d and module.padding == (0, 0, 0) and module.dilation == (1, 1, 1):
            module.__class__ = PatchProjection  # in place: ties and names of the module stay
            if "_old_forward" in vars(
                module
            ):  # what accelerate's hook calls, where a device_map put one there
                module._old_forward = PatchProjection.forward.__get__(module)


# ---- saving ------------------------------------------------------------------------------------------------
# What a checkpoint folder holds beside the weights: our code, so that ``trust_remote_code`` needs no umekit,
# and the sentence-transformers files.


MODEL_FILE = "modeling_ume.py"  # in a checkpoint of any kind
WRAPPER_FILE = "sentence_transformer_ume.py"  # where stock modules cannot express the checkpoint
_WRAPPER = "sentence_transformer_ume.UmeTransformer"


def auto_map(model_class: type) -> dict[str, str]:
    """``auto_map`` of ``config.json``: where transformers finds a class in a checkpoint."""
    return {"AutoModel": f"{Path(MODEL_FILE).stem}.{model_class.__name__}"}


def write_code(folder: Path, kind: str, source: str | None = None, revision: str | None = None) -> None:
    """Write the model's code into a checkpoint whose ``modules.json`` is written; the processor writes its own.

    The installed package joins its sources; a class loaded as remote code copies the files that it came in.

    Args:
        folder: the checkpoint.
        kind: of the checkpoint.
        source: the checkpoint that the model came from; beside a remote class lies only what it imports, which is
            not the module for sentence-transformers.
        revision: of a ``source`` on the Hub.

    Raises:
        FileNotFoundError: that module is needed and not in ``source``.
    """
    wrapped = names_wrapper(folder)
    if __name__.startswith("umekit."):
        # By name, as the finders of imports in remote code look at text.
        files = importlib.import_module("umekit.bundling").model_files(kind)
        for name, text in files.items():
            if name != WRAPPER_FILE or wrapped:
                (folder / name).write_text(text, encoding="utf-8")
        return
    _copy(Path(__file__), folder / MODEL_FILE)
    if wrapped:
        found = _beside(WRAPPER_FILE, source, revision)
        if found is None:
            beside = Path(__file__).parent
            raise FileNotFoundError(
                f"cannot save a complete checkpoint: {WRAPPER_FILE} is neither in {beside} nor in {source}"
            )
        _copy(found, folder / WRAPPER_FILE)


def stock_modules_read(settings: UmeSettings, source: str | None, revision: str | None = None) -> bool:
    """Whether stock modules that read the config of a remote class's ``source`` find these settings there.

    True only where the source has no module of ours: it is then a checkpoint that stock modules express.
    """
    if __name__.startswith("umekit.") or _beside(WRAPPER_FILE, source, revision) is not None:
        return False
    config = _beside("config.json", source, revision)
    if config is None:
        return False
    stored = SimpleNamespace(**json.loads(config.read_text(encoding="utf-8")))
    return UmeSettings.from_config(stored) == settings


def _beside(name: str, source: str | None, revision: str | None) -> Path | None:
    """A file of the checkpoint that a remote class came in: beside the class, or in its source."""
    found = Path(__file__).with_name(name)
    if source and not found.is_file():
        stored = cached_file(source, name, revision=revision, _raise_exceptions_for_missing_entries=False)
        found = Path(stored) if stored else found
    return found if found.is_file() else None


def names_wrapper(folder: Path) -> bool:
    """Whether ``modules.json`` of a checkpoint names our module for sentence-transformers."""
    return f'"{Path(WRAPPER_FILE).stem}.' in (folder / "modules.json").read_text(encoding="utf-8")


def _copy(source: Path, target: Path) -> None:
    if not (target.exists() and source.samefile(target)):
        shutil.copyfile(source, target)


def write_sentence_transformers_files(
    folder: Path, settings: UmeSettings, model_type: str, dim: int, adapter: bool = False
) -> None:
    """Write ``modules.json`` and friends: stock modules where the settings allow it, ours otherwise.

    Ours also for an adapter's folder (``adapter``), as stock modules read the base's config in place of the folder's.
    The prompts (``config_sentence_transformers.json``) are the processor's knowledge and written by it.
    """
    native = not adapter and expressible(settings, "sentence-transformers", model_type)[0]
    if settings.kind == "reranker":
        _write_cross_encoder_files(folder, settings, native)
        return
    modules = [_module(0, "", "sentence_transformers.base.modules.transformer.Transformer")]
    if native:
        modules.append(
            _module(1, "1_Pooling", "sentence_transformers.sentence_transformer.modules.pooling.Pooling")
        )
        (folder / "1_Pooling").mkdir(exist_ok=True)
        pooling = {"embedding_dimension": dim, "pooling_mode": "lasttoken", "include_prompt": True}
        _write(folder / "1_Pooling" / "config.json", pooling)
        if settings.normalize:
            modules.append(
                _module(2, "2_Normalize", "sentence_transformers.base.modules.normalize.Normalize")
            )
            (folder / "2_Normalize").mkdir(exist_ok=True)
            _write(folder / "2_Normalize" / "config.json", {})
        _write(folder / "sentence_bert_config.json", native_transformer_config())
    else:
        modules = [_module(0, "", _WRAPPER)]
        modules[0]["kwargs"] = ["mode", "max_new_tokens", "instruction"]
        if settings.kind == "adaptive":
            modules[0]["kwargs"] += ["kappa", "budget"]
        _remove_module(folder / "1_Pooling", "pooling_mode")
        _remove_module(folder / "2_Normalize")
        # Our module does not read this, but it is where mteb looks for what a model takes beside text.
        modalities = {"modality_config": native_transformer_config()["modality_config"]}
        _write(folder / "sentence_bert_config.json", modalities)
    _write(folder / "modules.json", modules)


def _write_cross_encoder_files(folder: Path, settings: UmeSettings, native: bool) -> None:
    """Stock modules of a ``CrossEncoder``; where it would give other scores, one that refuses to load.

    Without any modules sentence-transformers would take the folder for a classifier, and for some families (Qwen3.5)
    put a random head on it.
    """
    score = folder / "1_LogitScore"
    if not native:
        _remove_module(score, "true_token_id")
        _remove_json(folder / "sentence_bert_config.json", "modality_config")
        _write(folder / "modules.json", [_module(0, "", _WRAPPER)])
        return
    modules = [
        _module(0, "", "sentence_transformers.base.modules.transformer.Transformer"),
        _module(1, score.name, "sentence_transformers.cross_encoder.modules.logit_score.LogitScore"),
    ]
    score.mkdir(exist_ok=True)
    answers = {"true_token_id": settings.tokens["yes"], "false_token_id": settings.tokens["no"]}
    _write(score / "config.json", {**answers, "module_input_name": "causal_logits"})
    _write(folder / "sentence_bert_config.json", native_reranker_config())
    _write(folder / "modules.json", modules)


def native_reranker_config() -> dict[str, Any]:
    """``sentence_bert_config.json`` of a stock multimodal ``Transformer`` that gives logits."""
    return {
        **native_transformer_config("logits"),
        "transformer_task": "any-to-any",
        "module_output_name": "causal_logits",
    }


def native_transformer_config(output: str = "last_hidden_state") -> dict[str, Any]:
    """``sentence_bert_config.json`` of a stock multimodal ``Transformer``."""
    modality = {"method": "forward", "method_output_name": output}
    return {
        "transformer_task": "feature-extraction",
        "modality_config": {
            "text": modality,
            "image": modality,
            "video": modality,
            "message": {**modality, "format": "structured"},
        },
        "module_output_name": "token_embeddings",
        "unpad_inputs": False,
        "processing_kwargs": {"chat_template": {"add_generation_prompt": True}},
    }


def _module(index: int, path: str, kind: str) -> dict[str, Any]:
    return {"idx": index, "name": str(index), "path": path, "type": kind}


def _remove_module(folder: Path, *keys: str) -> None:
    """Take away the folder of a stock module that a save no longer has; what else lies in it stays."""
    if folder.is_symlink():
        return
    _remove_json(folder / "config.json", *keys)
    try:
        folder.rmdir()
    except OSError:  # not there, or not empty
        return


def _remove_json(path: Path, *keys: str) -> None:
    """Take away a file that is an object of JSON with these keys, or without any where none are named."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return
    if (
        isinstance(content, dict)
        and not path.is_symlink()
        and (set(keys) <= set(content) if keys else not content)
    ):
        path.unlink()


def _write(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


# ---- composed ----------------------------------------------------------------------------------------------
# Composed in memory, native on disk: the part that every kind of model shares.
#
# ``self.backbone`` is whatever ``AutoModelForImageTextToText`` gives. The folder that is saved keeps the backbone's
# own keys, ``model_type`` and ``architectures``, so plain transformers, PEFT, vLLM and sentence-transformers open it;
# ``config.json`` only gains ``ume`` and ``auto_map``. A subclass of a backbone class would lose transformers'
# checkpoint key conversion and load a random language model with no more than a warning: hence composition.


PREFIX = "backbone."


class UmePreTrainedModel(BackboneAdapters, PreTrainedModel):  # type: ignore[misc]
    """A backbone plus :class:`UmeSettings`; loads and saves in the backbone's native layout."""

    base_model_prefix = "backbone"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _no_split_modules: ClassVar[list[str]] = []  # type: ignore[misc]
    kind: ClassVar[str] = ""
    modes: ClassVar[tuple[str, ...]] = ()  # of ``encode``

    def __init__(
        self, config: Any, backbone: nn.Module | None = None, settings: UmeSettings | None = None
    ) -> None:
        super().__init__(config)
        self.settings = settings if settings is not None else UmeSettings.from_config(config)
        if self.settings.kind != self.kind:
            raise UmeSettingsError(
                f"this checkpoint has the role {self.settings.kind!r}, {type(self).__name__} is for {self.kind!r}: "
                "load it with AutoModel or umekit.load, or export it for another role"
            )
        self.settings.check_backbone(config.model_type)
        self.backbone: Any = (
            backbone if backbone is not None else AutoModelForImageTextToText.from_config(config)
        )
        multiply_patches(self.backbone)
        self.filled_rows: FilledRows = {}
        flag_attention(config, self.settings)

    # ---- loading -------------------------------------------------------------------------------------------

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls,
        pretrained_model_name_or_path: str | os.PathLike[str],
        *model_args: Any,
        config: Any = None,
        settings: UmeSettings | None = None,
        output_loading_info: bool = False,
        **kwargs: Any,
    ) -> Any:
        """Load the backbone natively and wrap it.

        Args:
            pretrained_model_name_or_path: folder or Hub repository in the backbone's native layout; or of a LoRA
                adapter, which then goes onto the base that it names.
            config: a native config; read from the repository when None.
            settings: replaces the checkpoint's ``ume`` block (a published checkpoint has none).
            output_loading_info: also return transformers' loading info.
            kwargs: go to ``AutoModelForImageTextToText.from_pretrained`` (``revision``, ``subfolder``, ``dtype``,
                ``device_map``, ``quantization_config``, ``attn_implementation`` ...). With bitsandbytes give
                ``llm_int8_skip_modules=list(UNQUANTISED_MODULES)``, else the vision tower is quantised, too.

        Raises:
            LoadAuditError: a weight is missing or has another shape; nothing is ever left random.
            CheckpointFilesError: the weights are no safetensors of the folder, or the config is not theirs.
            UmeSettingsError: the ``ume`` block cannot be used by this class.
            AdapterError: a tensor of the adapter found no place, or it changes nothing.
            FileNotFoundError: the adapter's base is not there.
        """
        need_transformers()
        source = os.fspath(pretrained_model_name_or_path)
        kwargs.pop("_from_auto", None)
        kwargs.pop("trust_remote_code", None)
        adapter = adapter_of(source, kwargs)
        if adapter is not None:
            source, kwargs = adapter.base, adapter.base_arguments(config, kwargs)
        elif config is not None:
            kwargs["config"] = config
        backbone, info = load_stock(source, *model_args, **kwargs)
        audit_loading(info, source)
        model = cls(backbone.config, backbone, settings)
        if adapter is not None:
            model.fill_rows(lacking_rows(kwargs.get("config"), source, kwargs))
            add_adapter(backbone, adapter.folder, adapter.hub)
        model.eval()
        return (model, info) if output_loading_info else model

    def with_settings(self, settings: UmeSettings, model_class: Any = None) -> Any:
        """The same backbone under other settings, and as another class where those are of another kind."""
        changed = (model_class or type(self))(self.config, self.backbone, settings)
        changed.filled_rows = dict(self.filled_rows)
        return changed

    @torch.no_grad()
    def fill_rows(self, rows: FilledRows) -> None:
        """Set rows of the embedding matrix: copies of other rows first, then means of all rows before them, in order.

        For tokens that the files of the base do not have. ``filled_rows`` remembers them, and the folder of an
        adapter that is trained on them records them, as its base on disk stays as it is.

        Args:
            rows: token to row, for a mean; the matrix grows where it is too short. Or to row and source, for a copy,
                in an output matrix of its own, too.

        Raises:
            UmeSettingsError: the matrix has no such spare row for a copy.
        """
        if not rows:
            return
        copies = {token: row for token, row in rows.items() if not isinstance(row, int)}
        means = sorted(row for row in rows.values() if isinstance(row, int))
        length = self.backbone.get_input_embeddings().weight.shape[0]
        for token, (number, source) in copies.items():
            if max(number, source) >= length:
                raise UmeSettingsError(
                    f"{token} would be row {number} of a matrix of {length}, which must not grow"
                )
            for module in (self.backbone.get_input_embeddings(), self.backbone.get_output_embeddings()):
                if module is not None:
                    module.weight[number] = module.weight[source]
        if means and means[-1] >= length:
            self.backbone.resize_token_embeddings(means[-1] + 1, mean_resizing=False)
        matrix = self.backbone.get_input_embeddings().weight
        for number in means:
            parts = matrix[:number].split(8192)  # no float32 copy of the matrix
            total = sum(part.float().sum(dim=0) for part in parts)
            matrix[number] = (total / number).to(matrix.dtype)
        self.filled_rows = {**self.filled_rows, **rows}

    def load_native_weights(self, folder: str | os.PathLike[str]) -> None:
        """Replace this model's weights, in place, by those of a folder in native layout.

        Raises:
            LoadAuditError: the folder leaves a weight missing or mismatched; this model is then unchanged.
        """
        fresh = load_backbone(os.fspath(folder), dtype=self.dtype)
        self.backbone.load_state_dict(fresh.state_dict(), strict=True)

    # ---- saving --------------------------------------------------------------------------------------------

    def save_pretrained(  # type: ignore[override]
        self,
        save_directory: str | os.PathLike[str],
        state_dict: dict[str, Tensor] | None = None,
        **kwargs: Any,
    ) -> None:
        """Write config, weights, code and sentence-transformers files: complete but for the processor's files.

        Args:
            save_directory: folder; made if missing.
            state_dict: weights with or without our ``backbone.`` prefix; the model's own when None.
            kwargs: go to the backbone's ``save_pretrained`` (``max_shard_size`` ...).
        """
        push_to_hub = kwargs.pop("push_to_hub", False)
        if push_to_hub:
            raise ValueError(
                "save first, then call push_to_hub on the model, so that the processor can go along"
            )
        folder = Path(save_directory)
        folder.mkdir(parents=True, exist_ok=True)
        if state_dict is not None:
            state_dict = {key.removeprefix(PREFIX): value for key, value in state_dict.items()}
        source = getattr(self.config, "_name_or_path", None)
        config = self.backbone.config
        config.ume = self.settings.to_dict()
        if self._hf_peft_config_loaded and self.filled_rows:  # saved without the matrix that holds them
            config.ume[FILLED_ROWS] = dict(self.filled_rows)
        if self._hf_peft_config_loaded and (base := getattr(self.backbone, BASE_WEIGHTS, None)) is not None:
            config.ume[BASE_WEIGHTS] = base
        config.auto_map = auto_map(type(self))
        flag_attention(config, self.settings)
        self.backbone.save_pretrained(folder, state_dict=state_dict, **kwargs)
        if self._hf_peft_config_loaded:
            name_base_from_anywhere(folder)
            config.save_pretrained(folder)  # which an adapter alone lacks, or has of what was there before
        revision = getattr(self.config, "_commit_hash", None)
        adapter = self._hf_peft_config_loaded and bool(
            self.filled_rows or not stock_modules_read(self.settings, source, revision)
        )
        write_sentence_transformers_files(folder, self.settings, config.model_type, self.dim, adapter=adapter)
        write_code(folder, self.kind, source, revision)

    # ---- what trainers and loaders ask of a native model --------------------------------------------------------

    @property
    def dim(self) -> int:
        """Length of a vector."""
        return self.settings.dim or self.config.get_text_config().hidden_size

    def get_input_embeddings(self) -> nn.Module:
        return self.backbone.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.backbone.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Module | None:
        return self.backbone.get_output_embeddings()

    @property
    def is_quantized(self) -> bool:
        return bool(getattr(self.backbone, "is_quantized", False))

    @property
    def is_loaded_in_4bit(self) -> bool:
        return bool(getattr(self.backbone, "is_loaded_in_4bit", False))

    @property
    def is_loaded_in_8bit(self) -> bool:
        return bool(getattr(self.backbone, "is_loaded_in_8bit", False))

    @property
    def quantization_method(self) -> Any:
        return getattr(self.backbone, "quantization_method", None)

    @property
    def hf_quantizer(self) -> Any:
        return getattr(self.backbone, "hf_quantizer", None)

    @property
    def hf_device_map(self) -> Any:
        # AttributeError and not None where there is none: accelerate asks with hasattr.
        return self.backbone.hf_device_map

    @property
    def _hf_peft_config_loaded(self) -> bool:  # type: ignore[override]
        backbone = self._modules.get("backbone")
        return bool(getattr(backbone, "_hf_peft_config_loaded", False))

    @_hf_peft_config_loaded.setter
    def _hf_peft_config_loaded(self, value: bool) -> None:
        if value:
            raise ValueError("put adapters on model.backbone, so that they also load into the plain backbone")

    @property
    def device(self) -> torch.device:
        return self.backbone.device

    @property
    def dtype(self) -> torch.dtype:
        return self.backbone.dtype


# ---- evaluating --------------------------------------------------------------------------------------------
# Encoding never drops out, whatever mode the model is in, and leaves it as it was.


# How many callers hold each module that was in training mode. Two encoders may share a backbone, and threads a model:
# the last one to leave puts a module back.
_HELD: WeakKeyDictionary[nn.Module, int] = WeakKeyDictionary()
_LOCK = threading.Lock()


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode for every part of a model that is in training mode; each is put back afterwards.

    The flags are set and no ``train()`` is called, which a part may have its own idea of. Parts in training mode are
    held by all threads that encode; training in one thread while another encodes is not possible.
    """
    with _LOCK:
        held = [part for part in model.modules() if part.training or part in _HELD]
        for part in held:
            _HELD[part] = _HELD.get(part, 0) + 1
            part.training = False
    try:
        yield
    finally:
        with _LOCK:
            for part in held:
                _HELD[part] -= 1
                if _HELD[part] == 0:
                    del _HELD[part]
                    part.training = True


def evaluated(method: Callable[..., Any]) -> Callable[..., Any]:
    """A method of a model that runs in evaluation mode."""

    @functools.wraps(method)
    def call(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        with evaluating(self):
            return method(self, *args, **kwargs)

    return call


# ---- pooling -----------------------------------------------------------------------------------------------
# The only pooling there is: the mean of the states that a slot names.
#
# Last token, a special token and a masked mean are all the same operation; which tokens carry the embedding is the
# processor's knowledge and arrives as ``pooling_slots``.


NO_SLOT = 0
DIRECT_SLOT = 1
GENERATED_SLOT = 2


class DegenerateVectorError(ValueError):
    """A vector is zero, not finite or constant: the model, the checkpoint or the dtype is broken."""


def pool(states: Tensor, slots: Tensor, slot: int = DIRECT_SLOT, *, partial: bool = False) -> Tensor:
    """Average the states whose slot is ``slot``, in float32.

    Args:
        states: ``[B, L, d]``, any float dtype, after the final norm.
        slots: int8 ``[B, L]``.
        slot: 1 for the direct embedding, 2 for the generated one.
        partial: a row without the slot is zero.

    Returns:
        float32 ``[B, d]``, not normalised.

    Raises:
        ValueError: shapes differ, or a row has no such slot (which never means a fallback) and ``partial`` is False.
    """
    if slots.shape != states.shape[:2]:
        raise ValueError(f"pooling_slots {tuple(slots.shape)} do not fit states {tuple(states.shape[:2])}")
    weights = (slots == slot).to(torch.float32)
    count = weights.sum(dim=1, keepdim=True)
    if not partial and not bool((count > 0).all()):
        rows = torch.nonzero(count.squeeze(1) == 0).flatten().tolist()
        raise ValueError(f"rows {rows} have no token in pooling slot {slot}")
    # Unpooled states may be padding's: a product would carry their NaN into the mean, a selection does not.
    chosen = torch.where(weights.unsqueeze(-1) > 0, states.float(), 0.0)
    return chosen.sum(dim=1) / count.clamp(min=1)


def finish(pooled: Tensor, *, normalize: bool = True, dim: int | None = None) -> Tensor:
    """Truncate to ``dim`` numbers, then scale to length one, in float32.

    Args:
        pooled: float32 ``[B, d]``.
        normalize: scale rows to length one.
        dim: keep the first ``dim`` numbers; None keeps all.

    Raises:
        ValueError: ``dim`` is no whole number from 1 to d.
    """
    if dim is not None:
        pooled = pooled[..., : check_dim(dim, pooled.shape[-1])]
    return torch.nn.functional.normalize(pooled, dim=-1) if normalize else pooled


def check_dim(dim: Any, most: int) -> int:
    """``dim`` as an int.

    Raises:
        ValueError: it is no whole number (a bool is none), or not in 1..``most``.
    """
    number = _as_int(dim)
    if number is None or not 1 <= number <= most:
        raise ValueError(f"dim is {dim!r}; use a whole number from 1 to {most}, or None for all")
    return number


def whole_number(name: str, value: Any, least: int = 1) -> int:
    """An argument that must be a whole number from ``least`` on, as an int.

    Raises:
        ValueError: it is another; a bool and a float are none.
    """
    number = _as_int(value)
    if number is None or number < least:
        raise ValueError(f"{name} is {value!r}; give a whole number from {least} on")
    return number


def is_number(value: Any) -> bool:
    """Whether it is a finite number; a bool is none."""
    return isinstance(value, numbers.Real) and not isinstance(value, bool) and math.isfinite(value)


def _as_int(value: Any) -> int | None:
    try:
        return None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        return None


def degenerate_rows(vectors: Tensor) -> Tensor:
    """Which of ``[B, d]`` or ``[B, k, d]`` have a vector that is zero, not finite or constant: bool ``[B]``."""
    finite = torch.isfinite(vectors).all(dim=-1)
    spread = vectors.amax(dim=-1) - vectors.amin(dim=-1)
    flat = (spread <= 1e-12) if vectors.shape[-1] > 1 else (vectors.abs().squeeze(-1) <= 1e-12)
    return (~finite | flat).flatten(1).any(dim=1) if vectors.dim() > 2 else ~finite | flat


def check_vectors(vectors: Tensor) -> None:
    """Raise ``DegenerateVectorError`` if a row of ``[B, d]`` is zero, not finite or constant."""
    bad = degenerate_rows(vectors)
    if bool(bad.any()):
        rows = torch.nonzero(bad).flatten().tolist()
        raise DegenerateVectorError(
            f"rows {rows[:10]} of the vectors are zero, constant or not finite; "
            "the weights, the dtype or the attention kernel of this model are broken"
        )


# ---- vision_features ---------------------------------------------------------------------------------------
# Features of pictures and videos, each computed once however many rows show it.
#
# Media are told apart by their content, not by where they came from: the same picture read twice is the same medium.


_KINDS = ("image", "video")
_SAMPLES = 64  # bytes of a medium that its first hash looks at


@dataclass
class MediumFeatures:
    """What the vision tower makes of one medium: ``[tokens, H]``, and one such tensor per DeepStack level."""

    tokens: Tensor
    levels: list[Tensor] = field(default_factory=list)

    @property
    def nbytes(self) -> int:
        return sum(one.numel() * one.element_size() for one in (self.tokens, *self.levels))


class MediumKey:
    """A prepared medium by its content: equal where patches, grid and rate are.

    The hash looks at a few bytes. All are hashed only where that one agrees: most media are shown once, and are not
    worth it.
    """

    def __init__(self, medium: Any) -> None:
        self._medium = medium
        values = medium.values.reshape(-1)
        some = values[:: max(1, len(values) // _SAMPLES)].tobytes()
        self._facts = (medium.values.shape, medium.grid, medium.seconds, medium.interval)
        self._hash = hash((*self._facts, some))

    @cached_property
    def _digest(self) -> bytes:
        return hashlib.blake2b(self._medium.values.data, digest_size=16).digest()

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, MediumKey):
            return False
        return self is other or (self._facts == other._facts and self._digest == other._digest)


class VisionFeatureCache:
    """Runs the vision tower on what it has not seen yet.

    Args:
        base: the backbone without its output matrix.
        pixels: media to the tower's input, float32 ``[patches, C*T*P*P]``.
        deepstack: whether DeepStack features are kept.
        keep_bytes: features that nobody waits for any more are kept up to this size, the latest longest.
    """

    def __init__(
        self, base: Any, pixels: Callable[[Sequence[Any]], Tensor], *, deepstack: bool, keep_bytes: int = 0
    ) -> None:
        self.base = base
        self.pixels = pixels
        self.deepstack = deepstack
        self.keep_bytes = keep_bytes
        self.runs = 0  # media that went through the tower
        self._kept: OrderedDict[MediumKey, MediumFeatures] = OrderedDict()
        self._waiting: Counter[MediumKey] = Counter()
        self._keys: dict[int, tuple[Any, MediumKey]] = {}

    def __contains__(self, key: MediumKey) -> bool:
        return key in self._kept

    def key(self, medium: Any) -> MediumKey:
        """What equal media have in common, and no others."""
        known = self._keys.get(id(medium))
        if known is None or known[0] is not medium:
            known = self._keys[id(medium)] = (medium, MediumKey(medium))
        return known[1]

    def reserve(self, media: Sequence[Any]) -> None:
        """Each of these will be asked for once (more): they are kept until then, and no others are."""
        self._waiting.update(self.key(medium) for medium in media)

    def outputs(self, images: Sequence[Any], videos: Sequence[Any]) -> dict[str, Any]:
        """``mm_encoder_outputs`` of a batch's media, in the order of their placeholders."""
        found = {}
        for kind, media in zip(_KINDS, (images, videos), strict=True):
            if media:
                found[kind] = self._joined(self._take(kind, media))
        return found

    def evict(self) -> None:
        """Drop what is kept beyond ``keep_bytes``, and every reservation."""
        self._waiting.clear()
        self._keys.clear()
        self._trim()

    def clear(self) -> bool:
        """Drop everything, also what is waited for; whether there was anything."""
        held = bool(self._kept)
        self._kept.clear()
        self._waiting.clear()
        return held

    def _take(self, kind: str, media: Sequence[Any]) -> list[MediumFeatures]:
        keys = [self.key(medium) for medium in media]
        missing = {key: medium for key, medium in zip(keys, media, strict=True) if key not in self._kept}
        made = dict(zip(missing, self._run(kind, list(missing.values())), strict=True)) if missing else {}
        features = [made[key] if key in made else self._kept[key] for key in keys]
        self._kept.update({key: one for key, one in made.items() if key in self._waiting})
        for key in keys:
            if key in self._waiting:
                self._kept.move_to_end(key)
                self._waiting[key] -= 1
        self._trim()
        return features

    def _run(self, kind: str, media: list[Any]) -> list[MediumFeatures]:
        device = self.base.device
        pixels = self.pixels(media).to(device)
        grids = torch.tensor([medium.grid for medium in media], dtype=torch.long, device=device)
        run = self.base.get_image_features if kind == "image" else self.base.get_video_features
        output = run(pixels, grids, return_dict=True)
        levels = (getattr(output, "deepstack_features", None) or []) if self.deepstack else []
        self.runs += len(media)
        return [
            MediumFeatures(tokens.clone(), [level[number].clone() for level in levels])
            for number, tokens in enumerate(output.pooler_output)
        ]

    def _joined(self, features: Sequence[MediumFeatures]) -> Any:
        levels = range(len(features[0].levels))
        return SimpleNamespace(
            pooler_output=[one.tokens for one in features],
            deepstack_features=[[one.levels[level] for one in features] for level in levels],
        )

    def _trim(self) -> None:
        size = sum(one.nbytes for one in self._kept.values())
        for key in list(self._kept):
            if size <= self.keep_bytes:
                return
            if self._waiting[key] <= 0:
                size -= self._kept.pop(key).nbytes


# ---- prefix ------------------------------------------------------------------------------------------------
# Read many rows that begin alike: their common beginning once, then the rest of each against its cache.
#
# The cache of the beginning is shared and never written: a layer joins a batch's new keys to it for the one forward
# that needs them. Positions are those of the full rows, so that nothing changes but the work.


MediaLists = tuple[list[Any], list[Any]]  # images, videos

SHORTEST_PREFIX = 16  # fewer tokens than this are not worth a forward of their own
PREFIX_SHARE = 8  # a token of the prefix costs a row this much less than one of its own: only keys are copied


class SharedLayer(DynamicLayer):
    """Keys and values ``[1, heads, n, d]`` of one layer that every row of a batch sees."""

    keys: Tensor
    values: Tensor

    def __init__(self, read: Any) -> None:
        super().__init__()
        self.lazy_initialization(read.keys, read.values)
        self.keys, self.values = read.keys, read.values

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        rows = len(key_states)
        keys = torch.cat([self.keys.expand(rows, -1, -1, -1), key_states], dim=-2)
        return keys, torch.cat([self.values.expand(rows, -1, -1, -1), value_states], dim=-2)


def shared_cache(cache: Cache, rows: int) -> Cache:
    """A cache for ``rows`` rows that all begin with the one row in ``cache``, which stays as it is."""
    layers: list[Any] = []
    read: list[Any] = cache.layers
    for layer in read:
        if type(layer) is DynamicLayer:
            layers.append(SharedLayer(layer))
        else:  # recurrent states and windows are written in place: every batch has its own
            own = copy.deepcopy(layer)
            own.reorder_cache(torch.zeros(rows, dtype=torch.long))
            layers.append(own)
    return Cache(layers=layers)


def can_share(model_type: str) -> bool:
    """Whether this transformers continues the family's cache by several tokens at once."""
    return model_type not in LINEAR_ATTENTION_FAMILIES or hasattr(Cache, "get_recurrent_state")


@dataclass(frozen=True)
class Span:
    """Where a medium of a row stands: tokens ``start`` to ``end``, the latter not included."""

    kind: int  # 1 image, 2 video, as in token_types
    number: int  # among the row's media of this kind
    start: int
    end: int


def spans_of(row: Any, patches_per_token: int) -> list[Span]:
    """Spans of a prepared row's media, in order; a video's frames and the text between them are one span."""
    spans = []
    for kind, media in ((1, row.images), (2, row.videos)):
        places = np.flatnonzero(row.token_types == kind)
        done = 0
        for number, medium in enumerate(media):
            count = len(medium.values) // patches_per_token
            spans.append(Span(kind, number, int(places[done]), int(places[done + count - 1]) + 1))
            done += count
    return sorted(spans, key=lambda span: span.start)


def shared_length(rows: Sequence[Any], patches_per_token: int, features: VisionFeatureCache) -> int:
    """How many tokens at the beginning of all rows are the same, media included; at least one token is left over."""
    first = rows[0]
    length = min(len(row.input_ids) for row in rows) - 1
    for row in rows[1:]:
        differing = np.flatnonzero(row.input_ids[:length] != first.input_ids[:length])
        length = int(differing[0]) if len(differing) else length
    for span in spans_of(first, patches_per_token):
        if span.start >= length:
            break
        key = features.key(_media(first, span.kind)[span.number])
        others = [_media(row, span.kind)[span.number : span.number + 1] for row in rows[1:]]
        if span.end > length or any([features.key(one) for one in other] != [key] for other in others):
            return span.start
    return length


@dataclass(frozen=True)
class PrefixPlan:
    """How rows are read.

    Attributes:
        rows: the different ones.
        places: of each row that was given, where it stands among these.
        shared: tokens at the beginning of all that are read once; 0 for none.
        batches: indices of the rows of each forward.
    """

    rows: list[Any]
    places: list[int]
    shared: int
    batches: list[list[int]]


class PrefixReader:
    """Reads prepared rows; see the module's docstring. With or without a gradient, as torch is set.

    Args:
        backbone: a native ``...ForConditionalGeneration``.
        settings: positions and DeepStack of the checkpoint; attention must be causal.
        processor: collates rows and makes pixels of patches.
        features: features of the media.
    """

    def __init__(
        self, backbone: Any, settings: UmeSettings, processor: Any, features: VisionFeatureCache
    ) -> None:
        self.base = base_of(backbone)
        self.settings = settings
        self.processor = processor
        self.features = features
        self.patches_per_token = processor.layout.merge**2
        self.model_type = backbone.config.model_type

    @property
    def can_share(self) -> bool:
        """Whether a beginning can be read once, by this family and in this mode.

        Checkpointed activations are computed again without a cache, and recurrent states have no copy with a gradient.
        """
        if not torch.is_grad_enabled():
            return can_share(self.model_type)
        if self.model_type in LINEAR_ATTENTION_FAMILIES:
            return False
        return not any(
            part.training and getattr(part, "gradient_checkpointing", False) for part in self.base.modules()
        )

    def plan(self, rows: Sequence[Any], batch_tokens: int, share: bool = True) -> PrefixPlan:
        """How rows are read within a budget of padded tokens; equal ones once."""
        known: dict[Any, int] = {}
        places = [known.setdefault(self._key(row), len(known)) for row in rows]
        unique = list(dict(zip(places, rows, strict=True)).values())
        length = 0
        if share and self.can_share and len(unique) > 1:
            length = shared_length(unique, self.patches_per_token, self.features)
            length = length if length >= SHORTEST_PREFIX else 0
        own = [len(row.input_ids) - length + length // PREFIX_SHARE for row in unique]
        return PrefixPlan(unique, places, length, plan_batches(own, batch_tokens))

    def forward(self, plan: PrefixPlan) -> Tensor:
        """The pooled state of every row that was planned, float32 ``[n, H]``."""
        found: list[Any] = [None] * len(plan.rows)
        try:
            self._reserve(plan.rows, plan.shared)
            cache = self._prefill(plan.rows[0], plan.shared) if plan.shared else None
            for batch in plan.batches:
                states = self._forward([plan.rows[number] for number in batch], plan.shared, cache)
                for number, state in zip(batch, states, strict=True):
                    found[number] = state
        finally:  # whoever tries again with smaller batches reserves them again
            self.features.evict()
        return torch.stack([found[number] for number in plan.places])

    def _prefill(self, row: Any, length: int) -> Cache:
        inputs = self._inputs([row])
        images, videos = self._split(row, length)[0]
        output = self.base(
            input_ids=inputs["input_ids"][:, :length],
            attention_mask=inputs["attention_mask"][:, :length],
            position_ids=positions_of(self.base, inputs, self.settings.positions)[..., :length],
            mm_encoder_outputs=self.features.outputs(images, videos),
            use_cache=True,
            return_dict=True,
        )
        return cache_of(output)

    def _forward(self, rows: Sequence[Any], length: int, cache: Cache | None) -> Tensor:
        inputs = self._inputs(rows)
        rest = [self._split(row, length)[1] for row in rows]
        images = [medium for mine, _ in rest for medium in mine]
        videos = [medium for _, mine in rest for medium in mine]
        states = self.base(
            input_ids=inputs["input_ids"][:, length:],
            attention_mask=inputs["attention_mask"],
            position_ids=positions_of(self.base, inputs, self.settings.positions)[..., length:],
            mm_encoder_outputs=self.features.outputs(images, videos),
            use_cache=cache is not None,
            return_dict=True,
            **({} if cache is None else cache_argument(self.base, shared_cache(cache, len(rows)))),
        ).last_hidden_state
        states = back_home(states, inputs["input_ids"])
        return pool(states, inputs["pooling_slots"][:, length:], DIRECT_SLOT)

    def _inputs(self, rows: Sequence[Any]) -> Any:
        # Padding stands on the right, after the tokens that are read, and no pixels are made: see the cache.
        return self.processor.collate(rows, "right", pixels=False).to(self.base.device)

    def _split(self, row: Any, length: int) -> tuple[MediaLists, MediaLists]:
        """Images and videos of a row before ``length``, and from there on."""
        before: MediaLists = ([], [])
        after: MediaLists = ([], [])
        for span in spans_of(row, self.patches_per_token):
            where = before if span.start < length else after
            where[span.kind - 1].append(_media(row, span.kind)[span.number])
        return before, after

    def _reserve(self, rows: Sequence[Any], length: int) -> None:
        for number, row in enumerate(rows):
            before, after = self._split(row, length)
            media = [*after[0], *after[1], *((*before[0], *before[1]) if number == 0 else ())]
            self.features.reserve(media)

    def _key(self, row: Any) -> Any:
        return row.input_ids.tobytes(), tuple(self.features.key(one) for one in (*row.images, *row.videos))


def _media(row: Any, kind: int) -> Sequence[Any]:
    return row.images if kind == 1 else row.videos


# ---- reranker ----------------------------------------------------------------------------------------------
# The reranker: one forward says how much more likely "yes" is than "no" as the answer to a pair.
#
# The score is the softmax of two logits, taken for "yes", at the first answer position; that is the sigmoid of their
# difference, as other systems write it. Two rows of the output matrix are all that is multiplied, in float32: in
# bfloat16 the logits of a large vocabulary move in steps of 1/16 and pairs tie. Nothing is ever generated.


@dataclass
class UmeScores(ModelOutput):
    """Output of a forward.

    Attributes:
        last_hidden_state: ``[B, L, H]``, after the final norm, in the backbone's dtype.
        logits: float32 ``[B, 2]`` of the answers yes and no.
        scores: float32 ``[B]`` in 0..1.
    """

    last_hidden_state: Tensor | None = None
    logits: Tensor | None = None
    scores: Tensor | None = None


class UmeForReranking(UmePreTrainedModel):
    """Scores pairs of a query and a candidate.

    Example::

        processor = AutoProcessor.from_pretrained(repo, trust_remote_code=True)
        model = AutoModel.from_pretrained(repo, trust_remote_code=True)
        scores = model.rerank("a red bicycle", [{"image": "bicycle.jpg"}, "a kettle"], processor=processor)
    """

    kind: ClassVar[str] = "reranker"

    def __init__(
        self, config: Any, backbone: nn.Module | None = None, settings: UmeSettings | None = None
    ) -> None:
        super().__init__(config, backbone, settings)
        if self.settings.attention != "causal":
            raise UmeSettingsError(f"a reranker needs causal attention, not {self.settings.attention!r}")
        for name in ("yes", "no"):
            if not isinstance(self.settings.tokens.get(name), int):
                raise UmeSettingsError(
                    f"config.ume.tokens has no single token {name!r}: a reranker's checkpoint names its answers; "
                    "load a published one with its preset"
                )

    @property
    def answer_ids(self) -> list[int]:
        """Token ids of yes and no."""
        return [int(self.settings.tokens[name]) for name in ("yes", "no")]  # type: ignore[arg-type]

    def answer_logits(self, states: Tensor) -> Tensor:
        """Logits of yes and no: states ``[..., H]`` to float32 ``[..., 2]``."""
        head = self.backbone.get_output_embeddings()
        if not head.weight.is_floating_point():  # a quantised matrix has no rows to take
            return back_home(head(states.to(self.dtype)), states)[..., self.answer_ids].float()
        rows = back_home(head.weight[self.answer_ids], states)
        # Row by row, so that equal pairs have equal scores wherever they stand in a batch.
        return (states.float().unsqueeze(-2) * rows.float()).sum(dim=-1)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        mm_token_type_ids: Tensor | None = None,
        pixel_values: Tensor | None = None,
        image_grid_thw: Tensor | None = None,
        pixel_values_videos: Tensor | None = None,
        video_grid_thw: Tensor | None = None,
        second_per_grid_ts: Tensor | None = None,
        pooling_slots: Tensor | None = None,
        return_dict: bool | None = None,
    ) -> UmeScores:
        """One forward over whole rows, with gradients; :meth:`rerank` shares work between the pairs of a query.

        Args:
            input_ids, attention_mask, mm_token_type_ids, pooling_slots: ``[B, L]``; the slot is the answer position.
            pixel_values: patches of all images of the batch, with ``image_grid_thw``; likewise for videos.
            return_dict: accepted for compatibility; the output is always a :class:`UmeScores`.

        Raises:
            ValueError: no slots: the states alone are nothing to be taken for an embedding.
        """
        if pooling_slots is None:
            raise ValueError(
                "a reranker has scores and no vectors: rerank(query, candidates, processor=processor), or in "
                "sentence-transformers a CrossEncoder in place of a SentenceTransformer; a forward needs pooling_slots"
            )
        inputs = {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "mm_token_type_ids": mm_token_type_ids,
            "pixel_values": pixel_values,
            "image_grid_thw": image_grid_thw,
            "pixel_values_videos": pixel_values_videos,
            "video_grid_thw": video_grid_thw,
            "second_per_grid_ts": second_per_grid_ts,
        }
        states = states_of(self.backbone, {k: v for k, v in inputs.items() if v is not None}, self.settings)
        logits = self.answer_logits(pool(states, pooling_slots, DIRECT_SLOT))
        return UmeScores(last_hidden_state=states, logits=logits, scores=scores_of(logits))

    def vision_cache(self, processor: Any, keep_bytes: int = 0) -> VisionFeatureCache:
        """Features of media, to be shared by several calls of :meth:`pair_logits`."""
        base = base_of(self.backbone)
        return VisionFeatureCache(
            base,
            lambda media: processor.pixels(media, lambda tensor: tensor.to(base.device)),
            deepstack=self.settings.deepstack,
            keep_bytes=keep_bytes,
        )

    @evaluated
    @torch.inference_mode()
    def pair_logits(
        self,
        rows: Sequence[Any],
        *,
        processor: Any,
        batch_tokens: int | None = None,
        features: VisionFeatureCache | None = None,
        share: bool = True,
    ) -> Tensor:
        """Logits of prepared pairs; what all of them begin with is read once, and so is every medium.

        Args:
            rows: from ``processor.prepare_pairs``, best those of one query.
            processor: the checkpoint's processor.
            batch_tokens: padded tokens of one forward; chosen by device when None.
            features: see :meth:`vision_cache`; one for this call when None.
            share: False reads every pair whole.

        Returns:
            float32 ``[n, 2]`` of yes and no, on the model's device.

        Raises:
            DegenerateVectorError: a logit is not finite.
        """
        if batch_tokens is not None:
            whole_number("batch_tokens", batch_tokens)
        if not rows:
            return torch.empty(0, 2, dtype=torch.float32, device=self.device)
        budget = batch_tokens or default_tokens(self.device)
        features = features if features is not None else self.vision_cache(processor)
        reader = PrefixReader(self.backbone, self.settings, processor, features)
        logits = self.answer_logits(reader.forward(reader.plan(rows, budget, share)))
        if not bool(torch.isfinite(logits).all()):
            raise DegenerateVectorError(
                "a pair's logits are not finite; the weights, the dtype or the attention kernel are broken"
            )
        return logits

    def rerank(
        self,
        query: Any,
        candidates: Sequence[Any],
        *,
        processor: Any,
        instruction: str | None = None,
        batch_tokens: int | None = None,
    ) -> Tensor:
        """Score candidates for a query.

        Args:
            query: an item: ``str``, a PIL image, or a dict of text, image(s), video, document, instruction.
            candidates: items.
            processor: the checkpoint's processor.
            instruction: what to look for; the query's own wins over it, the checkpoint's default is used for None.
            batch_tokens: padded tokens of one forward; chosen by device when None.

        Returns:
            float32 ``[n]`` in 0..1 on the model's device, in the candidates' order.
        """
        rows = processor.prepare_pairs(query, candidates, instruction=instruction)
        return scores_of(self.pair_logits(rows, processor=processor, batch_tokens=batch_tokens))


def scores_of(logits: Tensor) -> Tensor:
    """Softmax over yes and no, taken for yes: ``[..., 2]`` to ``[...]``."""
    return torch.sigmoid(logits[..., 0] - logits[..., 1])
