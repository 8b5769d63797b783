"""What was found for every candidate, block by block, in files that a run that was stopped goes on from."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm.auto import tqdm

from ...encoding.inputs.sample import reason_of
from ...encoding.storage.atomic import write_atomically
from ..hashing import text_hash
from ..scoring.blocks import REASONS, block_file
from .contribution import Confidence, confidences, contributions
from .pools import Candidate, Pools
from .settings import SIDES, SelectionSettings
from .weighing import UNREADABLE, Evaluation, PairEvaluator, evaluate, pairs_of

# A candidate of a row and side; ``side`` -1 stands for a row that could not be scored. margin: of the pair without a
# thought. lift: what the thought adds to the confidence in it. contribution: that less its mean over negatives.
# missing: failed pairs.
RECORD = np.dtype(
    [
        ("row", "<i8"), ("side", "<i4"), ("worker", "<i8"), ("tokens", "<i4"), ("negatives", "<i4"),
        ("missing", "<i4"), ("margin", "<f4"), ("lift", "<f4"), ("contribution", "<f8"),
    ]
)  # fmt: skip
FAILED = -1
Records = NDArray[np.void]


@dataclass(frozen=True)
class Weighing:
    """What a block is made of: the rows, their pools, the evaluator, and where other queries and media are found."""

    rows: Sequence[Any]
    pools: Pools
    evaluator: PairEvaluator
    settings: SelectionSettings
    find: Callable[[Any], Any]
    other_queries: Callable[[int, int], list[Any]]

    def records(self, number: int, reasons: list[str]) -> Records:
        """Of a row; why pairs of it failed is added to the reasons.

        Raises:
            ValueError: its pools are of another form; names the row.
        """
        row = self.rows[number]
        found: list[Records] = []
        for place, side in enumerate(SIDES):
            if side not in self.settings.sides:
                continue
            try:
                pool = self.pools.of(row, number, side)
            except (ValueError, TypeError) as error:
                raise ValueError(f"row {number}: {error}") from error
            if not pool:
                continue
            try:
                pairs = pairs_of(row, number, side, self.settings, self.find, self.other_queries)
                template, instruction = self.settings.template(side), self.settings.instruction
                one = evaluate(self.evaluator, pairs, pool, template, instruction)
            except UNREADABLE as error:
                reasons.append(f"row {number}: {reason_of(error)}")
                return _failed(number, 1)
            reasons += [f"row {number}, {side}, {reason}" for reason in one.reasons]
            if np.isnan(one.margins[0, 0]):
                return _failed(number, len(one.reasons))
            found.append(_side(number, place, pool, one, self.settings.confidence))
        return np.concatenate(found) if found else np.empty(0, RECORD)


def _failed(number: int, missing: int) -> Records:
    found = np.zeros(1, RECORD)
    found["row"], found["side"], found["missing"], found["contribution"] = number, FAILED, missing, np.nan
    return found


def _side(
    number: int, place: int, pool: Sequence[Candidate], one: Evaluation, measure: Confidence
) -> Records:
    compared = confidences(one.margins, measure)
    found = np.zeros(len(pool), RECORD)
    found["row"], found["side"] = number, place
    found["worker"] = [text_hash(candidate.worker) for candidate in pool]
    found["tokens"] = [candidate.tokens for candidate in pool]
    found["negatives"] = (~np.isnan(one.margins[1:, :1] + one.margins[1:, 1:])).sum(axis=0)
    found["missing"][0] = len(one.reasons)
    found["margin"] = one.margins[0, 0]
    found["lift"] = compared[0, 1:] - compared[0, 0]
    found["contribution"] = contributions(compared)
    return found


def block_starts(count: int, size: int) -> list[int]:
    """The first row of every block, and the number of rows."""
    return [*range(0, count, size), count]


def write_blocks(
    weighing: Weighing,
    blocks: Path,
    mine: Sequence[int],
    *,
    size: int,
    max_failed: int,
    show_progress: bool | None,
) -> None:
    """Write the blocks of these numbers that are not there yet.

    Raises:
        ValueError: more pairs failed than may; the first reasons are told.
    """
    blocks.mkdir(exist_ok=True, parents=True)
    starts = block_starts(len(weighing.rows), size)
    missing = [number for number in mine if not block_file(blocks, number).is_file()]
    visible = sys.stderr.isatty() if show_progress is None else show_progress
    reasons: list[str] = []
    total = sum(starts[number + 1] - starts[number] for number in missing)
    with tqdm(total=total, unit="row", desc="select", disable=not visible) as bar:
        for number in missing:
            rows = range(starts[number], starts[number + 1])
            found = [weighing.records(row, reasons) for row in rows]
            if len(reasons) > max_failed:
                raise ValueError(
                    f"{len(reasons)} pairs could not be scored, more than max_failed={max_failed}: "
                    f"{'; '.join(reasons[:REASONS])}"
                )
            data = io.BytesIO()
            np.save(data, np.concatenate([np.empty(0, RECORD), *found]), allow_pickle=False)
            write_atomically(block_file(blocks, number), data.getvalue())
            bar.update(len(rows))


def read_blocks(blocks: Path, count: int, size: int) -> Records:
    """Records of all rows, in their order.

    Raises:
        ValueError: a block is missing, damaged, or of other rows.
    """
    starts = block_starts(count, size)
    found = [np.empty(0, RECORD)]
    for number in range(len(starts) - 1):
        path = block_file(blocks, number)
        try:
            block = np.load(path, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise ValueError(
                f"{path} can't be read: {reason_of(error)}; remove it, and it is made anew"
            ) from None
        rows = block["row"] if block.dtype == RECORD else np.array([-1])
        if len(rows) and not (starts[number] <= rows.min() and rows.max() < starts[number + 1]):
            raise ValueError(f"{path} is damaged: remove it, and it is made anew")
        found.append(block)
    return np.concatenate(found)
