"""Weights from how fast each data set's loss fell: read those more often that still have something to learn.

RzenEmbed (section 3.4) raises the share of image data because the loss of video converges faster; its ratios are not
published. The rule here is ours.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from .planning import Plan

LEAST_RECORDS = 8


def convergence_weights(
    history: Iterable[tuple[int, str, float]],
    *,
    strength: float = 1.0,
    limit: float = 2.0,
    base: Mapping[str, float] | None = None,
) -> dict[str, float]:
    """Weights for the next run or phase.

    The losses of data set d, in the order of their steps, give three means: E over the first quarter, M over the
    middle quarter (3/8 to 5/8), L over the last. ``c = clip((E - M) / (E - L), 0, 1)`` is the share of
    what was learned that was learned by half-time: near 1 where the loss has converged early, 1/2 where it fell in a
    straight line. Scale and offset of the loss drop out. With ``s = 1 - c``:

        weight_d = base_d * clip(((s_d + 0.1) / mean(s + 0.1)) ** strength, 1 / limit, limit)

    A data set whose loss did not fall (E <= L) tells nothing of its speed: it takes part in no mean and keeps its
    base weight.

    Args:
        history: (step, data set, loss) of an earlier run or phase; at least eight records for each data set.
        strength: 0 changes nothing.
        limit: a weight is raised or lowered by at most this factor.
        base: weights that the earlier run had; 1 where none is named.

    Raises:
        ValueError: too few records, a loss that is not finite, or arguments out of range.
    """
    if strength < 0 or limit < 1:
        raise ValueError(f"strength must not be negative and limit at least 1, got {strength} and {limit}")
    records: dict[str, list[tuple[int, float]]] = {}
    for step, name, loss in history:
        if not np.isfinite(loss):
            raise ValueError(f"the loss of {name!r} at step {step} is {loss}")
        records.setdefault(name, []).append((step, loss))
    if not records:
        raise ValueError("the history is empty")
    left = {name: _left(name, found) for name, found in records.items()}
    given = np.array([value + 0.1 for value in left.values() if value is not None])
    weights = {}
    for name, value in left.items():
        factor = 1.0 if value is None else ((value + 0.1) / given.mean()) ** strength
        weights[name] = (base or {}).get(name, 1.0) * float(np.clip(factor, 1 / limit, limit))
    return weights


def _left(name: str, records: list[tuple[int, float]]) -> float | None:
    """1 - c; None where the loss did not fall."""
    count = len(records)
    if count < LEAST_RECORDS:
        raise ValueError(
            f"{name!r} has {count} losses; at least {LEAST_RECORDS} are needed to see how fast it fell"
        )
    losses = np.array([loss for _, loss in sorted(records, key=lambda record: record[0])])
    early = losses[: count // 4].mean()
    middle = losses[count * 3 // 8 : -(-count * 5 // 8)].mean()
    late = losses[-(count // 4) :].mean()
    if early <= late:
        return None
    return 1.0 - float(np.clip((early - middle) / (early - late), 0.0, 1.0))


def loss_history(
    log_history: Sequence[Mapping[str, Any]], plan: Plan, *, accumulation: int = 1
) -> list[tuple[int, str, float]]:
    """(step, data set, loss) of a run over a plan whose batches are of one source each.

    Args:
        log_history: ``trainer.state.log_history`` of a run with ``logging_steps=1``: a mean over several steps belongs
            to no data set.
        plan: the run's plan; a group counts under the source that has most of the batch.
        accumulation: batches of one optimiser step; a step over several data sets is left out.

    Raises:
        ValueError: the logs are not of every step.
    """
    found, last = [], 0
    for entry in log_history:
        if "loss" not in entry or "step" not in entry:
            continue
        step = int(entry["step"])
        if step != last + 1:
            raise ValueError(f"a loss at step {step} after step {last}: train with logging_steps=1")
        last = step
        batches = plan.source[(step - 1) * accumulation : step * accumulation]
        names = {plan.names[int(np.bincount(batch).argmax())] for batch in batches}
        if len(names) == 1:
            found.append((step, names.pop(), float(entry["loss"])))
    return found
