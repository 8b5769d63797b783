"""The table: results of arms and seeds in, judged claims out, as JSON, markdown and a picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from findings_table.arms import Record, Results
from findings_table.store import unpack
from findings_table.verdict import claim_facts
from numpy.typing import NDArray

from . import claims as told
from .claims import ANCHORED, CONTROL, FUSED, RERANKED, START, STUDENT, Claim, Reading
from .records import ARMS, DEPTH, POOL, TASKS

Values = NDArray[np.float64]
STUDENTS = {
    "hard negatives, same rows": CONTROL,
    "distilled": STUDENT,
    "distilled, with InfoNCE": ANCHORED,
}
SHOWN = {
    "recall": START,
    **STUDENTS,
    "reranked": RERANKED,
    "fused": FUSED,
}
RESAMPLES = 10_000


def values(results: Results, reading: Reading, task: str, seeds: list[int]) -> Values:
    """Hits ``[seeds, queries]``."""
    records = (results[reading.arm][seed] for seed in seeds)
    return np.array([unpack(one[reading.hits][task], one["queries"]) for one in records], dtype=np.float64)


def seeds_of(results: Results, *readings: Reading) -> list[int]:
    """Seeds that all of their arms have."""
    found = [set(results.get(reading.arm, {})) for reading in readings]
    return sorted(set.intersection(*found))


def conditions(results: Results, task: str) -> Record | None:
    """Whether a task leaves something to rerank, and whether the reranker takes it; None without a reranker."""
    seeds = seeds_of(results, START, RERANKED)
    if not seeds:
        return None
    first = float(values(results, START, task, seeds).mean())
    reach = float(values(results, Reading(START.arm, "recalled"), task, seeds).mean())
    gain = float(values(results, RERANKED, task, seeds).mean()) - first
    return {
        "recall@1": round(first, 4),
        f"recall@{DEPTH}": round(reach, 4),
        "gain": round(gain, 4),
        "testable": first <= told.MOST_RECALL and reach >= told.LEAST_REACH,
        "gains": gain >= told.GAIN,
    }


def claim_row(claim: Claim, task: str, results: Results) -> Record | None:
    """A claim judged on the seeds that both of its arms have; None without any."""
    seeds = seeds_of(results, claim.better, claim.worse)
    if not seeds:
        return None
    ours, theirs = (values(results, one, task, seeds) for one in (claim.better, claim.worse))
    facts = claim_facts(list(ours), list(theirs), seeds, claim.at_least)
    known = conditions(results, task)
    if claim.needs_gain and (known is None or not known["gains"]):
        facts["verdict"] = "void"
    return {"claim": claim.name, "task": task, "statement": claim.statement, **facts}


def kept_share(results: Results, task: str, student: Reading) -> Record | None:
    """The share of the teacher's gain that a student keeps, ``(student - start) / (fused - start)``, and its interval.

    The 95 % interval is over queries, whose values are means over seeds. None without the arms, or where the teacher
    gains nothing that could be shared.
    """
    seeds = seeds_of(results, START, FUSED, student)
    if not seeds:
        return None
    start, fused, own = (values(results, one, task, seeds).mean(axis=0) for one in (START, FUSED, student))
    if fused.mean() <= start.mean():
        return None
    draw = np.random.default_rng(0)
    shares = []
    for _ in range(RESAMPLES):
        chosen = draw.integers(0, len(start), len(start))
        gain = (fused[chosen] - start[chosen]).mean()
        if gain > 0:
            shares.append((own[chosen] - start[chosen]).mean() / gain)
    low, high = np.quantile(shares, [0.025, 0.975])
    share = (own.mean() - start.mean()) / (fused.mean() - start.mean())
    return {"share": round(float(share), 4), "interval": [round(float(low), 4), round(float(high), 4)]}


def task_row(results: Results, task: str) -> Record:
    """What every reading has, its conditions, alphas and calibration, over the seeds."""
    row: Record = {"conditions": conditions(results, task), "recall@1": {}}
    for name, reading in SHOWN.items():
        if seeds := seeds_of(results, reading):
            row["recall@1"][name] = round(float(values(results, reading, task, seeds).mean()), 4)
    if teachers := list(results.get("reranker", {}).values()):
        row["alpha"] = [one["alpha_of"].get(task, one["alpha"]) for one in teachers]
        row["curve"] = np.round(np.mean([one["curve"][task] for one in teachers], axis=0), 4).tolist()
        row["alphas"] = teachers[0]["alphas"]
        row["calibration"] = {
            name: round(float(np.mean([one["calibration"][task][name] for one in teachers])), 4)
            for name in teachers[0]["calibration"][task]
        }
    row["kept"] = {name: kept_share(results, task, student) for name, student in STUDENTS.items()}
    return row


def table(results: Results) -> Record:
    """Claims, tasks and arms."""
    rows = [claim_row(claim, task, results) for claim in told.CLAIMS for task in TASKS]
    return {
        "claims": [row for row in rows if row],
        "tasks": {task: task_row(results, task) for task in TASKS},
        "arms": {
            name: {
                "what": ARMS[name].what,
                "seeds": sorted(results[name]),
                "settings": next(iter(results[name].values()))["settings"],
                "rates": [one["rate"] for one in results[name].values() if "rate" in one],
                "minutes": round(float(np.mean([one["minutes"] for one in results[name].values()])), 1),
            }
            for name in ARMS
            if results.get(name)
        },
    }


def markdown(result: Record) -> str:
    """The table as a page."""
    lines = [
        "# Findings: reranking and distillation",
        "",
        f"DigitWorld's hard pools: {POOL} candidates, each positive with 7 near-duplicates, on handwriting that no arm "
        f"has seen. Stage 2 recalls {DEPTH}, a reranker (a LoRA on it) scores them again, *fused* is alpha * recall + "
        "(1 - alpha) * P(yes) with alpha chosen on validation handwriting; the student learns these scores of a tenth "
        "of the rows. Verdicts as in [findings.md](findings.md). "
        f"*Void*: the reranker gains less than {100 * told.GAIN:.0f} points, so there is nothing to distil. "
        f"Command: `{result['command']}`.",
        "",
        "| claim | task | better | worse | difference | asked for | by seed | verdict |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in result["claims"]:
        low, high = row["interval"]
        seeds = ", ".join(f"{value:+.3f}" for value in row["by_seed"].values())
        reached = "reached" if row["reached"] else "**missed**"
        lines.append(
            f"| {row['statement']} | {row['task']} | {row['better']:.3f} | {row['worse']:.3f} "
            f"| {row['difference']:+.3f} [{low:+.3f}, {high:+.3f}] | {row['at_least']:+.2f}: {reached} | {seeds} "
            f"| {row['verdict']} |"
        )
    columns = ["task", *SHOWN, f"recall@{DEPTH}", "testable", "alpha", "AUC", "Brier", "calibration error"]
    lines += ["", f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for task, row in result["tasks"].items():
        known, own = row["conditions"] or {}, row.get("calibration", {})
        cells = [task, *(_number(row["recall@1"].get(name)) for name in SHOWN)]
        cells += [
            _number(known.get(f"recall@{DEPTH}")),
            {None: "", True: "yes", False: "no"}[known.get("testable")],
        ]
        cells += [", ".join(f"{one:g}" for one in row.get("alpha", []))]
        cells += [_number(own.get(name)) for name in ("auc", "brier", "error")]
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", "Share of the teacher's gain that is kept without it, 95 % interval:", ""]
    for task, row in result["tasks"].items():
        for name, found in row["kept"].items():
            if found is not None:
                low, high = found["interval"]
                lines.append(f"* {task}, {name}: {found['share']:.2f} [{low:.2f}, {high:.2f}]")
    lines += ["", "| arm | what | seeds | steps | rows of a step | learning rates | minutes |"]
    lines += ["|---" * 7 + "|"]
    for name, arm in result["arms"].items():
        own = arm["settings"]
        rates = ", ".join(f"{rate:g}" for rate in (arm["rates"] or own["rates"]))
        lines.append(
            f"| {name} | {arm['what']} | {len(arm['seeds'])} | {own['steps']} | {own['batch']} | {rates} "
            f"| {arm['minutes']:.0f} |"
        )
    return "\n".join(lines) + "\n"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def draw(result: Record, out: Path) -> None:
    """A PNG: recall@1 of every reading by task, and the cascade by alpha."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4))
    width = 0.8 / len(TASKS)
    for place, task in enumerate(TASKS):
        heights = [result["tasks"][task]["recall@1"].get(name, np.nan) for name in SHOWN]
        left.bar(np.arange(len(SHOWN)) + (place - (len(TASKS) - 1) / 2) * width, heights, width, label=task)
    left.set_xticks(range(len(SHOWN)), [name.replace(", ", ",\n") for name in SHOWN], fontsize=8)
    left.set_ylabel(f"recall@1 of {POOL}")
    left.set_ylim(0, 1.02)
    for task in TASKS:
        row = result["tasks"][task]
        if "curve" in row:
            right.plot(row["alphas"], row["curve"], marker="o", markersize=3, label=task)
    right.set_xlabel("alpha: share of the recall score")
    right.set_ylabel("recall@1 of the fusion")
    if right.lines:
        right.legend(fontsize=7, frameon=False)
    for panel in (left, right):
        panel.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(out, dpi=150)
    plt.close(figure)
