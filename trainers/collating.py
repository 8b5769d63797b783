"""Collators: rows of a dataset to a batch of prepared items."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from .bad_rows import BadRow
from .batches import ItemBatch, PreparedRow
from .formats.mmeb_tasks import group_of
from .generation_prompt import generation_prompt, without_end
from .hashing import content_hash, text_hash
from .indexed_rows import READ_ERROR, ROW_INDEX, row_name
from .lazy_media import lazy_media
from .objectives.cross_entropies import NO_KEY
from .objectives.temperature import DEFAULT_TASK

OWN_ID = "__own_id__"  # a row's id in its source, where ``positive_id`` is a number of a plan
KEYS = 3  # of an item, at most: ``positive_id``, ``OWN_ID``, content


@dataclass
class ItemCollator:
    """Rows -> ``{"batch": ItemBatch}``. A subclass says in :meth:`prepare_row` what is in a row.

    processor: has ``prepare(item, role=..., mode=...)``. mode: what items are prepared for, the checkpoint's default
        for None. task_column: where a row's task stands; a column other than ``task`` must be there. task_groups: a
        grouping of :mod:`formats.mmeb_tasks` that turns what stands there into a task. skip_bad_rows: a row that
        cannot be prepared is left out of the batch and listed in its ``bad_rows`` (who calls must look at it);
        otherwise ValueError is raised, naming the row. media_per_chunk: an item with media is a :class:`LazyMedia`
        instead, without patches (``prepared(processor)`` makes them).
    """

    processor: Any
    mode: str | None = None
    task_column: str = "task"
    task_groups: str | None = None
    skip_bad_rows: bool = False
    media_per_chunk: bool = False
    NO_ROW: ClassVar[Mapping[str, Any]] = {"query": "no row", "positive": "no row"}  # where none is left

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, ItemBatch]:
        kept: list[tuple[PreparedRow, str, str]] = []
        bad = []
        for position, row in enumerate(rows):
            name = row_name(row, position)
            try:
                if READ_ERROR in row:
                    raise ValueError(f"it cannot be read: {row[READ_ERROR]}")
                kept.append((self.prepare_row(row), self._task(row), name))
            except Exception as error:
                if not self.skip_bad_rows:
                    raise ValueError(f"{name}: {error}") from error
                bad.append(BadRow(name, str(error), ROW_INDEX in row))
        if not kept:
            return {"batch": ItemBatch.of([self.prepare_row(self.NO_ROW)], [""], [""], bad).without_rows()}
        prepared, tasks, names = zip(*kept, strict=True)
        return {"batch": ItemBatch.of(prepared, tasks, names, bad)}

    def prepare_row(self, row: Mapping[str, Any]) -> PreparedRow:
        """One row: its items prepared, by :meth:`prepare_item`, and what else the loss must know of it."""
        raise NotImplementedError

    def prepare_item(self, item: Any, role: str) -> Any:
        """An item as it goes into a batch; entries that are None (Arrow fills them in) are left out."""
        return self._prepared(item, role)[0]

    def _prepared(self, item: Any, role: str) -> tuple[Any, Any]:
        """As it goes into a batch, and with its media."""
        if isinstance(item, Mapping):
            item = {name: value for name, value in item.items() if value is not None}
        mode = {} if self.mode is None else {"mode": self.mode}
        prepared = self.processor.prepare(item, role=role, **mode)
        return lazy_media(prepared, item, role, mode) if self.media_per_chunk else prepared, prepared

    def _task(self, row: Mapping[str, Any]) -> str:
        task = row.get(self.task_column)
        if not task:
            if self.task_column != "task" or self.task_groups is not None:
                raise ValueError(f"no {self.task_column!r}, which is to name its task")
            return DEFAULT_TASK
        return str(task) if self.task_groups is None else group_of(str(task), self.task_groups)


@dataclass
class ContrastiveCollator(ItemCollator):
    """Rows with ``query`` and ``positive`` (items), and perhaps ``negatives`` (a list of items), ``task``,
    ``dataset``, ``positive_id`` and ``negative_ids`` (one per negative).

    Its columns ``positive_keys`` int64 [KEYS] and ``negative_keys`` [negatives, KEYS] tell which items are the same
    target, and so no negatives of each other (:func:`number_targets`). Every positive and negative has the hash of its
    prepared content as a key. A positive with a ``positive_id`` has the hash of that, too; a negative that of its entry
    in ``negative_ids`` where its row has a ``positive_id``, since only then do both come from one set of ids (that of
    :func:`umekit.trainers.mining.mine`). So ids are compared with ids and content with content, whatever else an item
    has. Without ``mask_duplicate_positives`` no item has a key.

    generation_prompt: False leaves the header of an assistant's turn at the end of a prompt out.
    """

    max_negatives: int | None = None
    mask_duplicate_positives: bool = True
    generation_prompt: bool = True

    def prepare_row(self, row: Mapping[str, Any]) -> PreparedRow:
        """The roles ``query``, ``positive`` and ``negatives``."""
        negatives = items_of(row, "negatives")
        names = _negative_names(row, len(negatives))[: self.max_negatives]
        query = self.prepare_item(column(row, "query"), "query")
        positive, keys = self._target(column(row, "positive"), [row.get("positive_id"), row.get(OWN_ID)])
        others = [
            self._target(item, [name])
            for item, name in zip(negatives[: self.max_negatives], names, strict=True)
        ]
        return PreparedRow(
            {"query": query, "positive": positive, "negatives": [item for item, _ in others]},
            {
                "positive_keys": keys,
                "negative_keys": torch.stack([keys for _, keys in others]) if others else keys[None][:0],
            },
        )

    def _prepared(self, item: Any, role: str) -> tuple[Any, Any]:
        kept, prepared = super()._prepared(item, role)
        if self.generation_prompt or not (ending := generation_prompt(prepared, self.processor.tokenizer)):
            return kept, prepared
        short = without_end(prepared, ending)
        return short if kept is prepared else kept.without_end(ending), short

    def _target(self, item: Any, names: Sequence[Any]) -> tuple[Any, Tensor]:
        """A document prepared, and up to ``KEYS`` numbers that are not ``NO_KEY``: of its names and its content."""
        kept, prepared = self._prepared(item, "document")
        keys: list[int] = []
        if self.mask_duplicate_positives:
            given = [text_hash(str(name)) for name in names if name is not None]
            keys = [key or 1 for key in (*given, content_hash(prepared))]
        return kept, torch.tensor([*keys, *[NO_KEY] * (KEYS - len(keys))], dtype=torch.int64)


@contextlib.contextmanager
def naming(item: str) -> Iterator[None]:
    """What is wrong with one of a row's items, with its place in the row before it."""
    try:
        yield
    except Exception as error:
        raise ValueError(f"{item}: {error}") from error


def column(row: Mapping[str, Any], name: str) -> Any:
    """What stands in a column that a row must have."""
    if row.get(name) is None:
        raise ValueError(f"no {name!r} (the row has {sorted(k for k in row if not k.startswith('__'))})")
    return row[name]


def items_of(row: Mapping[str, Any], name: str) -> list[Any]:
    """The items of a column that a row may lack."""
    items = row.get(name)
    if items is None:
        return []
    if isinstance(items, (str, bytes, Mapping)) or not isinstance(items, Sequence):
        raise TypeError(f"{name} must be a list of items, got {type(items).__name__}")
    return list(items)


def _negative_names(row: Mapping[str, Any], count: int) -> list[Any]:
    """The ids of a row's negatives, None for one that cannot be compared with the ids of positives."""
    names = row.get("negative_ids")
    if count == 0 or names is None or row.get("positive_id") is None:
        return [None] * count
    if len(names) != count:
        raise ValueError(f"{len(names)} negative_ids for {count} negatives")
    return list(names)
