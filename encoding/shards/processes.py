"""Several processes of one command share a source, one to a device; the output is that of one process."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from ...processing.cut_texts import cuts_untold, tell_cuts
from ..inputs import Source
from ..row_encoding import VectorMaker
from .files import read_run
from .run import ShardReport, encode_shards

ATTEMPTS = 2  # starts of a process that dies; the second goes on where the first was


class ShardProcessError(RuntimeError):
    """A process died or failed, again after it was started anew; what was finished is kept."""


def encode_shards_in_processes(
    load: Callable[[str | None], VectorMaker],
    source: Source,
    out: str | os.PathLike[str],
    devices: Sequence[str | None],
    *,
    resume: bool = True,
    **options: Any,
) -> ShardReport:
    """:func:`encode_shards` by a process per device.

    They are spawned, so a script that calls this needs ``if __name__ == "__main__":``.

    Args:
        load: device to encoder, called once in each process; it and the source must be picklable.
        source: what to read.
        out: folder of the parts.
        devices: one process each; a device may stand there several times.
        resume: as in ``encode_shards``.
        options: further arguments of ``encode_shards``.

    Raises:
        FileExistsError: ``out`` holds a run, and ``resume`` is False.
        ShardProcessError: a process died or failed twice.
    """
    if not devices:
        raise ValueError("no devices")
    folder = Path(out)
    if not resume and read_run(folder) is not None:
        raise FileExistsError(f"{folder} holds a run already: resume it, or give another folder")
    if len(devices) == 1:
        return encode_shards(load(devices[0]), source, out, resume=True, **options)
    context = multiprocessing.get_context("spawn")
    queue, starts = list(range(len(devices))), [0] * len(devices)
    running: dict[Any, tuple[int, Any]] = {}  # our end of a process's pipe -> rank, process
    reports: list[ShardReport] = []
    failures: list[str] = []
    try:
        while queue or running:
            for rank in queue:
                ours, theirs = context.Pipe(duplex=False)
                share = (theirs, load, source, folder, devices[rank], rank, len(devices), options)
                process = context.Process(target=_share, args=share, daemon=True)
                with _interrupts_ignored():
                    process.start()
                theirs.close()
                starts[rank] += 1
                running[ours] = (rank, process)
            queue = []
            # A pipe is ready when its process reports, or ended without a word. Were the process itself waited for, it
            # would wait in turn, for us to read a report that is larger than the pipe: that of a few hundred parts.
            for pipe in wait(list(running)):
                rank, process = running.pop(pipe)
                outcome = _received(pipe)
                process.join()
                if isinstance(outcome, ShardReport):
                    reports.append(outcome)
                elif outcome is not None:  # it said why: a second start would say the same
                    failures.append(outcome)
                elif starts[rank] < ATTEMPTS:
                    queue.append(rank)
                else:
                    failures.append(
                        f"process {rank} of {len(devices)} died with exit code {process.exitcode}"
                    )
    finally:
        for _, process in running.values():
            process.terminate()
            process.join()
    if failures:
        raise ShardProcessError(
            f"{'; '.join(sorted(set(failures)))}; finished parts are kept: resume the run"
        )
    manifests = [report.manifest for report in reports if report.manifest is not None]
    counted = {one.name for one in fields(ShardReport)} - {"manifest"}
    sums = {name: sum(getattr(report, name) for report in reports) for name in counted}
    report = ShardReport(**sums, manifest=manifests[0] if manifests else None)
    tell_cuts(report.truncated, str(folder))
    return report


def _share(
    pipe: Any,
    load: Callable[[str | None], VectorMaker],
    source: Source,
    folder: Path,
    device: str | None,
    rank: int,
    world: int,
    options: dict[str, Any],
) -> None:
    """What a process does: its share, and then a report or the reason of a failure through the pipe."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        with cuts_untold():  # the parent tells of all
            outcome: ShardReport | str = encode_shards(
                load(device), source, folder, rank=rank, world=world, **options
            )
    except Exception as error:
        text = " ".join(str(error).split()) or "no message"
        outcome = text if isinstance(error, ValueError | OSError) else f"{type(error).__name__}: {text}"
    pipe.send(outcome)
    pipe.close()


@contextmanager
def _interrupts_ignored() -> Iterator[None]:
    """What is started within ignores Ctrl-C for good: it goes to all processes, and the parent ends the others."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    former = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, former)


def _end_with_parent() -> None:
    """A parent that was killed takes its processes along."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


def _received(pipe: Any) -> ShardReport | str | None:
    """What a process said; None where it ended before it had."""
    try:
        found = pipe.recv()
    except (EOFError, OSError):
        found = None
    pipe.close()
    return found
