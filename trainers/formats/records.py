"""Rows that are made of records on demand."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from torch.utils.data import Dataset

from ...encoding.inputs.json_records import FormatError
from ...encoding.inputs.media_root import MediaNames, MediaRoot
from ...encoding.inputs.records import Records, TableRecords, open_records

__all__ = ["FormatRows", "Records", "TableRecords", "given", "open_records"]


def given(**columns: Any) -> dict[str, Any]:
    """Columns of every row, without those that are None."""
    return {name: value for name, value in columns.items() if value is not None}


class FormatRows(Dataset):  # type: ignore[type-arg]
    """Rows made from records, each when it is asked for.

    Args:
        records: what to make them of.
        media: where their media are.
        convert: media, record and its number -> row.
        indices: the records to take; None for all.

    Raises (from ``rows[i]``):
        FormatError: names file and row.
    """

    def __init__(
        self,
        records: Records,
        media: MediaRoot,
        convert: Callable[[MediaRoot, Mapping[str, Any], int], dict[str, Any]],
        indices: np.ndarray | None = None,
    ) -> None:
        self.records, self.media, self.convert, self.indices = records, media, convert, indices

    def __len__(self) -> int:
        return len(self.records) if self.indices is None else len(self.indices)

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not 0 <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        number = index if self.indices is None else int(self.indices[index])
        try:
            return self.convert(self.media, self.records[number], number)
        except (ValueError, TypeError, KeyError, OSError) as error:
            reason = f"no {error}" if isinstance(error, KeyError) else str(error)
            place = self.records.place(number)
            raise FormatError(reason if reason.startswith(place) else f"{place}: {reason}") from error

    def names_only(self) -> FormatRows:
        """The same rows with media as they are named in the file: no archive is opened, no path followed.

        Planning reads all rows once and looks at nothing but texts and ids.
        """
        return FormatRows(self.records, MediaNames(), self.convert, self.indices)
