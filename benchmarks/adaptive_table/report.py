"""The table: results of arms and seeds in, judged claims out, as JSON, markdown and a picture."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from findings_table.arms import Record, Results

from .claims import BARS, CLAIMS, RACES, Reading, Way, Where
from .judging import bar_row, budget_hits, chosen, claim_row, column, hits, ideal_share, race_row
from .records import ARMS, DECIDING
from .rows import PARTS
from .scoring import BUDGETS, SHARE

WAYS: tuple[Way, ...] = ("never", "adaptive", "always")
WHERE: tuple[Where, ...] = ("mix", "walks", "easy")
STYLES = {"policy": "-o", "probe": "-s", "margin": "-^"}


def mean(values: Any) -> float:
    """Rounded."""
    return round(float(np.mean([*values])), 4)


def arm_row(name: str, records: Mapping[int, Record]) -> Record:
    """Means of an arm over its seeds; of one that was not asked, what it cost."""
    told = [*records.values()]
    row: Record = {
        "what": ARMS[name].what,
        "seeds": sorted(records),
        "steps": told[0]["settings"]["steps"],
        "minutes": mean(one["minutes"] for one in told),
    }
    if "judges" in told[0]:
        judged = told[0]["judges"]
        row["judges"] = {
            part: {worker: mean(one["judges"][part][worker] for one in told) for worker in judged[part]}
            for part in judged
        }
    if "never" not in told[0]:
        return row
    for where in WHERE:
        row[where] = {way: mean(hits(one, Reading(name, way), where).mean() for one in told) for way in WAYS}
    row["thinks"] = {
        where: mean(column(one, "thinks")[chosen(one, where)].mean() for one in told) for where in WHERE[1:]
    }
    row["tokens"] = {way: mean(one["tokens"][way] for one in told) for way in ("adaptive", "always", "ideal")}
    row["ideal_share"] = mean(map(ideal_share, told))
    row["kappa"] = [round(one["kappa"], 4) for one in told]
    row["milliseconds"] = {way: round(1000 * mean(one["seconds"][way] for one in told), 2) for way in WAYS}
    row["by_part"] = {
        part.name: {
            key: mean(one["parts"][part.name][key] for one in told)
            for key in ("thinks", "tokens", "always_tokens")
        }
        for part in PARTS
    }
    if "selection" in told[0]:
        kept = [one["selection"] for one in told]
        row["of_kept"] = {
            worker: mean(one["of_kept"][worker] for one in kept) for worker in kept[0]["of_kept"]
        }
        row["kept"] = mean(one["kept"] / one["rows"] for one in kept)
    return row


def by_hops(records: Mapping[int, Record]) -> Record:
    """Of walks by their hops: the share that is thought about, and that where a thought turns a miss into a hit."""
    found: dict[str, list[float]] = {"thinks": [], "helps": []}
    hops = [column(one, "hops")[chosen(one, "walks")] for one in records.values()]
    for count in range(int(max(map(np.max, hops))) + 1):
        thinks, helps = [], []
        for one, own in zip(records.values(), hops, strict=True):
            walks = chosen(one, "walks")
            gains = column(one, "always") > column(one, "never")
            thinks.append(column(one, "thinks")[walks][own == count].mean())
            helps.append(gains[walks][own == count].mean())
        found["thinks"].append(mean(thinks))
        found["helps"].append(mean(helps))
    return found


def table(results: Results) -> Record:
    """Claims, bars, races, arms and curves."""
    deciding = {name: results[name] for name in DECIDING if results.get(name)}
    return {
        "claims": [row for claim in CLAIMS if (row := claim_row(claim, results))],
        "bars": [row for bar in BARS if (row := bar_row(bar, results))],
        "races": [row for race in RACES if (row := race_row(race, results))],
        "arms": {name: arm_row(name, results[name]) for name in ARMS if results.get(name)},
        "budgets": list(BUDGETS),
        "curves": {
            name: {
                strategy: np.mean(
                    [budget_hits(one, strategy).mean(axis=1) for one in records.values()], axis=0
                )
                .round(4)
                .tolist()
                for strategy in sorted(set.intersection(*(set(one["levels"]) for one in records.values())))
            }
            for name, records in deciding.items()
        },
        "by_hops": {name: by_hops(records) for name, records in deciding.items()},
    }


def markdown(result: Record) -> str:
    """The table as a page."""
    lines = [
        "# Findings: which thoughts to teach, and when to think",
        "",
        "MMEmb-R1 re-derived (neither code nor weights of it are public), on a mix of DigitWorld: 60 % questions that "
        "a glance answers and whose thoughts would read out the scene, 40 % walks, half of them of at most one hop. "
        "Hits at 1 among all answers, on handwriting that no arm has seen. *Adaptive*: thinks where p(reason) is over "
        f"kappa, which is the best on validation handwriting that spends at most {100 * SHARE:.0f} % of the tokens of "
        "thinking always. All arms begin at ume-tiny, which thinks already. Thoughts are weighed by the log-likelihood "
        "of the evaluator's answers, which has an upper end as logits have none. Verdicts as in "
        "[findings.md](findings.md); a bar is *reproduced* where three seeds keep to it. Command: "
        f"`{result['command']}`.",
        "",
        "| claim | queries | better | worse | difference | asked for | by seed | verdict |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in result["claims"]:
        lines.append(
            f"| {row['statement']} | {row['where']} | {row['better']:.3f} | {row['worse']:.3f} | {_gap(row)} | "
            f"{row['at_least']:+.2f}: {_reached(row)} | {_seeds(row, '+.3f')} | {row['verdict']} |"
        )
    lines += ["", "| bar | measured | asked for | by seed | verdict |", "|---|---|---|---|---|"]
    for row in result["bars"]:
        asked = f"<= {row['at_most']:.2f}" if row["at_most"] < 1 else f">= {row['at_least']:.2f}"
        ideal = f" (ideal policy: {row['ideal']:.2f})" if "ideal" in row else ""
        lines.append(
            f"| {row['statement']} | {row['mean']:.2f}{ideal} | {asked}: {_reached(row)} | {_seeds(row, '.2f')} | "
            f"{row['verdict']} |"
        )
    columns = [
        "strategies at equal tokens",
        "budget",
        "policy",
        "rival",
        "difference",
        "asked for",
        "by seed",
    ]
    lines += ["", f"| {' | '.join(columns)} | verdict |", "|---" * 8 + "|"]
    for row in result["races"]:
        verdict = row["verdict"] + ("; a tie within a point at every budget" if row["tie"] else "")
        lines.append(
            f"| {row['statement']} | {100 * row['budget']:.0f} % | {row['better']:.3f} | {row['worse']:.3f} | "
            f"{_gap(row)} | {row['at_least']:+.2f}: {_reached(row)} | {_seeds(row, '+.3f')} | {verdict} |"
        )
    lines += ["", *_arms(result), "", *_parts(result), "", *_judges(result)]
    return "\n".join(lines) + "\n"


def _gap(row: Record) -> str:
    low, high = row["interval"]
    return f"{row['difference']:+.3f} [{low:+.3f}, {high:+.3f}]"


def _reached(row: Record) -> str:
    return "reached" if row["reached"] else "**missed**"


def _seeds(row: Record, form: str) -> str:
    return ", ".join(f"{value:{form}}" for value in row["by_seed"].values())


def _arms(result: Record) -> list[str]:
    """What every arm has, and whose the thoughts are that it was taught."""
    workers = ("careful", "confused", "generic")
    columns = [
        *("arm", "seeds", "never", "adaptive", "always", "walks, adaptive", "walks, always"),
        *("rows with a thought", *(f"{worker} of these" for worker in workers)),
        *("ms never", "ms adaptive", "ms always", "steps", "minutes"),
    ]
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for name, arm in result["arms"].items():
        hit = [f"{arm['mix'][way]:.3f}" for way in WAYS] if "mix" in arm else [""] * 3
        walks = [f"{arm['walks'][way]:.3f}" for way in WAYS[1:]] if "mix" in arm else [""] * 2
        kept = (
            [f"{arm['kept']:.2f}", *(f"{arm['of_kept'][one]:.2f}" for one in workers)]
            if "kept" in arm
            else []
        )
        times = [f"{arm['milliseconds'][way]:.1f}" for way in WAYS] if "mix" in arm else [""] * 3
        cells = [name, str(len(arm["seeds"])), *hit, *walks, *(kept or [""] * 4), *times]
        lines.append(f"| {' | '.join([*cells, str(arm['steps']), format(arm['minutes'], '.0f')])} |")
    return lines


def _parts(result: Record) -> list[str]:
    """How often each part of the mix is thought about."""
    names = [name for name in DECIDING if name in result["arms"]]
    lines = [
        f"| thought about | {' | '.join(names)} | tokens of a thought |",
        "|---" * (len(names) + 2) + "|",
    ]
    for part in PARTS if names else ():
        own = [result["arms"][name]["by_part"][part.name] for name in names]
        ratios = " | ".join(f"{one['thinks']:.2f}" for one in own)
        lines.append(f"| {part.name} | {ratios} | {own[0]['always_tokens']:.1f} |")
    return lines if names else []


def _judges(result: Record) -> list[str]:
    """What the evaluator knows, on validation handwriting."""
    judged = result["arms"].get("evaluator", {}).get("judges", {})
    workers = list(next(iter(judged.values()), {}))
    told = [f"with a {name} one" if name != "no thought" else "without a thought" for name in workers]
    lines = [f"| the evaluator puts the right one of two first | {' | '.join(told)} |"]
    lines += ["|---" * (len(workers) + 1) + "|"]
    lines += [
        f"| {part} | {' | '.join(f'{own[name]:.2f}' for name in workers)} |" for part, own in judged.items()
    ]
    return lines if judged else []


def draw(result: Record, out: Path) -> None:
    """A PNG: what each strategy scores by the tokens that it may spend, and which walks are thought about."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4))
    for name, curves in result["curves"].items():
        hit = result["arms"][name]["mix"]
        colour = f"C{list(result['curves']).index(name)}"
        for strategy, values in curves.items():
            line = [hit["never"], *values, hit["always"]]
            left.plot(
                [0, *(100 * one for one in result["budgets"]), 100],
                line,
                STYLES.get(strategy, "-"),
                markersize=3,
                color=colour,
                alpha=1.0 if strategy == "policy" else 0.5,
                label=f"{name}, {strategy}",
            )
    for number, (name, found) in enumerate(result["by_hops"].items()):
        right.plot(found["thinks"], "-o", markersize=3, color=f"C{number}", label=f"{name} thinks")
        right.plot(found["helps"], ":", color=f"C{number}", label="a thought turns a miss into a hit")
    left.set_xlabel("thought tokens, % of thinking always")
    left.set_ylabel("hit at 1, the mix")
    right.set_xlabel("hops of the walk")
    right.set_ylabel("share of the walks")
    right.set_ylim(-0.02, 1.02)
    for panel in (left, right):
        panel.spines[["top", "right"]].set_visible(False)
        if panel.lines:
            panel.legend(fontsize=7, frameon=False)
    figure.tight_layout()
    figure.savefig(out, dpi=150)
    plt.close(figure)
