"""What a selection kept, in numbers: by side, and by worker."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..hashing import text_hash
from .choosing import SideChoice

QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)


def statistics(choice: SideChoice, workers: list[str], rows: int) -> dict[str, Any]:
    """Of one side, ready for JSON.

    Args:
        choice: of the side.
        workers: names of those whose thoughts there are.
        rows: rows written, those without a thought included.

    Returns:
        ``rows``, ``with_pool``; ``reason`` and ``direct`` with their shares of all rows; ``tokens`` of what was kept;
        ``without_negatives``: candidates that nothing was taken back from; ``contribution`` and ``kept_contribution``:
        quantiles; ``workers``: candidates of each, how many were kept, and their mean contribution.
    """
    records, kept = choice.records, choice.kept
    chosen = np.zeros(len(records), bool)
    chosen[kept] = True
    by_worker = {}
    for name in sorted(workers):
        own = records["worker"] == text_hash(name)
        by_worker[name] = {
            "candidates": int(own.sum()),
            "kept": int((own & chosen).sum()),
            "kept_share": _share(int((own & chosen).sum()), int(own.sum())),
            "mean_contribution": _mean(records["contribution"][own]),
        }
    return {
        "rows": rows,
        "with_pool": int((np.diff(choice.ends) > 0).sum()),
        "reason": len(kept),
        "direct": rows - len(kept),
        "reason_share": _share(len(kept), rows),
        "direct_share": _share(rows - len(kept), rows),
        "candidates": len(records),
        "tokens": int(records["tokens"][kept].sum()),
        "without_negatives": int((records["negatives"] == 0).sum()),
        "contribution": _quantiles(records["contribution"]),
        "kept_contribution": _quantiles(records["contribution"][kept]),
        "workers": by_worker,
    }


def _share(part: int, whole: int) -> float | None:
    return round(part / whole, 4) if whole else None


def _mean(values: np.ndarray) -> float | None:
    values = values[~np.isnan(values)]
    return round(float(values.mean()), 4) if len(values) else None


def _quantiles(values: np.ndarray) -> dict[str, float]:
    values = values[~np.isnan(values)]
    if not len(values):
        return {}
    found = np.quantile(values, QUANTILES)
    return {f"{share:g}": round(float(value), 4) for share, value in zip(QUANTILES, found, strict=True)}
