"""What a side of a row is labelled to do: be embedded at once (``direct``), or be thought about first (``reason``).

MMEmb-R1 (arXiv 2604.06156) has published neither code nor weights: that an action is a choice between two tokens, and
where it is read, is a re-derivation. The choice is between the logits of ``<direct>`` and ``<reason>`` after the
prompt, and neither token is ever written: a decision costs nothing, and what follows is a thought as any other.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .batches import PreparedRow
from .thoughts import COLUMNS, ThoughtCollator

DIRECT, REASON = "direct", "reason"
ACTIONS = (DIRECT, REASON)
ACTION_COLUMNS = {"query": "query_action", "positive": "positive_action"}


def action_token(action: str) -> str:
    """The token of an action: ``<direct>``, ``<reason>``."""
    return f"<{action}>"


def action_of(row: Mapping[str, Any], role: str) -> str:
    """The action of a row's query or positive; of a row without a label, ``reason`` where it has a thought.

    Raises:
        ValueError: no such action, or ``reason`` without a thought.
    """
    column, (thought, _) = ACTION_COLUMNS[role], COLUMNS[role]
    action = row.get(column)
    if action is None:
        return DIRECT if row.get(thought) is None else REASON
    if action not in ACTIONS:
        raise ValueError(f"{column} is {action!r}; use one of {', '.join(ACTIONS)}")
    if action == REASON and row.get(thought) is None:
        raise ValueError(f"{column} is 'reason', and there is no {thought!r} to learn")
    return str(action)


@dataclass
class ActionCollator(ThoughtCollator):
    """As its parent, with the bool columns ``query_action`` and ``positive_action``: whether to think.

    A side that is to be embedded at once has no thought, whatever the row holds. Negatives have neither.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        self.action_ids()

    def prepare_row(self, row: Mapping[str, Any]) -> PreparedRow:
        """The parent's, and the actions."""
        found = super().prepare_row(row)
        for role, column in ACTION_COLUMNS.items():
            found.columns[column] = torch.tensor(action_of(row, role) == REASON)
        return found

    def completion_of(self, row: Mapping[str, Any], role: str) -> list[tuple[list[int], int]]:
        """A thought where one is to be written."""
        return super().completion_of(row, role) if action_of(row, role) == REASON else []

    def action_ids(self) -> list[int]:
        """Ids of ``<direct>`` and ``<reason>``.

        Raises:
            ValueError: the tokenizer lacks one.
        """
        tokenizer = self.processor.prompt_tokenizer
        if missing := [token for token in map(action_token, ACTIONS) if token not in tokenizer.added]:
            raise ValueError(
                f"the tokenizer has no token {' and no '.join(missing)}: load a checkpoint of kind 'adaptive', or a "
                "stock Qwen3-VL with preset='mmemb-r1', which adds both"
            )
        return [tokenizer.id_of(action_token(action)) for action in ACTIONS]


def prompt_ends(items: Any, attention_mask: Tensor) -> Tensor:
    """int64 ``[items]``: where the last token of each item's prompt stands, before its completion.

    attention_mask: ``[B, L]``, padded on either side; rows behind those of the items are not looked at.
    """
    ends = [
        int(mask.nonzero()[-1 - item.completion]) for item, mask in zip(items, attention_mask, strict=False)
    ]
    return torch.tensor(ends, dtype=torch.int64, device=attention_mask.device)


def action_margins(model: Any, states: Tensor, places: Tensor, ids: list[int]) -> Tensor:
    """Logit of ``<reason>`` less that of ``<direct>``, float32 ``[items]`` with gradient.

    states: ``[at least items, L, H]``, after the final norm. places: of :func:`prompt_ends`. ids: of both tokens.
    """
    head = (
        model.backbone.get_output_embeddings()
    )  # called as a module: sharded weights are gathered by it alone
    rows = torch.arange(len(places), device=places.device)
    logits = head(states[rows, places]).float()
    return logits[:, ids[1]] - logits[:, ids[0]]  # type: ignore[no-any-return]
