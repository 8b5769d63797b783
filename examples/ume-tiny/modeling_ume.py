# Made by umekit 0.1.0 when this checkpoint was saved. Do not edit: change the sources and save again.
# Sources, in this order: pooling budget weight_files config_words config_checks packing settings backbone
#   decoding batching encode_loop evaluating versions weights_hash adapters patches saving composed
#   discriminative reasoning generative strategies adaptive

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
from bisect import bisect_left
from bisect import insort
from collections import deque
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
from dataclasses import replace
from functools import partial
from importlib import metadata
from itertools import groupby
from pathlib import Path
from pathlib import PureWindowsPath
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save_file
from time import perf_counter
from torch import Tensor
from torch import nn
from transformers import AttentionInterface
from transformers import AttentionMaskInterface
from transformers import AutoConfig
from transformers import AutoModelForImageTextToText
from transformers import AutoTokenizer
from transformers import PreTrainedModel
from transformers.activations import ACT2FN
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


# ---- budget ------------------------------------------------------------------------------------------------
# Which items reason: those whose score is over kappa, which is fixed, or chosen as it goes so that a budget is met.
#
# A strategy scores a prompt, how likely reasoning is to pay; here is the other half, the threshold. :class:`Kappa` looks
# at one score and nothing else, so that an item's decision is its own whatever the batch. :class:`Budget` has a memory:
# its decisions depend on the items before, in the order in which they come, and on nothing else (no chance, no clock).


WINDOW = 1024  # scores that a quantile is taken of
PRIOR = tuple((place + 0.5) / 16 for place in range(16))  # before many are seen: as if these had been
SLACK = 0.02  # of all tokens: how far from the budget it may be on the way
LENGTHS = 128  # thoughts that the mean length is taken of
SURPRISE = 16  # times that mean: how long those under way may turn out to be, and still be made up for


class Kappa:
    """A row reasons if its score is over ``kappa``.

    >>> Kappa(0.5).decide([0.5, 0.75])
    [False, True]
    """

    longest: int | None = None  # tokens that reasoning about one item may cost, where an encoding has said so

    def __init__(self, kappa: float) -> None:
        self.kappa = check_kappa(kappa)

    def begin(self, items: int) -> None:
        """So many items are to come, in one call."""

    def decide(self, scores: Sequence[float]) -> list[bool]:
        """Whether rows with these scores reason, of as many as can be said now: the first, and at least one."""
        return [score > self.kappa for score in scores]

    def spent(self, tokens: Sequence[int]) -> None:
        """What the rows that were last decided to reason have written, an entry for each."""

    @contextmanager
    def attempt(self) -> Iterator[None]:
        """What is decided inside is forgotten if an error comes out: memory may not hold a batch."""
        before = copy.deepcopy(self.__dict__)
        try:
            yield
        except BaseException:
            self.__dict__ = before
            raise


class Budget(Kappa):
    """Meets an average of thought tokens per item, by choosing kappa anew for every item.

    After ``t`` items that have written ``S`` tokens the account is ``A = budget * t - S``. The next item may reason if
    its score is over kappa, the ``1 - f`` quantile of the last 1,024 scores, where ``f = (budget + A / h) / m`` is the
    share of items that brings the account back to zero over ``h`` items, at the mean length ``m`` of the last 128
    thoughts. That is the threshold; a corridor stands around it: an item reasons whatever its score once ``A`` is over
    the slack, and none does that would bring it under minus the slack, where the slack is 2 % of ``budget * n`` (``n``
    the larger of the items so far and those announced), or one thought where that is more. So sorted scores, equal
    ones and any order at all end within the slack, and a batch of one as one of thousands, provided that what is left
    to be thought can still spend it: a budget over what all items would write is not met, and then all reason.

    Rows of a batch are decided in order, with ``m`` in place of lengths that are not known yet. So that lengths which
    surprise are made up for (a batch of hard items after many easy ones), there are never more thoughts under way than
    have ended, nor more than what is left to spend could pay for if each were as long as it may be, or 16 times ``m``;
    of the slack, where that is more. The rest of the batch waits. The very first item is thought about whatever its
    score, to learn what a thought costs. One object may be handed to several calls, which then keep one account.

    A re-derivation: MMEmb-R1 has published no code, and says nothing of budgets.

    Args:
        tokens: average per item, over 0.

    Attributes:
        kappa: the latest threshold.
        items, tokens_spent: so far.

    >>> budget, spent = Budget(10), 0
    >>> for _ in range(1000):
    ...     if budget.decide([0.5]) == [True]:  # equal scores say nothing, and each thought has 40 tokens
    ...         budget.spent([40])
    ...         spent += 40
    >>> abs(spent - 10 * 1000) <= 0.02 * 10 * 1000 + 40
    True
    """

    def __init__(self, tokens: float) -> None:
        super().__init__(0.5)
        if not is_number(tokens) or tokens <= 0:
            raise ValueError(
                f"budget is {tokens!r}; give a number of tokens over 0, or mode='discriminative' for none"
            )
        self.tokens = float(tokens)
        self.items = 0
        self.tokens_spent = 0
        self._expected = 0  # items, with those that are announced
        self._thoughts = 0
        self._under_way = 0  # thoughts without a length yet
        self._waiting = 0  # rows that were asked for and not decided: their scores are known already
        self._lengths: deque[int] = deque(maxlen=LENGTHS)
        self._scores = deque(PRIOR, maxlen=WINDOW)
        self._sorted = list(PRIOR)

    def begin(self, items: int) -> None:
        """So many items are to come: what is announced lets the account swing more on the way."""
        self._expected = max(self._expected, self.items + items)

    def decide(self, scores: Sequence[float]) -> list[bool]:
        """As of :class:`Kappa`. Those that are not decided yet must be asked for again, after :meth:`spent`."""
        for score in scores[self._waiting :]:
            self._see(score)
        left = self.tokens * max(self._expected, self.items + len(scores)) - self.tokens_spent
        enough = max(min(left / self.surprise, self._thoughts), self.slack / self.surprise, 1.0)
        chosen: list[bool] = []
        for score in scores:
            if self._under_way >= enough:
                break
            chosen.append(self._reasons(score))
        self._waiting = len(scores) - len(chosen)
        return chosen

    def spent(self, tokens: Sequence[int]) -> None:
        self._lengths.extend(tokens)
        self.tokens_spent += sum(tokens)
        self._thoughts += len(tokens)
        self._under_way = 0

    @property
    def length(self) -> float:
        """Mean tokens of a thought lately; before there was any, as if every item could have one."""
        return max(sum(self._lengths) / len(self._lengths), 1.0) if self._lengths else self.tokens

    @property
    def surprise(self) -> float:
        """Tokens that a thought under way may turn out to have."""
        most = SURPRISE * self.length
        return most if self.longest is None else max(min(most, self.longest), self.length)

    @property
    def slack(self) -> float:
        """How far the account may be from zero, in tokens."""
        return max(SLACK * self.tokens * max(self.items, self._expected), self.length)

    def _see(self, score: float) -> None:
        if len(self._scores) == WINDOW:
            del self._sorted[bisect_left(self._sorted, self._scores[0])]
        self._scores.append(score)
        insort(self._sorted, score)

    def _reasons(self, score: float) -> bool:
        self.items += 1
        length, slack = self.length, self.slack
        account = self.tokens * self.items - self.tokens_spent - self._under_way * length
        horizon = max(SLACK * max(self.items, self._expected), 1.0)
        share = (self.tokens + (account - self.tokens) / horizon) / length
        place = math.ceil((1 - min(max(share, 0.0), 1.0)) * len(self._sorted)) - 1
        self.kappa = self._sorted[place] if place >= 0 else 0.0
        reasons = account > slack or (score > self.kappa and account - length >= -slack)
        self._under_way += reasons
        return reasons


def decider_of(kappa: Any, budget: Any, default: float) -> Kappa:
    """What a caller's ``kappa`` and ``budget`` ask for; a budget may be an account that is kept already.

    Raises:
        ValueError: both are given, or one is no such number.
    """
    if budget is None:
        return Kappa(default if kappa is None else kappa)
    if kappa is not None:
        raise ValueError("kappa and budget both say how much is thought: give one of them")
    # Not isinstance: a checkpoint's own code has a class of its own.
    return budget if hasattr(budget, "tokens_spent") else Budget(budget)


def check_kappa(kappa: Any) -> float:
    """Raise ValueError unless it is a number from 0 to 1."""
    if not is_number(kappa) or not 0 <= kappa <= 1:
        raise ValueError(f"kappa is {kappa!r}; give a number from 0 (reason nearly always) to 1 (never)")
    return float(kappa)


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


# ---- decoding ----------------------------------------------------------------------------------------------
# Rows that have been read once and go on token by token: prefill, one step, choice of the next token.
#
# The loop belongs to :mod:`reasoning`; here is what it stands on. Positions are passed explicitly at every step
# (the backbone's own ``rope_deltas`` are module state and may be another batch's), and of the states only the last
# one of every row is ever kept.


@dataclass(frozen=True)
class Decoding:
    """How thoughts are written.

    Attributes:
        max_new_tokens: most tokens of a thought, ``<gen_emb>`` counted where the model writes it itself.
        temperature: None or 0 takes the likeliest token; otherwise tokens are drawn.
        top_p: draw from the fewest tokens that hold this much probability; 1 from all.
        top_k: draw from this many likeliest tokens; None from all.
    """

    max_new_tokens: int = 8192
    temperature: float | None = None
    top_p: float = 1.0
    top_k: int | None = None

    def __post_init__(self) -> None:
        whole_number("max_new_tokens", self.max_new_tokens)
        if self.temperature is not None and not (is_number(self.temperature) and self.temperature >= 0):
            raise ValueError(
                f"temperature is {self.temperature}; give a number from 0 on, or None for greedy"
            )
        if not (is_number(self.top_p) and 0 < self.top_p <= 1):
            raise ValueError(f"top_p is {self.top_p}; give a number over 0 and up to 1")
        if self.top_k is not None:
            whole_number("top_k", self.top_k)


class GrowingLayer(DynamicLayer):
    """A cache layer with room for tokens to come: the stock one copies all that it has for every token."""

    keys: Any  # [B, heads, tokens so far, D], views of the rooms
    values: Any

    def __init__(self, layer: DynamicLayer) -> None:
        super().__init__()
        self.__dict__.update(layer.__dict__)
        self._rooms: tuple[Tensor, Tensor] | None = None

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Write new tokens ``[B, heads, new, D]`` behind the others; all of them, as views."""
        old = self.keys.shape[2]
        new = old + key_states.shape[2]
        if self._rooms is None or new > self._rooms[0].shape[2]:
            self._rooms = (_with_room(self.keys, new), _with_room(self.values, new))
        keys, values = self._rooms
        keys[:, :, old:new], values[:, :, old:new] = key_states, value_states
        self.keys, self.values = keys[:, :, :new], values[:, :, :new]
        return self.keys, self.values

    def reorder_cache(self, beam_idx: Any) -> None:
        super().reorder_cache(beam_idx)
        self._rooms = None


def _with_room(stored: Tensor, tokens: int) -> Tensor:
    batch, heads, old, width = stored.shape
    room = stored.new_empty(batch, heads, tokens + tokens // 4 + 64, width)
    room[:, :, :old] = stored
    return room


class CachedRows:
    """Left-padded rows with their cache, ready for the next token.

    Attributes:
        state: ``[B, H]``, after the final norm, of the last token that each row has read.
    """

    def __init__(self, base: Any, cache: Any, mask: Tensor, position: Tensor, state: Tensor) -> None:
        self.state = state
        self._base = base
        self._cache = cache
        self._mask = mask  # [B, tokens so far]
        self._position = position  # [B], of the next token

    def __len__(self) -> int:
        return len(self.state)

    def step(self, tokens: Tensor) -> None:
        """Read one more token per row, int64 ``[B]``, or some at once, ``[B, K]``; ``state`` is the last one's own."""
        tokens = tokens.view(len(self), -1)
        count = tokens.shape[1]
        self._mask = torch.cat([self._mask, self._mask.new_ones(len(tokens), count)], dim=1)
        positions = self._position.view(1, -1, 1) + torch.arange(count, device=tokens.device)
        output = self._base(
            input_ids=tokens,
            attention_mask=self._mask,
            position_ids=positions.expand(3, -1, -1),
            use_cache=True,
            return_dict=True,
            **cache_argument(self._base, self._cache),
        )
        self.state = back_home(output.last_hidden_state[:, -1], self._mask)
        self._position = self._position + count

    def take(self, rows: Sequence[int]) -> None:
        """Keep these rows, in this order; a row that is named several times is branched."""
        if list(rows) != list(range(len(self))):
            self._select(rows)

    def branch(self, rows: Sequence[int]) -> CachedRows:
        """These rows, to go on apart from the others: what either reads, the other does not see."""
        cache = copy.copy(self._cache)
        cache.layers = [_detached(layer) for layer in cache.layers]
        apart = CachedRows(self._base, cache, self._mask, self._position, self.state)
        apart._select(rows)
        return apart

    def _select(self, rows: Sequence[int]) -> None:
        index = torch.tensor(rows, dtype=torch.long, device=self.state.device)
        self._cache.reorder_cache(index)  # the only selection that linear-attention layers have, too
        self._mask, self._position, self.state = self._mask[index], self._position[index], self.state[index]


def _detached(layer: Any) -> Any:
    """A layer whose tensors can be replaced without the other's; linear-attention layers hold theirs in dicts."""
    apart = copy.copy(layer)
    for name, value in vars(layer).items():
        if isinstance(value, (dict, list)):
            setattr(apart, name, copy.copy(value))
    return apart


def prefill(backbone: Any, inputs: dict[str, Tensor], settings: UmeSettings) -> tuple[CachedRows, Tensor]:
    """Read a batch of prompts once.

    Args:
        backbone: a native ``...ForConditionalGeneration``.
        inputs: as for ``backbone.states_of``; padding must be on the left.
        settings: positions and DeepStack of the checkpoint.

    Returns:
        The rows, and the states of their prompts ``[B, L, H]``.

    Raises:
        ValueError: a row ends in padding.
    """
    base = base_of(backbone)
    mask = inputs.get("attention_mask")
    if mask is None:
        mask = torch.ones_like(inputs["input_ids"])
    if not bool(mask[:, -1].all()):
        raise ValueError(
            "a batch that goes on must be padded on the left: collate(rows, padding_side='left')"
        )
    inputs = {**inputs, "attention_mask": mask}
    positions = positions_of(base, inputs, settings.positions)
    output = base(
        input_ids=inputs["input_ids"],
        attention_mask=mask,
        position_ids=positions,
        mm_encoder_outputs=vision_features(base, inputs, deepstack=settings.deepstack),
        use_cache=True,
        return_dict=True,
    )
    states = back_home(output.last_hidden_state, mask)
    cache = cache_of(output)
    cache.layers = [GrowingLayer(layer) if type(layer) is DynamicLayer else layer for layer in cache.layers]
    # After a picture the axes differ, and the largest may lie before the last token.
    following = positions.masked_fill(mask.unsqueeze(0) == 0, 0).amax(dim=(0, 2)) + 1
    return CachedRows(base, cache, mask, following, states[:, -1].clone()), states


def choose(logits: Tensor, decoding: Decoding, streams: Sequence[np.random.Generator]) -> list[int]:
    """The next token of every row.

    Args:
        logits: ``[B, V]``; ``-inf`` is never chosen.
        decoding: greedy, or temperature, top-k and top-p.
        streams: one source of chance per row, so that a row's tokens do not depend on its neighbours.
    """
    if not decoding.temperature:
        return logits.argmax(dim=-1).tolist()
    logits = logits.float()
    if decoding.top_k is not None and decoding.top_k < logits.shape[1]:
        least = logits.topk(decoding.top_k, dim=-1).values[:, -1:]
        logits = logits.masked_fill(logits < least, float("-inf"))
    probabilities = (logits / decoding.temperature).softmax(dim=-1)
    order = None
    if decoding.top_p < 1:
        probabilities, order = probabilities.sort(dim=-1, descending=True, stable=True)
        before = probabilities.cumsum(dim=-1) - probabilities
        probabilities = probabilities.masked_fill(before >= decoding.top_p, 0)
    edges = probabilities.double().cumsum(dim=-1)
    total = edges[:, -1:]
    drawn = torch.tensor([stream.random() for stream in streams], dtype=torch.float64, device=logits.device)
    places = torch.searchsorted(edges, drawn.unsqueeze(1) * total, right=True)
    places = torch.minimum(places, (edges < total).sum(dim=-1, keepdim=True))  # rounding up to the total
    return (places if order is None else order.gather(1, places)).squeeze(1).tolist()


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


# ---- encode_loop -------------------------------------------------------------------------------------------
# The encode loop of every door: prepared rows to vectors, in batches that memory holds, each row in its place.
#
# A door (``AutoModel.encode``, the installed package's ``Encoder``) says what the caller wants in
# :class:`EncodeOptions`, hands prepared rows to :func:`encode_batches` and puts what comes out into an :class:`Encoded`.


REDUCTIONS = ("mean", "first", None)
THINKING_BUDGET = 4  # a step costs little per row: batches that think are this much larger
ROOM_FOR_THOUGHT = 256  # tokens that a thought is taken to have while batches are planned
_DEGENERATE = (
    "its vector is zero, constant or not finite; "
    "the weights, the dtype or the attention kernel of this model are broken"
)

Row = tuple[int, Any]  # index of an item, and the item as the processor has prepared it


@dataclass(frozen=True)
class EncodeOptions:
    """How a call embeds; see ``encode``.

    Attributes:
        mode: a mode of the model.
        dim: keep the first ``dim`` numbers; None for as many as the model has.
        num_samples, reduce, seed: of thoughts.
        decoding: how thoughts are written; None in a mode that does not think.
        strategy: of the adaptive mode: scores items, and reasons.
        decider: of the adaptive mode: which scores are enough.
    """

    mode: str
    dim: int | None = None
    num_samples: int = 1
    reduce: str | None = "mean"
    seed: int = 0
    decoding: Any = None
    strategy: Any = None
    decider: Any = None

    @classmethod
    def of(
        cls,
        model: Any,
        *,
        mode: str | None = None,
        dim: int | None = None,
        num_samples: int = 1,
        reduce: str | None = "mean",
        seed: int | None = None,
        max_new_tokens: int | None = None,
        temperature: float | None = None,
        top_p: float | None = None,
        thoughts: Any = None,
        kappa: float | None = None,
        budget: Any = None,
        strategy: Any = None,
    ) -> EncodeOptions:
        """Check a caller's wishes against what the model can do, and fill them up.

        Raises:
            ValueError: the model has no such mode or ``dim``, or a wish that only a mode that thinks can fulfil.
        """
        mode = model.settings.mode if mode is None else mode
        if mode not in model.modes:
            kind = model.settings.kind
            needed = "a generative" if kind == "discriminative" else "another"
            raise ValueError(
                f"mode is {mode!r} and this one is {kind}: it has {', '.join(model.modes)}, any other mode needs "
                f"{needed} checkpoint"
            )
        if reduce not in REDUCTIONS:
            raise ValueError(f"reduce is {reduce!r}; use 'mean', 'first' or None")
        whole_number("num_samples", num_samples)
        if seed is not None:
            whole_number("seed", seed, least=0)
        dim = None if dim is None else check_dim(dim, model.dim)
        deciding = {"kappa": kappa, "budget": budget, "strategy": strategy}
        if mode != "adaptive" and (wishes := [name for name, value in deciding.items() if value is not None]):
            raise ValueError(
                f"{', '.join(wishes)}: only mode='adaptive' decides what is thought about, this is {mode!r}"
            )
        if mode != "discriminative":
            # From torch's own generator, so that torch.manual_seed reaches sampling, too.
            seed = int(torch.randint(2**62, ())) if seed is None else seed
            decoding = model.decoding(num_samples, max_new_tokens, temperature, top_p)
            options = cls(mode, dim, num_samples, reduce, seed, decoding)
            if mode == "adaptive":
                chosen = {"strategy": model.strategy_of(strategy), "decider": model.decider_of(kappa, budget)}
                options = replace(options, **chosen)
            return options
        thinking = {"max_new_tokens": max_new_tokens, "temperature": temperature, "top_p": top_p}
        thinking["thoughts"] = thoughts
        wishes = [name for name, value in thinking.items() if value is not None]
        if num_samples > 1 or wishes:
            raise ValueError(
                f"{', '.join(wishes) or 'num_samples'} needs a mode that thinks; this one does not"
            )
        return cls(mode, dim)

    @property
    def thinks(self) -> bool:
        """Whether a thought is written before the vector."""
        return self.mode != "discriminative"

    def begin(self, items: int) -> None:
        """So many different items are to be embedded: whoever keeps a budget wants to know."""
        if self.decider is not None:
            self.decider.begin(items)

    @property
    def most_tokens(self) -> int | None:
        """Of a thought; None in a mode that does not think."""
        return self.decoding.max_new_tokens if self.thinks else None

    @property
    def draws(self) -> bool:
        """Whether equal items have thoughts, and so vectors, of their own."""
        return self.thinks and (self.num_samples > 1 or bool(self.decoding.temperature))

    @property
    def padding_side(self) -> str:
        """Of its batches: a prompt that goes on ends where its row does."""
        return "left" if self.thinks else "right"

    @property
    def budget_factor(self) -> int:
        """How many times the usual tokens a batch may have where nobody has said how many."""
        return THINKING_BUDGET if self.thinks else 1

    def tokens(self, row: Any) -> int:
        """Tokens that a prepared item takes up, its thoughts included."""
        if not self.thinks:
            return len(row.input_ids)
        if row.given:
            return sum(len(row.input_ids) + len(thought) + 1 for thought in row.given)
        return (len(row.input_ids) + min(self.decoding.max_new_tokens, ROOM_FOR_THOUGHT)) * self.num_samples


@dataclass
class EncodedBatch:
    """What some rows became; lists have an entry per row.

    Attributes:
        indices: of the items.
        vectors: float32 ``[n, d]`` or ``[n, k, d]`` by name of an array, on the model's device; NaN where degenerate.
        errors: index and error of every item that has no vector.
        thoughts, thought_ids, thought_tokens, forced: see :class:`Encoded`.
        modes, reason_scores: likewise, where items are decided on.
    """

    indices: list[int]
    vectors: dict[str, Tensor] = field(default_factory=dict)
    errors: list[tuple[int, Exception]] = field(default_factory=list)
    thoughts: list[Any] = field(default_factory=list)
    thought_ids: list[Any] = field(default_factory=list)
    thought_tokens: list[Any] = field(default_factory=list)
    forced: list[Any] = field(default_factory=list)
    modes: list[str] = field(default_factory=list)
    reason_scores: list[float] = field(default_factory=list)


@dataclass
class Encoded:
    """Result of ``encode(..., return_details=True)``; lists have an entry per item.

    Attributes:
        embeddings: float32 ``[n, d]``; a row of NaN where the item could not be encoded. ``[n, k, d]`` for
            ``reduce=None``; a dict of two arrays for ``mode="both"``.
        modes: mode of every row; in the adaptive mode what was decided, ``"discriminative"`` or ``"generative"``.
        thoughts: what every row wrote before ``<gen_emb>``, tags included; None without a thought, a list of them
            for ``num_samples > 1``.
        thought_tokens: tokens of every thought, 0 without one; likewise.
        forced: whether a thought did not get to ``<gen_emb>`` within its limit; likewise.
        errors: ``(index, exception)`` of every item that was skipped.
        batch_tokens: padded tokens of one forward; fewer than asked for where memory did not hold them. Other
            batches change the last digits of vectors.
        halved: whether memory did not hold what was asked for.
        truncated: tokens of text that every row lost to its limit, 0 where it was not cut.
        thought_ids: ids of every thought; handed back as ``thoughts``, they give the same vectors whatever they are,
            which a text need not: not every sequence of tokens is what its text is tokenised to.
        reason_scores: in the adaptive mode, how likely reasoning was taken to pay for every row, 0 to 1; else None.
        seconds: that the call took, reading and preparing included.
    """

    embeddings: Any
    modes: list[str]
    thoughts: list[Any]
    thought_tokens: list[Any]
    forced: list[Any]
    errors: list[tuple[int, Exception]] = field(default_factory=list)
    batch_tokens: int = 0
    halved: bool = False
    truncated: list[int] = field(default_factory=list)
    thought_ids: list[Any] = field(default_factory=list)
    reason_scores: list[float | None] = field(default_factory=list)
    seconds: float = 0.0
    began: float = field(default_factory=perf_counter, repr=False)

    @property
    def invocation_ratio(self) -> float:
        """Share of the items that were reasoned about before they were embedded."""
        failed = {index for index, _ in self.errors}
        reasoned = [
            index not in failed and (mode != "discriminative" or self.thoughts[index] is not None)
            for index, mode in enumerate(self.modes)
        ]
        return sum(reasoned) / max(len(reasoned), 1)

    @property
    def tokens_per_item(self) -> float:
        """Mean of the tokens that an item's thoughts have, all of its samples counted."""
        counts = [sum(one) if isinstance(one, list) else one for one in self.thought_tokens]
        return sum(counts) / max(len(counts), 1)

    @property
    def seconds_per_item(self) -> float:
        """Mean."""
        return self.seconds / max(len(self.modes), 1)

    @classmethod
    def empty(cls, options: EncodeOptions, count: int, dim: int, device: Any = "cpu") -> Encoded:
        """Nothing encoded yet: rows of NaN, by name of an array. dim: of the model."""
        dim = options.dim or dim
        parts = ("discriminative", "generative") if options.mode == "both" else (options.mode,)
        arrays = {}
        for part in parts:
            several = part in ("generative", "adaptive") and options.reduce is None
            shape = (count, options.num_samples, dim) if several else (count, dim)
            arrays[part] = torch.full(shape, torch.nan, dtype=torch.float32, device=device)
        return cls(
            arrays,
            [options.mode] * count,
            [None] * count,
            [0] * count,
            [False] * count,
            truncated=[0] * count,
            thought_ids=[None] * count,
            reason_scores=[None] * count,
        )

    def add(self, batch: EncodedBatch) -> None:
        """Put a batch's rows in their places."""
        for part, vectors in batch.vectors.items():
            self.embeddings[part][batch.indices] = vectors.to(self.embeddings[part].device)
        for place, index in enumerate(batch.indices):
            if batch.thoughts:
                self.thoughts[index] = batch.thoughts[place]
                self.thought_ids[index] = batch.thought_ids[place]
                self.thought_tokens[index] = batch.thought_tokens[place]
                self.forced[index] = batch.forced[place]
            if batch.modes:
                self.modes[index] = batch.modes[place]
                self.reason_scores[index] = batch.reason_scores[place]

    def copy_row(self, source: int, target: int) -> None:
        """Give an item what an equal one has."""
        for rows in (
            *self.embeddings.values(),
            self.thoughts,
            self.thought_ids,
            self.thought_tokens,
            self.forced,
            self.truncated,
            self.modes,
            self.reason_scores,
        ):
            rows[target] = rows[source]

    def finish(self, budget: TokenBudget, numpy: bool = False) -> None:
        """Say what the batches were, and make of the arrays what a caller gets."""
        if numpy:
            self.embeddings = {part: rows.numpy() for part, rows in self.embeddings.items()}
        if len(self.embeddings) == 1:
            [self.embeddings] = self.embeddings.values()
        self.errors.sort(key=lambda error: error[0])
        self.batch_tokens, self.halved = budget.tokens, budget.halved
        self.seconds = perf_counter() - self.began


@torch.inference_mode()
def encode_batches(
    model: Any, rows: Sequence[Row], options: EncodeOptions, budget: TokenBudget, collator: Collator
) -> Iterator[EncodedBatch]:
    """Embed prepared rows in batches of the budget; what memory does not hold is planned again with half of it.

    What the collator holds for later batches is let go of before anything is planned again.

    Args:
        model: an embedding model of ours.
        rows: prepared for the options' mode.
        options: what the caller wants.
        budget: tokens of a batch; what is learned about memory stays in it.
        collator: makes the batches; may work ahead.

    Yields:
        Each batch after it was run; or an item that memory does not hold even alone, with a MemoryError that says so.
    """
    for given in (False, True):  # a thought that is given takes one forward, one that is written many
        left = [(index, row) for index, row in rows if bool(row.given) == given]
        while left:
            batches = plan_batches([options.tokens(row) for _, row in left], budget.tokens, rows=budget.rows)
            planned = [Planned.of(model, [left[number] for number in batch]) for batch in batches]
            left = []
            for place, batch in enumerate(planned):
                if place + 1 < len(planned):
                    collator.prefetch(planned[place + 1].inputs, options.padding_side)
                run = partial(encode_batch, model, batch, options, collator)
                done = budget.attempt(run)
                if done is None and collator.release():
                    done = budget.attempt(run)
                if done is not None:
                    yield done
                elif len(batch.rows) > 1:
                    budget.halve(len(batch.rows) * max(options.tokens(row) for _, row in batch.rows))
                    left = [row for later in planned[place:] for row in later.rows]
                    break
                else:
                    [(index, row)] = batch.rows
                    yield EncodedBatch([index], errors=[(index, MemoryError(_too_large(row, budget)))])


@dataclass(frozen=True)
class Planned:
    """Rows that go through the model together, all with given thoughts or all without, and what goes in."""

    rows: list[Row]
    inputs: list[Any]

    @classmethod
    def of(cls, model: Any, rows: list[Row]) -> Planned:
        if not rows[0][1].given:
            return cls(rows, [row for _, row in rows])
        gen_emb = model.thought_tokens.gen_emb
        return cls(rows, [whole for _, row in rows for whole in row.with_thoughts(gen_emb)])


def encode_batch(model: Any, planned: Planned, options: EncodeOptions, collator: Collator) -> EncodedBatch:
    """Embed rows in one forward, or one prefill and its thoughts."""
    indices = [index for index, _ in planned.rows]
    batch = collator.collate(planned.inputs, options.padding_side)
    given = [row.given for _, row in planned.rows]
    if any(given):
        done = model.embed_given(batch, options, indices, given, collator.processor.tokenizer)
    elif options.thinks:
        done = model.embed_batch(batch, options, indices, collator.processor.tokenizer)
    else:
        done = EncodedBatch(indices, {options.mode: model(**batch, dim=options.dim).embeddings})
    bad = {part: degenerate_rows(vectors) for part, vectors in done.vectors.items()}
    for place in torch.nonzero(torch.stack([*bad.values()]).any(dim=0)).flatten().tolist():
        index = indices[place]
        done.errors.append((index, DegenerateVectorError(f"item {index}: {_DEGENERATE}")))
    if done.errors:
        for part, vectors in done.vectors.items():
            vectors[bad[part]] = torch.nan
    return done


def _too_large(row: Any, budget: TokenBudget) -> str:
    return (
        f"its {len(row.input_ids)} tokens do not fit into the memory of {budget.device} even alone: give smaller or "
        "fewer media, or a smaller max_length or pixel budget"
    )


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


# ---- discriminative ----------------------------------------------------------------------------------------
# The discriminative embedder: one forward, one vector.
#
# The model averages the states that ``pooling_slots`` marks; it knows nothing of prompts. Without slots it returns
# states only. :meth:`encode` is the small door for people who have only this class and a processor; the installed
# package's ``Encoder`` plans batches by tokens and is the one for scale.


@dataclass
class UmeOutput(ModelOutput):
    """Output of a forward.

    Attributes:
        last_hidden_state: ``[B, L, H]``, after the final norm, in the backbone's dtype.
        embeddings: float32 ``[B, d]``, rows of length one unless the settings say otherwise; None without slots.
        generated_embeddings: the same at the second slot, where a thought is part of the input (generative kind);
            zero in rows without one, None where no row has one.
    """

    last_hidden_state: Tensor | None = None
    embeddings: Tensor | None = None
    generated_embeddings: Tensor | None = None


class UmeForDiscriminativeEmbedding(UmePreTrainedModel):
    """Embeds text, images, video and documents in one forward of a stock vision-language backbone.

    Example::

        processor = AutoProcessor.from_pretrained(repo, trust_remote_code=True)
        model = AutoModel.from_pretrained(repo, trust_remote_code=True)
        vectors = model.encode(["a red bicycle", {"image": "bicycle.jpg"}], processor=processor)
    """

    kind: ClassVar[str] = "discriminative"
    modes: ClassVar[tuple[str, ...]] = ("discriminative",)

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
        mm_encoder_outputs: dict[str, Any] | None = None,
        pooling_slots: Tensor | None = None,
        dim: int | None = None,
        return_dict: bool | None = None,
    ) -> UmeOutput:
        """One forward.

        Args:
            input_ids, attention_mask, mm_token_type_ids, pooling_slots: ``[B, L]``; left or right padding.
            pixel_values: patches of all images of the batch, ``[patches, C*T*P*P]``, with ``image_grid_thw``
                ``[images, 3]``; likewise for videos.
            mm_encoder_outputs: features of the media in place of their pixels; see ``VisionFeatureCache.outputs``.
            dim: keep the first ``dim`` numbers; the checkpoint's own when None.
            return_dict: accepted for compatibility; the output is always a :class:`UmeOutput`.

        Raises:
            ValueError: no ``input_ids``: a pipeline that hands over pixels alone has no prompt, and so no vector.
        """
        if input_ids is None:
            raise ValueError(
                "a forward needs input_ids: a picture is embedded within its prompt, which pipelines of pictures alone "
                '("image-feature-extraction") do not make; use model.encode([{"image": picture}], '
                "processor=processor), or SentenceTransformer(folder, trust_remote_code=True).encode([picture])"
            )
        inputs: dict[str, Any] = {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "mm_token_type_ids": mm_token_type_ids,
            "pixel_values": pixel_values,
            "image_grid_thw": image_grid_thw,
            "pixel_values_videos": pixel_values_videos,
            "video_grid_thw": video_grid_thw,
            "second_per_grid_ts": second_per_grid_ts,
            "mm_encoder_outputs": mm_encoder_outputs,
        }
        states = states_of(self.backbone, {k: v for k, v in inputs.items() if v is not None}, self.settings)
        if pooling_slots is None:
            return UmeOutput(last_hidden_state=states)
        return self._pooled(states, pooling_slots, dim)

    def _pooled(self, states: Tensor, slots: Tensor, dim: int | None) -> UmeOutput:
        return UmeOutput(states, self._finish(pool(states, slots, DIRECT_SLOT), dim))

    def _finish(self, pooled: Tensor, dim: int | None) -> Tensor:
        kept = self.settings.dim if dim is None else check_dim(dim, self.dim)
        return finish(pooled, normalize=self.settings.normalize, dim=kept)

    def encode(
        self,
        items: Any,
        *,
        processor: Any,
        role: str | None = None,
        instruction: str | None = None,
        mode: str | None = None,
        dim: int | None = None,
        batch_size: int = 16,
        max_new_tokens: int | None = None,
        num_samples: int = 1,
        reduce: Literal["mean", "first"] | None = "mean",
        temperature: float | None = None,
        top_p: float | None = None,
        thoughts: Any = None,
        seed: int | None = None,
        kappa: float | None = None,
        budget: Any = None,
        strategy: Any = None,
        return_details: bool = False,
    ) -> Any:
        """Embed items, without dropout whatever mode the model is in.

        Args:
            items: one item or a sequence of items: ``str``, a PIL image, or a dict of text, image(s), video,
                document, instruction.
            processor: the checkpoint's processor.
            role: None, ``"query"`` or ``"document"``: default instruction per side.
            instruction: replaces the role's default instruction.
            mode: one of ``modes``; the checkpoint's default when None. ``"discriminative"`` embeds at once,
                ``"generative"`` thinks first, ``"both"`` gives both from one prefill, ``"adaptive"`` thinks of the
                items for which it seems to pay.
            dim: keep the first ``dim`` numbers.
            batch_size: most rows of a forward; fewer where they are long, or memory does not hold them.
            max_new_tokens: most tokens of a thought; the checkpoint's when None.
            num_samples: thoughts per item, drawn with temperature 1 unless told otherwise.
            reduce: ``"mean"`` of the thoughts' vectors, the ``"first"``, or None for all of them.
            temperature: None is greedy for one sample and 1 for several; 0 is always greedy.
            top_p: draw from the fewest tokens that hold this much probability.
            thoughts: one for each item, which is then embedded with it in one forward and writes none: a text
                ``<think>...</think><answer>...``, a pair ``(thought, answer)``, or ids of tokens; None for an item
                that is to think itself. With ``num_samples``, each is a list of so many.
            seed: makes drawing reproducible: an item's thoughts then depend on the seed and its index alone.
            kappa: of the adaptive mode: an item is thought about if p(reason) is over it; the checkpoint's when None.
            budget: of the adaptive mode, in place of kappa: average thought tokens per item, which kappa is chosen for
                as it goes; or a :class:`Budget`, which keeps its account over several calls.
            strategy: of the adaptive mode: what decides, and reasons: ``"policy"``, ``"probe"`` or a
                :class:`Strategy`; the checkpoint's when None.
            return_details: an :class:`Encoded` with thoughts, cuts and costs instead of the vectors alone.

        Returns:
            float32 ``[n, d]`` on the model's device, in the items' order; ``[n, k, d]`` for ``reduce=None``; with
            ``mode="both"`` a dict of ``"discriminative"`` and ``"generative"``.

        Raises:
            DegenerateVectorError: a vector is zero, constant or not finite.
            MemoryError: an item does not fit even alone.
        """
        options = EncodeOptions.of(
            self,
            mode=mode,
            dim=dim,
            num_samples=num_samples,
            reduce=reduce,
            seed=seed,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            top_p=top_p,
            thoughts=thoughts,
            kappa=kappa,
            budget=budget,
            strategy=strategy,
        )
        whole_number("batch_size", batch_size)
        listed: Sequence[Any] = items if isinstance(items, (list, tuple)) else [items]
        result = Encoded.empty(options, len(listed), self.dim, self.device)
        rows = processor.prepare_all(
            listed,
            role=role,
            instruction=instruction,
            mode=options.mode,
            thoughts=thoughts,
            num_samples=num_samples,
            max_new_tokens=options.most_tokens,
        )
        tokens = default_tokens(self.device) * options.budget_factor
        budget = TokenBudget(tokens, self.device, batch_size)
        result.truncated = [row.cut_tokens for row in rows]
        collator = Collator(processor, self.device)
        options.begin(len(rows))
        with evaluating(self):
            for batch in encode_batches(self, list(enumerate(rows)), options, budget, collator):
                if batch.errors:
                    raise batch.errors[0][1]
                result.add(batch)
        result.finish(budget)
        return result if return_details else result.embeddings


# ---- reasoning ---------------------------------------------------------------------------------------------
# Rollouts: think, write ``<gen_emb>``, and keep the state *of* that token.
#
# The state that carries the embedding is that of the step which reads ``<gen_emb>``, not of the one which predicted
# it; so a ``<gen_emb>`` that comes as the very last token allowed is still read. Only what a row writes itself counts:
# prompts quote the token, too.


# Ids in a backbone's config that stand for media: written into a thought, they would have no pixels behind them.
_MEDIA_IDS = (
    "image_token_id",
    "video_token_id",
    "vision_start_token_id",
    "vision_end_token_id",
    "vision_token_id",
)


@dataclass(frozen=True)
class ThoughtTokens:
    """Ids that a rollout has to know.

    Attributes:
        gen_emb: ends a thought; its state is the embedding.
        ends: end the turn (``<|im_end|>`` ...); before ``<gen_emb>`` they mean that the thought went astray.
        never: may never be chosen.
    """

    gen_emb: int
    ends: frozenset[int] = frozenset()
    never: frozenset[int] = frozenset()

    @classmethod
    def of(cls, settings: UmeSettings, backbone: Any) -> ThoughtTokens:
        """From ``config.ume.tokens`` (``gen_emb``, ``im_end``, ``disc_emb``, ``direct``, ``never``) and the backbone's
        configs.

        Raises:
            UmeSettingsError: the checkpoint names no ``gen_emb``.
        """
        named = settings.tokens
        gen_emb = named.get("gen_emb")
        if not isinstance(gen_emb, int):
            raise UmeSettingsError(
                "config.ume.tokens names no 'gen_emb': this checkpoint has no token for thoughts"
            )
        config = backbone.config
        written = getattr(backbone, "generation_config", None)
        ends = _ids(named.get("im_end"), getattr(written, "eos_token_id", None))
        ends |= _ids(getattr(config.get_text_config(), "eos_token_id", None))
        never = _ids(
            named.get("never"),
            named.get("disc_emb"),
            named.get("direct"),
            *(getattr(config, key, None) for key in _MEDIA_IDS),
        )
        return cls(gen_emb, frozenset(ends - {gen_emb}), frozenset(never - {gen_emb}))


@dataclass(frozen=True)
class ThoughtWishes:
    """What is asked of the thoughts of a batch.

    Attributes:
        decoding: how they are written.
        num_samples: of a row; they share its cache.
        reduce: ``"mean"`` of their unit vectors, normalised again; the ``"first"``; None keeps all.
        dim: keep the first numbers of a vector; None for the checkpoint's own.
        vocabulary: ids from here on are rows without a token and are never written.
    """

    decoding: Decoding
    num_samples: int = 1
    reduce: str | None = "mean"
    dim: int | None = None
    vocabulary: int | None = None


@dataclass
class Rollout:
    """One thought.

    Attributes:
        tokens: what was written, without a forced ``<gen_emb>``.
        thought: its tokens before ``<gen_emb>``.
        forced: whether the row never got to ``<gen_emb>`` by itself within the limit.
        state: ``[H]``, the state of ``<gen_emb>``.
        ending: the token by which the row ended its turn too early, in whose place ``<gen_emb>`` was put.
    """

    tokens: list[int]
    thought: list[int]
    forced: bool
    state: Tensor
    ending: int | None = None


def think(
    rows: CachedRows,
    output: Callable[[Tensor], Tensor],
    names: ThoughtTokens,
    decoding: Decoding,
    streams: Sequence[np.random.Generator],
    *,
    official: bool = False,
) -> list[Rollout]:
    """Let every row write its thought; rows leave the batch as they finish.

    Args:
        rows: prefilled prompts; used up.
        output: states ``[B, H]`` to logits ``[B, V]``.
        names: ids to end at and to avoid.
        decoding: choice of tokens and limit.
        streams: one source of chance per row.
        official: read on to the end of the turn and take the *last* ``<gen_emb>``; where there is none, or no step
            has read it, the state of the last step (UME-R1's published loop) and not a forced ``<gen_emb>``.

    Returns:
        A rollout per row, in the rows' order.
    """
    never = torch.tensor(sorted(names.never), dtype=torch.long, device=rows.state.device)

    def following(active: Sequence[int]) -> list[int]:
        logits = output(rows.state)
        logits = logits.index_fill(1, never[never < logits.shape[1]], float("-inf"))
        return choose(logits, decoding, [streams[row] for row in active])

    loop = _to_the_last if official else _to_the_first
    done = loop(rows, following, names, decoding.max_new_tokens)
    return [done[row] for row in range(len(done))]


_Following = Callable[[Sequence[int]], list[int]]


def _to_the_first(
    rows: CachedRows, following: _Following, names: ThoughtTokens, limit: int
) -> dict[int, Rollout]:
    done: dict[int, Rollout] = {}
    written: list[list[int]] = [[] for _ in range(len(rows))]
    active = list(range(len(rows)))
    for length in range(limit + 1):
        # At the limit no choice is left; the last pass only reads the <gen_emb> of those that have none.
        chosen = following(active) if length < limit else [names.gen_emb] * len(active)
        forced = [length == limit or token in names.ends for token in chosen]
        tokens = [names.gen_emb if astray else token for token, astray in zip(chosen, forced, strict=True)]
        rows.step(torch.tensor(tokens, dtype=torch.long, device=rows.state.device))
        keep = []
        for place, row in enumerate(active):
            if not forced[place]:
                written[row].append(tokens[place])
            if tokens[place] == names.gen_emb:
                thought = [token for token in written[row] if token != names.gen_emb]
                ending = chosen[place] if forced[place] and length < limit else None
                done[row] = Rollout(written[row], thought, forced[place], rows.state[place].clone(), ending)
            else:
                keep.append(place)
        active = [active[place] for place in keep]
        if not active:
            break
        rows.take(keep)
    return done


def _to_the_last(
    rows: CachedRows, following: _Following, names: ThoughtTokens, limit: int
) -> dict[int, Rollout]:
    done: dict[int, Rollout] = {}
    written: list[list[int]] = [[] for _ in range(len(rows))]
    found: dict[int, Tensor] = {}
    active = list(range(len(rows)))
    for length in range(1, limit + 1):
        tokens = following(active)
        keep = []
        for place, row in enumerate(active):
            written[row].append(tokens[place])
            if tokens[place] not in names.ends and length < limit:
                keep.append(place)
                continue
            unread = row not in found or tokens[place] == names.gen_emb
            state = rows.state[place].clone() if unread else found[row]
            places = [i for i, token in enumerate(written[row]) if token == names.gen_emb]
            end = places[-1] if places else len(written[row]) - (tokens[place] in names.ends)
            done[row] = Rollout(written[row], written[row][:end], unread, state)
        active, tokens = [active[place] for place in keep], [tokens[place] for place in keep]
        if not active:
            break
        rows.take(keep)
        rows.step(torch.tensor(tokens, dtype=torch.long, device=rows.state.device))
        for place, token in enumerate(tokens):
            if token == names.gen_emb:
                found[active[place]] = rows.state[place].clone()
    return done


def _ids(*groups: int | Sequence[int] | None) -> set[int]:
    found: set[int] = set()
    for group in groups:
        if group is not None:
            found |= {group} if isinstance(group, int) else set(group)
    return found


# ---- generative --------------------------------------------------------------------------------------------
# The generative embedder: it can embed at once, or think first and embed what it has thought.
#
# *Discriminative* is the state at the prompt's own embedding token, from one prefill. *Generative* goes on from the
# same prefill: the model writes a thought and then ``<gen_emb>``, whose state is the vector. The prompt of a thought
# only adds text after the embedding token, so that *both* cost no second prefill.


@dataclass
class UmeThoughts:
    """What a batch became.

    Attributes:
        direct: float32 ``[B, d]``, or None where it was not asked for.
        generated: float32 ``[B, d]``, or ``[B, k, d]`` without a reduction; None where it was not asked for.
        rollouts: ``k`` thoughts per row; empty where nothing was thought.
    """

    direct: Tensor | None = None
    generated: Tensor | None = None
    rollouts: list[list[Rollout]] = field(default_factory=list)


class UmeForGenerativeEmbedding(UmeForDiscriminativeEmbedding):
    """Embeds directly or after a thought.

    Example::

        model = AutoModel.from_pretrained(repo, trust_remote_code=True)
        vectors = model.encode(items, processor=processor, mode="generative", max_new_tokens=512)
    """

    kind: ClassVar[str] = "generative"
    modes: ClassVar[tuple[str, ...]] = ("generative", "discriminative", "both")

    def __init__(self, config: Any, backbone: Any = None, settings: UmeSettings | None = None) -> None:
        super().__init__(config, backbone, settings)
        if self.settings.attention != "causal" or not getattr(config.get_text_config(), "is_causal", True):
            raise UmeSettingsError(
                "a checkpoint that thinks needs causal attention, this one is bidirectional"
            )
        self.thought_tokens = ThoughtTokens.of(self.settings, self.backbone)

    def _pooled(self, states: Tensor, slots: Tensor, dim: int | None) -> UmeOutput:
        # Prompts with their thoughts: slot 2 marks the <gen_emb> of a row, beside slot 1; a row that has none is zero.
        output = super()._pooled(states, slots, dim)
        if bool((slots == GENERATED_SLOT).any()):
            output.generated_embeddings = self._finish(pool(states, slots, GENERATED_SLOT, partial=True), dim)
        return output

    def decoding(
        self,
        num_samples: int = 1,
        max_new_tokens: int | None = None,
        temperature: float | None = None,
        top_p: float | None = None,
    ) -> Decoding:
        """A caller's wishes, filled up from the checkpoint's settings."""
        if temperature is None and num_samples > 1:
            temperature = 1.0
        limit = self.settings.max_new_tokens if max_new_tokens is None else max_new_tokens
        return Decoding(limit, temperature, 1.0 if top_p is None else top_p)

    def logits_of(self, states: Tensor) -> Tensor:
        """States ``[..., H]`` to logits ``[..., V]``."""
        return back_home(self.backbone.get_output_embeddings()(states), states)

    @evaluated
    @torch.inference_mode()
    def embed(
        self,
        batch: dict[str, Tensor],
        mode: str = "generative",
        *,
        decoding: Decoding | None = None,
        num_samples: int = 1,
        reduce: Literal["mean", "first"] | None = "mean",
        dim: int | None = None,
        streams: Sequence[np.random.Generator] | None = None,
        vocabulary: int | None = None,
    ) -> UmeThoughts:
        """Embed one collated batch; the prompts are read once, whatever the mode and the number of samples.

        Args:
            batch: from ``processor.collate(rows, padding_side="left")``; rows prepared for a mode that thinks.
            mode: one of ``modes``.
            decoding: greedy up to the checkpoint's limit when None.
            num_samples: thoughts per row; they share the prompt's cache.
            reduce: ``"mean"`` of the thoughts' unit vectors, normalised again; the ``"first"``; None keeps all.
            dim: keep the first ``dim`` numbers.
            streams: a source of chance per row and sample, row by row; fresh ones from torch's seed when None.
            vocabulary: ids from here on are rows without a token and are never written.
        """
        if mode not in self.modes or reduce not in REDUCTIONS or whole_number("num_samples", num_samples) < 1:
            raise ValueError(
                f"mode={mode!r} is not one of {self.modes}, reduce={reduce!r} not one of {REDUCTIONS}, "
                f"or num_samples={num_samples} is under 1"
            )
        inputs = {name: value for name, value in batch.items() if name != "pooling_slots"}
        if mode == "discriminative":
            return UmeThoughts(
                direct=self(**inputs, pooling_slots=batch["pooling_slots"], dim=dim).embeddings
            )
        rows, states = prefill(self.backbone, inputs, self.settings)
        result = UmeThoughts()
        if mode == "both":
            result.direct = self._finish(pool(states, batch["pooling_slots"], DIRECT_SLOT), dim)
        del states  # the prompts' states are not kept while thoughts are written
        if streams is None:
            streams = streams_of(fresh_seed(), range(len(rows)), num_samples)
        decoding = decoding or Decoding(self.settings.max_new_tokens)
        wishes = ThoughtWishes(decoding, num_samples, reduce, dim, vocabulary)
        result.generated, result.rollouts = self.think_on(rows, streams, wishes)
        return result

    def think_on(
        self, rows: CachedRows, streams: Sequence[np.random.Generator], wishes: ThoughtWishes
    ) -> tuple[Tensor, list[list[Rollout]]]:
        """Let prompts that have been read go on, each to its thoughts.

        Args:
            rows: ``B`` prompts; used up.
            streams: a source of chance per row and sample, row by row.
            wishes: how, and how many.

        Returns:
            Vectors, float32 ``[B, d]``, or ``[B, k, d]`` without a reduction; and the thoughts of every row.
        """
        count, samples = len(rows), wishes.num_samples
        rows.take([row for row in range(count) for _ in range(samples)])
        rollouts = think(
            rows,
            self._bounded(wishes.vocabulary),
            self.thought_tokens,
            wishes.decoding,
            streams,
            official=self.settings.thought_end == "official",
        )
        vectors = self._finish(torch.stack([rollout.state for rollout in rollouts]).float(), wishes.dim)
        thoughts = [rollouts[start : start + samples] for start in range(0, len(rollouts), samples)]
        return self._reduced(vectors.view(count, samples, -1), wishes.reduce), thoughts

    def embed_batch(
        self, batch: dict[str, Tensor], options: EncodeOptions, indices: Sequence[int], tokenizer: Any
    ) -> EncodedBatch:
        """:meth:`embed` for the encode loop: a batch of these items, in a mode that thinks."""
        found = self.embed(
            batch,
            options.mode,
            decoding=options.decoding,
            num_samples=options.num_samples,
            reduce=options.reduce,
            dim=options.dim,
            streams=streams_of(options.seed, indices, options.num_samples),
            vocabulary=len(tokenizer),
        )
        parts = {"discriminative": found.direct, "generative": found.generated}
        done = EncodedBatch(
            [*indices], {part: vectors for part, vectors in parts.items() if vectors is not None}
        )
        tell_rollouts(done, found.rollouts, options, tokenizer)
        return done

    def embed_given(
        self,
        batch: dict[str, Tensor],
        options: EncodeOptions,
        indices: Sequence[int],
        given: Sequence[Sequence[Sequence[int]]],
        tokenizer: Any,
    ) -> EncodedBatch:
        """Items with thoughts that are not theirs to write: one forward, nothing is generated.

        Args:
            batch: prompts that each of their thoughts and ``<gen_emb>`` follow, ``[n * k, L]``, item by item.
            options: of the call.
            indices: of the items.
            given: ids of ``k`` thoughts per item.
            tokenizer: writes them as texts.
        """
        found = self(**batch, dim=options.dim)
        done = EncodedBatch([*indices])
        if options.mode == "both":
            done.vectors["discriminative"] = found.embeddings.view(len(indices), options.num_samples, -1)[
                :, 0
            ]
        vectors = found.generated_embeddings.view(len(indices), options.num_samples, -1)
        done.vectors["generative"] = self._reduced(vectors, options.reduce)
        forced = [[False] * len(thoughts) for thoughts in given]
        tell_thoughts(done, [[[*ids] for ids in thoughts] for thoughts in given], forced, options, tokenizer)
        return done

    # ---- inside -------------------------------------------------------------------------------------------------

    def _bounded(self, vocabulary: int | None) -> Any:
        if vocabulary is None:
            return self.logits_of
        return lambda states: self.logits_of(states)[:, :vocabulary]

    def _reduced(self, vectors: Tensor, reduce: str | None) -> Tensor:
        if reduce is None:
            return vectors
        if reduce == "first" or vectors.shape[1] == 1:
            return vectors[:, 0]
        mean = torch.nn.functional.normalize(vectors, dim=-1).mean(dim=1)
        return torch.nn.functional.normalize(mean, dim=-1) if self.settings.normalize else mean


def tell_rollouts(
    done: EncodedBatch, rollouts: Sequence[list[Rollout]], options: EncodeOptions, tokenizer: Any
) -> None:
    """Write a batch's thoughts down; a row without any has none."""
    thoughts = [[one.thought for one in row] for row in rollouts]
    tell_thoughts(done, thoughts, [[one.forced for one in row] for row in rollouts], options, tokenizer)


def tell_thoughts(
    done: EncodedBatch,
    thoughts: Sequence[list[list[int]]],
    forced: Sequence[list[bool]],
    options: EncodeOptions,
    tokenizer: Any,
) -> None:
    """Write a batch's thoughts down: a list an item for several samples, else the one; None for an item without."""
    for row, flags in zip(thoughts, forced, strict=True):
        if not row:
            done.thoughts.append(None)
            done.thought_ids.append(None)
            done.thought_tokens.append(0)
            done.forced.append(False)
            continue
        texts = [
            tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
            for ids in row
        ]
        whole = options.num_samples > 1
        done.thoughts.append(texts if whole else texts[0])
        done.thought_ids.append(row if whole else row[0])
        done.thought_tokens.append([len(ids) for ids in row] if whole else len(row[0]))
        done.forced.append(flags if whole else flags[0])


def streams_of(seed: int, rows: Sequence[int], num_samples: int) -> list[np.random.Generator]:
    """Sources of chance that belong to an item and a sample, whatever batch they come to be in."""
    return [np.random.default_rng([seed, row, sample]) for row in rows for sample in range(num_samples)]


def fresh_seed() -> int:
    """From torch's own generator, so that ``torch.manual_seed`` reaches sampling, too."""
    return int(torch.randint(2**62, ()))


# ---- strategies --------------------------------------------------------------------------------------------
# What decides on a prompt that has been read, and what reasoning is: the seam of adaptive embedding.
#
# A :class:`Strategy` scores prompts after one prefill, and a row whose score is over kappa reasons: from the same cache,
# by the strategy's own :meth:`~Strategy.reason`, which is a thought where nothing else is said. Three decide here:
#
# * :class:`Policy`: the model itself, by its next-token logits of ``<reason>`` against ``<direct>`` (MMEmb-R1);
# * :class:`Margin`: the lead of the best candidate over the next, under the direct vector; no training;
# * :class:`Probe`: logistic regression on the last state of the prompt; trained in seconds, for any generative model.
#
# Whoever reasons otherwise, K latent tokens in one pass for instance, overrides :meth:`~Strategy.reason` alone.
# A re-derivation of MMEmb-R1's adaptive control: no code of it is public; margin and probe are ours, to compare with.


PROBE_FILE = "reasoning_probe.safetensors"  # beside the weights of a checkpoint
CANDIDATES = 65_536  # of a block of scores


@dataclass
class ReadPrompts:
    """A batch of ``B`` prompts after its prefill.

    Attributes:
        indices: of the items.
        state: ``[B, H]``, of each prompt's last token, which the next token is predicted from.
        direct: float32 ``[B, d]``, the vectors of the discriminative mode, finished; they cost nothing further.
        rows: the prompts with their cache; None where a thought is given, and nothing goes on.
        streams: sources of chance of a row, one for each sample.
    """

    indices: list[int]
    state: Tensor
    direct: Tensor
    rows: CachedRows | None = None
    streams: list[list[np.random.Generator]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.indices)

    def take(self, places: Sequence[int]) -> None:
        """Keep these prompts; the others leave, and their cache with them."""
        if self.rows is not None:
            self.rows.take(places)
        self._keep(places)

    def branch(self, places: Sequence[int]) -> ReadPrompts:
        """These prompts, to go on apart from the others."""
        rows = None if self.rows is None else self.rows.branch(places)
        apart = ReadPrompts(self.indices, self.state, self.direct, rows, self.streams)
        apart._keep(places)
        return apart

    def _keep(self, places: Sequence[int]) -> None:
        self.state, self.direct = self.state[list(places)], self.direct[list(places)]
        self.indices = [self.indices[place] for place in places]
        self.streams = [self.streams[place] for place in places] if self.streams else []


@dataclass
class Reasoned:
    """What rows became by reasoning.

    Attributes:
        vectors: float32 ``[n, d]``, or ``[n, k, d]`` without a reduction of ``k`` samples.
        tokens: what each row cost, in tokens, all of its samples counted.
        rollouts: ``k`` thoughts of each row; none where reasoning writes no text.
    """

    vectors: Tensor
    tokens: list[int]
    rollouts: list[list[Rollout]]


class Strategy:
    """Decides and reasons; see the module's docstring. One must give :meth:`scores`."""

    def scores(self, model: Any, prompts: ReadPrompts) -> Tensor:
        """How likely reasoning is to pay for each prompt: float32 ``[B]`` in 0..1, of each prompt on its own."""
        raise NotImplementedError(f"{type(self).__name__} scores nothing")

    def decide(self, model: Any, prompts: ReadPrompts, kappa: float) -> list[bool]:
        """Whether each prompt reasons, under a fixed threshold."""
        return [score > kappa for score in self.scores(model, prompts).tolist()]

    def reason(self, model: Any, prompts: ReadPrompts, wishes: ThoughtWishes) -> Reasoned:
        """Reason about prompts, from the cache that they have; they are used up."""
        streams = [stream for row in prompts.streams for stream in row]
        vectors, rollouts = model.think_on(prompts.rows, streams, wishes)
        return Reasoned(vectors, [sum(len(one.thought) for one in row) for row in rollouts], rollouts)


class Policy(Strategy):
    """The model's own: softmax over its next-token logits of ``<reason>`` and ``<direct>``, taken for the first."""

    def scores(self, model: Any, prompts: ReadPrompts) -> Tensor:
        return torch.sigmoid(model.action_logits(prompts.state).float())


class Margin(Strategy):
    """One minus the lead of the best candidate over the next, at least 0: close calls are thought about.

    A margin under ``m`` reasons at ``kappa = 1 - m``.

    Args:
        candidates: float32 ``[c, d]``, unit rows, of at least two; or a function of direct vectors ``[B, d]`` that
            gives the scores of the best two ``[B, 2]``, of an index for instance.
    """

    def __init__(self, candidates: Any) -> None:
        self._best: Callable[[Tensor], Any]
        if callable(candidates):
            self._best = candidates
            return
        table = torch.as_tensor(candidates, dtype=torch.float32)
        if table.dim() != 2 or len(table) < 2:
            raise ValueError(f"a margin is between two candidates at least; these are {tuple(table.shape)}")
        self._best = lambda vectors: best_two(vectors, table)

    def scores(self, model: Any, prompts: ReadPrompts) -> Tensor:
        best = torch.as_tensor(self._best(prompts.direct), dtype=torch.float32)
        return (1 - (best[:, 0] - best[:, 1])).clamp(0, 1)


class Probe(Strategy):
    """Logistic regression on the state of a prompt's last token: ``sigmoid(state . weight + bias)``.

    Args:
        weight: ``[H]``. bias: of one number.

    Raises:
        ValueError: these are no finite numbers of such shapes.
    """

    def __init__(self, weight: Any, bias: Any) -> None:
        self.weight = torch.as_tensor(weight, dtype=torch.float32).detach().cpu()
        self.bias = torch.as_tensor(bias, dtype=torch.float32).detach().cpu().reshape(-1)
        if self.weight.dim() != 1 or len(self.bias) != 1:
            raise ValueError(
                f"a probe has a weight [H] and one bias, not {tuple(self.weight.shape)} and {len(self.bias)}"
            )
        if not bool(torch.isfinite(self.weight).all() and torch.isfinite(self.bias).all()):
            raise ValueError("a probe's numbers must be finite")

    def scores(self, model: Any, prompts: ReadPrompts) -> Tensor:
        if prompts.state.shape[1] != len(self.weight):
            raise ValueError(
                f"the probe is for states of {len(self.weight)} numbers, this model has {prompts.state.shape[1]}"
            )
        states = prompts.state.float()
        return torch.sigmoid(states @ self.weight.to(states.device) + self.bias.to(states.device))

    def save(self, folder: Path) -> None:
        """Write ``reasoning_probe.safetensors`` into a folder."""
        save_file({"weight": self.weight, "bias": self.bias}, str(folder / PROBE_FILE))

    @classmethod
    def load(cls, path: Path) -> Probe:
        """From such a file.

        Raises:
            ValueError: it is no such file.
        """
        try:
            found = load_file(str(path))
            return cls(found["weight"], found["bias"])
        except (SafetensorError, KeyError, ValueError) as error:
            raise ValueError(f"{path} holds no probe: {error}") from None


def best_two(vectors: Tensor, candidates: Tensor) -> Tensor:
    """Scores of the best two candidates ``[c, d]`` of each vector ``[B, d]``: float32 ``[B, 2]``, best first."""
    best = vectors.new_full((len(vectors), 2), float("-inf"))
    for block in candidates.to(vectors.device).split(CANDIDATES):
        best = torch.cat([best, vectors @ block.T], dim=1).topk(2, dim=1).values
    return best


# ---- adaptive ----------------------------------------------------------------------------------------------
# The adaptive embedder: it reads an item once, and then thinks about it only if that seems to pay.
#
# A re-derivation of MMEmb-R1's adaptive control, of which no code or weights are public. What is ours, and decided here:
#
# * **The action is read off the prefill and never written.** ``p(reason)`` is the softmax over the next-token logits of
#   ``<reason>`` and ``<direct>`` after the prompt that asks for a thought. So a decision costs no token on either side,
#   and every vector is that of one of the other two modes: decisions change, vectors do not. (A model that was taught to
#   begin its thoughts with ``<reason>`` writes it there by itself; ``<direct>`` is never written.)
# * **The direct vector is the discriminative one**, the state of the prompt's own embedding token. It is in hand after
#   the same prefill, while ``<direct><gen_emb>`` would cost two more tokens and be a third kind of vector to be taught.
# * **Rows part after the prefill.** Those that are embedded at once leave the batch; the others go on from their cache.
#
# Which strategy decides, and what reasoning is, is a seam: see ``strategies``. Which score is enough: see ``budget``.


_HUB_ARGUMENTS = ("cache_dir", "token", "revision", "subfolder", "local_files_only")


@dataclass
class UmeDecisions:
    """What a batch became in the adaptive mode; lists have an entry per row.

    Attributes:
        vectors: float32 ``[B, d]``, or ``[B, k, d]`` without a reduction, where a direct vector stands ``k`` times.
        scores: float32 ``[B]``, how likely reasoning was taken to pay.
        reasoned: whether it was reasoned about.
        tokens: what reasoning cost; 0 without.
        rollouts: its thoughts; none without.
    """

    vectors: Tensor
    scores: Tensor
    reasoned: list[bool]
    tokens: list[int]
    rollouts: list[list[Rollout]] = field(default_factory=list)


class UmeForAdaptiveEmbedding(UmeForGenerativeEmbedding):
    """Embeds at once, or after a thought where that seems to pay.

    Example::

        model = AutoModel.from_pretrained(repo, trust_remote_code=True)
        vectors = model.encode(items, processor=processor, kappa=0.3)  # thinks more often than at 0.5
        found = model.encode(items, processor=processor, budget=40, return_details=True)
        found.modes, found.invocation_ratio, found.tokens_per_item, found.seconds_per_item
    """

    kind: ClassVar[str] = "adaptive"
    modes: ClassVar[tuple[str, ...]] = ("adaptive", "generative", "discriminative", "both")

    def __init__(self, config: Any, backbone: Any = None, settings: UmeSettings | None = None) -> None:
        super().__init__(config, backbone, settings)
        self.probe: Probe | None = None

    # ---- deciding -----------------------------------------------------------------------------------------------

    def action_logits(self, states: Tensor) -> Tensor:
        """Logit of ``<reason>`` minus that of ``<direct>``, with a gradient as torch is set.

        Args:
            states: ``[..., H]``, of the last token of prompts that ask for a thought.

        Returns:
            ``[...]``; its sigmoid is p(reason).

        Raises:
            UmeSettingsError: the checkpoint has no such tokens.
        """
        reason, direct = self._action_tokens()
        logits = self.logits_of(states)
        return logits[..., reason] - logits[..., direct]

    def _action_tokens(self) -> tuple[int, int]:
        """Ids of ``<reason>`` and ``<direct>``."""
        reason, direct = (self.settings.tokens.get(name) for name in ("reason", "direct"))
        if not isinstance(reason, int) or not isinstance(direct, int):
            raise UmeSettingsError(
                "config.ume.tokens names no 'direct' and 'reason': this checkpoint has no policy of its own; give "
                "strategy=, or fit a probe (umekit probe)"
            )
        return reason, direct

    def strategy_of(self, strategy: Any = None) -> Strategy:
        """What a caller's ``strategy`` names; the checkpoint's when None.

        Raises:
            ValueError: no such strategy, or one that this checkpoint lacks.
        """
        name = self.settings.strategy if strategy is None else strategy
        if name == "policy":
            self._action_tokens()
            return Policy()
        if name == "probe":
            if self.probe is None:
                raise ValueError(f"this checkpoint has no {PROBE_FILE}: fit a probe (umekit probe)")
            return self.probe
        if not callable(getattr(name, "scores", None)):
            raise ValueError(
                f"strategy is {name!r}; use 'policy', 'probe' or an object with scores and reason"
            )
        return name  # type: ignore[no-any-return]  # not isinstance: a checkpoint's own code has its own classes

    def decider_of(self, kappa: Any = None, budget: Any = None) -> Kappa:
        """What says which scores are enough; the checkpoint's kappa where nothing is said."""
        return decider_of(kappa, budget, self.settings.kappa)

    def set_probe(self, probe: Probe, kappa: float | None = None) -> None:
        """Let a probe decide where nothing is said, from now on and in what is saved."""
        kappa = self.settings.kappa if kappa is None else kappa
        self.settings = replace(self.settings, strategy="probe", kappa=kappa)
        self.probe = probe

    # ---- embedding ----------------------------------------------------------------------------------------------

    @evaluated
    @torch.inference_mode()
    def embed_adaptively(
        self,
        batch: dict[str, Tensor],
        *,
        strategy: Any = None,
        decider: Kappa | None = None,
        decoding: Decoding | None = None,
        num_samples: int = 1,
        reduce: Literal["mean", "first"] | None = "mean",
        dim: int | None = None,
        indices: Sequence[int] | None = None,
        streams: Sequence[np.random.Generator] | None = None,
        vocabulary: int | None = None,
    ) -> UmeDecisions:
        """Embed one collated batch: one prefill, and thoughts of the rows that are to have one.

        Args:
            batch: from ``processor.collate(rows, padding_side="left")``; rows prepared for a mode that thinks.
            strategy: see :meth:`strategy_of`.
            decider: see :meth:`decider_of`.
            indices: of the items; 0 to B - 1 when None.
            decoding, num_samples, reduce, dim, streams, vocabulary: see :meth:`embed`.
        """
        decoding = decoding or Decoding(self.settings.max_new_tokens)
        wishes = ThoughtWishes(decoding, whole_number("num_samples", num_samples), reduce, dim, vocabulary)
        inputs = {name: value for name, value in batch.items() if name != "pooling_slots"}
        rows, states = prefill(self.backbone, inputs, self.settings)
        direct = self._finish(pool(states, batch["pooling_slots"], DIRECT_SLOT), wishes.dim)
        del states  # the prompts' states are not kept while thoughts are written
        numbers = list(range(len(rows)) if indices is None else indices)
        chance = list(streams) if streams is not None else streams_of(fresh_seed(), numbers, num_samples)
        apart = [chance[start : start + num_samples] for start in range(0, len(chance), num_samples)]
        prompts = ReadPrompts(numbers, rows.state, direct, rows, apart)
        decider = decider or self.decider_of()
        decider.longest = decoding.max_new_tokens * num_samples
        return self._decided(prompts, self.strategy_of(strategy), decider, wishes)

    def embed_batch(
        self, batch: dict[str, Tensor], options: EncodeOptions, indices: Sequence[int], tokenizer: Any
    ) -> EncodedBatch:
        """For the encode loop: a batch of these items, in a mode that thinks."""
        if options.mode != "adaptive":
            return super().embed_batch(batch, options, indices, tokenizer)
        with options.decider.attempt():
            found = self.embed_adaptively(
                batch,
                strategy=options.strategy,
                decider=options.decider,
                decoding=options.decoding,
                num_samples=options.num_samples,
                reduce=options.reduce,  # type: ignore[arg-type]
                dim=options.dim,
                indices=indices,
                streams=streams_of(options.seed, indices, options.num_samples),
                vocabulary=len(tokenizer),
            )
        done = _told(found, indices)
        tell_rollouts(done, found.rollouts, options, tokenizer)
        # Not every strategy writes what it reasons.
        done.thought_tokens = [
            told if rollouts else tokens
            for told, rollouts, tokens in zip(done.thought_tokens, found.rollouts, found.tokens, strict=True)
        ]
        return done

    def embed_given(
        self,
        batch: dict[str, Tensor],
        options: EncodeOptions,
        indices: Sequence[int],
        given: Sequence[Sequence[Sequence[int]]],
        tokenizer: Any,
    ) -> EncodedBatch:
        """Items with thoughts that are not theirs to write: one forward, and decisions as if they had written them."""
        if options.mode != "adaptive":
            return super().embed_given(batch, options, indices, given, tokenizer)
        samples = options.num_samples
        found = self(**batch, dim=options.dim)
        ends = [
            -len(thoughts[0]) - 2 for thoughts in given
        ]  # padding is on the left, <gen_emb> the last token
        state = torch.stack([found.last_hidden_state[row * samples, end] for row, end in enumerate(ends)])
        prompts = ReadPrompts([*indices], state, found.embeddings[::samples])
        vectors = found.generated_embeddings.view(len(indices), samples, -1)
        handed = _Given(options.strategy, self._reduced(vectors, options.reduce), indices, given)
        wishes = ThoughtWishes(options.decoding, samples, options.reduce)
        with options.decider.attempt():
            decided = self._decided(prompts, handed, options.decider, wishes)
        done = _told(decided, indices)
        kept = [
            [[*ids] for ids in thoughts] if yes else []
            for yes, thoughts in zip(decided.reasoned, given, strict=True)
        ]
        tell_thoughts(done, kept, [[False] * len(row) for row in kept], options, tokenizer)
        return done

    def _decided(
        self, prompts: ReadPrompts, strategy: Any, decider: Kappa, wishes: ThoughtWishes
    ) -> UmeDecisions:
        """Decide, and reason where that is wanted; in several rounds where a budget waits for what thoughts cost."""
        scores = strategy.scores(self, prompts).float()
        vectors = prompts.direct.clone()
        if wishes.reduce is None:
            vectors = vectors.unsqueeze(1).repeat(1, wishes.num_samples, 1)
        count = len(prompts)
        done = UmeDecisions(vectors, scores, [False] * count, [0] * count, [[] for _ in range(count)])
        left = list(range(count))
        known = scores.tolist()
        while left:
            chosen = decider.decide([known[place] for place in left])
            waiting = range(len(chosen), len(left))
            later = prompts.branch(waiting) if waiting else None
            thinking = [number for number, yes in enumerate(chosen) if yes]
            if thinking:
                prompts.take(thinking)
                reasoned: Reasoned = strategy.reason(self, prompts, wishes)
                decider.spent(reasoned.tokens)
                places = [left[number] for number in thinking]
                done.vectors[places] = reasoned.vectors
                for number, place in enumerate(places):
                    done.reasoned[place], done.tokens[place] = True, reasoned.tokens[number]
                    done.rollouts[place] = reasoned.rollouts[number] if reasoned.rollouts else []
            left = left[len(chosen) :]
            if later is not None:
                prompts = later
        return done

    # ---- loading and saving -------------------------------------------------------------------------------------

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:  # type: ignore[override]
        """As of every kind; with the probe that lies beside the weights, where one decides."""
        source = os.fspath(pretrained_model_name_or_path)
        hub = {name: kwargs[name] for name in _HUB_ARGUMENTS if kwargs.get(name)}
        loaded = super().from_pretrained(source, *args, **kwargs)
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        if model.settings.strategy != "probe":  # nothing is asked of the Hub
            return loaded
        path = cached_file(source, PROBE_FILE, _raise_exceptions_for_missing_entries=False, **hub)
        if path is None:
            raise UmeSettingsError(f"{source} says that a probe decides, and has no {PROBE_FILE}")
        model.probe = Probe.load(Path(path))
        return loaded

    def save_pretrained(self, save_directory: Any, *args: Any, **kwargs: Any) -> None:  # type: ignore[override]
        """As of every kind, and the probe."""
        super().save_pretrained(save_directory, *args, **kwargs)
        if self.probe is not None:
            self.probe.save(Path(save_directory))


class _Given(Strategy):
    """Thoughts that are there already, in place of such as are written; another strategy scores."""

    def __init__(
        self, scoring: Any, vectors: Tensor, indices: Sequence[int], given: Sequence[Sequence[Sequence[int]]]
    ) -> None:
        self.scoring, self.vectors, self.given = scoring, vectors, given
        self.places = {index: place for place, index in enumerate(indices)}

    def scores(self, model: Any, prompts: ReadPrompts) -> Tensor:
        found: Tensor = self.scoring.scores(model, prompts)
        return found

    def reason(self, model: Any, prompts: ReadPrompts, wishes: ThoughtWishes) -> Reasoned:
        places = [self.places[index] for index in prompts.indices]
        tokens = [sum(map(len, self.given[place])) for place in places]
        return Reasoned(self.vectors[places], tokens, [])


def _told(found: UmeDecisions, indices: Sequence[int]) -> EncodedBatch:
    return EncodedBatch(
        [*indices],
        {"adaptive": found.vectors},
        modes=["generative" if yes else "discriminative" for yes in found.reasoned],
        reason_scores=found.scores.tolist(),
    )
