"""Under which conditions a benchmark was run."""

from __future__ import annotations

import os
import platform
import sys
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

from ..encoding.storage.contents import library_versions, now


@dataclass(frozen=True)
class Conditions:
    """What one has to know to repeat a run.

    Attributes:
        model: its name, for people; the report's fingerprint is what identifies it.
        settings: of the run; ``encoder`` (with its dtype) and ``mode`` among them.
        data: ``name``, ``split`` and ``revision`` of the data.
        versions: of the libraries.
    """

    model: str
    settings: dict[str, Any]
    data: dict[str, Any]
    versions: dict[str, str]
    machine: str
    seconds: float
    command: str
    created: str

    @classmethod
    def of_run(
        cls, began: float, *, model: str, settings: dict[str, Any], data: dict[str, Any], command: str
    ) -> Conditions:
        """Of a run in this process that ``began`` at this reading of ``perf_counter`` and ends now."""
        seconds = round(perf_counter() - began, 1)
        return cls(model, settings, data, library_versions(), machine_line(), seconds, command, now())


def machine_line() -> str:
    """CPU model and cores, and the GPU if torch is in use and sees one."""
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        lines = [
            line for line in info.read_text(encoding="utf-8").splitlines() if line.startswith("model name")
        ]
        name = lines[0].split(":", 1)[1].strip() if lines else name
    line = f"{name}, {os.cpu_count()} cores"
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        line += f", {torch.cuda.get_device_name()}"
    return line
