"""Rows laid end to end: attention by sequence lengths instead of by a padding mask.

A padded batch ``[B, L]`` becomes one row of its real tokens ``[1, T]``, so that no layer computes padding and no
attention needs a mask; the states go back to their places. Flash attention reads such a row natively, by cumulative
lengths. ``packed_sdpa`` does the same with torch's own kernel on any device and dtype: one call for each run of
sequences of one length, of which a batch planned by length has few. Vision towers of transformers work this way by
themselves, with either.
"""

from __future__ import annotations

from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

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
