"""MMEB-V2's video tasks: classification, questions, retrieval and moments, from folders of frames.

VLM2Vec ``src/data/eval_dataset/{video_classification,ssv2,mvbench,nextqa,egoschema,videomme,activitynetqa,msrvtt,msvd,
didemo,youcook2,vatex,moment_retrieval,momentseeker}*.py``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from ...encoding.inputs.json_records import FormatError
from .data import BenchmarkData, list_of, text_of
from .definition import DEFINITIONS, Task
from .media import Media
from .problem import Candidates, Entry, Problem
from .wording import Words, join

MVBENCH = (
    "episodic_reasoning", "action_sequence", "action_prediction", "action_antonym", "fine_grained_action",
    "unexpected_action", "object_existence", "object_interaction", "object_shuffle", "moving_direction",
    "action_localization", "scene_transition", "action_count", "moving_count", "moving_attribute", "state_change",
    "fine_grained_pose", "character_order", "egocentric_navigation", "counterfactual_inference",
)  # fmt: skip


def read_classification(task: Task, data: BenchmarkData) -> Problem:
    """Columns ``video_id, pos_text`` and, in a local pool, ``neg_text[]``; else all labels are candidates."""
    media, candidates = data.media(task), Candidates()
    instruction, first = str(task.options["instruction"]), task.options.get("first")
    queries: list[Entry] = []
    right: list[int] = []
    pools: list[np.ndarray] = []
    for place, row in data.rows(task):
        if first is not None and len(queries) == first:
            break
        name, label = text_of(row, "video_id", place), text_of(row, "pos_text", place)
        words = Words("", instruction.strip(), join(instruction, "", after_media=True))
        queries.append(Entry(f"{len(queries)}", words, _video(media, name, task)))
        if task.pool == "local":
            labels = list_of(row, "neg_text", place)
            pools.append(candidates.pool(_text(one) for one in dict.fromkeys([*labels, label])))
        right.append(candidates.add(_text(label)))
    if task.pool == "global":
        for label in labels_of(str(task.options["labels"])):
            candidates.add(_text(label))
    relevant = [{one: 1.0} for one in right]
    return Problem(task, queries, candidates.entries, relevant, pools or None)


def read_questions(task: Task, data: BenchmarkData) -> Problem:
    """A question with its options in the text; candidates are the options."""
    read = QUESTIONS[task.form]
    media, candidates = data.media(task), Candidates()
    queries: list[Entry] = []
    relevant: list[dict[int, float]] = []
    pools: list[np.ndarray] = []
    parts = MVBENCH if task.form == "mvbench" else ("",)
    instruction = str(task.options["instruction"])
    for part in parts:
        for place, row in data.rows(task, part):
            video, text, options, answer = read({**row, "subset": row.get("subset") or part}, place)
            pool = candidates.pool(_text(one) for one in options)
            found = candidates.place(answer)
            if found is None:
                raise FormatError(f"{place}: the answer {answer!r} is none of the options")
            words = Words(text, instruction.strip(), f" {instruction} {text}")
            queries.append(Entry(f"{len(queries)}", words, _video(media, video, task)))
            relevant.append({found: 1.0})
            pools.append(pool)
    return Problem(task, queries, candidates.entries, relevant, pools)


def read_retrieval(task: Task, data: BenchmarkData) -> Problem:
    """A caption finds its video among all; the columns are those that the definition names."""
    media, candidates = data.media(task), Candidates()
    instruction, target = str(task.options["instruction"]), str(task.options["target_instruction"])
    id_column, text_column = task.options["columns"]
    queries: list[Entry] = []
    relevant: list[dict[int, float]] = []
    for place, row in data.rows(task):
        name = text_of(row, id_column, place)
        if id_column == "video":  # DiDeMo's is a path
            name = PurePosixPath(name).stem
        caption = list_of(row, text_column, place)[0]
        words = Words("", target, join(target, "", after_media=True))
        place_of = candidates.add(Entry(name, words, _video(media, name, task)))
        queries.append(Entry(f"{len(queries)}", Words(caption, instruction, join(instruction, caption))))
        relevant.append({place_of: 1.0})
    return Problem(task, queries, candidates.entries, relevant)


def read_moments(task: Task, data: BenchmarkData) -> Problem:
    """A sentence (and what it is said of) finds a moment among clips of the same video."""
    read = _listed_moments if task.form == "listed" else _moment_folders
    media, candidates = data.media(task), Candidates()
    target = str(task.options["target_instruction"])
    clip = Words("", target, join(target, "", after_media=True))
    queries: list[Entry] = []
    relevant: list[dict[int, float]] = []
    pools: list[np.ndarray] = []
    for place, row in data.rows(task):
        query, good, bad = read(task, media, row, place)
        entries = {name: Entry(name, clip, _video(media, name, task)) for name in (*good, *bad)}
        pools.append(candidates.pool(entries.values()))
        relevant.append({candidates.add(entries[name]): 1.0 for name in good})
        queries.append(Entry(f"{len(queries)}", *query))
    return Problem(task, queries, candidates.entries, relevant, pools)


@cache
def labels_of(name: str) -> tuple[str, ...]:
    """All labels of a data set, which are its candidates whether a row has them or not."""
    block = json.loads((DEFINITIONS / "video_labels.json").read_text(encoding="utf-8"))
    return tuple(block["labels"][name])


# ---- questions: video, text with options, candidates, answer ------------------------------------------------------


def options_text(question: str, options: Iterable[str]) -> tuple[str, list[str]]:
    """VLM2Vec's ``qa_template``: a question and its lettered options; and these alone."""
    lettered = [f"({chr(ord('A') + number)}) {option}" for number, option in enumerate(options)]
    return f"{question}\nOptions:\n" + "\n".join(lettered), lettered


def _mvbench(row: Mapping[str, Any], place: str) -> tuple[str, str, list[str], str]:
    options, answer = list_of(row, "candidates", place), text_of(row, "answer", place)
    if answer not in options:
        raise FormatError(f"{place}: the answer {answer!r} is none of the options")
    text, lettered = options_text(text_of(row, "question", place), options)
    video = f"{text_of(row, 'subset', place)}/{text_of(row, 'video', place)}"
    return video, text.rstrip(), lettered, lettered[options.index(answer)]


def _nextqa(row: Mapping[str, Any], place: str) -> tuple[str, str, list[str], str]:
    options = [text_of(row, f"a{number}", place) for number in range(5)]
    text, _ = options_text(text_of(row, "question", place), options)
    return text_of(row, "video", place), text.rstrip(), options, options[_number(row, place, 5)]


def _egoschema(row: Mapping[str, Any], place: str) -> tuple[str, str, list[str], str]:
    options = list_of(row, "option", place)
    text = text_of(row, "question", place) + " ".join(options)
    bare = [_without_letter(option) for option in options]
    return text_of(row, "video_idx", place), text, bare, bare[_number(row, place, len(bare))]


def _video_mme(row: Mapping[str, Any], place: str) -> tuple[str, str, list[str], str]:
    options = list_of(row, "options", place)
    text = text_of(row, "question", place) + "\n" + "\n".join(options)
    letter = text_of(row, "answer", place)
    if letter not in "ABCD"[: len(options)]:
        raise FormatError(f"{place}: the answer {letter!r} is no letter of an option")
    bare = [_without_letter(option) for option in options]
    return text_of(row, "videoID", place), text, bare, bare["ABCD".index(letter)]


def _activitynet(row: Mapping[str, Any], place: str) -> tuple[str, str, list[str], str]:
    text = text_of(row, "question", place) + "? (A) yes; (B) no."
    return f"v_{text_of(row, 'video_name', place)}", text, ["yes", "no"], text_of(row, "answer", place)


QUESTIONS: dict[str, Callable[[Mapping[str, Any], str], tuple[str, str, list[str], str]]] = {
    "mvbench": _mvbench,
    "nextqa": _nextqa,
    "egoschema": _egoschema,
    "video-mme": _video_mme,
    "activitynetqa": _activitynet,
}


def _without_letter(option: str) -> str:
    """``A. a dog.`` -> ``a dog``."""
    return option[option.find(". ") :].strip(". ")


def _number(row: Mapping[str, Any], place: str, count: int) -> int:
    text = text_of(row, "answer", place)
    if not text.isdigit() or int(text) >= count:
        raise FormatError(f"{place}: the answer {text!r} is no number of an option")
    return int(text)


# ---- moments: query, right clips, wrong clips ---------------------------------------------------------------------

Moment = tuple[tuple[Words, dict[str, Any]], list[str], list[str]]


def _moment_folders(task: Task, media: Media, row: Mapping[str, Any], place: str) -> Moment:
    """``<video>/query``, ``<video>/positive*``, and everything else is wrong (QVHighlight, Charades-STA)."""
    text, instruction = text_of(row, "query", place), str(task.options["instruction"])
    name = PurePosixPath(text_of(row, "video_path", place)).stem
    clips = [one for one in media.folders(name) if one != f"{name}/query"]
    good = [one for one in clips if PurePosixPath(one).name.startswith("positive")]
    if not good:
        raise FormatError(f"{place}: no folder positive* in {name}")
    words = Words(text, instruction, join(instruction, text, after_media=True))
    query = (words, _video(media, f"{name}/query", task))
    return query, good, [one for one in clips if one not in good]


def _listed_moments(task: Task, media: Media, row: Mapping[str, Any], place: str) -> Moment:
    """``positive_frames[].output_path``, ``negative_frames[]``, ``input_frames``: a clip, a picture or nothing."""
    text, source = text_of(row, "query", place), text_of(row, "input_frames", place, "")
    shown: dict[str, Any] = {}
    kind = "instruction"
    if source.endswith(".mp4"):
        shown, kind = _video(media, f"video_frames/{_flat(source)}", task), "video_instruction"
    elif source.endswith(".jpg"):
        shown, kind = {"image": media.picture(f"query_{source}")}, "image_instruction"
    instruction = str(task.options[kind])
    good, bad = (
        [f"video_frames/{_flat(path)}" for path in _clips(row, name, place)]
        for name in ("positive", "negative")
    )
    return (Words(text, instruction, join(instruction, text, after_media=bool(shown))), shown), good, bad


def _clips(row: Mapping[str, Any], which: str, place: str) -> list[str]:
    found = row.get(f"{which}_frames")
    if not isinstance(found, (list, tuple)) or not all(isinstance(one, Mapping) for one in found):
        raise FormatError(f"{place}: '{which}_frames' is no list of objects")
    return [text_of(one, "output_path", place) for one in found]


def _flat(path: str) -> str:
    return path.replace("/", "_").split(".mp4")[0]


def _video(media: Media, name: str, task: Task) -> dict[str, Any]:
    return {"video": media.video(name, int(task.options["frames"]))}


def _text(label: str) -> Entry:
    return Entry(label, Words(label, joined=label))
