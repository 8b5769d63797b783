"""Several results of one benchmark in one table and one picture: what each scores, and what it costs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from .report import MissingTaskError, Report
from .tables import Cell

QUERIES = "all queries"


def beside_rows(reports: Mapping[str, Report]) -> tuple[list[str], list[list[Cell]]]:
    """Headers, and a row a result: mean over what all of them ran, families, and the cost of its queries.

    A mean is over exactly the same tasks for all; where a benchmark is incomplete, its column says of how many.

    Raises:
        ValueError: results of two benchmarks, or without a common score.
    """
    if len({one.benchmark for one in reports.values()}) > 1:
        raise ValueError("results of several benchmarks are in no one table")
    names = _common(reports)
    first = next(iter(reports.values()))
    families = list(dict.fromkeys(score.family for score in first.scores if score.label in names))
    whole = all(not one.missing() for one in reports.values())
    headers = ["result", "mode", first.total if whole else f"mean of {len(names)} scores", *families]
    headers += ["queries/s", "thought tokens/query", "thinks", "seconds"]
    rows: list[list[Cell]] = []
    for name, report in reports.items():
        scores = {score.label: score for score in report.scores}
        own = [scores[label] for label in names]
        means: list[Cell] = [
            sum(one.value for one in own if one.family == family)
            / sum(1 for one in own if one.family == family)
            for family in families
        ]
        cost = report.costs.get(QUERIES, {})
        rows.append(
            [name, _mode(report), _total(report, whole, [one.value for one in own]), *means]
            + [_known(cost.get(key)) for key in ("items_per_second", "tokens_per_item", "invocation_ratio")]
            + [sum(float(one["seconds"]) for key, one in report.costs.items() if key.startswith("all "))]
        )
    return headers, rows


def draw_beside(reports: Mapping[str, Report], path: Path) -> None:
    """A point for each result: seconds a thousand queries (logarithmic) to the right, quality up.

    Raises:
        ImportError: without matplotlib.
        ValueError: a result does not say what it cost.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    headers, rows = beside_rows(reports)
    figure, axes = pyplot.subplots(figsize=(6.4, 4.2), layout="constrained")
    for name, row in zip(reports, rows, strict=True):
        rate = reports[name].costs.get(QUERIES, {}).get("items_per_second")
        if not rate:
            raise ValueError(f"{name} does not say what its queries cost: run it again")
        pairs = reports[name].costs.get("all pairs", {}).get("seconds", 0.0)
        queries = reports[name].costs[QUERIES]["items"]
        cost = 1000 / float(rate) + 1000 * pairs / queries
        axes.scatter(cost, float(row[2]), s=40)
        axes.annotate(name, (cost, float(row[2])), textcoords="offset points", xytext=(6, 4), fontsize=9)
    axes.set_xscale("log")
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


def _mode(report: Report) -> str:
    return str(report.conditions.settings.get("mode") or "-")


def _known(value: float | None) -> Cell:
    return "-" if value is None else value
