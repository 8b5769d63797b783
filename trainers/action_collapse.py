"""Whether a policy has come to do the same with every item: a window of batches, a warning, an entry of the log."""

from __future__ import annotations

import logging
from typing import Any

from transformers import TrainerCallback
from transformers.trainer_callback import ExportableState

logger = logging.getLogger(__name__)

DIRECT, NEITHER, REASON = -1, 0, 1

_ALL_DIRECT = (
    "it embeds nearly every {role} at once. If that is not what the data ask for: lower reasoning_cost, keep more "
    "thoughts in each group for longer (action_warmup_steps, least_actions), or see why thoughts gain nothing "
    "(max_completion_length cuts them, a cold start was too short)"
)
_ALL_REASON = (
    "it thinks about nearly every {role}. If that is not what the data ask for: raise reasoning_cost, mix in rows that "
    "are easy without a thought, or keep more direct rollouts in each group for longer (action_warmup_steps, "
    "least_actions)"
)


class ActionCollapse(TrainerCallback, ExportableState):
    """The policy's mean p(reason) over the last batches, by role; the same on every rank, and part of a checkpoint.

    Args:
        window: batches that are looked at.
        share: a mean p(reason) of at most this, or of at least one minus this, is a collapse.
    """

    def __init__(self, window: int, share: float) -> None:
        self.window, self.share = window, share
        self.seen: dict[str, list[list[float]]] = {}
        self.said: dict[str, int] = {}

    def add(self, role: str, reason: float, gap: float, price: float) -> int:
        """One batch of one role; over the window: -1, all is embedded at once; 1, all is thought about; otherwise 0.

        A warning is given when it becomes so, and not again before it has been otherwise.

        Args:
            role: ``"query"`` or ``"positive"``.
            reason: mean p(reason) of the prompts, before any action is forced.
            gap: mean delta of the groups.
            price: delta from which on thoughts of this length pay.
        """
        seen = self.seen.setdefault(role, [])
        seen.append([float(reason), float(gap), float(price)])
        del seen[: -self.window]
        if len(seen) < self.window:
            return NEITHER
        mean, gain, needed = (sum(column) / len(seen) for column in zip(*seen, strict=True))
        found = DIRECT if mean <= self.share else REASON if mean >= 1 - self.share else NEITHER
        if found != NEITHER and found != self.said.get(role, NEITHER):
            hint = (_ALL_DIRECT if found == DIRECT else _ALL_REASON).format(role=role)
            logger.warning(
                "the policy has collapsed: %s; p(reason) was %.1f %% on average over the last %d batches. There "
                "thoughts gained %.4f of utility on average, and pay from %.4f on: %s",
                "always direct" if found == DIRECT else "always reason",
                100 * mean,
                self.window,
                gain,
                needed,
                hint,
            )
        self.said[role] = found
        return found

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {
            "args": {"window": self.window, "share": self.share},
            "attributes": {"seen": self.seen, "said": self.said},
        }

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Take over what the checkpoint that is resumed from has seen, if there is one."""
        saved = state.stateful_callbacks.setdefault(
            type(self).__name__, {"attributes": {"seen": {}, "said": {}}}
        )
        kept = saved["attributes"]
        self.seen = {role: [list(one) for one in rows][-self.window :] for role, rows in kept["seen"].items()}
        self.said = dict(kept["said"])
