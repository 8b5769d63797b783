"""A data set as it takes part in sampling: its rows, how often they are read, and with whom they share batches."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Source:
    """Rows that share a name.

    Attributes:
        name: unique among the sources; becomes the ``dataset`` of the rows.
        rows: any map-style data set of rows (``datasets.Dataset``, list, torch ``Dataset``).
        weight: how often it is read; see :func:`plan_epochs`.
        cap: at most this many of its rows are used, the same ones in every epoch (RzenEmbed: 100K).
        task: becomes the ``task`` of its rows (None leaves what they have); the temperature's key.
        group: sources of one group are one data set for batching (RzenEmbed 3.4.1: all image classification).
        key: what tells targets apart, where it is not ``positive_id`` and the text of ``positive``: a column, a
            function of a row, or one key per row.
        distinct: whether a batch must not hold one target twice. False for a set with fewer targets than a batch has
            rows, such as ten digits: the loss masks its duplicates instead.

    Raises:
        ValueError: no name, no rows, a weight that is not positive, or a cap below 1.
    """

    name: str
    rows: Any
    weight: float = 1.0
    cap: int | None = None
    task: str | None = None
    group: str | None = None
    key: str | Callable[[Any], Any] | Sequence[Any] | np.ndarray | None = None
    distinct: bool = True

    def __post_init__(self) -> None:
        if not self.name:
            raise ValueError("a source needs a name")
        if not (math.isfinite(self.weight) and self.weight > 0):
            raise ValueError(
                f"source {self.name!r}: weight must be positive, got {self.weight}; do not list what shall not be read"
            )
        if self.cap is not None and self.cap < 1:
            raise ValueError(f"source {self.name!r}: cap must be at least 1, got {self.cap}")
        if len(self.rows) == 0:
            raise ValueError(f"source {self.name!r} has no rows")

    def __len__(self) -> int:
        return len(self.rows)


class Subset:
    """Some rows of a data set, by index; nothing is copied."""

    def __init__(self, rows: Any, indices: Sequence[int] | np.ndarray) -> None:
        self.rows = rows
        self.indices = np.asarray(indices, dtype=np.int64)
        if self.indices.size and not 0 <= self.indices.min() <= self.indices.max() < len(rows):
            raise IndexError(f"a subset names rows outside of 0..{len(rows) - 1}")

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Any:
        return self.rows[int(self.indices[index])]

    def names_only(self) -> Subset:
        """The same rows without their media; see the function of this name."""
        return Subset(names_only(self.rows), self.indices)


def names_only(rows: Any) -> Any:
    """The rows without their media, where they offer that: for what looks at nothing but texts and ids."""
    offered = getattr(rows, "names_only", None)
    return rows if offered is None else offered()


def split_sources(rows: Any, column: str = "dataset", **options: Any) -> list[Source]:
    """One source per value of a column, in the order in which the values first appear.

    UME-R1's and M-BEIR's files hold many data sets. The column of a ``datasets.Dataset`` is read as a whole; of other
    data sets every row is read once.

    Args:
        rows: any map-style data set.
        column: has a str in every row.
        options: further fields of every :class:`Source`.

    Raises:
        ValueError: a row without a value there.
    """
    found: dict[str, list[int]] = {}
    for index, name in enumerate(values_of(rows, column)):
        if not isinstance(name, str) or not name:
            raise ValueError(f"row {index} has no {column!r} to split by, but {name!r}")
        found.setdefault(name, []).append(index)
    return [
        Source(name, rows.select(indices) if _is_table(rows) else Subset(rows, indices), **options)
        for name, indices in found.items()
    ]


def values_of(rows: Any, column: str) -> Iterable[Any]:
    """What each row has in a column, None without one; of a ``datasets.Dataset`` it is read as a whole."""
    if _is_table(rows) and column in rows.column_names:
        whole: Iterable[Any] = rows[column]
        return whole
    rows = names_only(rows)
    return (rows[index].get(column) for index in range(len(rows)))


def _is_table(rows: Any) -> bool:
    return hasattr(rows, "column_names")
