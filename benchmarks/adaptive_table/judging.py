"""Claims, bars and races judged: results of arms and seeds in, one row each out."""

from __future__ import annotations

from typing import Any

import numpy as np
from findings_table.arms import Record, Results
from findings_table.store import unpack
from findings_table.verdict import SEEDS, Verdict, claim_facts
from numpy.typing import NDArray

from .claims import LEAST, Bar, Claim, Race, Reading, Where
from .rows import PARTS
from .scoring import BUDGETS, at_budgets

Floats = NDArray[np.float64]
EASY = {part.name for part in PARTS if part.is_easy}


def chosen(record: Record, where: Where) -> NDArray[np.bool_]:
    """Which of a record's queries are meant."""
    sizes = [(name, part["queries"]) for name, part in record["parts"].items()]
    easy = np.concatenate([np.full(size, name in EASY) for name, size in sizes])
    return {"mix": np.ones_like(easy), "walks": ~easy, "easy": easy}[where]


def column(record: Record, name: str) -> Floats:
    """A packed column of a record, a value a query: ``never``, ``always``, ``thinks`` or ``hops``."""
    size = sum(part["queries"] for part in record["parts"].values())
    return unpack(record[name], size).astype(np.float64)


def hits(record: Record, reading: Reading, where: Where) -> Floats:
    """Hits of the queries that a claim is about."""
    if reading.way == "adaptive":
        values = np.where(column(record, "thinks") > 0, column(record, "always"), column(record, "never"))
    else:
        values = column(record, reading.way)
    return values[chosen(record, where)]


def claim_row(claim: Claim, results: Results) -> Record | None:
    """One claim judged on the seeds that both of its arms have; None without any."""
    better, worse = results.get(claim.better.arm, {}), results.get(claim.worse.arm, {})
    seeds = sorted(set(better) & set(worse))
    if not seeds:
        return None
    ours = [hits(better[seed], claim.better, claim.where) for seed in seeds]
    theirs = [hits(worse[seed], claim.worse, claim.where) for seed in seeds]
    facts = claim_facts(ours, theirs, seeds, claim.at_least)
    return {"claim": claim.name, "statement": claim.statement, "where": claim.where, **facts}


def measured(record: Record, bar: Bar) -> float:
    """What a bar is about, of one seed."""
    thinks, tokens, seconds = column(record, "thinks"), record["tokens"], record["seconds"]
    return {
        "token share": lambda: float(tokens["adaptive"] / max(tokens["always"], 1e-9)),
        "ratio on the easy": lambda: float(thinks[chosen(record, "easy")].mean()),
        "ratio on walks": lambda: float(thinks[chosen(record, "walks")].mean()),
        "time share": lambda: float(seconds["adaptive"] / seconds["always"]),
    }[bar.measure]()


def bar_row(bar: Bar, results: Results) -> Record | None:
    """A bar, reproduced where three seeds keep to it, reversed where none of three does; None without the arm."""
    records = results.get(bar.arm, {})
    if not records:
        return None
    values = {seed: measured(record, bar) for seed, record in sorted(records.items())}
    kept = [bar.at_least <= value <= bar.at_most for value in values.values()]
    verdict: Verdict = "not judged"
    if len(kept) >= SEEDS:
        verdict = "reproduced" if all(kept) else "not seen" if any(kept) else "reversed"
    row = {
        "claim": bar.name,
        "statement": bar.statement,
        "measure": bar.measure,
        "mean": round(float(np.mean([*values.values()])), 4),
        "by_seed": {seed: round(value, 4) for seed, value in values.items()},
        "at_least": bar.at_least,
        "at_most": bar.at_most,
        "reached": all(kept),
        "verdict": verdict,
    }
    if bar.measure == "token share":
        row["ideal"] = round(float(np.mean([ideal_share(record) for record in records.values()])), 4)
    return row


def ideal_share(record: Record) -> float:
    """Of the tokens of thinking always: what who knows where a thought turns a miss into a hit would spend."""
    return float(record["tokens"]["ideal"] / max(record["tokens"]["always"], 1e-9))


def budget_hits(record: Record, strategy: str) -> Floats:
    """Hits of every query under each budget: ``[budgets, queries]``."""
    never, always = column(record, "never"), column(record, "always")
    return at_budgets(unpack(record["levels"][strategy], len(never)), never, always)


def race_row(race: Race, results: Results) -> Record | None:
    """A race judged; None without the arm, or where no seed has the rival."""
    records = {
        seed: record
        for seed, record in sorted(results.get(race.arm, {}).items())
        if race.rival in record["levels"]
    }
    if not records:
        return None
    ours = np.stack([budget_hits(record, "policy") for record in records.values()], axis=1)
    theirs = np.stack([budget_hits(record, race.rival) for record in records.values()], axis=1)
    asked = LEAST if race.everywhere else 0.0
    rows: list[dict[str, Any]] = [
        {"budget": budget, **claim_facts([*a], [*b], [*records], asked)}
        for budget, a, b in zip(BUDGETS, ours, theirs, strict=True)
    ]
    if race.everywhere:
        place = int(np.argmin([row["interval"][0] for row in rows]))
        verdicts = [row["verdict"] for row in rows]
        # Said of all budgets at once: every one must show it, and one that shows the contrary is enough against it.
        verdict = verdicts[0] if len(set(verdicts)) == 1 else "not seen"
        verdict = "reversed" if "reversed" in verdicts else verdict
    else:
        gaps = [
            np.subtract(one["validation_curve"]["policy"], one["validation_curve"][race.rival])
            for one in records.values()
        ]
        place = int(np.argmax(np.mean(gaps, axis=0)))
        verdict = rows[place]["verdict"]
    return {
        "claim": race.name,
        "statement": race.statement,
        "rival": race.rival,
        **rows[place],
        "reached": all(row["reached"] for row in rows) if race.everywhere else rows[place]["reached"],
        "verdict": verdict,
        "tie": all(max(map(abs, row["interval"])) <= -LEAST for row in rows),
        "differences": [row["difference"] for row in rows],
    }
