"""Visual documents in BEIR's layout: ``queries``, ``corpus`` with pictures, ``qrels`` with gains.

VLM2Vec ``src/data/eval_dataset/{vidore,visrag}_dataset.py``.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping
from functools import cache
from math import isfinite
from typing import Any

from ...encoding.inputs.json_records import FormatError
from .data import BenchmarkData, text_of
from .definition import Task
from .media import Media
from .problem import Candidates, Entry, Problem
from .wording import Words, join


def read_documents(task: Task, data: BenchmarkData) -> Problem:
    """All pages for every query; of qrels that stand there twice the higher counts, and only those above 0.

    Relevant pages come first, in the order of their queries: the official code gives equal scores to them.
    """
    instruction, target = str(task.options["instruction"]), str(task.options["target_instruction"])

    @cache
    def media() -> Media:
        return data.media(task)

    words = Words("", target, join(target, "", after_media=True))
    pages: dict[str, Entry] = {}
    for place, row in data.rows(task, "corpus"):
        name = text_of(row, "corpus-id", place)
        if name in pages:
            raise FormatError(f"{place}: the page {name!r} is there twice")
        pages[name] = Entry(name, words, {"image": _picture(media, row, _file_name(task, name))})
    gains: dict[str, dict[str, float]] = {}
    for place, row in data.rows(task, "qrels"):
        score = row.get("score")
        if isinstance(score, bool) or not isinstance(score, (int, float)) or not isfinite(score):
            raise FormatError(f"{place}: 'score' is {score!r}")
        name = text_of(row, "corpus-id", place)
        if name not in pages:
            raise FormatError(f"{place}: the page {name!r} is not in the corpus")
        if score > 0:
            own = gains.setdefault(text_of(row, "query-id", place), {})
            own[name] = max(float(score), own.get(name, 0.0))
    candidates = Candidates()
    queries: list[Entry] = []
    relevant: list[dict[int, float]] = []
    left_out = 0
    for place, row in data.rows(task, "queries"):
        name, text = text_of(row, "query-id", place), text_of(row, "query", place)
        if name not in gains:
            left_out += 1
            continue
        queries.append(Entry(name, Words(text, instruction, join(instruction, text))))
        relevant.append({candidates.add(pages[page]): gain for page, gain in gains[name].items()})
    for page in pages.values():
        candidates.add(page)
    notes = [f"{task.name}: {left_out} queries have no relevant page and are left out"] if left_out else []
    return Problem(task, queries, candidates.entries, relevant, notes=notes)


def _file_name(task: Task, name: str) -> str:
    """Of a page's picture in the task's folder, where the official code puts it; VisRAG's ids are long file names."""
    if task.form != "visrag":
        return f"{name}.png"
    base, ending = os.path.splitext(name)
    return f"{base[:50]}_{hashlib.md5(name.encode(), usedforsecurity=False).hexdigest()[:8]}{ending}"


def _picture(media: Callable[[], Media], row: Mapping[str, Any], name: str) -> Any:
    """The row's own picture, or the file of that name in the task's folder.

    The folder, on the Hub an archive of all tasks, is asked for only where a row has none.
    """
    image = row.get("image")
    if isinstance(image, Mapping) and image.get("bytes") is not None:
        return bytes(image["bytes"])
    if isinstance(image, (bytes, bytearray)):
        return bytes(image)
    return media().picture(image if isinstance(image, str) and image else name)
