"""Batches: prepared items before a forward, and what was read of them, by role, after it.

A column that a loss needs (scores of a teacher, a reward) is an entry of :attr:`PreparedRow.columns` and a field of
the batch that the loss takes: everything between, the gathering over ranks above all, walks the fields.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor

from .bad_rows import BadRow
from .distributed import gather_rows, world_size
from .objectives.cross_entropies import number_targets

B = TypeVar("B")


@dataclass
class PreparedRow:
    """items: by role, an item or a list of as many as the row has. columns: by name, tensors of any sizes.
    notes: what else goes along as it is."""

    items: dict[str, Any]
    columns: dict[str, Tensor] = field(default_factory=dict)
    notes: dict[str, Any] = field(default_factory=dict)


@dataclass
class ItemBatch:
    """Prepared rows as one list of items: role by role, and in a role row by row.

    Items after those of the rows are encoded, but belong to none and have no weight.

    Attributes:
        items: prepared.
        counts: by role, how many items each row has; None where each has one.
        columns: by name, ``[rows, ...]``; what a row lacks is zero.
        tasks, names: of the rows.
        bad_rows: those that were left out.
        notes: of each row, what its collator lets pass as it is.
    """

    items: list[Any]
    counts: dict[str, list[int] | None] = field(default_factory=dict)
    columns: dict[str, Tensor] = field(default_factory=dict)
    tasks: list[str] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    bad_rows: list[BadRow] = field(default_factory=list)
    notes: list[dict[str, Any]] = field(default_factory=list)

    @classmethod
    def of(
        cls,
        rows: Sequence[PreparedRow],
        tasks: Sequence[str],
        names: Sequence[str],
        bad_rows: Sequence[BadRow] = (),
    ) -> ItemBatch:
        """Of at least one row; all have the same roles and columns."""
        roles = rows[0].items
        lists = {role: isinstance(roles[role], list) for role in roles}
        counts = {role: [len(row.items[role]) for row in rows] if lists[role] else None for role in roles}
        items = [
            item
            for role in roles
            for row in rows
            for item in (row.items[role] if lists[role] else [row.items[role]])
        ]
        columns = {name: _stacked([row.columns[name] for row in rows]) for name in rows[0].columns}
        notes = [row.notes for row in rows]
        return cls(items, counts, columns, list(tasks), list(names), list(bad_rows), notes)

    def without_rows(self) -> ItemBatch:
        """No row, and the same items all the same, so that there is something to encode."""
        return dataclasses.replace(
            self,
            counts={role: None if count is None else [] for role, count in self.counts.items()},
            columns={name: column[:0] for name, column in self.columns.items()},
            tasks=[],
            names=[],
            notes=[],
        )

    def __len__(self) -> int:
        return len(self.names)

    @property
    def lengths(self) -> list[int]:
        """Tokens of each item, visual ones included."""
        return [int(item.length) for item in self.items]

    @property
    def patches(self) -> list[int]:
        """Patches of each item that the vision tower encodes."""
        return [int(item.patches) for item in self.items]

    @property
    def truncated(self) -> list[tuple[int, int]]:
        """Of each item that was cut at its limit: its tokens, and how many it kept."""
        cut = [item for item in self.items if getattr(item, "cut_tokens", 0)]
        return [(item.length + item.cut_tokens, item.length) for item in cut]

    def spans(self) -> dict[str, slice]:
        """Where the items of each role are."""
        found, start = {}, 0
        for role, counts in self.counts.items():
            end = start + (len(self) if counts is None else sum(counts))
            found[role], start = slice(start, end), end
        return found

    def split(self, values: Tensor, kind: type[B], **more: Tensor) -> B:
        """A batch by role, with gradient.

        Args:
            values: ``[items, ...]``, what was read, in the order of ``items``.
            kind: a dataclass. Its fields are roles (``[rows, ...]``, or ``[rows, most, ...]`` with a bool mask
                ``[rows, most]``, named ``negative_mask`` for ``negatives``), columns, or in ``more``.
        """
        found: dict[str, Tensor] = {
            name: column.to(values.device) for name, column in {**self.columns, **more}.items()
        }
        for role, span in self.spans().items():
            counts = self.counts[role]
            if counts is None:
                found[role] = values[span]
            else:
                found[role], found[f"{role.removesuffix('s')}_mask"] = _by_row(values[span], counts)
        fields: Any = kind
        return kind(**{one.name: found[one.name] for one in dataclasses.fields(fields)})


@dataclass
class ContrastiveBatch:
    """What was read, by role.

    Attributes:
        query, positive: ``[n, d]``, or ``[n, slots, d]``.
        negatives: ``[n, k, d]`` or ``[n, k, slots, d]``, 0 where there is none; k may be 0.
        negative_mask: bool ``[n, k]``, True where there is one.
        tasks: int64 ``[n]``.
        positive_keys, negative_keys: int64 ``[n, keys]`` and ``[n, k, keys]``, see :func:`number_targets`.
    """

    query: Tensor
    positive: Tensor
    negatives: Tensor
    negative_mask: Tensor
    tasks: Tensor
    positive_keys: Tensor
    negative_keys: Tensor

    def __len__(self) -> int:
        return len(self.query)

    def slot(self, number: int, target: int | None = None) -> ContrastiveBatch:
        """The batch as one of its slots has it, targets as ``target`` where that is another; without the slot, an item
        was read as zeros.

        A row whose query or positive has no such slot is left out, a negative without it is masked.
        """
        target = number if target is None else target
        query, positive, negatives = (
            self.query[:, number],
            self.positive[:, target],
            self.negatives[:, :, target],
        )
        mask = self.negative_mask & negatives.ne(0).any(-1)
        found = dataclasses.replace(
            self, query=query, positive=positive, negatives=negatives, negative_mask=mask
        )
        there = query.ne(0).any(-1) & positive.ne(0).any(-1)
        return map_fields(found, lambda rows: rows[there])

    def masks(self) -> dict[str, Tensor]:
        """``negative_mask``, ``positive_ids`` int64 [n] and ``negative_ids`` int64 [n, k] of ``info_nce``.

        Of the rows of all ranks: ids are numbers within this batch and mean nothing outside of it.
        """
        numbers = number_targets(torch.cat([self.positive_keys, self.negative_keys.flatten(0, 1)]))
        return {
            "negative_mask": self.negative_mask,
            "positive_ids": numbers[: len(self)],
            "negative_ids": numbers[len(self) :].view(self.negative_keys.shape[:2]),
        }


def map_fields(batch: B, change: Any) -> B:
    """A batch with every tensor changed by a function of it."""
    fields: Any = batch
    return dataclasses.replace(
        fields, **{one.name: change(getattr(batch, one.name)) for one in dataclasses.fields(fields)}
    )


def gather_batch(batch: B) -> B:
    """All ranks' rows. Ranks may differ in rows, and in negatives per row."""
    return batch if world_size() == 1 else map_fields(batch, gather_rows)


def without_padding(batch: B, state: Any) -> B:
    """Drop the rows that accelerate repeated to fill the last batch of all ranks. state: its gradient state."""
    if world_size() == 1 or not state.end_of_dataloader or state.remainder <= 0:
        return batch
    return map_fields(batch, lambda rows: rows[: state.remainder])


def without_negatives(batch: ContrastiveBatch, masks: Mapping[str, Tensor]) -> bool:
    """Whether no row has anything but its positive: one row, or one positive in all, and no hard negative that counts.

    masks: of the batch.
    """
    ids = masks["positive_ids"]
    if len(batch) > 1 and bool((ids != ids[0]).any()):
        return False
    return not bool((masks["negative_mask"] & (masks["negative_ids"] != ids[:, None])).any())


def _stacked(tensors: Sequence[Tensor]) -> Tensor:
    """``[len(tensors), ...]``; smaller ones are filled up with zeros at their ends."""
    shape = [max(sizes) for sizes in zip(*(one.shape for one in tensors), strict=True)]
    stacked = tensors[0].new_zeros(len(tensors), *shape)
    for place, one in zip(stacked, tensors, strict=True):
        place[tuple(slice(size) for size in one.shape)] = one
    return stacked


def _by_row(values: Tensor, counts: Sequence[int]) -> tuple[Tensor, Tensor]:
    """``[sum of counts, ...]`` -> ``[rows, most, ...]`` with zeros, and bool ``[rows, most]``."""
    most = max(counts, default=0)
    number = torch.tensor(counts, dtype=torch.int64, device=values.device)
    mask = torch.arange(most, device=values.device)[None, :] < number[:, None]
    empty = values.new_zeros(len(counts), most, *values.shape[1:])
    return empty.index_put((mask,), values), mask
