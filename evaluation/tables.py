"""A report as Markdown, and the block of a README that a command owns.

Notable: the table says under which conditions it was measured, and what was *not* run; nothing is averaged
over a family that is incomplete.
"""

from __future__ import annotations

from collections.abc import Sequence

from .results import CONFIDENCE, DigitWorldReport, Score, Share

START, END = "<!-- digit-world:start -->", "<!-- digit-world:end -->"


class MarkerError(ValueError):
    """The file has no block of ours, or more than one."""


def markdown_table(report: DigitWorldReport, details: bool = True) -> str:
    """Scores of every task, then means of the families, results by steps, alarms and conditions.

    Args:
        details: False leaves out the table by steps.
    """
    parts = [_tasks(report), _families(report)]
    if details:
        parts.append(_steps(report))
    if report.alarms:
        parts.append("\n".join(f"* **{alarm}**" for alarm in report.alarms))
    if missing := report.missing():
        parts.append(f"Not run, hence in no mean: {', '.join(missing)}.")
    parts.append(conditions(report))
    return "\n\n".join(part for part in parts if part)


def conditions(report: DigitWorldReport) -> str:
    """Everything that is needed to repeat the run, in one paragraph."""
    data, versions = report.data, report.versions
    names = [name for name in ("umekit", "torch", "transformers", "python") if name in versions]
    mode = report.settings.get("mode")
    libraries = ", ".join(f"{name} {versions[name]}" for name in names)
    fingerprint = str(report.fingerprint.get("model", ""))[:12]
    return (
        f"Model {report.model}" + (f" (fingerprint {fingerprint})" if fingerprint else "") + ", "
        f"{mode or 'default'} mode, `{report.settings.get('encoder', '')}`; "
        f"DigitWorld {data['split']} split, seed {data['seed']}, task definitions {data['definitions'][:12]}. "
        "R@1 with ties counted against the model; lower bound: one-sided "
        f"{CONFIDENCE:.0%} (Wilson); baseline: the best of chance, the most frequent answer and, where "
        f"measured, the model given the question alone. {libraries}; "
        f"{report.machine}; {report.seconds:.0f} s; {report.created[:10]}: `{report.command}`"
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


def _tasks(report: DigitWorldReport) -> str:
    blind = any(score.question_only for score in report.scores)
    headers = [
        "family",
        "task",
        "pool",
        "candidates",
        "queries",
        "R@1",
        "99 % lower",
        "baseline",
        "x baseline",
    ]
    rows = [_task_row(score) + _blind_cells(score, blind) for score in report.scores]
    return table(headers + (["question only", "media only"] if blind else []), rows, left=3)


def _task_row(score: Score) -> list[str]:
    return [
        score.family,
        score.task,
        score.kind,
        str(score.candidates),
        f"{score.queries:,}",
        _rate(score.recall_at_1),
        _rate(score.lower_bound),
        _rate(score.baseline),
        f"{score.ratio:.1f}" + (" (at chance)" if score.at_chance else ""),
    ]


def _blind_cells(score: Score, blind: bool) -> list[str]:
    return [_share(score.question_only), _share(score.media_only)] if blind else []


def _families(report: DigitWorldReport) -> str:
    means = report.family_means()
    if not means:
        return ""
    rows = [
        [
            mean.family,
            str(len(mean.tasks)),
            _rate(mean.recall_at_1),
            "-" if mean.hard is None else _rate(mean.hard),
            _rate(mean.baseline),
            f"{mean.ratio:.1f}",
            "yes" if mean.all_above else "**no**",
        ]
        for mean in means
    ]
    if not report.missing():
        rows.append(["**all families**", str(len(report.complete)), _rate(report.mean()), *[""] * 4])
    headers = [
        "family",
        "tasks",
        "mean R@1",
        "in hard pools",
        "mean baseline",
        "x baseline",
        "all above baseline",
    ]
    return table(headers, rows, left=1)


def _steps(report: DigitWorldReport) -> str:
    scores = [score for score in report.scores if score.by_steps]
    columns = sorted({int(steps) for score in scores for steps in score.by_steps})
    rows = [[score.task, *(_share(score.by_steps.get(str(steps))) for steps in columns)] for score in scores]
    headers = ["R@1 by hops (walk, until_gold) or terms (sum)", *map(str, columns)]
    return table(headers, rows, left=1) if rows else ""


def _share(share: Share | None) -> str:
    return "-" if share is None else _rate(share.value)


def _rate(value: float) -> str:
    return f"{value:.3f}"
