"""The rows of a selection: read once for their keys, and written with what was chosen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..actions import ACTION_COLUMNS, DIRECT, REASON
from ..mining.items import as_mapping, columns_key, content_key
from ..mining.output_layout import OutputLayout, each_item
from ..thoughts import COLUMNS
from .choosing import SideChoice
from .pools import POOLS, Pools


def scan(rows: Sequence[Any], layout: OutputLayout) -> dict[str, np.ndarray]:
    """Keys of rows ``[n]``, read once: of the query with its instruction, the positive, the task, and all else."""
    if len(rows) == 0:
        raise ValueError("there are no rows to select thoughts for")
    keys = {name: np.empty(len(rows), np.int64) for name in ("query", "positive", "columns", "task")}
    tasks: dict[str, int] = {}
    for number in range(len(rows)):
        try:
            row = rows[number]
            for side in POOLS:
                if not isinstance(row, Mapping) or row.get(side) is None:
                    raise ValueError(f"no {side!r}: a row has a query and a positive")
                keys[side][number] = content_key(row[side], instruction=True)
            keys["columns"][number] = columns_key(row)
            keys["task"][number] = tasks.setdefault(str(row.get("task") or ""), len(tasks))
            layout.add_row(number, {**row, "candidates": row.get("negatives")})
        except (TypeError, ValueError, KeyError) as error:
            raise ValueError(f"row {number}: {error}") from error
    return keys


def finished_row(
    row: Mapping[str, Any],
    number: int,
    choices: Mapping[str, SideChoice],
    pools: Pools,
    seen: Mapping[str, dict[str, None]],
) -> dict[str, Any]:
    """A row with its actions, thoughts and weighed pools.

    seen: by side, names of the workers whose thoughts there are; those of this row are added.
    """
    found = each_item(row, as_mapping)  # one form for all, as tables have
    for side, choice in choices.items():
        pool = pools.of(row, number, side)
        seen[side].update(dict.fromkeys(one.worker for one in pool))
        span, kept = choice.of(number), int(choice.chosen[number])
        told = [
            {
                "worker": one.worker,
                "thought": one.thought,
                "answer": one.answer,
                "tokens": one.tokens,
                "contribution": _finite(record["contribution"]),
                "lift": _finite(record["lift"]),
                "posterior": float(likely),
                "kept": place == kept,
            }
            for place, (one, record, likely) in enumerate(
                zip(pool, choice.records[span], choice.posterior[span], strict=True)
            )
        ]
        thought, answer = COLUMNS[side]
        found[POOLS[side]] = told
        found[ACTION_COLUMNS[side]] = REASON if kept >= 0 else DIRECT
        found[thought] = pool[kept].thought if kept >= 0 else None
        found[answer] = pool[kept].answer if kept >= 0 else None
    return found


def best_contribution(choices: Mapping[str, SideChoice], count: int) -> np.ndarray:
    """The best contribution of each row, of either side; NaN for one without a candidate."""
    best = np.full(count, -np.inf)
    for choice in choices.values():
        known = np.nan_to_num(choice.records["contribution"], nan=-np.inf)
        np.maximum.at(best, choice.records["row"], known)
    return np.where(np.isneginf(best), np.nan, best)


def _finite(value: Any) -> float | None:
    return None if np.isnan(value) else float(value)
