"""Words, token ids and places in a config that no model has: each is named before transformers meets it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from transformers import AttentionInterface
from transformers.activations import ACT2FN

from .weight_files import CheckpointFilesError

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
