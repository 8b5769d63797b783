"""Rows that cannot be prepared: named, left out of their batch, and counted over all ranks up to a limit.

The collator, which may run in a worker process, leaves such a row out and says so in the batch; the count is kept
here, in the trainer's process, and goes into the checkpoint's ``trainer_state.json``. A row counts once, however many
epochs meet it.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import TrainerCallback
from transformers.trainer_callback import ExportableState

from .distributed import gather_lists

logger = logging.getLogger(__name__)

SHOWN = 20


class TooManyBadRows(ValueError):
    """More rows than ``max_bad_rows`` could not be prepared."""


@dataclass(frozen=True)
class BadRow:
    """name: which row, e.g. ``row 5 of source 'flowers'``. reason: what is wrong with it. known: whether the name is
    the row's own in the whole dataset (rows of an iterable dataset only have a place in their batch)."""

    name: str
    reason: str
    known: bool = True


class BadRows(TrainerCallback, ExportableState):
    """The bad rows of a training run so far, the same on every rank.

    limit: :meth:`add` raises when there are more; 0 with a collator that raises by itself never counts any.
    """

    def __init__(self, limit: int = 0) -> None:
        self.limit = limit
        self.reasons: dict[str, str] = {}

    @property
    def count(self) -> int:
        """Distinct bad rows."""
        return len(self.reasons)

    def add(self, rows: Sequence[BadRow], step: int, device: torch.device) -> None:
        """Log and count this rank's bad rows of a batch; every rank calls it for every batch.

        Raises TooManyBadRows, on every rank at once, if there are then more than ``limit``.
        """
        for row in gather_lists(list(rows), device):
            name = row.name if row.known else f"{row.name} at step {step}"
            if name not in self.reasons:
                self.reasons[name] = row.reason
                logger.warning("left out %s: %s (%d of at most %d)", name, row.reason, self.count, self.limit)
        if self.count > self.limit:
            named = [f"{name}: {reason}" for name, reason in list(self.reasons.items())[:SHOWN]]
            more = f"; and {self.count - SHOWN} more" if self.count > SHOWN else ""
            raise TooManyBadRows(
                f"{self.count} rows cannot be prepared, more than max_bad_rows={self.limit}. "
                f"Repair or remove them, or raise the limit. {'; '.join(named)}{more}"
            )

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"args": {"limit": self.limit}, "attributes": {"reasons": dict(self.reasons)}}

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Take over the rows of the checkpoint that is resumed from, if any; a limit that changed is the new one."""
        saved = state.stateful_callbacks.setdefault(type(self).__name__, self.state())
        self.reasons = dict(saved["attributes"]["reasons"])
