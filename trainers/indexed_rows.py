"""Rows that know their index and can be named in an error."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch.utils.data import Dataset

ROW_INDEX = "__row__"
ROW_PLACE = "__place__"  # (name of the source, row in it), or in words, where the data set knows it
READ_ERROR = "__read_error__"


class IndexedRows(Dataset):  # type: ignore[type-arg]
    """A map-style dataset whose rows know their index, so that an error can name it.

    A data set with ``place(index) -> (name of the source, row in it)`` may give one row under several indices (a plan
    of several epochs does); its rows are named by their place. Those of ``open_records`` say it in words.

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


def row_name(row: Mapping[str, Any], position: int) -> str:
    """How an error names a row, which stands at ``position`` of its batch."""
    if isinstance(place := row.get(ROW_PLACE), str):
        return place
    if place is not None:
        source, number = place
        return f"row {number} of source {source!r}"
    name = f"row {row[ROW_INDEX]}" if ROW_INDEX in row else f"row {position} of the batch"
    shown = {key: row[key] for key in ("dataset", "positive_id") if row.get(key) is not None}
    if isinstance(shown.get("positive_id"), str):
        shown["positive_id"] = shown["positive_id"].rpartition("\0")[2]  # without its source
    details = [f"{key} {value!r}" for key, value in shown.items()]
    return f"{name} ({', '.join(details)})" if details else name
