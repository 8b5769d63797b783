"""Metrics in the form of the library ``evaluate``: ``evaluate.load(metric_path("ndcg_at_k"))``."""

from __future__ import annotations

from pathlib import Path

NAMES = ("hit_at_k", "recall_at_k", "ndcg_at_k", "map_at_k", "mrr", "pass_at_k", "oracle")


def metric_path(name: str) -> str:
    """The folder to give to ``evaluate.load``. Raises ValueError for another name."""
    if name not in NAMES:
        raise ValueError(f"no metric {name!r}; there are {', '.join(NAMES)}")
    return str(Path(__file__).parent / name)
