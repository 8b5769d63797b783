"""MMEB's image tasks: a query with candidates of its own, of which the first is right.

VLM2Vec ``src/data/eval_dataset/image_{cls,qa,i2i_vg}_dataset.py``, ``image_{i2t,t2i}_eval.py``; version 1: ``eval.py``
and ``src/dataset.py`` of its branch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ...encoding.inputs.json_records import FormatError
from .data import BenchmarkData, list_of, text_of
from .definition import Task
from .media import Media
from .problem import Candidates, Entry, Problem
from .wording import PLACEHOLDER, Words, join, v1


def read_image_task(task: Task, data: BenchmarkData) -> Problem:
    """Columns ``qry_inst, qry_text, qry_img_path, tgt_inst, tgt_text[], tgt_img_path[]``; gold first."""
    media, candidates = data.media(task), Candidates()
    queries: list[Entry] = []
    pools: list[np.ndarray] = []
    for place, row in data.rows(task):
        queries.append(_query(task, media, row, place, len(queries)))
        texts, paths = list_of(row, "tgt_text", place), _paths(row, "tgt_img_path", place)
        if task.form in ("t2i", "i2i"):
            pools.append(candidates.pool(_pictures(task, media, row, texts, paths, place)))
        else:
            pools.append(candidates.pool(Entry(text, Words(text, joined=text)) for text in texts))
    relevant = [{int(pool[0]): 1.0} for pool in pools]
    return Problem(task, queries, candidates.entries, relevant, pools)


def read_v1_task(task: Task, data: BenchmarkData) -> Problem:
    """Columns ``qry_text, qry_img_path, tgt_text[], tgt_img_path[]``: instruction and placeholder are in the text.

    The official code puts its image token in the placeholder's place and changes nothing else: what version 2 joins,
    line breaks and all, stands there.
    """
    media, candidates = data.media(task), Candidates()
    queries: list[Entry] = []
    pools: list[np.ndarray] = []
    for place, row in data.rows(task):
        text, path = text_of(row, "qry_text", place, ""), text_of(row, "qry_img_path", place, "")
        queries.append(_v1_entry(f"{len(queries)}", text, path, media, place))
        texts, paths = list_of(row, "tgt_text", place), _paths(row, "tgt_img_path", place)
        if len(texts) != len(paths) or not texts:
            raise FormatError(f"{place}: {len(texts)} tgt_text and {len(paths)} tgt_img_path")
        pools.append(
            candidates.pool(
                _v1_entry(f"{path}:{text}", text, path, media, place)
                for text, path in zip(texts, paths, strict=True)
            )
        )
    return Problem(task, queries, candidates.entries, [{int(pool[0]): 1.0} for pool in pools], pools)


def _query(task: Task, media: Media, row: Mapping[str, Any], place: str, number: int) -> Entry:
    instruction = text_of(row, "qry_inst", place, "").replace(PLACEHOLDER, "")
    text = text_of(row, "qry_text", place, "")
    if task.form == "t2i":
        joined = f"{instruction} {text}\n" + ("\n" if task.name == "VisDial" else "")
        return Entry(f"{number}", Words(text.strip(), instruction.strip(), joined))
    own = f"\n{instruction.strip()}" if task.form in ("qa", "i2i") else instruction
    words = Words(text.strip(), instruction.strip(), v1(join(own, text, after_media=True)))
    return Entry(f"{number}", words, {"image": media.picture(text_of(row, "qry_img_path", place))})


def _pictures(
    task: Task, media: Media, row: Mapping[str, Any], texts: list[str], paths: list[str], place: str
) -> list[Entry]:
    """Candidates with a picture, and a caption in WebQA, EDIS and RefCOCO-Matching.

    A text finds pictures by their path; where a picture finds pictures, as in RefCOCO-Matching, several objects of one
    picture are candidates, and path and caption are the name.
    """
    if not paths or len(texts) not in (1, len(paths)):
        raise FormatError(f"{place}: {len(texts)} tgt_text and {len(paths)} tgt_img_path")
    instruction = text_of(row, "tgt_inst", place, "").replace(PLACEHOLDER, "")
    captioned = bool(texts[0].strip())
    found = []
    for number, path in enumerate(paths):
        caption = texts[number if len(texts) > 1 else 0] if captioned else ""
        joined = join(f"{instruction} {caption}" if captioned else instruction, "", after_media=True)
        joined = joined.replace(" \n", "\n") + ("\n" if captioned or task.form == "t2i" else "")
        name = path if task.form == "t2i" else f"{path}:{caption.strip(chr(34))}"
        words = Words(caption.strip(), instruction.strip(), joined)
        found.append(Entry(name, words, {"image": media.picture(path)}))
    return found


def _v1_entry(name: str, text: str, path: str, media: Media, place: str) -> Entry:
    if PLACEHOLDER in text and not path:
        raise FormatError(f"{place}: {PLACEHOLDER} in the text, but no image")
    words = text.replace(PLACEHOLDER, "")
    return Entry(name, Words(words.strip(), joined=words), {"image": media.picture(path)} if path else {})


def _paths(row: Mapping[str, Any], name: str, place: str) -> list[str]:
    return list_of(row, name, place) if row.get(name) is not None else []
