"""Jobs that cost nothing, importable by name in worker processes."""

from __future__ import annotations

from typing import Any

import numpy as np
from findings_table.jobs import Job, Work
from findings_table.store import pack, write_json

GOOD, BAD = "embedding-prompt-on", "embedding-prompt-off"


def record(work: Work, job: Job) -> dict[str, Any]:
    """A result as ``running`` would write it: the good arm finds three of four, the bad one two of four."""
    found: dict[str, Any] = {"fingerprint": work.fingerprint(job), "total_seconds": 1.0}
    if job.kind == "start":
        return found
    found["validation"] = 0.4 if job.rate == 3e-4 else 0.3
    if job.kind == "search":
        return found
    every = 4 / 3 if job.name == GOOD else 2
    values = np.array([int(place % every < 1) for place in range(work.settings.queries)], dtype=np.uint8)
    return found | {
        "arm": job.name,
        "seed": job.seed,
        "rate": work.rate(work.arms[job.name]),
        "rows": 5120,
        "steps": 80,
        "seconds": {"training": 1.0, "scoring": 1.0},
        "mean": float(values.mean()),
        "parts": {"pictures": {"mean": float(values.mean()), "chance": 0.0025}},
        "queries": len(values),
        "best": 1,
        "values": pack(values),
        "temperature": {"temperature": 0.05},
        "notes": {},
        "history": [],
    }


def execute(work: Work, job: Job) -> dict[str, Any]:
    """Write a made-up result."""
    write_json(work.file(job), record(work, job))
    return {"seconds": 1.0}


def fail_on_bad(work: Work, job: Job) -> dict[str, Any]:
    """As above, but one arm cannot be run."""
    if job.kind == "run" and job.name == BAD:
        raise RuntimeError("no such luck")
    return execute(work, job)
