"""The rows of a plan in its order: what a Trainer reads with ``train_sampling_strategy="sequential"``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch.utils.data import Dataset

from .planning import Plan
from .source import Source
from .targets import UNKNOWN


class PlannedRows(Dataset):  # type: ignore[type-arg]
    """Row ``i`` stands at place ``i % batch_size`` of batch ``i // batch_size``.

    Give it to a Trainer with ``train_sampling_strategy="sequential"``, ``num_train_epochs=1`` and
    ``per_device_train_batch_size = plan.batch_size / processes``. accelerate hands batch ``k * W + r`` of the device
    batches to rank ``r`` of ``W``, so that step ``k`` of all ranks is batch ``k`` of the plan. With
    gradient accumulation a micro-step is a batch. A resumed run skips indices and reads no row twice.

    A row is the source's row with ``dataset`` (the source's name), ``task`` (the source's, if it has one) and
    ``positive_id`` (the target's number in the plan, equal over all sources for equal targets; left alone where the
    plan does not know the target). So what the plan keeps apart and what the loss masks are one thing.

    Raises:
        ValueError: the sources are not those of the plan, or a row cannot be read; names source and row.
    """

    def __init__(self, sources: Sequence[Source], plan: Plan) -> None:
        if tuple(source.name for source in sources) != plan.names:
            raise ValueError(f"the plan is of the sources {', '.join(plan.names)}, in this order")
        for source, targets in zip(sources, plan.targets, strict=True):
            if len(source) != len(targets):
                raise ValueError(
                    f"source {source.name!r} has {len(source)} rows; the plan was made for {len(targets)}"
                )
        self.sources, self.plan = tuple(sources), plan

    def __len__(self) -> int:
        return self.plan.source.size

    def place(self, index: int) -> tuple[str, int]:
        """Name of the source and row in it."""
        source, row = self._find(index)
        return self.plan.names[source], row

    def __getitem__(self, index: int) -> dict[str, Any]:
        number, row = self._find(index)
        source = self.sources[number]
        try:
            found = dict(source.rows[row])
        except Exception as error:
            raise ValueError(f"source {source.name!r}, row {row}: {error}") from error
        found["dataset"] = source.name
        if source.task is not None:
            found["task"] = source.task
        target = int(self.plan.targets[number][row])
        if target != UNKNOWN:
            found["positive_id"] = f"target {target}"
        return found

    def _find(self, index: int) -> tuple[int, int]:
        if not 0 <= index < len(self):
            raise IndexError(f"row {index} of a plan of {len(self)} rows")
        place = np.unravel_index(index, self.plan.source.shape)
        return int(self.plan.source[place]), int(self.plan.row[place])
