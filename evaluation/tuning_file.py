"""A tuning as a file, and as a picture."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..encoding.storage.atomic import write_atomically
from ..encoding.storage.contents import library_versions, now
from ..encoding.storage.ownership import check_own, json_of
from .tuning import Tuning

FILE = "tuning.json"
KIND = "umekit-tuning"
SCHEMA = 1


def save_tuning(
    tuning: Tuning, path: Path, data: Mapping[str, Any], fingerprints: Mapping[str, Mapping[str, Any]]
) -> None:
    """Write the whole curve.

    Args:
        tuning: what was found.
        path: of the file; a former one is replaced.
        data: what it was found on, for people.
        fingerprints: of ``embedder`` and ``reranker``.

    Raises:
        ForeignFileError: a file of that name which is not ours.
    """
    check_own(path, json_of(KIND), "name another folder for the cascade")
    block = {"kind": KIND, "schema": SCHEMA, **asdict(tuning), "data": dict(data)}
    block |= {"fingerprints": dict(fingerprints), "versions": library_versions(), "created": now()}
    write_atomically(path, (json.dumps(block, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode())


def draw_tuning(tuning: Tuning, path: Path) -> None:
    """The metric over alpha, a line for each task at the depth that was chosen, and what was chosen as points.

    Raises:
        ImportError: without matplotlib.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6.4, 4.2), layout="constrained")
    place = tuning.depths.index(tuning.depth)
    for task, curve in tuning.curves.items():
        [line] = axes.plot(tuning.alphas, curve[place], label=f"{task or 'queries'} ({tuning.queries[task]})")
        share = tuning.tasks.get(task, tuning.alpha)
        axes.scatter([share], [tuning.value(task, share)], s=40, color=line.get_color())
    axes.set_xlabel("alpha, the share of the recall score")
    axes.set_ylabel(f"{tuning.metric}, depth {tuning.depth}")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=150, metadata={"Software": None})
    pyplot.close(figure)
