"""A sharded run without a model, to be killed: python shard_probe.py SOURCE OUT [PROCESSES] [SECONDS] [MARK].

A vector of this encoder depends, in its last digits, on everything that it is given in one call; so output that is
equal byte for byte shows that calls held the same items.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

DIM = 16


class ProbeEncoder:
    """Vectors [n, 16] from a hash of the item and a little of one of the whole batch; ``BROKEN`` is refused."""

    def __init__(self, model: str = "a" * 64, seconds: float = 0.0, dim: int = DIM) -> None:
        self.model, self.seconds, self.dim = model, seconds, dim
        self.calls: list[int] = []

    def fingerprint(self) -> dict[str, Any]:
        return {"model": self.model, "processor": "b" * 64, "dim": self.dim}

    def encode(self, items: Any, **options: Any) -> Any:
        assert options["on_error"] == "skip"
        assert options["return_details"]
        self.calls.append(len(items))
        time.sleep(self.seconds)
        together = _draw([len(items), *[_text(item) for item in items]], self.dim)
        rows, errors = np.empty((len(items), self.dim), dtype=np.float32), []
        for number, item in enumerate(items):
            vector = _draw([_text(item), options["role"]], self.dim) + 1e-3 * together
            rows[number] = vector / np.linalg.norm(vector)
            if "BROKEN" in _text(item):
                errors.append((number, ValueError(f"item {number}: the decoder gave up")))
                rows[number] = np.nan
        return SimpleNamespace(embeddings=rows, errors=errors)


class Load:
    """Device to encoder; with a mark, the first process that is to load dies, and leaves the mark."""

    def __init__(self, seconds: float, mark: str = "") -> None:
        self.seconds, self.mark = seconds, mark

    def __call__(self, device: str | None) -> ProbeEncoder:
        if self.mark and device == "second" and not Path(self.mark).exists():
            Path(self.mark).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return ProbeEncoder(seconds=self.seconds)


def _text(item: Any) -> str:
    if isinstance(item, dict) and isinstance(item.get("image"), str):
        return hashlib.sha256(Path(item["image"]).read_bytes()).hexdigest()
    return str(item)


def _draw(parts: Any, dim: int) -> np.ndarray:
    seed = hashlib.sha256(json.dumps(parts).encode()).digest()
    return np.random.default_rng(int.from_bytes(seed[:8], "little")).normal(size=dim)


def main(source: str, out: str, processes: str = "1", seconds: str = "0", mark: str = "") -> None:
    from umekit.encoding.inputs import open_source
    from umekit.encoding.shards.processes import encode_shards_in_processes

    devices = ["first", "second", "third"][: int(processes)]
    load = Load(float(seconds), mark)
    encode_shards_in_processes(load, open_source(source), out, devices, shard_size=10, show_progress=False)


if __name__ == "__main__":
    main(*sys.argv[1:])
