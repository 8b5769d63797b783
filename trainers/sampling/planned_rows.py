"""The rows of a plan in its order: what a Trainer reads with ``train_sampling_strategy="sequential"``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch.utils.data import Dataset

from ..collating import OWN_ID
from .planning import Plan
from .source import Source
from .targets import UNKNOWN


def ids_of_source(row: Mapping[str, Any], source: str) -> dict[str, Any]:
    """The row with ``positive_id``, ``positive_ids`` and ``negative_ids``, where it has them, as ``source\\0id``.

    Two sources that both number their targets from 0 have different targets all the same; ``target_codes`` names them
    in this way, too.
    """
    named = dict(row)
    if row.get("positive_id") is not None:
        named["positive_id"] = f"{source}\0{row['positive_id']}"
    for column in ("positive_ids", "negative_ids"):
        if row.get(column) is not None:
            named[column] = [None if one is None else f"{source}\0{one}" for one in row[column]]
    return named


class PlannedRows(Dataset):  # type: ignore[type-arg]
    """Row ``i`` stands at place ``i % batch_size`` of batch ``i // batch_size``.

    Give it to a Trainer with ``train_sampling_strategy="sequential"``, ``num_train_epochs=1`` and
    ``per_device_train_batch_size = plan.batch_size / processes``. accelerate hands batch ``k * W + r`` of the device
    batches to rank ``r`` of ``W``, so that step ``k`` of all ranks is batch ``k`` of the plan. With
    gradient accumulation a micro-step is a batch. A resumed run skips indices and reads no row twice.

    A row is the source's row with ``dataset`` (the source's name), ``task`` (the source's, if it has one) and
    ``positive_id`` (the target's number in the plan, equal over all sources for equal targets). So what the plan keeps
    apart and what the loss masks are one thing. Where the plan does not know the target, the loss goes by the rule of
    ``target_codes`` on its own: ids are made those of the source (:func:`ids_of_source`), and content is compared over
    all sources.

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
        found = ids_of_source(found, source.name)
        found["dataset"] = source.name
        if source.task is not None:
            found["task"] = source.task
        target = int(self.plan.targets[number][row])
        if target != UNKNOWN:
            if source.key is None and found.get("positive_id") is not None:
                found[OWN_ID] = found["positive_id"]  # what ``negative_ids`` of the source name it by
            else:
                found.pop("negative_ids", None)  # there are no ids of positives to compare them with
            found["positive_id"] = f"target {target}"
        return found

    def _find(self, index: int) -> tuple[int, int]:
        if not 0 <= index < len(self):
            raise IndexError(f"row {index} of a plan of {len(self)} rows")
        place = np.unravel_index(index, self.plan.source.shape)
        return int(self.plan.source[place]), int(self.plan.row[place])
