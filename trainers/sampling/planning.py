"""The plan of a training: for every batch which rows of which source, as two arrays.

A plan is a pure function of the sources' sizes and targets, the batch size and (seed, epoch). It is made before the
training, on every rank alike, costs six bytes per row read, and is read in order: so any rank, any worker and any
resumed run finds the same batches.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from .duplicate_free_batches import is_repeated
from .planner import Planner, SourceReport
from .source import Source
from .targets import target_codes

logger = logging.getLogger(__name__)

KINDS = ("single_dataset", "single_task", "mixed")
STOPS = ("once", "all_exhausted", "first_exhausted")


@dataclass(frozen=True)
class Plan:
    """Batches of rows.

    Attributes:
        names: of the sources.
        source: int16 [batches, batch_size], index into ``names``.
        row: int32 or int64 [batches, batch_size], row of that source.
        epoch_starts: index of the first batch of each epoch.
        targets: for each source int64 [rows], equal for equal targets, -1 where unknown; see ``target_codes``.
        reports: one per source.
        repeated: entries whose target stands in their batch already, where that was to be avoided and could not be;
            0 unless batches are put together from sub-batches.
    """

    names: tuple[str, ...]
    source: np.ndarray
    row: np.ndarray
    epoch_starts: tuple[int, ...]
    targets: tuple[np.ndarray, ...]
    reports: tuple[SourceReport, ...]
    repeated: int

    @property
    def batch_size(self) -> int:
        return int(self.source.shape[1])

    def __len__(self) -> int:
        """Number of batches."""
        return len(self.source)

    def fingerprint(self) -> str:
        """sha256 of the batches: a resumed run can make sure that it goes on with the same plan."""
        digest = hashlib.sha256(repr((self.names, self.source.shape)).encode())
        digest.update(np.ascontiguousarray(self.source, dtype="<i2").tobytes())
        digest.update(np.ascontiguousarray(self.row, dtype="<i8").tobytes())
        return digest.hexdigest()


def plan_epochs(
    sources: Sequence[Source],
    batch_size: int,
    *,
    seed: int,
    epoch: int = 0,
    epochs: int = 1,
    kind: str = "single_dataset",
    interleave: int | None = None,
    weights: Mapping[str, float] | None = None,
    caps: Mapping[str, int] | int | None = None,
    no_duplicate_targets: bool = True,
    stop: str | int = "once",
    targets: Sequence[np.ndarray] | None = None,
) -> Plan:
    """Plan the batches of one or several epochs.

    Args:
        sources: names are unique.
        batch_size: rows of a *global* batch: processes times rows per device. Read in order, batch by batch, every
            step of all processes together is then one batch of the plan.
        seed, epoch: the plan of an epoch is a function of both. The Trainer tells neither a wrapped data set nor its
            workers in which epoch it is: plan all ``epochs`` at once and train for one epoch of the Trainer.
        epochs: how many, from ``epoch`` on.
        kind: ``single_dataset``: a batch is of one source or one group (RzenEmbed 3.4, UME-R1's data_group);
            ``single_task``: of one ``task``; ``mixed``: of all (U-MARVEL, plain shuffling).
        interleave: rows of a sub-batch; a batch is put together from sub-batches, each of one source, group or task
            (VLM2Vec-V2's interleave_batch_size). It divides the batch size.
        weights: by name, instead of ``Source.weight``.
        caps: for all or by name, instead of ``Source.cap``.
        no_duplicate_targets: no target twice in a batch, except those of sources with ``distinct=False``; a row that
            would repeat one comes in another batch. A row as such is never twice in a batch.
        stop: ``once``: an epoch reads every row ``weight`` times (1.5: all once, half of them twice).
            Otherwise (sub-)batches are drawn with probability proportional to the weight, a group's or task's being
            the sum: ``all_exhausted``, ``first_exhausted``, or a number of batches; see ``draw_units``. Rows of a
            mixed batch are read ``weight`` times a pass in any case.
        targets: as ``target_codes(sources)`` returns them, where they are known already.

    Raises:
        ValueError: sources, weights or caps that make no sense, or a source that cannot fill a single batch.
    """
    chosen = _checked(sources, batch_size, kind, interleave, weights, caps, stop, epochs)
    known = target_codes(chosen) if targets is None else list(targets)
    if [len(codes) for codes in known] != [len(source) for source in chosen]:
        raise ValueError("targets must have one number for each row of each source")
    planner = Planner(
        chosen, known, batch_size, seed, kind, interleave or batch_size, no_duplicate_targets, stop
    )
    parts = [planner.epoch(number) for number in range(epoch, epoch + epochs)]
    rows = np.concatenate(parts)
    source = np.searchsorted(planner.starts, rows, side="right") - 1
    local = rows - planner.starts[source]
    plan = Plan(
        names=tuple(one.name for one in chosen),
        source=source.astype(np.int16),
        row=local.astype(np.int32 if max(map(len, chosen)) < 2**31 else np.int64),
        epoch_starts=tuple(np.cumsum([0, *(len(part) for part in parts[:-1])]).tolist()),
        targets=tuple(known),
        reports=tuple(planner.reports(rows)),
        repeated=int(is_repeated(planner.codes[rows]).sum()),
    )
    for report in plan.reports:
        if report.unread:
            logger.log(
                logging.WARNING if report.crowded else logging.INFO,
                "source %r: %d of %d rows are in no batch (%d of them because their target has more rows than there "
                "are batches)",
                *(report.name, report.unread, report.rows - report.capped, report.crowded),
            )
    return plan


def _checked(
    sources: Sequence[Source],
    batch_size: int,
    kind: str,
    interleave: int | None,
    weights: Mapping[str, float] | None,
    caps: Mapping[str, int] | int | None,
    stop: str | int,
    epochs: int,
) -> list[Source]:
    names = [source.name for source in sources]
    if not names or len(set(names)) != len(names) or len(names) >= 2**15:
        raise ValueError(f"give sources with unique names, got {', '.join(names) or 'none'}")
    if kind not in KINDS:
        raise ValueError(f"kind is {kind!r}; use one of {', '.join(KINDS)}")
    if isinstance(stop, bool) or not (stop in STOPS or (isinstance(stop, int) and stop > 0)):
        raise ValueError(f"stop is {stop!r}; use one of {', '.join(STOPS)}, or a number of batches")
    if epochs < 1 or (isinstance(stop, int) and epochs != 1):
        raise ValueError(
            f"epochs is {epochs}; it must be at least 1, and 1 where stop is a number of batches"
        )
    if batch_size < 1 or (interleave is not None and (interleave < 1 or batch_size % interleave)):
        raise ValueError(f"sub-batches of {interleave} rows do not make up a batch of {batch_size}")
    by_name = {} if caps is None else dict.fromkeys(names, caps) if isinstance(caps, int) else dict(caps)
    unknown = sorted({*by_name, *(weights or {})} - set(names))
    if unknown:
        raise ValueError(f"weights or caps for {', '.join(unknown)}, but the sources are {', '.join(names)}")
    chosen = []
    for source in sources:
        chosen.append(
            replace(
                source,
                weight=(weights or {}).get(source.name, source.weight),
                cap=by_name.get(source.name, source.cap),
            )
        )
    if kind == "single_task" and (without := [source.name for source in chosen if source.task is None]):
        raise ValueError(f"single_task batches need a task for each source; {', '.join(without)} has none")
    return chosen
