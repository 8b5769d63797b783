"""What every benchmark needs: the machine in words, and arms that take turns."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
import transformers


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
        "load_at_start": round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None,
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "system": platform.system(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
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
