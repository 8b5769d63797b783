"""The cost-quality curve of a checkpoint that decides what it thinks about, as a report and as a picture."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from .report import Report
from .score import ResultFormatError
from .tables import table

BENCHMARK = "curve"
METRIC = "R@1"
NEVER, ALWAYS, IDEAL = "never", "always", "ideal"
FIXED = (NEVER, ALWAYS, IDEAL)
ALL = "all tasks"
STYLES = {"policy": "-o", "probe": "-s", "margin": "-^"}


@dataclass(frozen=True)
class CurveReport(Report):
    """Scores of never, always and adaptive thinking, and the whole curve of each strategy.

    Attributes:
        curves: task, or ``"all tasks"`` -> strategy -> points from never to always; ``never``, ``always`` and
            ``ideal`` are one point each. A point has ``kappa``, ``invocation_ratio``, ``tokens_per_item``, ``score``.
    """

    curves: dict[str, dict[str, list[dict[str, Any]]]] = field(default_factory=dict)

    @property
    def title(self) -> str:
        return "Cost-quality curve"

    def to_dict(self) -> dict[str, Any]:
        return {**super().to_dict(), "curves": self.curves}

    @classmethod
    def from_dict(cls, block: dict[str, Any]) -> Self:
        rest = dict(block)
        curves = rest.pop("curves", None)
        report = super().from_dict(rest)
        try:
            for strategies in curves.values():  # type: ignore[union-attr]
                for points in strategies.values():
                    for point in points:
                        (
                            float(point["invocation_ratio"]),
                            float(point["tokens_per_item"]),
                            float(point["score"]),
                        )
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ResultFormatError(f"'curves' is missing or incomplete: {error}") from None
        object.__setattr__(report, "curves", curves)
        return report

    def extra_tables(self) -> list[str]:
        return [curve_table(self)]


def matched(points: list[dict[str, Any]], score: float) -> dict[str, Any] | None:
    """The cheapest point of a curve that scores at least this much."""
    enough = [point for point in points if point["score"] >= score]
    return min(enough, key=lambda point: point["tokens_per_item"]) if enough else None


def curve_table(report: CurveReport) -> str:
    """What each way of thinking scores and costs, as Markdown: of a strategy the cheapest point that equals always."""
    rows = []
    for task, strategies in report.curves.items():
        always = strategies[ALWAYS][0]
        for name, points in strategies.items():
            point = points[0] if name in FIXED else matched(points, always["score"])
            if point is None:
                continue
            share = point["tokens_per_item"] / always["tokens_per_item"] if always["tokens_per_item"] else 0.0
            told = name if name in FIXED else f"{name}, cheapest as good as always"
            cells = [
                f"{point['score']:.3f}",
                f"{point['invocation_ratio']:.1%}",
                f"{point['tokens_per_item']:.1f}",
            ]
            rows.append([task, told, *cells, f"{share:.0%}"])
    headers = ["task", "thinks", METRIC, "thought about", "tokens a query", "of always"]
    return table(headers, rows, left=2)


def draw_curve(report: CurveReport, path: Path) -> None:
    """Score against thought tokens of a query, for all tasks together, as PNG.

    Raises:
        ImportError: without matplotlib.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    strategies = report.curves[ALL]
    figure, axes = pyplot.subplots(figsize=(6.4, 4.2), layout="constrained")
    for name, points in strategies.items():
        if name in FIXED:
            continue
        xs, ys = zip(*((one["tokens_per_item"], one["score"]) for one in points), strict=True)
        axes.plot(xs, ys, STYLES.get(name, "-"), markersize=3, label=name)
    [never], [always], [ideal] = (strategies[name] for name in FIXED)
    ends = [(one["tokens_per_item"], one["score"]) for one in (never, always)]
    axes.plot(*zip(*ends, strict=True), ":", color="gray", label="at random")
    for name, one, marker in ((NEVER, never, "v"), (ALWAYS, always, "P"), (IDEAL, ideal, "*")):
        told = f"{name} ({one['invocation_ratio']:.0%} thought about)" if name == IDEAL else name
        axes.scatter(one["tokens_per_item"], one["score"], marker=marker, s=70, color="black", zorder=3)
        axes.annotate(
            told, (one["tokens_per_item"], one["score"]), textcoords="offset points", xytext=(6, -12)
        )
    axes.set_xlabel("thought tokens a query")
    axes.set_ylabel(METRIC)
    axes.set_title(f"{report.conditions.model}: thinking where it pays")
    axes.legend(loc="lower right")
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=150, metadata={"Software": None})
    pyplot.close(figure)
