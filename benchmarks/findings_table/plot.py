"""The picture of the table: a claim a line, its effect with interval, coloured by verdict."""

from __future__ import annotations

from pathlib import Path
from typing import Any

COLOURS = {"reproduced": "#2a7f3f", "reversed": "#b3342c", "not seen": "#7a7a7a", "not judged": "#b9b9b9"}


def draw(rows: list[dict[str, Any]], out: Path) -> None:
    """Write a PNG. Claims with a remark (both arms near the ceiling, say) are drawn hollow."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    ordered = sorted(rows, key=lambda row: row["difference"])
    figure, axes = plt.subplots(figsize=(9, 1.2 + 0.34 * len(ordered)))
    for place, row in enumerate(ordered):
        low, high = row["interval"]
        colour = COLOURS[row["verdict"]]
        axes.plot([100 * low, 100 * high], [place, place], color=colour, linewidth=2, solid_capstyle="butt")
        filled = "white" if row["remark"] else colour
        axes.plot(100 * row["difference"], place, "o", color=colour, markerfacecolor=filled, markersize=6)
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_yticks(range(len(ordered)), [_label(row) for row in ordered], fontsize=9)
    axes.set_xlabel(
        "points of the metric, claimed winner minus loser, and 95 % paired bootstrap interval (hollow: see remark)",
        fontsize=8,
    )
    axes.spines[["top", "right"]].set_visible(False)
    handles = [plt.Line2D([], [], color=colour, marker="o", label=name) for name, colour in COLOURS.items()]
    shown = {row["verdict"] for row in ordered}
    axes.legend(
        handles=[one for one in handles if one.get_label() in shown], fontsize=8, frameon=False, loc="best"
    )
    figure.tight_layout()
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=150)
    plt.close(figure)


def _label(row: dict[str, Any]) -> str:
    margin = f" + {100 * row['margin']:g}" if row["margin"] else ""
    return f"{row['claim']}{margin}  ({row['signs']})"
