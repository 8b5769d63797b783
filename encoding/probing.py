"""Which batches and how many threads are fastest on this machine: some items of a job, encoded in every way.

Threads are tried at the encoder's own budget, then budgets with the best number of threads. All settings take turns
and their shortest time counts, since a machine is never quiet; what the encoder would do by itself stays unless
another setting is faster by more than that noise.
"""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from .calls import as_items
from .devices import torch_threads

if TYPE_CHECKING:
    from .encoder import Encoder

MARGIN = 0.05  # as much faster a setting must be than the encoder's own
ROUNDS = 3
HOPELESS = 3.0  # times the fastest of the first round: not timed again
FACTORS = (0.5, 2.0, 4.0)  # of the encoder's budget

Setting = tuple[int | None, int]  # threads of torch (None: not on a CPU), padded tokens of a batch


@dataclass(frozen=True)
class Probe:
    """What :func:`probe` found.

    Attributes:
        threads: of torch; None on another device than a CPU.
        batch_tokens: padded tokens of one forward.
        seconds: of every setting that was tried, for all items; those that memory did not hold are left out.
    """

    threads: int | None
    batch_tokens: int
    seconds: dict[Setting, float] = field(default_factory=dict)

    def __str__(self) -> str:
        own = next(iter(self.seconds.values()))
        chosen = self.seconds[self.threads, self.batch_tokens]
        threads = "" if self.threads is None else f"{self.threads} threads, "
        return (
            f"{threads}batches of {self.batch_tokens} tokens: {own / chosen:.2f} times as fast as by default"
        )


def probe(
    encoder: Encoder,
    items: Any,
    *,
    threads: Sequence[int] | None = None,
    budgets: Sequence[int] | None = None,
    rounds: int = ROUNDS,
    clock: Callable[[], float] = time.perf_counter,
    **options: Any,
) -> Probe:
    """Find the fastest number of threads and budget for items like these; nothing is changed by it.

    Args:
        encoder: what will do the work.
        items: some dozens of it, as it will come: by path if it will be read from disk.
        threads: numbers to try on a CPU, the default first; those in use and powers of two up to the cores when None
            (:func:`thread_counts`).
        budgets: padded tokens to try, the default first; the encoder's own, half, twice and four times it when None.
        rounds: how often every setting is timed.
        clock: seconds.
        options: of ``Encoder.encode`` (``role``, ``mode`` ...).

    Raises:
        ValueError: there are no items, or none that can be encoded.
    """
    listed = as_items(items)
    on_cpu = encoder.model.device.type == "cpu"
    counts: list[int | None] = [None]
    if on_cpu:
        counts = [torch.get_num_threads(), *thread_counts()] if threads is None else [*threads]
    tokens = encoder.batch_tokens
    sizes = [tokens, *(round(tokens * factor) for factor in FACTORS)] if budgets is None else [*budgets]
    own = counts[0], sizes[0]
    _check(encoder, listed, own, options)
    seconds: dict[Setting, float] = {}

    def fastest(settings: list[Setting]) -> Setting:
        found = _time(encoder, listed, list(dict.fromkeys(settings)), rounds, clock, options)
        for setting, took in found.items():
            seconds[setting] = min(took, seconds.get(setting, took))
        default, best = settings[0], min(found, key=lambda setting: found[setting])
        return best if found[best] < found[default] * (1 - MARGIN) else default

    best = fastest([(count, sizes[0]) for count in counts])
    if len(sizes) > 1:
        best = fastest([(best[0], size) for size in sizes])
    return Probe(*best, seconds)


def _check(encoder: Encoder, items: Sequence[Any], own: Setting, options: dict[str, Any]) -> None:
    """Encode once, so that files lie in the system's cache and errors are known."""
    done = _encode(encoder, items, own, options)
    if len(done.errors) == len(items):
        raise ValueError(
            f"none of the {len(items)} items to probe with can be encoded: {done.errors[0][1]}"
            if items
            else "there are no items to probe with"
        )


def _time(
    encoder: Encoder,
    items: Sequence[Any],
    settings: Sequence[Setting],
    rounds: int,
    clock: Callable[[], float],
    options: dict[str, Any],
) -> dict[Setting, float]:
    """Shortest seconds of every setting; those whose batches did not fit are left out, but for the first.

    The first is timed in every round, the others as long as they have a chance.
    """
    found: dict[Setting, float] = {}
    left = list(settings)
    for number in range(rounds):
        if number == 1:
            limit = HOPELESS * min(found.values())
            left = [setting for setting in left if setting == settings[0] or found[setting] <= limit]
        for setting in list(left):
            start = clock()
            done = _encode(encoder, items, setting, options)
            took = clock() - start
            if done.batch_tokens < setting[1] and setting != settings[0]:
                left.remove(setting)
                found.pop(setting, None)
                continue
            found[setting] = min(took, found.get(setting, took))
    return found


def _encode(encoder: Encoder, items: Sequence[Any], setting: Setting, options: dict[str, Any]) -> Any:
    threads, tokens = setting
    with torch_threads(threads), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that memory did not hold a batch: it is looked at
        return encoder.encode(
            items,
            batch_tokens=tokens,
            on_error="skip",
            show_progress=False,
            return_details=True,
            **options,
        )


def thread_counts() -> list[int]:
    """1, 2, 4 ... and the number of cores."""
    most = os.cpu_count() or 1
    found = [1]
    while found[-1] * 2 < most:
        found.append(found[-1] * 2)
    return [*found, most] if most > 1 else found
