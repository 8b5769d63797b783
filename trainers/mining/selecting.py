"""One row's negatives out of its nearest candidates: the filters, the order, and the random rest."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .entries import Scan
from .settings import MiningSettings
from .vectors import Vectors

FILTERS = ("known", "max_similarity", "relative_margin", "max_positive_similarity")
DRAWS = 1024  # random candidates that are looked at to fill up one row


def verdicts(
    scores: NDArray[np.float32],
    to_positive: NDArray[np.float32],
    positive_score: float,
    known: NDArray[np.bool_],
    settings: MiningSettings,
) -> NDArray[np.int8]:
    """Which filter turns each candidate away, as a number into ``FILTERS``; -1 for one that passes all.

    A threshold itself passes: only what lies above it is dropped.

    Args:
        scores: cosines of candidates and query, [c].
        to_positive: cosines of candidates and the row's positive, [c].
        positive_score: cosine of query and positive.
        known: candidates that are known positives, or the query itself, [c].
        settings: the limits.
    """
    found = np.full(len(scores), -1, np.int8)
    limits: list[NDArray[np.bool_]] = [known]
    limit, margin, near = settings.max_similarity, settings.relative_margin, settings.max_positive_similarity
    none = np.zeros(len(scores), np.bool_)
    limits.append(none if limit is None else scores > np.float32(limit))
    limits.append(none if margin is None else scores > np.float32(margin * positive_score))
    limits.append(none if near is None else to_positive > np.float32(near))
    for number in reversed(range(len(limits))):
        found[limits[number]] = number
    return found


def cosines(rows: NDArray[np.float32], one: NDArray[np.float32]) -> NDArray[np.float32]:
    """Inner products of unit rows [c, d] and a unit vector [d], the same however many rows there are."""
    return (rows.astype(np.float64) * one).sum(axis=1).astype(np.float32)


@dataclass(frozen=True)
class Selected:
    """Negatives of a row (entries and cosines, best first, random ones last), its positive's cosine, how many are
    random, and how many candidates each filter turned away [len(FILTERS)]."""

    entries: NDArray[np.int64]
    scores: NDArray[np.float32]
    positive_score: float
    filled: int
    dropped: NDArray[np.int64]


class Selector:
    """Chooses negatives, row by row; a row's result depends on nothing but the row, the pool and the settings."""

    def __init__(self, scan: Scan, vectors: Vectors, settings: MiningSettings) -> None:
        self.scan, self.vectors, self.settings = scan, vectors, settings
        self._order = np.argsort(scan.same, kind="stable")
        self._sorted = scan.same[self._order]
        same = scan.same[scan.more_row]
        order = np.argsort(same, kind="stable")
        self._more_sorted, self._more = same[order], scan.more_id[order]
        present = vectors.present
        self._members = {
            int(group): np.flatnonzero((scan.entry_group == group) & present)
            for group in np.unique(scan.group)
        }

    def select(
        self,
        row: int,
        query: NDArray[np.float32],
        candidates: NDArray[np.int64],
    ) -> Selected:
        """
        Args:
            row: which.
            query: its unit vector [d].
            candidates: entries near it, in any order.
        """
        settings = self.settings
        positive = self.vectors.take(self.scan.positive[row : row + 1])[0]
        score = float(cosines(positive[None], query)[0])
        known_ids, known_contents = self._known(row)

        def judge(entries: NDArray[np.int64]) -> tuple[NDArray[np.float32], NDArray[np.int8]]:
            rows = self.vectors.take(entries)
            known = np.isin(self.scan.entry_id[entries], known_ids)
            known |= np.isin(self.scan.entry_content[entries], known_contents)
            scores = cosines(rows, query)
            return scores, verdicts(scores, cosines(rows, positive), score, known, settings)

        scores, verdict = judge(candidates)
        order = np.lexsort((candidates, -scores))[: settings.depth]
        candidates, scores, verdict = candidates[order], scores[order], verdict[order]
        dropped = np.bincount(verdict[verdict >= 0], minlength=len(FILTERS)).astype(np.int64)
        chosen = np.flatnonzero(verdict < 0)[: settings.k]
        entries, scores = candidates[chosen], scores[chosen]
        missing = settings.k - len(entries)
        if missing:
            drawn = self._draw(row)
            drawn = drawn[~np.isin(drawn, entries)]
            drawn_scores, verdict = judge(drawn)
            extra = np.flatnonzero(verdict < 0)[:missing]
            entries = np.concatenate([entries, drawn[extra]])
            scores = np.concatenate([scores, drawn_scores[extra]])
        return Selected(entries, scores, score, len(entries) - len(chosen), dropped)

    def _known(self, row: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Ids and contents of the positives of all rows that ask for the same, and the query's own content."""
        scan, key = self.scan, self.scan.same[row]
        rows = self._order[_span(self._sorted, key)]
        ids = np.concatenate([scan.positive_id[rows], self._more[_span(self._more_sorted, key)]])
        contents = [scan.positive_content[rows], scan.contents_of(ids), scan.query[row : row + 1]]
        return ids, np.concatenate(contents)

    def _draw(self, row: int) -> NDArray[np.int64]:
        """Random members of the row's group, each once: all of a small group, up to ``DRAWS`` of a large one."""
        members = self._members[int(self.scan.group[row])]
        random = np.random.default_rng([self.settings.seed, row])
        if len(members) <= DRAWS:
            return members[random.permutation(len(members))]
        picked = random.integers(len(members), size=DRAWS)
        _, first = np.unique(picked, return_index=True)
        return members[picked[np.sort(first)]]


def _span(keys: NDArray[np.int64], key: np.int64) -> slice:
    """Where ``key`` stands in sorted keys."""
    return slice(np.searchsorted(keys, key), np.searchsorted(keys, key, side="right"))
