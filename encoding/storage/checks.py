"""Ids and vectors, checked before they are stored or used."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

UNIT_TOLERANCE = 1e-3


def check_ids(names: Sequence[object], known: set[str], error: type[ValueError]) -> None:
    """Ids are non-empty strings, each once and none of ``known``; raises ``error``."""
    seen: set[object] = set(known)
    for name in names:
        if not isinstance(name, str) or not name:
            raise error(f"an id is a non-empty string, not {name!r}")
        if name in seen:
            raise error(f"the id {name!r} is there twice")
        try:
            name.encode("utf-8")
        except UnicodeEncodeError:
            raise error(f"the id {name!r} is no valid Unicode") from None
        seen.add(name)


def check_rows(names: Sequence[str], rows: NDArray[np.float32], error: type[ValueError]) -> None:
    """Rows [n, d] are finite and of length 1; raises ``error`` with the names of those that are not."""
    lengths = np.sqrt(np.einsum("ij,ij->i", rows, rows, dtype=np.float64))  # no copy of the rows in float64
    bad = np.flatnonzero(~(np.abs(lengths - 1.0) <= UNIT_TOLERANCE))  # NaN fails the comparison too
    if len(bad):
        shown = ", ".join(f"{names[row]} (length {lengths[row]:.3g})" for row in bad[:5])
        more = f" and {len(bad) - 5} more" if len(bad) > 5 else ""
        raise error(f"not unit vectors: {shown}{more}")
