"""The table: results of arms and seeds in, judged claims out, as JSON, markdown and a picture."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from findings_table.arms import Record, Results
from findings_table.store import unpack
from findings_table.verdict import claim_facts
from numpy.typing import NDArray

from .claims import CLAIMS, Claim, Reading
from .records import ARMS
from .scoring import EASY

FAR = 3
COLUMNS = (
    *(
        "arm",
        "seeds",
        "walks",
        "3 hops or more",
        "no hop",
        "easy",
        "thoughts exact",
        "answers right",
        "hasty",
    ),
    *("mean of 8", "any of 8", "tokens", "minutes"),
)


def values(record: Record, reading: Reading, where: str) -> NDArray[np.float64]:
    """Hits of the queries that a claim is about."""
    if where == "easy":
        packed = record["easy"][reading.mode]
        return np.concatenate([unpack(packed[task], record["easy_queries"]) for task in EASY]).astype(float)
    given = record.get("given", {})
    hops = unpack(record["hops"], record["queries"])
    if reading.mode in given:
        found = unpack(given[reading.mode], record["controlled"])
        hops = hops[: len(found)]
    else:
        found = unpack(record["values"][reading.mode], record["queries"])
    chosen = {"walks": hops >= 0, "far": hops >= FAR, "start": hops == 0}[where]
    return found[chosen].astype(float)


def claim_row(claim: Claim, results: Results) -> Record | None:
    """One claim judged on the seeds that both of its arms have; None without any."""
    better, worse = results.get(claim.better.arm, {}), results.get(claim.worse.arm, {})
    seeds = sorted(set(better) & set(worse))
    if not seeds:
        return None
    ours = [values(better[seed], claim.better, claim.where) for seed in seeds]
    theirs = [values(worse[seed], claim.worse, claim.where) for seed in seeds]
    facts = claim_facts(ours, theirs, seeds, claim.at_least)
    return {"claim": claim.name, "statement": claim.statement, **facts}


def arm_row(name: str, records: Mapping[int, Record]) -> Record:
    """Means of an arm over its seeds."""

    def mean(mode: str, where: str) -> float:
        return round(
            float(np.mean([values(one, Reading(name, mode), where).mean() for one in records.values()])), 4
        )

    first = next(iter(records.values()))
    modes = [*first["values"], *first.get("given", {})]
    row: Record = {
        "what": ARMS[name].what,
        "seeds": sorted(records),
        "steps": first["settings"]["steps"],
        "walk": {mode: mean(mode, "walks") for mode in modes},
        "far": {mode: mean(mode, "far") for mode in modes},
        "start": {mode: mean(mode, "start") for mode in modes},
        "easy": {mode: mean(mode, "easy") for mode in first.get("easy", {})},
        "minutes": round(float(np.mean([one["training_minutes"] for one in records.values()])), 1),
    }
    for key in ("any_of_8", "mean_of_8"):
        if key in first:
            row[key] = round(float(np.mean([one[key] for one in records.values()])), 4)
    if "thoughts" in first:
        thoughts = [one["thoughts"] for one in records.values()]
        row |= {
            key: round(float(np.mean([one[key] for one in thoughts])), 4)
            for key in ("exact", "right", "hasty", "tokens")
        }
        row["first_fault"] = first["thoughts"]["first_fault"]
    if "blind" in first:
        row["blind"] = {
            mode: round(float(unpack(first["blind"][mode], first["controlled"]).mean()), 4)
            for mode in first["blind"]
        }
    return row


def by_hops(records: Mapping[int, Record], mode: str) -> list[float]:
    """Hits at every number of hops, over seeds."""
    found = [
        [
            float(
                unpack(one["values"][mode], one["queries"])[
                    unpack(one["hops"], one["queries"]) == hops
                ].mean()
            )
            for hops in range(9)
        ]
        for one in records.values()
    ]
    return [round(float(value), 4) for value in np.mean(found, axis=0)]


def table(results: Results) -> Record:
    """Claims, arms and curves."""
    return {
        "claims": [row for claim in CLAIMS if (row := claim_row(claim, results))],
        "arms": {name: arm_row(name, results[name]) for name in ARMS if results.get(name)},
        "by_hops": {
            f"{name}, {mode}": by_hops(results[name], mode)
            for name in ARMS
            if results.get(name)
            for mode in next(iter(results[name].values()))["values"]
        },
        "closed_form": closed_form(),
    }


def closed_form() -> dict[str, float]:
    """Hits of rules that see no scene, or only the start of one: known without a model."""
    return {
        "any answer (72 are equally frequent at every hop)": round(1 / 72, 4),
        "the start cell, whatever the hops (right at 0 hops of 9)": round(1 / 9, 4),
    }


def markdown(result: Record) -> str:
    """The table as a page."""
    lines = [
        "# Findings: thinking and reinforcement",
        "",
        "Walks in DigitWorld: a cell's digit names the next cell, and the answer (one of 72) is what stands in the "
        "last one. All arms start from ume-tiny as it was before it learned to think (`--start`, from the "
        "repository's history); *thinking* and *glance* (DUME) see the same rows. After 8 hops the answer's digit is "
        "the number of the start, so that a glance can find it without the way; *3 hops or more* counts these walks, "
        "too. Hits at 1 among all answers, on handwriting that no arm has seen. Verdicts as in "
        "[findings.md](findings.md). "
        f"Command: `{result['command']}`.",
        "",
        "| claim | better | worse | difference | asked for | by seed | verdict |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in result["claims"]:
        low, high = row["interval"]
        seeds = ", ".join(f"{value:+.3f}" for value in row["by_seed"].values())
        reached = "reached" if row["reached"] else "**missed**"
        lines.append(
            f"| {row['statement']} | {row['better']:.3f} | {row['worse']:.3f} | {row['difference']:+.3f} "
            f"[{low:+.3f}, {high:+.3f}] | {row['at_least']:+.2f}: {reached} | {seeds} | {row['verdict']} |"
        )
    lines += [
        "",
        f"| {' | '.join(COLUMNS)} |",
        "|---" * len(COLUMNS) + "|",
    ]
    for name, arm in result["arms"].items():
        for mode in arm["walk"]:
            own = mode == "generative"
            cells = [
                f"{name}, {mode}",
                str(len(arm["seeds"])),
                *(f"{arm[part][mode]:.3f}" for part in ("walk", "far", "start")),
                f"{arm['easy'][mode]:.3f}" if mode in arm["easy"] else "",
                *(f"{arm[key]:.3f}" if own and key in arm else "" for key in ("exact", "right", "hasty")),
                *(f"{arm[key]:.3f}" if own and key in arm else "" for key in ("mean_of_8", "any_of_8")),
                f"{arm['tokens']:.1f}" if own and "tokens" in arm else "",
                f"{arm['minutes']:.0f}",
            ]
            lines.append(f"| {' | '.join(cells)} |")
        for part, value in arm.get("blind", {}).items():
            lines.append(
                f"| {name}, {part} | {len(arm['seeds'])} | {value:.3f} |  |  |  |  |  |  |  |  |  |  |"
            )
    lines += ["", "What rules that read nothing would have:", ""]
    lines += [f"* {name}: {value:.3f}" for name, value in result["closed_form"].items()]
    return "\n".join(lines) + "\n"


def rewards(results: Results) -> dict[str, list[float]]:
    """Of RL by step, one seed of each arm."""
    logs = {name: next(iter(records.values()))["log"] for name, records in results.items()}
    found = {
        name: [line["query_reward"] for line in log if "query_reward" in line] for name, log in logs.items()
    }
    return {name: curve for name, curve in found.items() if curve}


def draw(result: Record, out: Path, reward: Mapping[str, list[float]]) -> None:
    """A PNG: hits by hops, and the reward of RL by step."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, panels = plt.subplots(1, 2 if reward else 1, figsize=(13 if reward else 8, 4), squeeze=False)
    left, right = panels[0, 0], panels[0, -1]
    colours = plt.get_cmap("tab20")  # more arms than the default cycle has colours
    for name, curve in result["by_hops"].items():
        arm, mode = name.rsplit(", ", 1)
        left.plot(
            range(9),
            curve,
            marker="o",
            markersize=3,
            label=name,
            color=colours(list(result["arms"]).index(arm)),
            linestyle="-" if mode == "generative" else "--",
        )
    left.set_xlabel("hops of the walk")
    left.set_ylabel("hit at 1 of 72")
    left.set_ylim(0, 1.02)
    left.legend(fontsize=7, frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    left.spines[["top", "right"]].set_visible(False)
    for name, curve in reward.items():
        window = min(8, len(curve))
        right.plot(np.convolve(curve, np.ones(window) / window, "valid"), label=name)
    if reward:
        right.set_xlabel("RL step")
        right.set_ylabel("reward, mean of 8 steps")
        right.legend(fontsize=8, frameon=False)
        right.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(out, dpi=150)
    plt.close(figure)
