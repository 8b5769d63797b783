"""How the batches of an epoch come about: units of sources, cut into (sub-)batches, put in order."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .drawing import draw_units
from .duplicate_free_batches import duplicate_free_batches, swap_repeats
from .source import Source
from .targets import UNKNOWN

_CAP, _BATCHES, _ORDER, _REPAIR = range(4)  # random streams


@dataclass(frozen=True)
class SourceReport:
    """What a plan does with a source.

    Attributes:
        name: of the source.
        rows: it has.
        capped: rows left out by its cap.
        read: how often one of its rows is read, all epochs together.
        unread: rows within the cap that are never read.
        crowded: those of the unread whose target has more rows than the source has batches, so that a batch without
            duplicates cannot take them; the other unread ones would have made a last batch that is not full.
    """

    name: str
    rows: int
    capped: int
    read: int
    unread: int
    crowded: int


class Planner:
    """Rows are numbered through all sources; a unit is what a (sub-)batch is made of."""

    def __init__(
        self,
        sources: list[Source],
        targets: list[np.ndarray],
        batch_size: int,
        seed: int,
        kind: str,
        block: int,
        no_duplicate_targets: bool,
        stop: str | int,
    ) -> None:
        self.sources, self.batch_size, self.seed, self.block, self.stop = (
            sources,
            batch_size,
            seed,
            block,
            stop,
        )
        self.starts = np.cumsum([0, *(len(source) for source in sources)])[:-1]
        self.used = [self._used(number) for number in range(len(sources))]
        self.codes = self._codes(targets, no_duplicate_targets)
        self.units: dict[str, list[int]] = {}
        for number, source in enumerate(sources):
            unit = {"mixed": "all sources", "single_task": f"task {source.task!r}"}.get(
                kind, f"source {source.name!r}" if source.group is None else f"group {source.group!r}"
            )
            self.units.setdefault(unit, []).append(number)
        self.weighted = stop == "once" or kind == "mixed"  # whether a pass reads a row `weight` times
        self.blocks = np.full(len(self.units), np.iinfo(np.int64).max)  # of a pass over each unit, at least

    def epoch(self, epoch: int) -> np.ndarray:
        """int64 [batches, batch_size], rows numbered through all sources."""
        per_batch = self.batch_size // self.block
        rng = np.random.default_rng([self.seed, epoch, _ORDER])
        passes = [self._pass(unit, epoch, 0) for unit in range(len(self.units))]
        self.blocks = np.minimum(self.blocks, [len(blocks) for blocks in passes])
        if self.stop == "once":
            blocks = np.concatenate(passes)
            owner = np.repeat(np.arange(len(passes)), [len(one) for one in passes])
            order = rng.permutation(len(blocks))[: len(blocks) // per_batch * per_batch]
            blocks, owner = blocks[order], owner[order]
            if not len(blocks):
                raise ValueError(f"all sources together do not fill one batch of {self.batch_size} rows")
        else:
            draws = self.stop * per_batch if isinstance(self.stop, int) else self.stop
            weights = np.array(
                [sum(self.sources[one].weight for one in members) for members in self.units.values()]
            )
            owner = draw_units(weights, self.blocks, draws, per_batch, rng)
            blocks = np.empty((len(owner), self.block), dtype=np.int64)
            for unit, first in enumerate(passes):
                blocks[owner == unit] = self._first(unit, epoch, first, int((owner == unit).sum()))
        rows = blocks.reshape(-1, self.batch_size)
        if per_batch > 1:
            owners = np.repeat(owner, self.block).reshape(rows.shape)
            repair = np.random.default_rng([self.seed, epoch, _REPAIR])
            rows = rows.ravel()[swap_repeats(self.codes[rows], owners, repair)]
        return rows

    def reports(self, rows: np.ndarray) -> list[SourceReport]:
        """What became of every source."""
        count = np.bincount(rows.ravel(), minlength=len(self.codes))
        crowded = np.zeros(len(self.codes), dtype=bool)
        for unit, members in enumerate(self.units.values()):
            all_rows = np.concatenate([self.used[one] for one in members])
            same = np.unique(self.codes[all_rows], return_inverse=True, return_counts=True)
            crowded[all_rows] = (same[2] > self.blocks[unit])[same[1].reshape(-1)]
        found = []
        for source, used in zip(self.sources, self.used, strict=True):
            unread = used[count[used] == 0]
            found.append(
                SourceReport(
                    source.name,
                    rows=len(source),
                    capped=len(source) - len(used),
                    read=int(count[used].sum()),
                    unread=len(unread),
                    crowded=int(crowded[unread].sum()),
                )
            )
        return found

    def _used(self, number: int) -> np.ndarray:
        size, cap = len(self.sources[number]), self.sources[number].cap
        if cap is None or cap >= size:
            return int(self.starts[number]) + np.arange(size)
        rng = np.random.default_rng([self.seed, number, _CAP])
        return int(self.starts[number]) + np.sort(rng.permutation(size)[:cap])

    def _codes(self, targets: list[np.ndarray], no_duplicate_targets: bool) -> np.ndarray:
        """A number per row such that no batch may hold it twice: the target's, or the row's own."""
        codes = np.concatenate(targets).astype(np.int64)
        own = codes.max(initial=0) + 1 + np.arange(len(codes))
        free = codes == UNKNOWN
        for number, source in enumerate(self.sources):
            if not (source.distinct and no_duplicate_targets):
                free[self.starts[number] : self.starts[number] + len(source)] = True
        return np.where(free, own, codes)

    def _pass(self, unit: int, epoch: int, turn: int) -> np.ndarray:
        """(Sub-)batches of one pass over a unit, int64 [blocks, block]."""
        rng = np.random.default_rng([self.seed, epoch, _BATCHES, unit, turn])
        rows = []
        name, members = list(self.units.items())[unit]
        for one in members:
            used, weight = self.used[one], self.sources[one].weight if self.weighted else 1.0
            rows += [used] * int(weight)
            rows.append(rng.permutation(used)[: round((weight - int(weight)) * len(used))])
        every = np.concatenate(rows)
        blocks = every[duplicate_free_batches(self.codes[every], self.block, rng)]
        if len(blocks) == 0:
            different = len(np.unique(self.codes[every]))
            raise ValueError(
                f"{name} has {len(every)} rows with {different} different targets and cannot fill a batch of "
                f"{self.block}: put it into a group or task with others, take smaller batches, or give its sources "
                "distinct=False, so that the loss masks its duplicates"
            )
        return blocks

    def _first(self, unit: int, epoch: int, blocks: np.ndarray, count: int) -> np.ndarray:
        """The first blocks of as many passes as it takes."""
        turn, passes = 0, [blocks]
        while sum(map(len, passes)) < count:
            turn += 1
            passes.append(self._pass(unit, epoch, turn))
        return np.concatenate(passes)[:count]
