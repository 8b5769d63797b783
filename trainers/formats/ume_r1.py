"""UME-R1's cold-start data (``zhibinlan/UME-sft-train``): pairs of conversations with a thought on either side.

A record has ``qry`` and ``pos``, each with ``conversations`` (a ``human`` and a ``gpt`` turn) and the paths of its
media, and ``dataset_name``. The human turn is ``<image>`` marks, the task's text, ``<disc_emb>`` and the fixed request
to think; the last two belong to the prompt and are cut off. The answer is
``<think>...</think><answer>...<gen_emb>``, with or without ``</answer>``. The layout is known from descendants'
readers (``systems.md`` has the evidence); a text-only side names ``blank.jpg``, which is left out.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import PurePosixPath
from typing import Any

from ...encoding.inputs.media_root import MediaRoot, media_root
from .records import FormatRows, given, open_records

BLANK = "blank.jpg"
DISC = "<disc_emb>"
_MARKS = re.compile(r"<image>|<video>")
_ANSWER = re.compile(
    r"\s*<think>(?P<thought>.*?)</think>\s*<answer>(?P<answer>.*?)(?:</answer>)?\s*<gen_emb>\s*(?:</answer>)?\s*",
    re.DOTALL,
)
_SPEAKERS = {"human": "human", "user": "human", "gpt": "gpt", "assistant": "gpt"}


def read_ume_r1(
    where: Any, *, media: str | os.PathLike[str] | MediaRoot | None = None, task: str | None = None
) -> FormatRows:
    """Rows with ``query_thought``, ``answer`` (the query's summary), ``positive_thought`` and ``positive_answer``.

    Args:
        where: the json (an array) or jsonl; an array is scanned once for its offsets and never held in memory.
        media: the folder of MMEB-train's images; None is the folder of the file.
        task: given to every row.

    Raises:
        FormatError: (from ``rows[i]``) a side without both turns, or an answer in another form; names file and row.
    """
    records = open_records(where)
    root = media_root(media, records.root)
    return FormatRows(records, root, partial(_row, task))


def _row(task: str | None, media: MediaRoot, record: Mapping[str, Any], _number: int) -> dict[str, Any]:
    query, thought, answer, _ = _side(record, "qry", media)
    positive, positive_thought, positive_answer, name = _side(record, "pos", media)
    row: dict[str, Any] = {
        "query": query,
        "positive": positive,
        "negatives": [],
        "query_thought": thought,
        "answer": answer,
        "positive_thought": positive_thought,
        "positive_answer": positive_answer,
    }
    return row | given(positive_id=name, dataset=record.get("dataset_name"), task=task)


def _side(record: Mapping[str, Any], key: str, media: MediaRoot) -> tuple[Any, str, str, str | None]:
    """Item, thought, answer, and what tells an item with media from others."""
    side = record.get(key)
    if not isinstance(side, Mapping) or not isinstance(side.get("conversations"), Sequence):
        raise ValueError(f"no {key!r} with 'conversations'")
    turns = [_turn(turn, key) for turn in side["conversations"]]
    spoken = [turn for turn in turns if turn[0] != "system"]
    if [speaker for speaker, _ in spoken] != ["human", "gpt"]:
        raise ValueError(f"{key!r}: a human and a gpt turn are expected, not {[who for who, _ in turns]}")
    found = _ANSWER.fullmatch(spoken[1][1])
    if found is None:
        raise ValueError(
            f"{key!r}: the answer is not <think>...</think><answer>...<gen_emb>: {spoken[1][1][:80]!r}"
        )
    text = _MARKS.sub("", spoken[0][1].rpartition(DISC)[0] if DISC in spoken[0][1] else spoken[0][1]).strip()
    item: dict[str, Any] = {}
    names: list[str] = []
    images = _paths(side, "image")
    if images:
        item["image" if len(images) == 1 else "images"] = media.find(
            images[0] if len(images) == 1 else images
        )
    videos = _paths(side, "video")
    if len(videos) > 1:
        raise ValueError(f"{key!r}: {len(videos)} videos; an item has one")
    if videos:
        item["video"] = media.find(videos[0])
    names += images + videos
    if text:
        item["text"] = text
    if not item:
        raise ValueError(f"{key!r}: neither text nor media")
    name = " ".join([*names, text]).strip() if names else None
    return (text if set(item) == {"text"} else item), found["thought"].strip(), found["answer"].strip(), name


def _turn(turn: Any, key: str) -> tuple[str, str]:
    if not isinstance(turn, Mapping):
        raise TypeError(f"{key!r}: a turn is an object, not a {type(turn).__name__}")
    speaker = turn.get("from", turn.get("role"))
    said = turn.get("value", turn.get("content"))
    if not isinstance(speaker, str) or not isinstance(said, str):
        raise ValueError(f"{key!r}: a turn without 'from' and 'value'")
    return _SPEAKERS.get(speaker, speaker), said


def _paths(side: Mapping[str, Any], kind: str) -> list[str]:
    found: list[str] = []
    for name in (kind, f"{kind}s"):
        value = side.get(name)
        found += [value] if isinstance(value, str) else list(value or [])
    return [path for path in found if path and PurePosixPath(path).name != BLANK]
