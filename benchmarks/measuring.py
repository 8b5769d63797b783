"""What every benchmark needs: the machine in words, arms that take turns, and results that are kept as they come."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import transformers

import umekit
from umekit.encoding.packaged import packaged_model
from umekit.encoding.storage.atomic import write_atomically
from umekit.modeling.saving import names_wrapper

PASSING = ("load_at_start", "command")  # what may differ between a run and the one that goes on with it


def stock_ume_tiny(folder: Path) -> Path:
    """ume-tiny's direct half in ``folder``, which sentence-transformers opens with its own modules: the baseline."""
    out = umekit.export(packaged_model(), folder / "stock", role="discriminative", golden=False)
    if names_wrapper(out):
        raise RuntimeError("ume-tiny has no form in stock modules any more: it is no baseline")
    return out


def machine() -> dict[str, Any]:
    """Where a result was measured."""
    name = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            name = next(
                (line.split(":", 1)[1].strip() for line in file if line.startswith("model name")), name
            )
    except OSError:
        pass
    return {
        "processor": name,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load_at_start": load(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "system": platform.system(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def load() -> float | None:
    """Processes that wish to run, over the last minute."""
    return round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None


def measure_parts(
    out: Path | None, head: Mapping[str, Any], key: str, jobs: Mapping[str, Callable[[], dict[str, Any]]]
) -> dict[str, Any]:
    """A result of several parts, which is written anew after each: a run that was stopped goes on with the next.

    Args:
        out: the file; None writes nothing. Its parts are kept where all of its head but the load and the command is
            the same, and measured anew otherwise.
        head: of the result, ``machine`` among it.
        key: of the parts in the result.
        jobs: name -> measures that part.

    Returns:
        The head and the parts, each with the load of the machine when it began.
    """
    known = json.loads(out.read_text(encoding="utf-8")) if out is not None and out.is_file() else {}
    parts = known.pop(key, {})
    if _lasting(known) != _lasting(json.loads(json.dumps(head))):
        parts = {}
    result = {**head, key: parts}
    for name, job in jobs.items():
        if name in parts:
            print(f"{name}: in {out} already", flush=True)
            continue
        began = load()
        parts[name] = {**job(), "load_at_start": began}
        text = json.dumps(result, indent=2) + "\n"
        print(json.dumps({name: parts[name]}, indent=2), flush=True)
        if out is not None:
            out.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(out, text.encode())
    return result


def _lasting(head: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: _lasting(value) if isinstance(value, Mapping) else value
        for name, value in head.items()
        if name not in PASSING
    }


def rounds(arms: Mapping[str, Callable[[], Any]], repeats: int) -> dict[str, list[float]]:
    """Times of every arm in seconds; they alternate, so that a busy moment does not hit one arm alone."""
    times: dict[str, list[float]] = {name: [] for name in arms}
    for _ in range(repeats):
        for name, arm in arms.items():
            start = time.perf_counter()
            arm()
            times[name].append(time.perf_counter() - start)
    return times


def take_turns(arms: Mapping[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """Shortest time of every arm in seconds, of :func:`rounds`."""
    return {name: min(found) for name, found in rounds(arms, repeats).items()}
