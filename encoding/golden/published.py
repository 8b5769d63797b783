"""Read fixtures of published systems: their records as items of ours, their vectors as what must come of them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np

from ..presets import PRESETS
from .items import Case, Golden, GoldenError, digest

# Rows of added tokens that the official code draws around the mean (and we do not), with Qwen3-VL's spread.
DRAWN_ROWS = 1e-4


def read_published(folder: Path, array: str | None = None) -> Golden:
    """A fixture's cases.

    Raises:
        GoldenError: a fixture of a system that is not known, or one without vectors.
    """
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    system = manifest["system"]
    preset = next((one for one in PRESETS.values() if one.fixture[0] == system), None)
    if preset is None:
        raise GoldenError(f"{folder} is a fixture of {system!r}, which no preset is for")
    with np.load(folder / "vectors.npz") as stored:
        name = array or preset.fixture[1]
        if name not in stored:
            raise GoldenError(f"{folder} has no array {name!r}; it has {', '.join(stored)}")
        if "rows_" in name:
            raise GoldenError(f"{name} has rows of some items only, or of tokens: it cannot be compared")
        vectors = stored[name]
    records = [record for record in manifest["items"] if record["row"] < len(vectors)]
    tolerance = float(manifest.get("suggested_tolerance", {}).get("vectors_abs", 1e-5))
    mode = "generative" if name.startswith("gen") else None
    cases = [_case(record, folder / "inputs", vectors[record["row"]], mode) for record in records]
    loose = {}
    if system == "umarvel_qwen3vl":
        loose = {case.name: DRAWN_ROWS for case in cases if "instruction" in case.item}
    return Golden(cases, tolerance, preset=preset.name, loose=loose)


def _case(record: dict[str, Any], inputs: Path, vector: Any, mode: str | None = None) -> Case:
    ids = record.get("input_ids") or record["input_ids_gen" if mode else "input_ids_disc"]
    place = record.get("pooled_position", record.get("disc_position"))
    pooled = record.get("pooled_positions") or ([] if place is None else [place])
    grids = [*(record.get("image_grid_thw") or []), *(record.get("video_grid_thw") or [])]
    side = record.get("side", "")
    role = "query" if side.startswith("query") else "document" if side else None
    return Case(
        name=record["id"],
        role=role,
        item=item_of(record, inputs) if "query" not in record else _query_of(record, inputs),
        mode=mode,
        candidate=None if "query" not in record else item_of(_candidate_of(record), inputs),
        length=len(ids),
        ids=digest(ids),
        slots=digest(pooled) if pooled else "",
        grids=grids,
        vector=np.atleast_1d(vector),
        input_ids=tuple(ids),
    )


def _query_of(record: dict[str, Any], inputs: Path) -> dict[str, Any]:
    own = item_of(record["query"], inputs)
    return own if record.get("instruction") is None else {**own, "instruction": record["instruction"]}


def _candidate_of(record: dict[str, Any]) -> dict[str, Any]:
    return record["document"] if "document" in record else record["candidate"]


def item_of(record: dict[str, Any], inputs: Path) -> dict[str, Any]:
    """The item of a record: media first, in the order of the official calls, then text and instruction."""
    if "content" in record:
        return _item_of_content(record["content"], inputs)
    item: dict[str, Any] = {}
    if record.get("video"):
        item["video"] = [str(inputs / name) for name in record["video"]]
    pictures = record.get("images") or record.get("image") or record.get("img")
    if isinstance(pictures, list):
        item["images"] = [str(inputs / name) for name in pictures]
    elif pictures:
        item["image"] = str(inputs / pictures)
    text = record.get("txt") or record.get("text")
    if text:
        item["text"] = "".join(text)  # two texts are rendered next to each other
    if record.get("instruction") is not None:
        item["instruction"] = record["instruction"]
    return item


def _item_of_content(content: list[Any], inputs: Path) -> dict[str, Any]:
    item: dict[str, Any] = {}
    for part in content:
        kind, value = (part["type"], part[part["type"]]) if isinstance(part, dict) else part
        if kind == "text":
            parts = re.match(r"<instruction_start>(.*)<instruction_end> ?(.*)$", value, re.DOTALL)
            if parts:
                item["instruction"], value = parts[1], parts[2]
            item["text"] = value
        elif kind == "image":
            names = [value] if isinstance(value, str) else value
            item.setdefault("images", []).extend(str(inputs / name) for name in names)
        else:
            item["video"] = [str(inputs / name) for name in value]
    return item
