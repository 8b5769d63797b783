"""Visual documents in BEIR's layout: ``queries``, ``corpus`` with pictures, ``qrels`` with gains.

VLM2Vec ``src/data/eval_dataset/{vidore,visrag}_dataset.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

from ...encoding.inputs.json_records import FormatError
from .data import BenchmarkData, Media, text_of
from .definition import Task
from .problem import Candidates, Entry, Problem
from .wording import Words, join


def read_documents(task: Task, data: BenchmarkData) -> Problem:
    """All pages for every query; of qrels that stand there twice the higher counts, and only those above 0."""
    instruction, target = str(task.options["instruction"]), str(task.options["target_instruction"])
    candidates = Candidates()

    @cache
    def media() -> Media:
        return data.media(task)

    page = Words("", target, join(target, "", after_media=True))
    for place, row in data.rows(task, "corpus"):
        name = text_of(row, "corpus-id", place)
        if candidates.place(name) is not None:
            raise FormatError(f"{place}: the page {name!r} is there twice")
        candidates.add(Entry(name, page, {"image": _picture(media, row, name)}))
    gains: dict[str, dict[int, float]] = {}
    for place, row in data.rows(task, "qrels"):
        score = row.get("score")
        if isinstance(score, bool) or not isinstance(score, (int, float)):
            raise FormatError(f"{place}: 'score' is {score!r}")
        name = text_of(row, "corpus-id", place)
        found = candidates.place(name)
        if found is None:
            raise FormatError(f"{place}: the page {name!r} is not in the corpus")
        if score > 0:
            own = gains.setdefault(text_of(row, "query-id", place), {})
            own[found] = max(float(score), own.get(found, 0.0))
    queries: list[Entry] = []
    left_out = 0
    for place, row in data.rows(task, "queries"):
        name, text = text_of(row, "query-id", place), text_of(row, "query", place)
        if name not in gains:
            left_out += 1
            continue
        queries.append(Entry(name, Words(text, instruction, join(instruction, text))))
    notes = [f"{task.name}: {left_out} queries have no relevant page and are left out"] if left_out else []
    relevant = [gains[query.name] for query in queries]
    return Problem(task, queries, candidates.entries, relevant, notes=notes)


def _picture(media: Callable[[], Media], row: Mapping[str, Any], name: str) -> Any:
    """The row's own picture, or that of the folder ``<corpus-id>.png``, where the official code puts it.

    The folder, on the Hub an archive of all tasks, is asked for only where a row has none.
    """
    image = row.get("image")
    if isinstance(image, Mapping) and image.get("bytes") is not None:
        return bytes(image["bytes"])
    if isinstance(image, (bytes, bytearray)):
        return bytes(image)
    return media().picture(image if isinstance(image, str) and image else f"{name}.png")
