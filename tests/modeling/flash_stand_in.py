"""Flash attention without a GPU: transformers' own code for it, with a stand-in for the kernel that it calls."""

from __future__ import annotations

import itertools
from functools import partial
from typing import Any

import pytest
import torch
import transformers.modeling_flash_attention_utils as utils
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.flash_attention import flash_attention_forward
from transformers.masking_utils import flash_attention_mask

NAME = "flash_stand_in"
KNOWN = ("dropout_p", "window_size", "softcap", "max_seqlen_q", "max_seqlen_k")
UNKNOWN = ("deterministic", "s_aux", "learnable_sink", "block_table", "page_table", "cache_seqlens")


def varlen(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor,
    causal: bool = False,
    softmax_scale: float | None = None,
    **_: Any,
) -> Tensor:
    """``flash_attn_varlen_func``: ``[T, heads, d]``, a sequence at a time."""
    assert torch.equal(cu_seqlens_q, cu_seqlens_k)
    groups = query.shape[1] // key.shape[1]
    key, value = (tensor.repeat_interleave(groups, 1) for tensor in (key, value))
    ends = cu_seqlens_q.tolist()
    found = []
    for begin, end in itertools.pairwise(ends):
        q, k, v = (tensor[begin:end].transpose(0, 1) for tensor in (query, key, value))
        attended = torch.nn.functional.scaled_dot_product_attention(
            q, k, v, is_causal=causal, scale=softmax_scale
        )
        found.append(attended.transpose(0, 1))
    return torch.cat(found)


def install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Register the kernel ``NAME``."""
    supported = dict.fromkeys(KNOWN, True) | dict.fromkeys(UNKNOWN, False)
    process = partial(utils._process_flash_attention_kwargs, supports_mapping=supported)
    functions = (None, varlen, None, None, None), (process, process)
    monkeypatch.setattr(utils, "lazy_import_flash_attention", lambda *_, **__: functions)
    monkeypatch.setitem(AttentionInterface._global_mapping, NAME, flash_attention_forward)
    monkeypatch.setitem(AttentionMaskInterface._global_mapping, NAME, flash_attention_mask)
