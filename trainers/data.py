"""Rows of a dataset to prepared items: the collator, and how a batch's embeddings map back to its rows."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from .bad_rows import BadRow
from .objectives.task_groups import group_of
from .objectives.temperature import DEFAULT_TASK

ROW_INDEX = "__row__"
READ_ERROR = "__read_error__"


class IndexedRows(Dataset):  # type: ignore[type-arg]
    """A map-style dataset whose rows know their index, so that an error can name it.

    keep_errors: a row that cannot be read (an image column that does not decode) becomes a row that holds the
        error, for a collator that leaves bad rows out.
    """

    def __init__(self, dataset: Any, keep_errors: bool = False) -> None:
        self.dataset = dataset
        self.keep_errors = keep_errors

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> dict[str, Any]:
        try:
            row = self.dataset[index]
        except Exception as error:
            if not self.keep_errors:
                raise
            row = {READ_ERROR: f"{type(error).__name__}: {error}"}
        return {**row, ROW_INDEX: int(index)}


@dataclass
class ContrastiveCollator:
    """Rows -> {"query": [Prepared], "positive": [Prepared], "negatives": [[Prepared]], "tasks": [str],
    "positive_ids": int64 [rows] or None, "bad_rows": [BadRow]}.

    A row has ``query`` and ``positive`` (items) and may have ``negatives`` (a list of items), ``task``,
    ``dataset`` and ``positive_id``. Keys of an item whose value is None are left out (Arrow fills them in).
    Positive ids are a stable hash of ``positive_id``, or of the content of the prepared positive where a
    row has none.

    processor: has ``prepare(item, role=...)``. task_column: where a row's task stands; a column other than
        ``task`` must be there. task_groups: a grouping of :mod:`objectives.task_groups` that turns what stands
        there into a task. skip_bad_rows: a row that cannot be prepared is left out of the batch and listed in
        ``bad_rows`` (who calls must look at it); otherwise ValueError is raised, naming the row.
    """

    processor: Any
    max_negatives: int | None = None
    mask_duplicate_positives: bool = True
    task_column: str = "task"
    task_groups: str | None = None
    skip_bad_rows: bool = False

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        prepared, bad = [], []
        for position, row in enumerate(rows):
            try:
                prepared.append(self.prepare_row(row, position))
            except ValueError as error:
                if not self.skip_bad_rows:
                    raise
                name = _row_name(row, position)
                bad.append(BadRow(name, str(error).removeprefix(f"{name}: "), ROW_INDEX in row))
        ids = None
        if self.mask_duplicate_positives:
            ids = torch.tensor([row["positive_id"] for row in prepared], dtype=torch.int64)
        return {
            "query": [row["query"] for row in prepared],
            "positive": [row["positive"] for row in prepared],
            "negatives": [row["negatives"] for row in prepared],
            "tasks": [row["task"] for row in prepared],
            "positive_ids": ids,
            "bad_rows": bad,
        }

    def prepare_row(self, row: Mapping[str, Any], position: int = 0) -> dict[str, Any]:
        """One row with its items prepared; a seam for trainers whose rows hold more."""
        try:
            if READ_ERROR in row:
                raise ValueError(f"it cannot be read: {row[READ_ERROR]}")
            negatives = row.get("negatives")
            if negatives is None:
                negatives = []
            if isinstance(negatives, (str, bytes, Mapping)) or not isinstance(negatives, Sequence):
                raise TypeError(f"negatives must be a list of items, got {type(negatives).__name__}")
            positive = self._item(row, "positive", "document")
            key = row.get("positive_id")
            return {
                "query": self._item(row, "query", "query"),
                "positive": positive,
                "negatives": [
                    self.processor.prepare(_without_none(item), role="document")
                    for item in negatives[: self.max_negatives]
                ],
                "task": self._task(row),
                "positive_id": content_hash(positive) if key is None else text_hash(str(key)),
            }
        except Exception as error:
            raise ValueError(f"{_row_name(row, position)}: {error}") from error

    def _task(self, row: Mapping[str, Any]) -> str:
        task = row.get(self.task_column)
        if not task:
            if self.task_column != "task" or self.task_groups is not None:
                raise ValueError(f"no {self.task_column!r}, which is to name its task")
            return DEFAULT_TASK
        return str(task) if self.task_groups is None else group_of(str(task), self.task_groups)

    def _item(self, row: Mapping[str, Any], column: str, role: str) -> Any:
        if row.get(column) is None:
            raise ValueError(f"no {column!r} (the row has {sorted(k for k in row if k != ROW_INDEX)})")
        return self.processor.prepare(_without_none(row[column]), role=role)


def _without_none(item: Any) -> Any:
    return {k: v for k, v in item.items() if v is not None} if isinstance(item, Mapping) else item


def _row_name(row: Mapping[str, Any], position: int) -> str:
    name = f"row {row[ROW_INDEX]}" if ROW_INDEX in row else f"row {position} of the batch"
    details = [f"{k} {row[k]!r}" for k in ("dataset", "positive_id") if row.get(k) is not None]
    return f"{name} ({', '.join(details)})" if details else name


def text_hash(text: str) -> int:
    """A stable signed 64-bit hash of a string."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little", signed=True)


def content_hash(value: Any) -> int:
    """A stable signed 64-bit hash of a dataclass, mapping, sequence, array or scalar, by content."""
    digest = hashlib.blake2b(digest_size=8)

    def add(part: Any) -> None:
        if dataclasses.is_dataclass(part) and not isinstance(part, type):
            for entry in dataclasses.fields(part):
                digest.update(entry.name.encode())
                add(getattr(part, entry.name))
        elif isinstance(part, Mapping):
            for key in sorted(part, key=str):
                digest.update(str(key).encode())
                add(part[key])
        elif isinstance(part, (np.ndarray, Tensor)):
            array = np.ascontiguousarray(np.asarray(part))
            digest.update(f"{array.dtype.str}{array.shape}".encode())
            digest.update(array.tobytes())
        elif isinstance(part, (list, tuple)):
            digest.update(f"[{len(part)}".encode())
            for entry in part:
                add(entry)
        else:
            digest.update(repr(part).encode())

    add(value)
    return int.from_bytes(digest.digest(), "little", signed=True)


@dataclass
class Sides:
    """Representations by role. query and positive [n, d], negatives [n, k, d] or None with negative_mask bool
    [n, k] (True where a negative exists), tasks int64 [n], positive_ids int64 [n] or None."""

    query: Tensor
    positive: Tensor
    negatives: Tensor | None
    negative_mask: Tensor | None
    tasks: Tensor
    positive_ids: Tensor | None


@dataclass
class RowBatch:
    """A collated batch as one list of items: queries, positives, then the negatives of each row in turn.

    Items after those are encoded, but belong to no row and have no weight.
    """

    items: list[Any]
    negative_counts: list[int]
    tasks: list[str]
    positive_ids: Tensor | None

    @classmethod
    def from_inputs(cls, inputs: Mapping[str, Any]) -> RowBatch:
        """From the collator's dict."""
        negatives = inputs["negatives"]
        return cls(
            items=[*inputs["query"], *inputs["positive"], *(item for row in negatives for item in row)],
            negative_counts=[len(row) for row in negatives],
            tasks=inputs["tasks"],
            positive_ids=inputs["positive_ids"],
        )

    def __len__(self) -> int:
        return len(self.negative_counts)

    def filled(self, filler: Callable[[], Any]) -> RowBatch:
        """The same rows, with an item to encode even where there is no row."""
        return self if self.items else dataclasses.replace(self, items=[filler()])

    @property
    def lengths(self) -> list[int]:
        """Tokens of each item, visual ones included."""
        return [int(item.length) for item in self.items]

    def split(self, embeddings: Tensor, task_index: Tensor) -> Sides:
        """embeddings [items, d] in the order of ``items`` -> sides with gradient; absent negatives are 0."""
        n, width = len(self), max(self.negative_counts, default=0)
        flat, negatives, mask = embeddings[2 * n : 2 * n + sum(self.negative_counts)], None, None
        if width:
            counts = torch.tensor(self.negative_counts, device=embeddings.device)
            mask = torch.arange(width, device=embeddings.device)[None, :] < counts[:, None]
            negatives = flat.new_zeros(n, width, flat.shape[1]).masked_scatter(mask[:, :, None], flat)
        ids = None if self.positive_ids is None else self.positive_ids.to(embeddings.device)
        return Sides(
            embeddings[:n], embeddings[n : 2 * n], negatives, mask, task_index.to(embeddings.device), ids
        )
