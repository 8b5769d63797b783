"""A page of samples for people: pairs, their candidate thoughts, what each contributes, and which was kept."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ...encoding.inputs.sample import reason_of
from ...processing.documents import load_document
from ...processing.items import DocumentPart, ImagePart, TextPart, VideoPart, parse_item
from ...processing.limits import MediaLimits
from ...processing.media import load_image
from ...processing.sampling import Sampling
from ...processing.video import load_video
from ..actions import ACTION_COLUMNS, REASON
from ..collating import items_of
from .pools import POOLS

SIDE = 160  # longest side of a thumbnail in pixels
FRAMES = 4  # of a clip
LETTERS = 600  # of a text
GENERATOR = '<meta name="generator" content="umekit select">'  # by which a sheet is known to be ours
STYLE = """
:root { color-scheme: light dark; --line: #8886; --soft: #888; --kept: #17924a; }
body { margin: 0 auto; padding: 1.5rem; max-width: 72rem; font: 15px/1.45 system-ui, sans-serif; }
section { border-top: 1px solid var(--line); padding: 1rem 0; }
.pair { display: flex; gap: 2rem; flex-wrap: wrap; } .pair > div { flex: 1 1 18rem; }
img { max-width: 10rem; margin: 0 2px 2px 0; image-rendering: pixelated; }
table { border-collapse: collapse; width: 100%; margin: .5rem 0 1rem; } caption { text-align: left; font-weight: 600; }
td, th { border-top: 1px solid var(--line); padding: .25rem .5rem; text-align: left; vertical-align: top; }
td.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
td.thought { font: .82rem/1.4 ui-monospace, monospace; overflow-wrap: anywhere; }
tr.kept { font-weight: 600; color: var(--kept); } .soft { color: var(--soft); }
"""


def is_sheet(path: Path) -> bool:
    """Whether a file is a page of samples that a selection wrote."""
    with path.open("rb") as handle:
        return GENERATOR.encode() in handle.read(1000)


def sampled(best: np.ndarray, count: int) -> list[int]:
    """Rows that are spread evenly over their best contribution, the highest first.

    best: of each row, NaN for one that nobody thought about. count: how many, at most.
    """
    there = np.flatnonzero(~np.isnan(best))
    order = there[np.argsort(-best[there], kind="stable")]
    places = np.unique(np.linspace(0, len(order) - 1, min(count, len(order))).round().astype(int))
    return [int(order[place]) for place in places] if len(order) else []


def sheet(rows: Sequence[tuple[int, Mapping[str, Any]]], told: str, find: Callable[[Any], Any]) -> str:
    """The page as text.

    Args:
        rows: numbers and finished rows, with the pools of each side.
        told: what was asked for, in a line.
        find: an item to the same with its media found.
    """
    parts = [_section(number, row, find) for number, row in rows]
    return (
        f"<!doctype html>\n<html lang=en><head><meta charset=utf-8>{GENERATOR}<title>Selected thoughts</title>"
        f"<style>{STYLE}</style></head><body>\n<h1>Selected thoughts</h1>\n<p class=soft>{escape(told)}. Contribution: "
        "what the thought adds to the evaluator's confidence in the pair, less what it adds "
        f"to hard negatives. Rows are spread over their best contribution.</p>\n{''.join(parts)}</body></html>\n"
    )


def _section(number: int, row: Mapping[str, Any], find: Callable[[Any], Any]) -> str:
    pair = "".join(
        f"<div><b>{side}</b> <span class=soft>{escape(row.get(ACTION_COLUMNS[side], ''))}</span><br>"
        f"{_shown(row[side], find)}</div>"
        for side in POOLS
    )
    tables = "".join(_table(row, side) for side in POOLS if ACTION_COLUMNS[side] in row)
    against = "; ".join(filter(None, (_text(item) for item in items_of(row, "negatives")[:4])))
    negatives = f"<p class=soft>negatives: {escape(against[:LETTERS])}</p>" if against else ""
    return f"<section><h2>Row {number}</h2><div class=pair>{pair}</div>{negatives}{tables}</section>\n"


def _table(row: Mapping[str, Any], side: str) -> str:
    if not row[POOLS[side]]:
        return f"<p class=soft>No thoughts of the {side}.</p>"
    lines = []
    kept = row[ACTION_COLUMNS[side]] == REASON
    for one in sorted(row[POOLS[side]], key=lambda one: -_number(one["contribution"])):
        chosen = kept and one["kept"]
        numbers = "".join(
            f"<td class=number>{_number(one[name]):+.2f}</td>" for name in ("contribution", "lift")
        )
        lines.append(
            f"<tr{' class=kept' if chosen else ''}><td>{'kept' if chosen else ''}</td><td>{escape(one['worker'])}</td>"
            f"{numbers}<td class=number>{one['posterior']:.2f}</td><td class=number>{one['tokens']}</td>"
            f"<td class=thought>{escape(one['thought'][:LETTERS])}<br>"
            f"<b>{escape(one['answer'][:LETTERS])}</b></td></tr>"
        )
    head = "".join(
        f"<th>{name}</th>"
        for name in ("", "worker", "contribution", "alone", "posterior", "tokens", "thought and answer")
    )
    return f"<table><caption>Thoughts of the {side}</caption><tr>{head}</tr>{''.join(lines)}</table>"


def _number(value: float | None) -> float:
    return float("-inf") if value is None else value


def _shown(item: Any, find: Callable[[Any], Any]) -> str:
    """An item's texts and thumbnails in order; a medium that cannot be read says so."""
    limits = MediaLimits()
    shown = []
    parsed = parse_item(find(item), empty=True)
    if parsed.instruction:
        shown.append(f"<span class=soft>{escape(parsed.instruction[:LETTERS])}</span><br>")
    for part in parsed.parts:
        if isinstance(part, TextPart):
            shown.append(f"<span>{escape(part.text[:LETTERS])}</span> ")
            continue
        try:
            shown += [f'<img alt="" src="{_data(picture)}">' for picture in _pictures(part, limits)]
        except Exception as error:  # of any decoder: a page of samples ends no run
            shown.append(f"<span class=soft>[{escape(reason_of(error))}]</span>")
    return "".join(shown)


def _pictures(part: ImagePart | VideoPart | DocumentPart, limits: MediaLimits) -> list[Image.Image]:
    if isinstance(part, ImagePart):
        return [load_image(part.source, limits)]
    if isinstance(part, DocumentPart):
        return load_document(part.source, part.page, SIDE * SIDE * 4, limits)
    return load_video(part.source, Sampling(min_frames=1, max_frames=FRAMES, multiple=1), limits).images


def _data(picture: Image.Image) -> str:
    small = picture.convert("RGB")
    small.thumbnail((SIDE, SIDE))
    buffer = io.BytesIO()
    small.save(buffer, format="PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def _text(item: Any) -> str:
    return " ".join(part.text for part in parse_item(item, empty=True).parts if isinstance(part, TextPart))
