"""M-BEIR (UniIR): its data sets, tasks and instructions, and how its texts are cleaned.

UniIR ``src/data/preprocessing/utils.py``.
"""

from __future__ import annotations

import csv
import os
from pathlib import Path

from .json_records import FormatError

DATASETS = (
    "visualnews",
    "fashion200k",
    "webqa",
    "edis",
    "nights",
    "oven",
    "infoseek",
    "fashioniq",
    "cirr",
    "mscoco",
)
TASKS = {
    ("text", "image"): 0,
    ("text", "text"): 1,
    ("text", "image,text"): 2,
    ("image", "text"): 3,
    ("image", "image"): 4,
    ("image,text", "text"): 6,
    ("image,text", "image"): 7,
    ("image,text", "image,text"): 8,
}


def format_string(text: str | None) -> str:
    """UniIR's clean-up: no ``\\r``, no outer blanks and quotes, a capital first, an end mark last."""
    clean = (text or "").replace("\r", "").strip().strip('"')
    if not clean:
        return ""
    clean = clean[0].upper() + clean[1:]
    return clean if clean[-1] in ".?!" else clean + "."


def read_instructions(path: str | os.PathLike[str]) -> dict[tuple[str, str, str], list[str]]:
    """(data set id, query modality, candidate modality) -> cleaned paraphrases. Raises FormatError."""
    found: dict[tuple[str, str, str], list[str]] = {}
    with Path(path).open(encoding="utf-8", newline="") as handle:
        for number, line in enumerate(csv.reader(handle, delimiter="\t", quoting=csv.QUOTE_NONE), start=1):
            if number == 1 or not any(line):
                continue
            prompts = [format_string(text) for text in line[4:] if text.strip()]
            if not prompts:
                raise FormatError(f"{Path(path).name}:{number}: no prompt in columns 5 and following")
            found[line[3].strip(), line[0].strip(), line[1].strip()] = prompts
    return found
