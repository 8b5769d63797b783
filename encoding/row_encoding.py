"""Rows to vectors, a chunk at a time, for those that read millions: what is wrong with a row costs that row alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..processing.cut_texts import cuts_untold
from .inputs.sample import Row, reason_of


class VectorMaker(Protocol):
    """What is needed of an ``umekit.Encoder``."""

    @property
    def dim(self) -> int: ...

    def fingerprint(self) -> dict[str, Any]: ...

    def encode(self, items: Sequence[Any], **options: Any) -> Any: ...


@dataclass
class EncodedRows:
    """Vectors of rows.

    Attributes:
        vectors: float32 ``[n, d]``; NaN where there is none.
        reasons: place of a row without a vector -> why.
        truncated: places of rows whose text was cut at the limit of tokens.
        reasoned, thought_tokens: rows that were thought about before they were embedded, and what was written.
    """

    vectors: NDArray[np.float32]
    reasons: dict[int, str]
    truncated: set[int]
    reasoned: int = 0
    thought_tokens: int = 0


class RowEncoder:
    """Encodes rows with one set of options; a batch that memory did not hold is not tried again.

    Attributes:
        halved_to: tokens of a batch, once memory did not hold those that were asked for.
    """

    def __init__(self, encoder: VectorMaker, dim: int | None = None, **options: Any) -> None:
        """
        Args:
            encoder: makes the vectors.
            dim: of the vectors; the encoder's by default.
            options: of ``encoder.encode``.
        """
        self.encoder = encoder
        self.dim = encoder.dim if dim is None else dim
        self.options = options
        self.halved_to: int | None = None

    def encode(
        self, rows: Sequence[Row], thoughts: Sequence[Any] | None = None, **options: Any
    ) -> EncodedRows:
        """Vectors of rows; nothing that is wrong with one of them is raised.

        Args:
            rows: to encode.
            thoughts: one for each row, None for a row that is to think itself.
            options: more of ``encoder.encode``, for this call.
        """
        reasons = {place: row.error for place, row in enumerate(rows) if row.error is not None}
        asked = [place for place in range(len(rows)) if place not in reasons]
        found = EncodedRows(np.full((len(rows), self.dim), np.nan, dtype=np.float32), reasons, set())
        if asked:
            if thoughts is not None:
                options["thoughts"] = [thoughts[place] for place in asked]
            fitting = {} if self.halved_to is None else {"batch_tokens": self.halved_to}
            with cuts_untold():
                encoded = self.encoder.encode(
                    [rows[place].item for place in asked],
                    dim=self.dim if self.dim != self.encoder.dim else None,
                    on_error="skip",
                    show_progress=False,
                    return_details=True,
                    **{**self.options, **options, **fitting},
                )
            found.vectors[asked] = encoded.embeddings
            found.truncated = {
                asked[index] for index, count in enumerate(getattr(encoded, "truncated", [])) if count
            }
            counts = [
                sum(one) if isinstance(one, list) else one for one in getattr(encoded, "thought_tokens", [])
            ]
            found.thought_tokens = sum(counts)
            found.reasoned = round(getattr(encoded, "invocation_ratio", 0.0) * len(asked))
            found.reasons |= {asked[index]: reason_of(error) for index, error in encoded.errors}
            if getattr(encoded, "halved", False):
                self.halved_to = int(encoded.batch_tokens)
        for place in np.flatnonzero(~np.isfinite(found.vectors).all(axis=1)):
            found.reasons.setdefault(int(place), "its vector is not finite")
        return found
