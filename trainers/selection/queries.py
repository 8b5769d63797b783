"""Other queries for a positive: what its thought is weighed against, as rows have negatives of queries only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
DRAWS = 8  # for each query that is wanted: some are of the row itself, or of its positive


class OtherQueries:
    """Queries of other rows, drawn by a row's number alone: of the same task, with another query and positive.

    Args:
        rows: of which the queries are.
        query, positive, group: keys ``[n]``: of the content of both, and of the task.
        seed: of the draw.
    """

    def __init__(self, rows: Sequence[Any], query: Ints, positive: Ints, group: Ints, seed: int) -> None:
        self.rows, self.query, self.positive, self.group, self.seed = rows, query, positive, group, seed
        order = np.argsort(group, kind="stable")
        names, first = np.unique(group[order], return_index=True)
        self._members = dict(zip(names.tolist(), np.split(order, first[1:]), strict=True))

    def __call__(self, number: int, wanted: int) -> list[Any]:
        """Up to ``wanted`` queries; fewer where the task has no more that differ."""
        members = self._members[int(self.group[number])]
        rng = np.random.default_rng([self.seed, number])
        found: dict[int, int] = {}  # key of a query -> its row
        for row in members[rng.integers(len(members), size=DRAWS * wanted)].tolist():
            if len(found) == wanted:
                break
            if self.query[row] != self.query[number] and self.positive[row] != self.positive[number]:
                found.setdefault(int(self.query[row]), row)
        return [self.rows[row]["query"] for row in found.values()]
