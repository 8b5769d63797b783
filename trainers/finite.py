"""Numbers that are not finite: they end a run, or their step is left out and counted; none reaches weights or disk."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import TrainerCallback
from transformers.trainer_callback import ExportableState

from .distributed import gather_lists, max_over_ranks

logger = logging.getLogger(__name__)

SHOWN = 20


class NonFiniteError(FloatingPointError):
    """A loss, a gradient or a weight is not finite.

    step: the optimiser step that it would have been, or was found at. rows: names of the rows of all ranks that its
    loss was taken of. checkpoint: the last complete one, None without any.
    """

    def __init__(
        self, message: str, step: int, rows: Sequence[str] = (), checkpoint: str | None = None
    ) -> None:
        super().__init__(message)
        self.step, self.rows, self.checkpoint = step, list(rows), checkpoint

    def __reduce__(self) -> Any:
        return (type(self), (str(self), self.step, self.rows, self.checkpoint))


class FiniteSteps(TrainerCallback, ExportableState):
    """Watches the losses and gradients of a run; what it counts goes into the checkpoint's ``trainer_state.json``.

    limit: steps that may be left out in all, over resumed runs, too.
    """

    def __init__(self, limit: int = 0) -> None:
        self.limit = limit
        self.skipped: list[int] = []  # numbers of the steps
        self._rows: list[str] = []  # of the step in the making
        self._broken_rows: list[str] = []  # of its batches whose loss is not finite
        self._broken = False
        self._loss = 0.0  # of the step in the making, and its sums since the last log and since the beginning
        self._window, self._run = _Mean(), _Mean()

    def saw(self, loss: Tensor, rows: Sequence[str]) -> bool:
        """Whether the loss of a batch (with its weight in the step) is finite. rows: their names."""
        value = loss.item()
        self._loss += value
        self._rows += rows
        if not math.isfinite(value):
            self._broken = True
            self._broken_rows += rows
        return math.isfinite(value)

    def judge(self, norm: Any, device: torch.device, scale: float | None) -> str:
        """What is wrong with the step whose last batch has been seen, on every rank alike; empty for nothing.

        Args:
            norm: of its gradient, as ``clip_grad_norm_`` gives it; None where there is none.
            device: for what the ranks tell each other.
            scale: by which float16 losses are multiplied. Gradients that overflow by it are the scaler's business: it
                takes no step and a smaller scale, down to one that overflows nothing.
        """
        if isinstance(norm, Tensor) and hasattr(norm, "full_tensor"):
            norm = norm.full_tensor()
        value = 0.0 if norm is None else float(norm)
        broken_norm = not math.isfinite(value) and (scale is None or scale < 1)
        kind = max_over_ranks(2 * self._broken + broken_norm, device)
        if kind >= 2:
            return "the loss is not finite"
        if kind:
            return f"the loss is finite and its gradient is not (norm {value})"
        self._window.add(self._loss)
        self._run.add(self._loss)
        return ""

    def rows(self, device: torch.device) -> list[str]:
        """Names of the rows of all ranks that are to be looked at; a collective."""
        broken = gather_lists(self._broken_rows, device)
        return broken or gather_lists(self._rows, device)

    def skip(self, step: int, reason: str, rows: Sequence[str]) -> None:
        """Count and log a step that is left out."""
        self.skipped.append(step)
        self._window.missing += 1
        self._run.missing += 1
        logger.warning(
            "left out step %d: %s; %s (%d of at most %d)",
            step,
            reason,
            named(rows),
            len(self.skipped),
            self.limit,
        )

    def forget_step(self) -> None:
        """Begin a step."""
        self._rows, self._broken_rows, self._broken, self._loss = [], [], False, 0.0

    def logged(self, logs: dict[str, float]) -> dict[str, float]:
        """Logs of training whose means leave the same steps out, and with their number where there are any.

        transformers puts the mean so far, and at the beginning 0, in place of a loss that is not finite.
        """
        changed = dict(logs)
        if "loss" in logs:
            if self._window.missing:
                changed["loss"] = self._window.mean
            self._window = _Mean()
            if self.skipped:
                changed["skipped_steps"] = len(self.skipped)
        if "train_loss" in logs and self._run.missing:
            changed["train_loss"] = self._run.mean
            changed["skipped_steps"] = len(self.skipped)
        return changed

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"args": {"limit": self.limit}, "attributes": {"skipped": list(self.skipped)}}

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Take over the steps of the checkpoint that is resumed from, if any; a limit that changed is the new one."""
        saved = state.stateful_callbacks.setdefault(type(self).__name__, self.state())
        self.skipped = list(saved["attributes"]["skipped"])
        self._window, self._run = _Mean(), _Mean()
        self.forget_step()

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.forget_step()


class _Mean:
    """Of losses, and the number of those that are missing."""

    def __init__(self) -> None:
        self.total, self.count, self.missing = 0.0, 0, 0

    def add(self, value: float) -> None:
        self.total += value
        self.count += 1

    @property
    def mean(self) -> float:
        return self.total / self.count if self.count else float("nan")


def named(rows: Sequence[str]) -> str:
    """Some of the rows, in words."""
    if not rows:
        return "it had no rows"
    more = f" and {len(rows) - SHOWN} more" if len(rows) > SHOWN else ""
    return f"its rows: {', '.join(rows[:SHOWN])}{more}"


def nonfinite_weights(model: Any) -> list[str]:
    """Names of the trained parameters that hold a number that is not finite, of this rank's shards."""
    trained = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    found = [torch.isfinite(_local(parameter)).all() for _, parameter in trained]
    return [name for (name, _), good in zip(trained, found, strict=True) if not good]


def _local(parameter: Tensor) -> Tensor:
    values: Tensor = parameter.detach()
    return values.to_local() if hasattr(values, "to_local") else values


def without_gradients(optimizer: Any) -> None:
    """Forget all gradients, so that the optimiser's step changes nothing: neither weights nor its own state."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = None
