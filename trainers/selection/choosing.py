"""From contributions to one thought a side, or none: pair-aware, and the two baselines it is compared with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..hashing import text_hash
from .contribution import best, posterior
from .records import FAILED, Records
from .settings import SIDES, SelectionSettings

Ints = NDArray[np.int64]
DIRECT = -1


@dataclass(frozen=True)
class SideChoice:
    """Of one side of all rows.

    Attributes:
        records: of its candidates, row by row.
        ends: of each row's candidates among them, ``[rows + 1]``.
        posterior: of each candidate.
        chosen: by row, the place of a candidate in its pool, or ``DIRECT``.
    """

    records: Records
    ends: Ints
    posterior: NDArray[np.float64]
    chosen: Ints

    def of(self, row: int) -> slice:
        """Where a row's candidates stand."""
        return slice(int(self.ends[row]), int(self.ends[row + 1]))

    @property
    def kept(self) -> Ints:
        """Places among all records of what was chosen."""
        rows = np.flatnonzero(self.chosen != DIRECT)
        return self.ends[rows] + self.chosen[rows]


def failed_rows(records: Records) -> set[int]:
    """Rows that could not be scored."""
    return set(records["row"][records["side"] == FAILED].tolist())


def choose(records: Records, count: int, settings: SelectionSettings) -> dict[str, SideChoice]:
    """The choice of every side that is asked for, among the records of ``count`` rows; failed ones are left out."""
    bad = np.fromiter(failed_rows(records), np.int64)
    good = records[~np.isin(records["row"], bad)]
    return {
        side: _side(good[good["side"] == place], count, settings, place)
        for place, side in enumerate(SIDES)
        if side in settings.sides
    }


def _side(records: Records, count: int, settings: SelectionSettings, place: int) -> SideChoice:
    ends = np.searchsorted(records["row"], np.arange(count + 1)).astype(np.int64)
    priors = {text_hash(name): prior for name, prior in settings.priors.items()}
    prior = np.array([priors.get(worker, 1.0) for worker in records["worker"].tolist()])
    likely = np.zeros(len(records))
    chosen = np.full(count, DIRECT, np.int64)
    for row in np.flatnonzero(np.diff(ends)).tolist():
        own = slice(int(ends[row]), int(ends[row + 1]))
        contribution = records["contribution"][own]
        likely[own] = posterior(contribution, prior[own], settings.temperature)
        chosen[row] = best(likely[own], contribution, settings.margin)
    found = SideChoice(records, ends, likely, chosen)
    rng = np.random.default_rng([settings.seed, place])
    draw: dict[str, Callable[[], Ints]] = {
        "pair-aware": lambda: chosen,
        "random": lambda: random_within(
            records["tokens"], ends, int(records["tokens"][found.kept].sum()), rng
        ),
        "none": lambda: one_each(ends, rng),
    }
    return SideChoice(records, ends, likely, draw[settings.choice]())


def one_each(ends: Ints, rng: np.random.Generator) -> Ints:
    """A candidate of every row that has any, each as likely; ``DIRECT`` for the others."""
    sizes = np.diff(ends)
    return np.where(sizes > 0, (rng.random(len(sizes)) * sizes).astype(np.int64), DIRECT)


def random_within(tokens: NDArray[np.integer], ends: Ints, budget: int, rng: np.random.Generator) -> Ints:
    """Random candidates of random rows, as many as come nearest to ``budget`` tokens together.

    Args:
        tokens: of each candidate. ends: of rows among them, ``[rows + 1]``.
        budget: tokens of all that are kept.
        rng: of the draw.
    """
    drawn = one_each(ends, rng)
    rows = np.flatnonzero(drawn != DIRECT)
    order = rng.permutation(rows)
    sums = np.concatenate([[0], np.cumsum(tokens[ends[order] + drawn[order]])])
    kept = order[: int(np.argmin(np.abs(sums - budget)))]
    found = np.full(len(drawn), DIRECT, np.int64)
    found[kept] = drawn[kept]
    return found
