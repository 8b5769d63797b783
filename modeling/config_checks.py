"""Whether a checkpoint's config can be that of its weights: looked at before anything of its size is made.

A config that asks for more layers or numbers than the files hold is refused, and so is a word or a token that no model
has: transformers would fail far from it, ask the Hub for code, or give other vectors without a word.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from transformers.utils import cached_file

from .config_words import check_words
from .weight_files import CheckpointFilesError, count_numbers, hub_arguments, read_json, stored_tensors

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
