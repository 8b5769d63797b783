"""Several results of one benchmark in one table and one picture: what each scores, and what it costs.

Notable: a row's mean is over exactly the same tasks on the same queries as every other's; what is left out for that,
and which settings differ, is said beside the table.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .compare import facts_of
from .report import MissingTaskError, Report
from .tables import Cell

QUERIES, DOCUMENTS, PAIRS = "all queries", "all documents", "all pairs"
# Which differ from run to run, or have a column; of the data, what differs is refused or told task by task.
_NOT_SAID = ("model", "settings.mode", "settings.rerank", "settings.tasks", "data.")
NAMED = 3  # tasks in a line


def beside_rows(reports: Mapping[str, Report]) -> tuple[list[str], list[list[Cell]]]:
    """Headers, and a row a result: mean over what all of them ran, families, and the cost of its queries.

    A mean is over exactly the same tasks for all; where a benchmark is incomplete, its column says of how many.
    Reranked pairs belong to the queries: their seconds are in ``queries/s``.

    Raises:
        ValueError: results of two benchmarks, of other data, or without a common score.
    """
    names = _common(reports)
    first = next(iter(reports.values()))
    families = list(dict.fromkeys(score.family for score in first.scores if score.label in names))
    whole = all(not one.missing() for one in reports.values())
    pairs = any(PAIRS in one.costs for one in reports.values())
    headers = ["result", "mode", first.total if whole else f"mean of {len(names)} scores", *families]
    headers += ["queries/s", "thought tokens/query", "thinks", *(["pairs/query"] if pairs else [])]
    headers += ["documents/s", "seconds"]
    rows: list[list[Cell]] = []
    for name, report in reports.items():
        scores = {score.label: score for score in report.scores}
        own = [scores[label] for label in names]
        means: list[Cell] = [
            sum(one.value for one in own if one.family == family)
            / sum(1 for one in own if one.family == family)
            for family in families
        ]
        cost, spent = report.costs.get(QUERIES, {}), seconds_a_query(report)
        costs = [None if not spent else 1 / spent, cost.get("tokens_per_item"), cost.get("invocation_ratio")]
        if pairs:
            costs.append(report.costs.get(PAIRS, {}).get("items", 0) / cost["items"] if cost else None)
        costs.append(report.costs.get(DOCUMENTS, {}).get("items_per_second"))
        rows.append(
            [name, mode_of(report), _total(report, whole, [one.value for one in own]), *means]
            + [_known(value) for value in costs]
            + [sum(float(one["seconds"]) for key, one in report.costs.items() if key.startswith("all "))]
        )
    return headers, rows


def said(reports: Mapping[str, Report]) -> list[str]:
    """What a reader of the table must know: tasks that are in no mean, settings that differ, and alarms.

    Raises:
        ValueError: as :func:`beside_rows`.
    """
    names, lines = set(_common(reports)), []
    for name, report in reports.items():
        if left := [f"{score.label} ({score.n:,})" for score in report.scores if score.label not in names]:
            more = f" and {len(left) - NAMED} more" if len(left) > NAMED else ""
            lines.append(
                f"{name}: not in all results on the same queries, hence in no mean: {', '.join(left[:NAMED])}{more}"
            )
    facts = {name: facts_of(report) for name, report in reports.items()}
    for fact in dict.fromkeys(fact for one in facts.values() for fact in one):
        if fact.startswith(_NOT_SAID):
            continue
        values = {name: str(one.get(fact, "-")) for name, one in facts.items()}
        if len(set(values.values())) > 1:
            lines.append(f"{fact} differs: {_grouped(values)}")
    lines += [f"{name}: {alarm}" for name, report in reports.items() for alarm in report.alarms]
    return lines


def seconds_a_query(report: Report) -> float | None:
    """Embedding and reranking; None where the result does not say what its queries cost."""
    cost: dict[str, Any] = report.costs.get(QUERIES, {})
    if not cost.get("items") or not cost.get("seconds"):
        return None
    pairs = float(report.costs.get(PAIRS, {}).get("seconds", 0.0))
    return (float(cost["seconds"]) + pairs) / float(cost["items"])


def mode_of(report: Report) -> str:
    """Of its queries' embedding, and what ranks them again."""
    settings = report.conditions.settings
    again = settings.get("rerank")
    return str(settings.get("mode") or "-") + (f", first {again['depth']} reranked" if again else "")


def draw_beside(reports: Mapping[str, Report], path: Path) -> None:
    """A point for each result: seconds a thousand queries (logarithmic) to the right, quality up.

    Raises:
        ImportError: without matplotlib.
        ValueError: a result does not say what it cost.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.ticker import LogLocator, NullFormatter

    headers, rows = beside_rows(reports)
    figure, axes = pyplot.subplots(figsize=(6.4, 4.2), layout="constrained")
    for name, row in zip(reports, rows, strict=True):
        spent = seconds_a_query(reports[name])
        if spent is None:
            raise ValueError(f"{name} does not say what its queries cost: run it again")
        axes.scatter(1000 * spent, float(row[2]), s=40)
        axes.annotate(
            name, (1000 * spent, float(row[2])), textcoords="offset points", xytext=(6, 4), fontsize=9
        )
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("seconds for 1,000 queries, reranking included")
    axes.set_ylabel(str(headers[2]))
    axes.set_title(next(iter(reports.values())).title)
    axes.grid(alpha=0.3)
    axes.margins(0.2)
    figure.savefig(path, dpi=150, metadata={"Software": None})
    pyplot.close(figure)


def _common(reports: Mapping[str, Report]) -> list[str]:
    """Labels of the scores that all results have, under one metric and on the same queries."""
    first, *others = reports.values()
    if len({one.benchmark for one in reports.values()}) > 1:
        raise ValueError("results of several benchmarks are in no one table")
    for one in others:
        # a revision over all tasks differs where other tasks were run: each score has its own
        mine, theirs = ({**of.conditions.data, "revision": None} for of in (first, one))
        if wrong := [name for name in {**mine, **theirs} if mine.get(name) != theirs.get(name)]:
            raise ValueError(f"these results are of other data: {', '.join(wrong)} of it differ")
    keys = [{(s.label, s.metric, s.n, s.revision) for s in one.scores} for one in others]
    found = [
        s.label for s in first.scores if all((s.label, s.metric, s.n, s.revision) in key for key in keys)
    ]
    if not found:
        raise ValueError("these results have no task in common on the same queries")
    return found


def _total(report: Report, whole: bool, values: list[float]) -> float:
    if whole:
        try:
            return report.mean()
        except MissingTaskError:  # nothing is missing, but there is no list of tasks
            pass
    return sum(values) / len(values)


def _grouped(values: Mapping[str, str]) -> str:
    """``float32 (a, b), bfloat16 (c)``."""
    by_value: dict[str, list[str]] = {}
    for name, value in values.items():
        by_value.setdefault(value, []).append(name)
    return ", ".join(f"{value[:60]} ({', '.join(names)})" for value, names in by_value.items())


def _known(value: float | None) -> Cell:
    return "-" if value is None else value
