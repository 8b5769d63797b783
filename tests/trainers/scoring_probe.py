"""Scoring without a model, to be killed: python scoring_probe.py ROWS OUT BLOCK_SIZE SECONDS.

Vectors and scores depend, in their last digits, on everything that is given in one call; so output that is equal byte
for byte shows that calls held the same items. At the end: how often the reranker was called, and by how many MiB the
process grew at its peak.
"""

from __future__ import annotations

import hashlib
import json
import resource
import sys
import time
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np

DIM = 32


class ProbeEncoder:
    dim = DIM

    def fingerprint(self) -> dict[str, Any]:
        return {"model": "a" * 64, "processor": "b" * 64, "dim": DIM}

    def encode(self, items: Sequence[Any], **_: Any) -> Any:
        together = _drawn(*items, size=DIM)
        rows = np.stack([_drawn(item, size=DIM) + together * 1e-6 for item in items])
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        return SimpleNamespace(embeddings=rows.astype(np.float32), errors=[], truncated=[0] * len(items))


class ProbeReranker:
    def __init__(self, seconds: float) -> None:
        self.seconds, self.calls = seconds, 0

    def fingerprint(self) -> dict[str, Any]:
        return {"model": "c" * 64, "processor": "d" * 64}

    def rerank(self, query: Any, candidates: Sequence[Any], **_: Any) -> Any:
        self.calls += 1
        time.sleep(self.seconds)
        together = float(_drawn(query, *candidates, size=1)[0])
        values = [float(_drawn(query, item, size=1)[0]) + together * 1e-6 for item in candidates]
        return SimpleNamespace(scores=1 / (1 + np.exp(-np.float32(values))), errors=[])


def _drawn(*items: Any, size: int) -> np.ndarray:
    digest = hashlib.sha256(json.dumps(items, sort_keys=True, default=str).encode()).digest()
    return np.random.default_rng(np.frombuffer(digest, np.uint32)).normal(size=size)


def main(rows: str, out: str, block_size: str, seconds: str) -> None:
    from umekit.encoding.inputs.records import open_records
    from umekit.trainers.scoring import score

    reranker = ProbeReranker(float(seconds))
    records = open_records(rows)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    score(
        ProbeEncoder(), reranker, records,
        out=out, block_size=int(block_size), shard_size=512, show_progress=False,
    )  # fmt: skip
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    print(json.dumps({"calls": reranker.calls, "grown": grown}))


if __name__ == "__main__":
    main(*sys.argv[1:])
