"""Rows with the thoughts that ``umekit select`` keeps of their pools, by choice, and what was kept of each worker."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

import umekit
from umekit.encoding.inputs.records import open_records
from umekit.encoding.rationales import with_rationale
from umekit.evaluation.digit_world.dataset import RATIONALE
from umekit.evaluation.digit_world.thought_pools import WORKERS
from umekit.trainers.selection import SelectionSettings, select

from .records import Choice
from .rows import NEGATIVES, PARTS, Row

MARGIN = 0.1  # nats of log-likelihood that a thought must add
COLUMNS = ("query_action", "query_thought", "answer")
KEPT = ("query", "positive", "positive_id", "task")


@dataclass(frozen=True)
class Selected:
    """By part, rows with an action and perhaps a thought; ``facts``: what was kept, for the record."""

    rows: list[list[Row]]
    facts: dict[str, Any]


def selected(parts: Sequence[Sequence[Row]], evaluator: Path, choice: Choice, folder: Path) -> Selected:
    """The rows of all parts under a choice.

    The evaluator's margins lie in ``folder`` for every choice; a run that was killed goes on.
    """
    report = select(
        partial(umekit.load, evaluator, device="cpu", dtype=torch.float32),
        [row for rows in parts for row in rows],
        out=folder / choice,
        work=folder / "work",
        settings=SelectionSettings(
            choice=choice,
            negatives=NEGATIVES,
            confidence="log-likelihood",
            margin=MARGIN,
            sides=("query",),
            query_template=RATIONALE,
        ),
        show_progress=False,
    )
    assert report is not None
    if report.failed_rows:
        raise RuntimeError(f"{report.failed_rows} rows could not be weighed, see {folder}")
    records = open_records(Path(report.file), columns=[*COLUMNS, "query_thoughts"])
    numbers = iter(range(len(records)))
    told = [[records[next(numbers)] for _ in rows] for rows in parts]
    rows = [
        [_row(row, record) for row, record in zip(rows, found, strict=True)]
        for rows, found in zip(parts, told, strict=True)
    ]
    return Selected(rows, _facts(told))


def judges(evaluator: Path, parts: Sequence[Sequence[Row]]) -> dict[str, dict[str, float]]:
    """How often an evaluator puts the positive above the negative, by part, without a thought and with each worker's.

    With a right one it should nearly always, with a wrong or an empty one it may do no better than without.
    """
    reranker = umekit.load(evaluator, device="cpu", dtype=torch.float32)
    found: dict[str, dict[str, float]] = {}
    for part, rows in zip(PARTS, parts, strict=True):
        pools = [
            {one["worker"]: (one["thought"], one["answer"]) for one in row["query_thoughts"]} for row in rows
        ]
        found[part.name] = {}
        for worker in (None, *WORKERS):
            lists = [
                [
                    item if worker is None else with_rationale(item, *pool[worker], RATIONALE)
                    for item in (row["positive"], row["negatives"][0])
                ]
                for row, pool in zip(rows, pools, strict=True)
            ]
            scores = np.array(
                reranker.rerank_many([row["query"] for row in rows], lists, show_progress=False)
            )
            right = scores[:, 0] > scores[:, 1]
            found[part.name][worker or "no thought"] = round(float(right.mean()), 4)
    return found


def _row(row: Row, record: Mapping[str, Any]) -> Row:
    return {**{name: row[name] for name in KEPT}, **{name: record[name] for name in COLUMNS}}


def _facts(told: Sequence[Sequence[Mapping[str, Any]]]) -> dict[str, Any]:
    """How much is thought about, of each part, and whose the thoughts are that were kept."""
    kept: Counter[str] = Counter()
    tokens = 0
    for record in (record for found in told for record in found):
        for one in record["query_thoughts"]:
            if one["kept"]:
                kept[one["worker"]] += 1
                tokens += one["tokens"]
    reason = [[record["query_action"] == "reason" for record in found] for found in told]
    return {
        "rows": sum(map(len, told)),
        "kept": sum(kept.values()),
        "tokens": tokens,
        "of_kept": {name: round(kept[name] / max(kept.total(), 1), 4) for name in WORKERS},
        "reason": {part.name: round(sum(one) / len(one), 4) for part, one in zip(PARTS, reason, strict=True)},
    }
