"""A report of any benchmark as Markdown, and the block of a README that a command owns.

Notable: the table says under which conditions it was measured, and what was *not* run; nothing is averaged
over a family that is incomplete.
"""

from __future__ import annotations

from collections.abc import Sequence

from .report import FamilyMean, Report
from .score import CONFIDENCE, Score

Cell = str | int | float
WORDS = ("family", "task", "pool", "metric", "cost", "result", "mode")  # columns

START, END = "<!-- digit-world:start -->", "<!-- digit-world:end -->"


class MarkerError(ValueError):
    """The file has no block of ours, or more than one."""


def markdown_table(report: Report) -> str:
    """Scores of every task, means of the families, the benchmark's own tables, alarms and conditions."""
    means = markdown(*mean_rows(report), bold=(report.total, "no"))
    parts = [markdown(*score_rows(report)), means, *report.extra_tables()]
    if report.costs:
        parts.append(markdown(*cost_rows(report)))
    if report.alarms:
        parts.append("\n".join(f"* **{alarm}**" for alarm in report.alarms))
    if missing := report.missing():
        parts.append(f"Not run, hence in no mean: {', '.join(missing)}.")
    parts.append(conditions(report))
    return "\n\n".join(part for part in parts if part)


def conditions(report: Report) -> str:
    """Everything that is needed to repeat the run, in one paragraph."""
    run = report.conditions
    names = [name for name in ("umekit", "torch", "transformers", "python") if name in run.versions]
    libraries = ", ".join(f"{name} {run.versions[name]}" for name in names)
    fingerprint = str(report.fingerprint.get("model", ""))[:12]
    return (
        f"Model {run.model}" + (f" (fingerprint {fingerprint})" if fingerprint else "") + ", "
        f"{run.settings.get('mode') or 'default'} mode, `{run.settings.get('encoder', '')}`; "
        f"{report.data_words}. {', '.join(report.metrics)} with ties counted against the model; lower bound: "
        f"one-sided {CONFIDENCE:.0%} (Wilson); baseline: {report.baseline_words}. {libraries}; "
        f"{run.machine}; {run.seconds:.0f} s; {run.created[:10]}: `{run.command}`"
    )


def replace_block(text: str, block: str, start: str = START, end: str = END) -> str:
    """`text` with what stands between the two markers replaced.

    Raises:
        MarkerError: the markers are not there exactly once each, in order.
    """
    if text.count(start) != 1 or text.count(end) != 1 or text.index(start) > text.index(end):
        raise MarkerError(f"need {start} and, after it, {end}, each exactly once")
    before, rest = text.split(start)
    return f"{before}{start}\n{block.strip()}\n{end}{rest.split(end)[1]}"


def table(headers: Sequence[str], rows: Sequence[Sequence[str]], left: int) -> str:
    """A Markdown table; the first `left` columns to the left, the others to the right."""
    rule = ["---" if column < left else "--:" for column in range(len(headers))]
    return "\n".join(f"| {' | '.join(row)} |" for row in [list(headers), rule, *map(list, rows)])


def score_rows(report: Report) -> tuple[list[str], list[list[Cell]]]:
    """Headers, and a row a score; metrics, pools and candidates have a column where there is more than one of them."""
    scores, several = report.scores, len(report.metrics) > 1
    columns: dict[str, list[Cell]] = {
        "family": [score.family for score in scores],
        "task": [score.task for score in scores],
    }
    if any(score.kind for score in scores):
        columns["pool"] = [score.kind for score in scores]
    if several:
        columns["metric"] = [score.metric for score in scores]
    if any(score.candidates for score in scores):
        columns["candidates"] = [score.candidates or "-" for score in scores]
    columns |= {
        "queries": [score.n for score in scores],
        "score" if several else report.metrics[0]: [score.value for score in scores],
        "99 % lower": [score.lower_bound for score in scores],
        "baseline": [_known(score.baseline) for score in scores],
        "x baseline": [_ratio(score) + (" (at chance)" if score.at_chance else "") for score in scores],
    }
    extra = [score.extra_cells() for score in scores]
    for name in extra[0]:
        if any(cells[name] != "-" for cells in extra):
            columns[name] = [cells[name] for cells in extra]
    return list(columns), [list(row) for row in zip(*columns.values(), strict=True)]


def mean_rows(report: Report) -> tuple[list[str], list[list[Cell]]]:
    """Headers, a row for each family that was run completely, and one over all of them where nothing is missing."""
    means, several = report.family_means(), len(report.metrics) > 1
    others = list(dict.fromkeys(kind for mean in means for kind in mean.others))
    headers = ["family", *(["metric"] if several else []), "tasks"]
    headers += ["mean" if several else f"mean {report.metrics[0]}", *(f"in {kind} pools" for kind in others)]
    rows: list[list[Cell]] = []
    for mean in means:
        row: list[Cell] = [mean.family, *([", ".join(mean.metrics)] if several else []), len(mean.tasks)]
        row += [mean.value, *(_known(mean.others.get(kind)) for kind in others)]
        rows.append(
            [*row, _known(mean.baseline), _ratio(mean), {True: "yes", False: "no", None: "-"}[mean.all_above]]
        )
    if means and not report.missing():
        metrics = list(dict.fromkeys(metric for mean in means for metric in mean.metrics))
        total: list[Cell] = [
            report.total,
            *([", ".join(metrics)] if several else []),
            len(report.complete),
            report.mean(),
        ]
        rows.append([*total, *[""] * (len(others) + 3)])
    return [*headers, "mean baseline", "x baseline", "all above baseline"], rows


def cost_rows(report: Report) -> tuple[list[str], list[list[Cell]]]:
    """Headers, and a row for queries, documents and reranked pairs together."""
    headers = ["cost", "items", "seconds", "items/s", "thinks", "thought tokens/item"]
    names = ("items", "seconds", "items_per_second", "invocation_ratio", "tokens_per_item")
    rows: list[list[Cell]] = [
        [name, *(_known(cost.get(key)) for key in names)]
        for name, cost in report.costs.items()
        if name.startswith("all ")
    ]
    return headers, rows


def markdown(headers: list[str], rows: list[list[Cell]], bold: Sequence[str] = ()) -> str:
    """Rows of cells as a Markdown table: words to the left, numbers to the right, with three digits."""
    cells = [[_text(cell) if cell not in bold else f"**{cell}**" for cell in row] for row in rows]
    words = [name for name in headers if name in WORDS]
    return table(headers, cells, left=len(words)) if rows else ""


def _text(cell: Cell) -> str:
    if isinstance(cell, str):
        return cell
    return f"{cell:,}" if isinstance(cell, int) else f"{cell:.3f}"


def _known(value: float | None) -> Cell:
    return "-" if value is None else value


def _ratio(found: Score | FamilyMean) -> str:
    return "-" if found.ratio is None else f"{found.ratio:.1f}"
