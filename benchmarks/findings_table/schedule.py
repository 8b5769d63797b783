"""Many jobs in few processes: each as soon as what it needs is done, results found in the cache left alone."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, wait
from typing import Any

from .jobs import Job, Work

Execute = Callable[[Work, Job], dict[str, Any]]
Report = Callable[[str], None]


def processes(count: int) -> ProcessPoolExecutor:
    """Fresh processes of one thread each: small models are slower on two threads than in two processes."""
    return ProcessPoolExecutor(count, multiprocessing.get_context("spawn"), initializer=_one_thread)


def _one_thread() -> None:
    os.environ["OMP_NUM_THREADS"] = "1"  # for what is imported from here on
    import torch
    import transformers

    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()


def run_all(
    work: Work, pool: Executor, workers: int, execute: Execute, report: Report = print
) -> list[tuple[Job, str]]:
    """Do everything that is not done yet.

    Args:
        pool: what jobs are run in; see :func:`processes`.
        workers: how many at a time.
        execute: what does one job, importable by name where it is called in another process.
        report: gets a line for each finished job.

    Returns:
        Jobs that failed, and why; what needs them is left undone, everything else is done.
    """
    jobs = work.all_jobs()
    done = {job for job in jobs if work.is_done(job)}
    left = [job for job in jobs if job not in done]
    if done:
        report(f"{len(done)} of {len(jobs)} jobs are done already")
    failed: list[tuple[Job, str]] = []
    running: dict[Future[dict[str, Any]], Job] = {}
    while left or running:
        ready = [job for job in left if all(need in done for need in work.before(job))]
        # Starts are made one after the other and everything waits for them: left to their turn, the last seed's would
        # run alone.
        ready.sort(key=lambda job: job.kind != "start")
        for job in ready[: workers - len(running)]:
            running[pool.submit(execute, work, job)] = job
            left.remove(job)
        if not running:
            break  # what is left needs a job that failed
        finished, _ = wait(running, return_when=FIRST_COMPLETED)
        for future in finished:
            job = running.pop(future)
            error = future.exception()
            if error is not None:
                failed.append((job, f"{type(error).__name__}: {error}"))
                report(f"FAILED {job}: {failed[-1][1]}")
                continue
            done.add(job)
            shown = ", ".join(f"{name} {value}" for name, value in future.result().items())
            report(f"[{len(done)}/{len(jobs)}] {job}: {shown}")
    return failed
