"""The table: from results in the cache to one row per claim, as JSON, markdown and a picture."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .jobs import Job, Work
from .records import Claim
from .store import read_json, unpack
from .verdict import Judgement, judge

CEILING = 0.985  # above it two arms have no room to differ
FLOOR = 0.03  # so little above chance nothing was learned

Record = dict[str, Any]


def table(claims: Iterable[Claim], work: Work) -> list[Record]:
    """A row per claim of which both sides have a result of one seed at least; the others are left out."""
    rows = []
    for claim in claims:
        found = {name: _records(work, name) for name in claim.names}
        if row := claim_row(claim, found, {name: work.arms[name].what for name in claim.names}):
            rows.append(row)
    return rows


def starts(work: Work) -> dict[str, Record]:
    """What is known of the starts in use: above all, how well each reads unseen handwriting."""
    jobs = [job for job in work.all_jobs() if job.kind == "start" and work.is_done(job)]
    found = {f"{job.name}, seed {job.seed}": read_json(work.file(job)) for job in jobs}
    kept = ("unseen", "steps", "last_loss", "total_seconds")
    return {
        name: {key: record[key] for key in kept if key in record}
        for name, record in found.items()
        if record is not None
    }


def _records(work: Work, arm: str) -> dict[int, Record]:
    jobs = {seed: Job("run", arm, seed) for seed in work.seeds}
    done = {seed: read_json(work.file(job)) for seed, job in jobs.items() if work.is_done(job)}
    return {seed: record for seed, record in done.items() if record is not None}


def claim_row(claim: Claim, found: dict[str, dict[int, Record]], words: dict[str, str]) -> Record | None:
    """One claim's row. ``found``: arm -> seed -> record; ``words``: an arm in words."""
    seeds = sorted(set.intersection(*(set(found[name]) for name in (claim.better, *claim.worse))))
    if not seeds:
        return None
    worse = max(claim.worse, key=lambda name: mean(found[name], seeds, "validation"))
    judged = judge(
        [values(found[claim.better][seed]) for seed in seeds],
        [values(found[worse][seed]) for seed in seeds],
        claim.margin,
    )
    arms = {name: _arm(found[name], words[name]) for name in claim.names if found[name]}
    return {
        "claim": claim.name,
        "statement": claim.statement,
        "source": claim.source,
        "condition": claim.condition,
        "metric": claim.metric,
        "better": claim.better,
        "worse": worse,
        "margin": claim.margin,
        "difference": round(judged.difference, 4),
        "interval": [round(judged.low, 4), round(judged.high, 4)],
        "by_seed": {str(seed): round(gap, 4) for seed, gap in zip(seeds, judged.by_seed, strict=True)},
        "signs": judged.signs,
        "verdict": judged.verdict,
        "remark": remark(claim, judged, arms, worse),
        "queries": len(values(found[worse][seeds[0]])),
        "arms": arms,
    }


def values(record: Record) -> NDArray[np.float64]:
    """The value of every query, 0 to 1."""
    return unpack(record["values"], record["queries"]) / record["best"]


def mean(records: dict[int, Record], seeds: Iterable[int], entry: str) -> float:
    """Of an entry over seeds."""
    return float(np.mean([records[seed][entry] for seed in seeds]))


def _arm(records: dict[int, Record], words: str) -> Record:
    first = next(iter(records.values()))
    seconds = [record["seconds"] for record in records.values()]
    return {
        "what": words,
        "score": round(mean(records, records, "mean"), 4),
        "by_seed": {str(seed): record["mean"] for seed, record in sorted(records.items())},
        "parts": {
            name: {
                "mean": round(
                    float(np.mean([record["parts"][name]["mean"] for record in records.values()])), 4
                ),
                "chance": part["chance"],
            }
            for name, part in first["parts"].items()
        },
        "validation": round(mean(records, records, "validation"), 4),
        "learning_rate": first["rate"],
        "rows": first["rows"],
        "steps": first["steps"],
        "seconds": round(float(np.mean([sum(one.values()) for one in seconds])), 1),
        "temperature": first["temperature"],
        "notes": first["notes"],
    }


def remark(claim: Claim, judged: Judgement, arms: dict[str, Record], worse: str) -> str:
    """What a reader of the verdict should know; empty where nothing stands in its way."""
    pair = arms[claim.better], arms[worse]
    scores = [arm["score"] for arm in pair]
    unlearned = [name for name in pair[0]["parts"] if all(_at_chance(arm["parts"][name]) for arm in pair)]
    if judged.verdict == "not judged":
        return "fewer than three seeds or 2,000 queries"
    if min(scores) > CEILING:
        return "both arms are near the ceiling: nothing left to see"
    if len(unlearned) == len(pair[0]["parts"]):
        return "both arms are near chance: not learned in this budget"
    if unlearned:
        return f"{' and '.join(unlearned)} near chance in both arms"
    return ""


def _at_chance(part: Record) -> bool:
    return bool(part["mean"] < part["chance"] + FLOOR)


def markdown(result: Record) -> str:
    """The table as a page."""
    machine = result["machine"]
    lines = [
        "# Findings: contrastive training",
        "",
        "What the published systems claim, tried at the size of ume-tiny on the first rows of DigitWorld's scenes "
        "(three cells, which a minute can teach) and its clips. *Reproduced*: the paired differences of "
        "three seeds agree in sign and the 95 % paired bootstrap interval (2,000 queries or more, each the mean of "
        "three seeds) excludes 0; *reversed*: likewise, the other way; else *not seen*. Arms of a claim see equal "
        "rows; their learning rate is the better of two on validation rows, tried on seed 0 at a quarter of the "
        "steps. A verdict is about this small world and this budget, not about the published model.",
        "",
        f"Machine: {machine['processor']}, {machine['cores']} cores, {result['jobs']} processes of one thread; "
        f"torch {machine['torch']}, transformers {machine['transformers']}. Seeds {result['seeds']}. "
        f"Command: `{result['command']}`.",
        "",
        "| claim | source | condition | arms | difference | by seed | verdict |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in result["claims"]:
        low, high = row["interval"]
        margin = f" (+ {row['margin']:g} margin)" if row["margin"] else ""
        verdict = row["verdict"] + (f"; {row['remark']}" if row["remark"] else "")
        lines.append(
            f"| {row['statement']} | {row['source']} | {row['condition']}; {row['metric']} | {_arms_cell(row)} | "
            f"{row['difference']:+.3f} [{low:+.3f}, {high:+.3f}]{margin} | {row['signs']} | **{verdict}** |"
        )
    lines += [
        "",
        "| arm | score | of its parts (chance) | rows | steps | learning rate | seconds | found |",
        "|---|---|---|---|---|---|---|---|",
    ]
    arms = {name: arm for row in result["claims"] for name, arm in row["arms"].items()}
    for name, arm in arms.items():
        rate = "-" if arm["learning_rate"] is None else f"{arm['learning_rate']:g}"
        found = ", ".join(f"{key} {value}" for key, value in {**arm["temperature"], **arm["notes"]}.items())
        parts = ", ".join(
            f"{part} {one['mean']:.3f} ({one['chance']:.3f})" for part, one in arm["parts"].items()
        )
        lines.append(
            f"| {name} | {arm['score']:.3f} | {parts} | {arm['rows']} | {arm['steps']} | {rate} | "
            f"{arm['seconds']:.0f} | {found} |"
        )
    lines += ["", "Starts, with the accuracy of digits, colours and positions on unseen handwriting:", ""]
    lines += [f"* {name}: {found}" for name, found in result["starts"].items()]
    return "\n".join(lines) + "\n"


def _arms_cell(row: Record) -> str:
    return "; ".join(
        f"{'**' if name in (row['better'], row['worse']) else ''}{arm['what']} {arm['score']:.3f}"
        f"{'**' if name in (row['better'], row['worse']) else ''}"
        for name, arm in row["arms"].items()
    )
