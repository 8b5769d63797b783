"""The plan that a step trains on, kept in its folder: a step that is gone on with finds the same batches, or says why
it cannot.

A resumed training begins at a number of a batch. The plan is made anew from the data as they are then; were it another
plan, some rows would be read twice and others never, and nobody would know.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

from ..sampling import PlannedRows
from .schema import RecipeError

logger = logging.getLogger(__name__)

FILE = "plan.json"


def write_plan(folder: Path, rows: PlannedRows, processes: int) -> None:
    """Keep what :func:`check_plan` compares; whole or not at all.

    Args:
        folder: of the step.
        rows: what it is trained on.
        processes: that train it together.
    """
    partial = folder / f"{FILE}.partial"
    partial.write_text(json.dumps(_facts(rows, processes), indent=2) + "\n", encoding="utf-8")
    partial.replace(folder / FILE)


def check_plan(folder: Path, rows: PlannedRows, processes: int) -> None:
    """Compare the plan with the one that the step began with. A step begun by a version that kept none is let pass,
    with a warning.

    Raises:
        RecipeError: they differ; the message says in what, and what to do.
    """
    file = folder / FILE
    if not file.is_file():
        logger.warning("%s has no %s: whether its data are as they were cannot be known", folder, FILE)
        return
    before, now = json.loads(file.read_text(encoding="utf-8")), _facts(rows, processes)
    if before["fingerprint"] != now["fingerprint"]:
        raise RecipeError(
            f"{folder} was begun with other batches: {'; '.join(_changes(before, now))}. Put back what it was begun "
            f"with, or remove {folder} to begin the step anew"
        )


def _facts(rows: PlannedRows, processes: int) -> dict[str, Any]:
    return {
        "fingerprint": rows.plan.fingerprint(),
        "batches": len(rows.plan),
        "rows of a batch": rows.plan.batch_size,
        "processes": processes,
        "sources": {source.name: len(source) for source in rows.sources},
    }


def _changes(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """What differs, in words."""
    old, new = before["sources"], now["sources"]
    found = [
        f"source {name!r} has {_count(new.get(name))}, and had {_count(old.get(name))}"
        for name in {**old, **new}
        if old.get(name) != new.get(name)
    ]
    found += [
        f"there are {now[name]} {name}, and were {before[name]}"
        for name in ("processes", "rows of a batch", "batches")
        if before[name] != now[name]
    ]
    return found or ["the order of the rows is another (another seed, or another version of umekit or NumPy)"]


def _count(rows: int | None) -> str:
    return "no part in it" if rows is None else f"{rows} rows"
