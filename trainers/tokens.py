"""Completions token by token: which positions predict one, and how likely it was."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

IGNORED = -100
BLOCK = 1024  # positions whose logits are held at once


def completion_labels(items: Sequence[Any], input_ids: Tensor, attention_mask: Tensor) -> Tensor:
    """int64 ``[items, L]``: where the next token is one of the item's completion, that token; ``IGNORED`` elsewhere.

    items: of a collated chunk; ``completion`` is how many tokens at an item's end were appended to its prompt.
    input_ids, attention_mask: ``[B, L]``, padded on either side; rows behind those of the items are not looked at.
    """
    labels = torch.full((len(items), input_ids.shape[1]), IGNORED, dtype=torch.int64, device=input_ids.device)
    for item, label, ids, mask in zip(items, labels, input_ids, attention_mask, strict=False):
        places = mask.nonzero().flatten()[-item.completion :] if item.completion else mask.new_zeros(0)
        label[places - 1] = ids[places]
    return labels


def log_probabilities(model: Any, states: Tensor, labels: Tensor) -> Tensor:
    """Log-probabilities of the labels, float32 ``[B, L]`` with gradient; 0 at ``IGNORED``.

    Logits are made of labelled positions only, and of ``BLOCK`` at a time: a backward makes them again, as those of a
    whole chunk would be larger than all else. The output matrix gets a gradient even where there is none.

    states: ``[at least B, L, H]``, after the final norm. labels: as of :func:`completion_labels`.
    """
    asked = labels != IGNORED
    head = model.backbone.get_output_embeddings()
    blocks = zip(states[: len(labels)][asked].split(BLOCK), labels[asked].split(BLOCK), strict=True)
    found = torch.cat(
        [
            checkpoint(_likely, head, some, wanted, use_reentrant=False, preserve_rng_state=False)
            for some, wanted in blocks
        ]
    )
    return found.new_zeros(labels.shape).index_put((asked,), found)


def _likely(head: nn.Module, states: Tensor, labels: Tensor) -> Tensor:
    """Log-probabilities of labels [n], of states [n, H]."""
    return head(states).float().log_softmax(-1).gather(1, labels[:, None]).squeeze(1)  # type: ignore[no-any-return]
