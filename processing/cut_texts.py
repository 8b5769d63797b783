"""Texts that were cut at their limit of tokens, counted over a call and told of once. Imports nothing heavy."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any


class TextCutWarning(UserWarning):
    """Items had more tokens than their limit, and the vectors know nothing of what stands behind it."""


@dataclass
class Cuts:
    """Items of a call that were cut.

    Attributes:
        count: how many.
        longest: tokens that the longest of them had.
        limit: tokens that it was cut to.
    """

    count: int = 0
    longest: int = 0
    limit: int = 0

    def see(self, rows: Iterable[Any]) -> Cuts:
        """Count prepared items; itself."""
        for row in rows:
            if row.cut_tokens:
                self.count += 1
                whole = row.length + row.cut_tokens
                if whole > self.longest:
                    self.longest, self.limit = whole, row.limit
        return self

    def warn(self, total: int, stacklevel: int = 2) -> None:
        """One warning of all of them, if there are any. total: items of the call."""
        if self.count:
            warnings.warn(
                f"{self.count} of {total} items were cut: the longest has {self.longest} tokens, its limit is "
                f"{self.limit}, and what stands behind is not seen. Encode long texts in parts, or raise the limit "
                "(processor.with_max_length, SentenceTransformer.max_seq_length); truncated of return_details=True, "
                "or cut_tokens of a prepared item, is how many tokens each has lost",
                TextCutWarning,
                stacklevel=stacklevel + 1,
            )


def tell_cuts(count: int, where: str, stacklevel: int = 2) -> None:
    """One warning of a run whose calls were :func:`cuts_untold`, if texts were cut in it."""
    if count:
        warnings.warn(
            f"{where}: {count} texts were cut at the model's limit of tokens, and what stands behind is not seen. "
            "Encode long texts in parts, or raise the limit (processor.with_max_length)",
            TextCutWarning,
            stacklevel=stacklevel + 1,
        )


@contextmanager
def cuts_untold() -> Iterator[None]:
    """No warnings of cut texts, for a caller that counts them over several calls and tells them itself."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TextCutWarning)
        yield
