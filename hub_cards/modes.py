"""What a thought gives and what it costs: the result files of a checkpoint that can think, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..evaluation.report import Report
from ..evaluation.tables import table
from ..evaluation.thought_report import ThoughtReport

AT_ONCE, THOUGHT = "discriminative", "generative"
NOT_MEASURED = "was not measured: no result file of this card says it"


def mode_of(report: Report, default: str | None) -> str:
    """In which mode a report was measured; ``default``: that of the checkpoint."""
    return str(report.conditions.settings.get("mode") or default)


def modes_section(reports: Sequence[Report], default: str | None) -> str:
    """Scores in both modes side by side, and the cost of a thought, as Markdown.

    Args:
        reports: of one checkpoint; those that say how far thoughts are read are no scores of a mode.
        default: mode of the checkpoint.

    Raises:
        ValueError: two results of the same data in the same mode.
    """
    scored = [report for report in reports if not isinstance(report, ThoughtReport)]
    groups: dict[tuple[Any, ...], dict[str, Report]] = {}
    for report in scored:
        data = report.conditions.data
        modes = groups.setdefault((report.title, data["split"], data.get("seed")), {})
        mode = mode_of(report, default)
        if mode in modes:
            raise ValueError(
                f"two results of {report.title}, {data['split']} split, in the {mode} mode: the card shows one"
            )
        modes[mode] = report
    parts = [_side_by_side(group) for group in groups.values()]
    if not scored:
        parts.append(f"What either mode scores {NOT_MEASURED}.")
    parts.append(_costs(scored, default))
    if len(scored) == len(reports):
        parts.append(f"How far vectors depend on their thoughts {NOT_MEASURED} (`umekit evaluate thoughts`).")
    return "\n\n".join(parts)


def _side_by_side(modes: dict[str, Report]) -> str:
    """A row for each score that every result of these data has, and their plain means."""
    first = next(iter(modes.values()))
    lead = f"{first.title}, {first.conditions.data['split']} split"
    found: list[dict[tuple[Any, ...], Any]] = [
        {(one.task, one.kind, one.metric, one.n, one.revision): one for one in report.scores}
        for report in modes.values()
    ]
    keys = [key for key in found[0] if all(key in scores for scores in found)]
    if not keys:
        return f"{lead}: no task was measured in both modes on the same queries."
    columns = {mode: [scores[key] for key in keys] for mode, scores in zip(modes, found, strict=True)}
    either = [
        next((one for scores in found if (one := getattr(scores[key], "oracle", None))), None) for key in keys
    ]
    headers = ["task", "pool", "metric", "queries"]
    rows = [[task, kind or "-", metric, f"{n:,}"] for task, kind, metric, n, _ in keys]
    rows.append([f"mean of {len(keys)}", "", "", ""])
    for mode, words in ((AT_ONCE, "at once"), (THOUGHT, "after a thought")):
        if mode in columns:
            headers.append(words)
            values = [one.value for one in columns[mode]]
            _add(rows, [*(f"{value:.3f}" for value in values), f"{np.mean(values):.3f}"])
    if {AT_ONCE, THOUGHT} <= set(columns):
        headers.append("gain, points")
        gains = [
            100 * (after.value - before.value)
            for before, after in zip(columns[AT_ONCE], columns[THOUGHT], strict=True)
        ]
        _add(rows, [f"{gain:+.1f}" for gain in [*gains, float(np.mean(gains))]])
    if any(either):
        headers.append("right in either")
        _add(rows, [*("-" if one is None else f"{one.value:.3f}" for one in either), ""])
    text = f"{lead}:\n\n{table(headers, rows, left=3)}"
    lacking = [mode for mode in (AT_ONCE, THOUGHT) if mode not in modes]
    return text + "".join(f"\n\nThe {mode} mode alone {NOT_MEASURED}." for mode in lacking)


def _costs(reports: Sequence[Report], default: str | None) -> str:
    """Seconds and thought tokens of an item in each result that has them."""
    rows = [
        [
            mode_of(report, default),
            report.title,
            side.removeprefix("all "),
            f"{cost['items']:,}",
            f"{cost['tokens_per_item']:.1f}",
            f"{cost['seconds'] / cost['items']:.4f}",
            report.conditions.machine,
        ]
        for report in reports
        for side, cost in report.costs.items()
        if side in ("all queries", "all documents")
    ]
    if not any(row[0] == THOUGHT for row in rows):
        return f"What a thought costs {NOT_MEASURED}."
    headers = ["mode", "results", "items of", "items", "thought tokens an item", "seconds an item", "machine"]
    return f"What a thought costs:\n\n{table(headers, rows, left=3)}"


def _add(rows: list[list[str]], column: Sequence[str]) -> None:
    for row, cell in zip(rows, column, strict=True):
        row.append(cell)
