"""What a thought gives and what it costs: the result files of a checkpoint that can think, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..evaluation.curve_report import ALL, ALWAYS, IDEAL, METRIC, NEVER, CurveReport
from ..evaluation.report import Report
from ..evaluation.tables import table
from ..evaluation.thought_report import ThoughtReport

AT_ONCE, THOUGHT, DECIDED = "discriminative", "generative", "adaptive"
WORDS = {AT_ONCE: "at once", THOUGHT: "after a thought", DECIDED: "as it decides"}
NOT_MEASURED = "was not measured: no result file of this card says it"


def mode_of(report: Report, default: str | None) -> str:
    """In which mode a report was measured; ``default``: that of the checkpoint."""
    return str(report.conditions.settings.get("mode") or default)


def modes_section(reports: Sequence[Report], default: str | None, decides: bool = False) -> str:
    """Scores in every mode side by side, and the cost of a thought, as Markdown.

    Args:
        reports: of one checkpoint; those that say how far thoughts are read, and where they pay, are no scores of a
            mode.
        default: mode of the checkpoint.
        decides: whether it is one that decides what it thinks about.

    Raises:
        ValueError: two results of the same data in the same mode.
    """
    scored = [report for report in reports if not isinstance(report, ThoughtReport | CurveReport)]
    modes_of_kind = (*WORDS,) if decides else (AT_ONCE, THOUGHT)
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
    parts = [_side_by_side(group, modes_of_kind) for group in groups.values()]
    if not scored:
        parts.append(f"What either mode scores {NOT_MEASURED}.")
    parts.append(_costs(scored, default))
    if decides:
        curves = [_decided(report) for report in reports if isinstance(report, CurveReport)]
        parts += curves or [
            f"What thinking where it pays scores and costs {NOT_MEASURED} (`umekit evaluate curve`)."
        ]
    if not any(isinstance(report, ThoughtReport) for report in reports):
        parts.append(f"How far vectors depend on their thoughts {NOT_MEASURED} (`umekit evaluate thoughts`).")
    return "\n\n".join(parts)


def _decided(report: CurveReport) -> str:
    """What a checkpoint scores and spends by its own decisions, beside those of others."""
    rows = []
    for task in report.complete:
        for kind in (NEVER, DECIDED, ALWAYS, IDEAL):
            score = report.score(task, kind)
            if score is not None:
                rows.append([task, kind, f"{score.value:.3f}"])
    spent = []
    for kind in (NEVER, DECIDED, ALWAYS):
        cost = report.costs[f"queries, {kind}"]
        seconds = cost["seconds"] / cost["items"]
        tokens = f"{cost['tokens_per_item']:.1f}"
        spent.append(
            [kind, f"{cost['invocation_ratio']:.1%}", tokens, f"{seconds:.4f}", report.conditions.machine]
        )
    ideal = report.curves[ALL][IDEAL][0]
    spent.append([IDEAL, f"{ideal['invocation_ratio']:.1%}", f"{ideal['tokens_per_item']:.1f}", "-", "-"])
    headers = ["thinks", "thought about", "thought tokens a query", "seconds a query", "machine"]
    return (
        "Thinking where it pays, by its own decisions (adaptive), never, always, and by who would know beforehand "
        f"where a thought helps (ideal):\n\n{table(['task', 'thinks', METRIC], rows, left=2)}\n\n"
        f"{table(headers, spent, left=1)}"
    )


def _side_by_side(modes: dict[str, Report], wanted: Sequence[str]) -> str:
    """A row for each score that every result of these data has, and their plain means."""
    first = next(iter(modes.values()))
    lead = f"{first.title}, {first.conditions.data['split']} split"
    found: list[dict[tuple[Any, ...], Any]] = [
        {(one.task, one.kind, one.metric, one.n, one.revision): one for one in report.scores}
        for report in modes.values()
    ]
    keys = [key for key in found[0] if all(key in scores for scores in found)]
    if not keys:
        return f"{lead}: no task was measured in {'both' if len(wanted) == 2 else 'all'} modes on the same queries."
    columns = {mode: [scores[key] for key in keys] for mode, scores in zip(modes, found, strict=True)}
    either = [
        next((one for scores in found if (one := getattr(scores[key], "oracle", None))), None) for key in keys
    ]
    headers = ["task", "pool", "metric", "queries"]
    rows = [[task, kind or "-", metric, f"{n:,}"] for task, kind, metric, n, _ in keys]
    rows.append([f"mean of {len(keys)}", "", "", ""])
    for mode in wanted:
        if mode in columns:
            headers.append(WORDS[mode])
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
    lacking = [mode for mode in wanted if mode not in modes]
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
