"""Columns in, columns out: a function for ``datasets.map(batched=True)``, Ray Data's ``map_batches``, or a loop."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..modeling.pooling import check_dim
from ..processing.arrays import is_array, values_of
from ..processing.cut_texts import tell_cuts
from .calls import check_call
from .inputs.columns import Columns
from .inputs.sample import Row
from .row_encoding import RowEncoder

_LOADED: dict[str, Any] = {}  # encoders of this process by what they were loaded with
_LOADING = threading.Lock()


def _forget_encoders() -> None:
    """In a forked process: what is on a GPU belongs to the one that loaded it, and so may the lock."""
    global _LOADING
    _LOADED.clear()
    _LOADING = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_encoders)


class EncodeRows:
    """Encode the rows of a batch.

    A pure function of the batch: it can be pickled, loads its model once in each process that calls it, and a bad row
    costs that row alone.

    Args:
        model: checkpoint folder or Hub id; None is ume-tiny.
        column: the column that holds whole items, texts or pictures; None builds items from columns that have the
            names of an item's keys (``text``, ``image`` ...), or from ``columns``.
        columns: key of an item -> column, where they have other names.
        id_column: ids; rows without one are named by a hash of their content.
        role, instruction, mode, dim, batch_tokens: as in ``Encoder.encode``.
        media_root: media paths in rows are relative to this folder and cannot lead out of it; None takes them as
            they stand, so do not leave it out for rows that others wrote.
        load_options: further arguments of ``umekit.load`` (device, dtype, preset ...).

    Example:
        >>> encode = EncodeRows("a-checkpoint", column="caption")                      # doctest: +SKIP
        >>> dataset.map(encode, batched=True, batch_size=256)                          # doctest: +SKIP
        >>> ray_dataset.map_batches(encode, batch_size=256, batch_format="numpy")      # doctest: +SKIP
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | None = None,
        *,
        column: str | None = None,
        columns: Mapping[str, str] | None = None,
        id_column: str = "id",
        role: str | None = None,
        instruction: str | None = None,
        mode: str | None = None,
        dim: int | None = None,
        batch_tokens: int | None = None,
        media_root: str | os.PathLike[str] | None = None,
        load_options: Mapping[str, Any] | None = None,
    ) -> None:
        named = dict(columns or {})
        column = named.pop("item", None) if column is None else column
        id_column = named.pop("id", id_column)
        if column is not None and named:
            raise ValueError("give column for whole items, or columns for parts of them, not both")
        check_call(role=role, instruction=instruction, batch_tokens=batch_tokens)
        if mode == "":
            raise ValueError("mode is ''; give a mode, or None for the checkpoint's")
        self.model = None if model is None else os.fspath(model)
        self.columns = Columns({**named, "id": id_column})
        self.column, self.id_column = column, id_column
        self.options: dict[str, Any] = {"role": role, "instruction": instruction, "mode": mode}
        self.options["batch_tokens"] = batch_tokens
        self.dim = dim
        self.media_root = None if media_root is None else os.fspath(media_root)
        self.load_options = dict(load_options or {})

    def __call__(self, batch: Mapping[str, Sequence[Any]], rank: int | None = None) -> dict[str, Any]:
        """Encode a batch.

        Args:
            batch: column -> n values; other columns than those named are left alone.
            rank: of the process, from ``datasets.map(..., with_rank=True)``: the GPUs are shared out by it.

        Returns:
            ``embedding`` float32 ``[n, d]`` (a bad row is NaN), ``embedding_error`` (n texts, "" for good rows) and
            the ids under ``id_column``.

        Raises:
            KeyError: there is no column that an item could be made of.
            RuntimeError: this process was forked from one that used a GPU.
        """
        rows = self.rows(batch)
        encoder = self.encoder(rank)
        dim = None if self.dim is None else check_dim(self.dim, encoder.dim)
        encoded = RowEncoder(encoder, dim, **self.options).encode(rows)
        tell_cuts(len(encoded.truncated), "these rows")
        return {
            self.id_column: [row.id for row in rows],
            "embedding": encoded.vectors,
            "embedding_error": [encoded.reasons.get(place, "") for place in range(len(rows))],
        }

    def rows(self, batch: Mapping[str, Sequence[Any]]) -> list[Row]:
        """Ids and items of a batch."""
        names = [self.column] if self.column is not None else self.columns.wanted(list(batch))
        missing = [name for name in {*names, *self.columns.content.values()} if name not in batch]
        if missing or not set(names) - {self.id_column}:
            wanted = ", ".join(sorted(missing)) or "of an item"
            raise KeyError(f"no column {wanted}; the batch has {', '.join(map(str, batch))}")
        count = len(batch[names[0]])
        ids = batch.get(self.id_column)
        return [
            self._row(batch, names, number, None if ids is None else ids[number]) for number in range(count)
        ]

    def encoder(self, rank: int | None = None) -> Any:
        """The encoder of this process."""
        options = dict(self.load_options)
        devices = torch.cuda.device_count()
        if rank is not None and devices and not {"device", "device_map"} & set(options):
            options["device"] = f"cuda:{rank % devices}"
        key = repr((self.model, sorted(options.items(), key=lambda entry: entry[0])))
        with _LOADING:
            if key not in _LOADED:
                if torch.cuda._is_in_bad_fork():
                    raise RuntimeError(
                        "this process was forked from one that used a GPU, and cannot use it: call "
                        "multiprocess.set_start_method('spawn') before datasets.map(num_proc=...), or try the "
                        "function in another process first"
                    )
                from .loading import load

                _LOADED[key] = load(self.model, **options)
            return _LOADED[key]

    def _row(self, batch: Mapping[str, Sequence[Any]], names: list[str], number: int, name: Any) -> Row:
        values = {column: _plain(batch[column][number]) for column in names}
        own = "" if name is None else str(_plain(name))
        own = own or _content_hash(values)
        if self.column is not None:
            item: Any = values[self.column]
            if not isinstance(item, (str, Mapping)):
                item = {"image": item}
            record: dict[str, Any] = {"item": item}
        else:
            record = {key: values[column] for key, column in self.columns.content.items()} or values
            record.pop(self.id_column, None)
        if self.media_root is None:
            return self._as_it_stands(own, record)
        return Columns().row(record, own, Path(self.media_root))

    def _as_it_stands(self, name: str, record: dict[str, Any]) -> Row:
        item = record.get("item", record)
        if isinstance(item, Mapping):
            item = {key: value for key, value in item.items() if value is not None}
        return (
            Row(name, item)
            if item
            else Row(name, error="nothing to embed: no text, image, video or document")
        )


def _plain(value: Any) -> Any:
    """numpy's scalars and arrays of objects, as Ray hands them over, as Python's own."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray) and value.dtype == object:
        return [_plain(one) for one in value]
    if isinstance(value, Mapping):
        return {key: _plain(one) for key, one in value.items()}
    return value


def _content_hash(value: Any) -> str:
    digest = hashlib.sha256()
    _feed(digest, value)
    return digest.hexdigest()[:32]


def _feed(digest: Any, value: Any) -> None:
    if isinstance(value, Mapping):
        for key, one in value.items():
            digest.update(f"{key}\0".encode())
            _feed(digest, one)
    elif isinstance(value, (list, tuple)):
        digest.update(f"[{len(value)}".encode())
        for one in value:
            _feed(digest, one)
    elif isinstance(value, (bytes, bytearray)):
        digest.update(b"b" + bytes(value))
    elif is_array(value):
        if not isinstance(value, np.ndarray):
            digest.update(b"t")  # its channels may be on another axis
        value = values_of(value)
        digest.update(f"a{value.dtype}{value.shape}".encode() + np.ascontiguousarray(value).tobytes())
    elif hasattr(value, "tobytes") and hasattr(value, "size"):  # a PIL image
        digest.update(f"i{value.mode}{value.size}".encode() + value.tobytes())
    elif value is not None and not isinstance(value, (str, int, float, os.PathLike)):
        digest.update(os.urandom(16))  # what it holds cannot be told: two never have one name
    else:
        digest.update(f"{type(value).__name__}{value}\0".encode("utf-8", "surrogatepass"))
