"""Rows of a dataset to prepared items: the collator, and how a batch's embeddings map back to its rows."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from .bad_rows import BadRow
from .hashing import content_hash, text_hash
from .lazy_media import lazy_media
from .objectives.rows import NO_KEY, number_targets
from .objectives.task_groups import group_of
from .objectives.temperature import DEFAULT_TASK

ROW_INDEX = "__row__"
ROW_PLACE = "__place__"  # (name of the source, row in it), where the data set knows it
READ_ERROR = "__read_error__"
OWN_ID = "__own_id__"  # a row's id in its source, where ``positive_id`` is a number of a plan
KEYS = 3  # of an item, at most: ``positive_id``, ``OWN_ID``, content


class IndexedRows(Dataset):  # type: ignore[type-arg]
    """A map-style dataset whose rows know their index, so that an error can name it.

    A data set with ``place(index) -> (name of the source, row in it)`` may give one row under several indices (a plan
    of several epochs does); its rows are named by their place.

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
        named = {**row, ROW_INDEX: int(index)}
        if hasattr(self.dataset, "place"):
            named[ROW_PLACE] = self.dataset.place(index)
        return named


@dataclass
class ContrastiveCollator:
    """Rows -> {"query": [Prepared], "positive": [Prepared], "negatives": [[Prepared]], "tasks": [str],
    "positive_keys": int64 [rows, KEYS] or None, "negative_keys": int64 [negatives of all rows, KEYS] or None,
    "bad_rows": [BadRow], "rows": names of the rows [str], "truncated": (tokens of an item, of which it kept) of every
    item that was cut at its limit}.

    A row has ``query`` and ``positive`` (items) and may have ``negatives`` (a list of items), ``task``,
    ``dataset``, ``positive_id`` and ``negative_ids`` (one per negative). Keys of an item whose value is None are left
    out (Arrow fills them in).

    Keys tell which items are the same target, and so no negatives of each other (:func:`number_targets`). Every
    positive and negative has the hash of its prepared content as a key. A positive with a ``positive_id`` has the hash
    of that, too; a negative that of its entry in ``negative_ids`` where its row has a ``positive_id``, since only then
    do both come from one set of ids (that of :func:`umekit.trainers.mining.mine`). So ids are compared with ids and
    content with content, whatever else an item has.

    processor: has ``prepare(item, role=...)``. task_column: where a row's task stands; a column other than
        ``task`` must be there. task_groups: a grouping of :mod:`objectives.task_groups` that turns what stands
        there into a task. skip_bad_rows: a row that cannot be prepared is left out of the batch and listed in
        ``bad_rows`` (who calls must look at it); otherwise ValueError is raised, naming the row. media_per_chunk: an
        item with media is a :class:`LazyMedia` instead, without patches (``prepared(processor)`` makes them).
    """

    processor: Any
    max_negatives: int | None = None
    mask_duplicate_positives: bool = True
    task_column: str = "task"
    task_groups: str | None = None
    skip_bad_rows: bool = False
    media_per_chunk: bool = False

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        prepared, bad, names = [], [], []
        for position, row in enumerate(rows):
            try:
                prepared.append(self.prepare_row(row, position))
                names.append(_row_name(row, position))
            except ValueError as error:
                if not self.skip_bad_rows:
                    raise
                name = _row_name(row, position)
                bad.append(BadRow(name, str(error).removeprefix(f"{name}: "), ROW_INDEX in row))
        positive_keys = negative_keys = None
        if self.mask_duplicate_positives:
            positive_keys = _key_rows(row["positive_keys"] for row in prepared)
            negative_keys = _key_rows(keys for row in prepared for keys in row["negative_keys"])
        return {
            "query": [row["query"] for row in prepared],
            "positive": [row["positive"] for row in prepared],
            "negatives": [row["negatives"] for row in prepared],
            "tasks": [row["task"] for row in prepared],
            "positive_keys": positive_keys,
            "negative_keys": negative_keys,
            "bad_rows": bad,
            "rows": names,
            "truncated": [cut for row in prepared for cut in row.get("truncated", ())],
        }

    def prepare_row(self, row: Mapping[str, Any], position: int = 0) -> dict[str, Any]:
        """One row with its items prepared; a seam for trainers whose rows hold more."""
        try:
            if READ_ERROR in row:
                raise ValueError(f"it cannot be read: {row[READ_ERROR]}")
            cuts: list[tuple[int, int]] = []
            negatives = row.get("negatives")
            if negatives is None:
                negatives = []
            if isinstance(negatives, (str, bytes, Mapping)) or not isinstance(negatives, Sequence):
                raise TypeError(f"negatives must be a list of items, got {type(negatives).__name__}")
            names = _negative_names(row, len(negatives))[: self.max_negatives]
            query, _ = self._item(_column(row, "query"), "query", None, cuts)
            own = [row.get("positive_id"), row.get(OWN_ID)]
            positive, positive_keys = self._item(_column(row, "positive"), "document", own, cuts)
            others = [
                self._item(item, "document", [name], cuts)
                for item, name in zip(negatives[: self.max_negatives], names, strict=True)
            ]
            prepared = {
                "query": query,
                "positive": positive,
                "negatives": [item for item, _ in others],
                "task": self._task(row),
                "truncated": cuts,
            }
            if self.mask_duplicate_positives:
                prepared["positive_keys"] = positive_keys
                prepared["negative_keys"] = [keys for _, keys in others]
            return prepared
        except Exception as error:
            raise ValueError(f"{_row_name(row, position)}: {error}") from error

    def _task(self, row: Mapping[str, Any]) -> str:
        task = row.get(self.task_column)
        if not task:
            if self.task_column != "task" or self.task_groups is not None:
                raise ValueError(f"no {self.task_column!r}, which is to name its task")
            return DEFAULT_TASK
        return str(task) if self.task_groups is None else group_of(str(task), self.task_groups)

    def _item(
        self, item: Any, role: str, names: Sequence[Any] | None, cuts: list[tuple[int, int]]
    ) -> tuple[Any, list[int]]:
        """An item prepared, and its keys; without names it needs none. cuts: what is cut of it is added."""
        item = _without_none(item)
        prepared = self.processor.prepare(item, role=role)
        if cut := getattr(prepared, "cut_tokens", 0):
            cuts.append((prepared.length + cut, prepared.length))
        keys = _keys(prepared, names) if self.mask_duplicate_positives and names is not None else []
        return (lazy_media(prepared, item, role) if self.media_per_chunk else prepared), keys


def _column(row: Mapping[str, Any], column: str) -> Any:
    if row.get(column) is None:
        raise ValueError(f"no {column!r} (the row has {sorted(k for k in row if not k.startswith('__'))})")
    return row[column]


def _without_none(item: Any) -> Any:
    return {k: v for k, v in item.items() if v is not None} if isinstance(item, Mapping) else item


def _negative_names(row: Mapping[str, Any], count: int) -> list[Any]:
    """The ids of a row's negatives, None for one that cannot be compared with the ids of positives."""
    names = row.get("negative_ids")
    if count == 0 or names is None or row.get("positive_id") is None:
        return [None] * count
    if len(names) != count:
        raise ValueError(f"{len(names)} negative_ids for {count} negatives")
    return list(names)


def _keys(item: Any, names: Sequence[Any]) -> list[int]:
    """Up to ``KEYS`` numbers, none of them ``NO_KEY``: of the names that are there, and of the prepared item."""
    given = [text_hash(str(name)) for name in names if name is not None]
    return [key or 1 for key in (*given, content_hash(item))]


def _key_rows(keys: Iterable[Sequence[int]]) -> Tensor:
    """int64 [items, KEYS], filled up with ``NO_KEY``."""
    filled = [[*row, *[NO_KEY] * (KEYS - len(row))] for row in keys]
    return torch.tensor(filled, dtype=torch.int64).reshape(-1, KEYS)


def _row_name(row: Mapping[str, Any], position: int) -> str:
    if ROW_PLACE in row:
        source, number = row[ROW_PLACE]
        return f"row {number} of source {source!r}"
    name = f"row {row[ROW_INDEX]}" if ROW_INDEX in row else f"row {position} of the batch"
    shown = {key: row[key] for key in ("dataset", "positive_id") if row.get(key) is not None}
    if isinstance(shown.get("positive_id"), str):
        shown["positive_id"] = shown["positive_id"].rpartition("\0")[2]  # without its source
    details = [f"{key} {value!r}" for key, value in shown.items()]
    return f"{name} ({', '.join(details)})" if details else name


@dataclass
class ContrastiveBatch:
    """Representations by role. query and positive [n, d], negatives [n, k, d] or None with negative_mask bool
    [n, k] (True where a negative exists), tasks int64 [n], positive_keys int64 [n, KEYS] or None, negative_keys int64
    [n, k, KEYS], None without positive_keys or negatives."""

    query: Tensor
    positive: Tensor
    negatives: Tensor | None
    negative_mask: Tensor | None
    tasks: Tensor
    positive_keys: Tensor | None
    negative_keys: Tensor | None

    def masks(self) -> dict[str, Tensor | None]:
        """``negative_mask``, ``positive_ids`` int64 [n] and ``negative_ids`` int64 [n, k] of ``info_nce``.

        Of the rows of all ranks: ids are numbers within these sides and mean nothing outside of them.
        """
        positive, negative = self.positive_keys, self.negative_keys
        ids: Tensor | None = None
        negative_ids: Tensor | None = None
        if positive is not None and negative is not None:
            numbers = number_targets(torch.cat([positive, negative.flatten(0, 1)]))
            ids, negative_ids = numbers[: len(positive)], numbers[len(positive) :].view(negative.shape[:2])
        elif positive is not None:
            ids = number_targets(positive)
        return {"negative_mask": self.negative_mask, "positive_ids": ids, "negative_ids": negative_ids}


@dataclass
class ItemBatch:
    """A collated batch as one list of items: queries, positives, then the negatives of each row in turn.

    Items after those are encoded, but belong to no row and have no weight.
    """

    items: list[Any]
    negative_counts: list[int]
    tasks: list[str]
    positive_keys: Tensor | None
    negative_keys: Tensor | None

    @classmethod
    def from_inputs(cls, inputs: Mapping[str, Any]) -> ItemBatch:
        """From the collator's dict."""
        negatives = inputs["negatives"]
        return cls(
            items=[*inputs["query"], *inputs["positive"], *(item for row in negatives for item in row)],
            negative_counts=[len(row) for row in negatives],
            tasks=inputs["tasks"],
            positive_keys=inputs["positive_keys"],
            negative_keys=inputs["negative_keys"],
        )

    def __len__(self) -> int:
        return len(self.negative_counts)

    def filled(self, filler: Callable[[], Any]) -> ItemBatch:
        """The same rows, with an item to encode even where there is no row."""
        return self if self.items else dataclasses.replace(self, items=[filler()])

    @property
    def lengths(self) -> list[int]:
        """Tokens of each item, visual ones included."""
        return [int(item.length) for item in self.items]

    @property
    def patches(self) -> list[int]:
        """Patches of each item that the vision tower encodes."""
        return [int(item.patches) for item in self.items]

    def split(self, embeddings: Tensor, task_index: Tensor) -> ContrastiveBatch:
        """embeddings [items, d] in the order of ``items`` -> sides with gradient; absent negatives are 0."""
        n, width = len(self), max(self.negative_counts, default=0)
        flat, negatives, mask = embeddings[2 * n : 2 * n + sum(self.negative_counts)], None, None
        positive_keys, negative_keys = self.positive_keys, None
        if positive_keys is not None:
            positive_keys = positive_keys.to(embeddings.device)
        if width:
            counts = torch.tensor(self.negative_counts, device=embeddings.device)
            mask = torch.arange(width, device=embeddings.device)[None, :] < counts[:, None]
            negatives = flat.new_zeros(n, width, flat.shape[1]).masked_scatter(mask[:, :, None], flat)
            if positive_keys is not None and self.negative_keys is not None:
                negative_keys = positive_keys.new_full((n, width, KEYS), NO_KEY)
                negative_keys[mask] = self.negative_keys.to(embeddings.device)
        return ContrastiveBatch(
            query=embeddings[:n],
            positive=embeddings[n : 2 * n],
            negatives=negatives,
            negative_mask=mask,
            tasks=task_index.to(embeddings.device),
            positive_keys=positive_keys,
            negative_keys=negative_keys,
        )


def without_negatives(sides: ContrastiveBatch, masks: Mapping[str, Tensor | None]) -> bool:
    """Whether no row has anything but its positive: one row, or one positive in all, and no hard negative that counts.

    masks: of the sides.
    """
    ids, negative_ids, exists = masks["positive_ids"], masks["negative_ids"], masks["negative_mask"]
    if len(sides.query) > 1 and (ids is None or bool((ids != ids[0]).any())):
        return False
    if exists is not None and ids is not None and negative_ids is not None:
        exists = exists & (negative_ids != ids[:, None])
    return exists is None or not bool(exists.any())
