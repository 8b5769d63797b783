"""U-MARVEL's zero-shot sets, in the folders of its (and LamRA's) evaluation.

U-MARVEL ``eval/eval_zeroshot``, ``dataset/datasets_{flickr,sharegpt4v}.py``; LamRA ``dataset/datasets_{urban1k,circo,
msrvtt,msvd}.py``. MSVD's captions, a pickle there, are read from the rows of ``VLM2Vec/MSVD``: nothing is unpickled.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

from ...encoding.inputs.json_records import FormatError
from ...encoding.inputs.mbeir import format_string
from ...encoding.storage.contents import read_object
from .data import BenchmarkData, list_of, text_of
from .definition import Task
from .problem import Candidates, Entry, Problem
from .wording import Words

FLICKR_CAPTIONS = 5  # of a picture
CLIP_FRAMES = 12  # U-MARVEL and LamRA read so many of a clip


# What a set is read from that is no table, below its folder.
FILES = {
    "flickr": ("texts.json",),
    "sharegpt4v": ("captions.json",),
    "urban1k": ("caption",),
    "circo": ("annotations/image_info_unlabeled2017.json", "annotations/val.json"),
}


def read_set(task: Task, data: BenchmarkData) -> Problem:
    """One direction of one set."""
    form = task.form.partition("-")[0]
    files = [f"{task.rows}/{name}" for name in FILES.get(form, ())]
    return replace(_read(task, data), files=files)


def _read(task: Task, data: BenchmarkData) -> Problem:
    form, _, direction = task.form.partition("-")
    if form == "circo":
        return _circo(task, data)
    if form in ("msrvtt", "msvd"):
        return _clips(task, data)
    pairs = PAIRS[form](task, data)
    return _pictures_to_texts(task, pairs) if direction == "i2t" else _texts_to_pictures(task, pairs)


Pairs = list[tuple[str, list[str]]]  # path of a picture, its captions


def _flickr(task: Task, data: BenchmarkData) -> Pairs:
    """``images/<i>.png`` and five captions each, in ``texts.json``."""
    path = data.file(f"{task.rows}/texts.json")
    texts = _texts(read_object(path, FormatError), path)
    if not texts or len(texts) % FLICKR_CAPTIONS:
        raise FormatError(f"{path}: {len(texts)} captions are not five for each picture")
    media = data.media(task)
    groups = [texts[at : at + FLICKR_CAPTIONS] for at in range(0, len(texts), FLICKR_CAPTIONS)]
    return [
        (media.picture(f"images/{number}.png"), [format_string(text) for text in group])
        for number, group in enumerate(groups)
    ]


def _sharegpt4v(task: Task, data: BenchmarkData) -> Pairs:
    """``captions.json``: objects with ``image_name`` and ``caption``; ``images/<image_name>``."""
    path = data.file(f"{task.rows}/captions.json")
    media, found = data.media(task), []
    for number, row in enumerate(_objects(read_object(path, FormatError), path)):
        place = f"{path.name} entry {number}"
        found.append(
            (media.picture(f"images/{text_of(row, 'image_name', place)}"), [text_of(row, "caption", place)])
        )
    return found


def _urban(task: Task, data: BenchmarkData) -> Pairs:
    """``image/<i>.jpg`` and the first line of ``caption/<i>.txt``, from 1."""
    media, found = data.media(task), []
    folder = data.file(f"{task.rows}/caption")
    for path in sorted(folder.glob("*.txt"), key=lambda one: (len(one.stem), one.stem)):
        lines = path.read_text(encoding="utf-8").splitlines()
        if not lines or not lines[0].strip():
            raise FormatError(f"{path} has no caption in its first line")
        found.append((media.picture(f"image/{path.stem}.jpg"), [lines[0].strip()]))
    return found


PAIRS: dict[str, Callable[[Task, BenchmarkData], Pairs]] = {
    "flickr": _flickr,
    "sharegpt4v": _sharegpt4v,
    "urban1k": _urban,
}


def _texts_to_pictures(task: Task, pairs: Pairs) -> Problem:
    candidates = Candidates()
    queries: list[Entry] = []
    relevant: list[dict[int, float]] = []
    for picture, captions in pairs:
        at = candidates.add(_shown(picture))
        for caption in captions:
            queries.append(Entry(f"{len(queries)}", _asked(task, caption)))
            relevant.append({at: 1.0})
    return Problem(task, queries, candidates.entries, relevant)


def _pictures_to_texts(task: Task, pairs: Pairs) -> Problem:
    candidates = Candidates()
    queries: list[Entry] = []
    relevant: list[dict[int, float]] = []
    for picture, captions in pairs:
        queries.append(Entry(picture, _asked(task, ""), {"image": picture}))
        places = [candidates.add(_said(text)) for text in captions]
        relevant.append(dict.fromkeys(places, 1.0))
    return Problem(task, queries, candidates.entries, relevant)


def _circo(task: Task, data: BenchmarkData) -> Problem:
    """``annotations/{val,image_info_unlabeled2017}.json``, ``images/<file_name>``; several pictures are right."""
    media, root = data.media(task), f"{task.rows}/annotations"
    info = data.file(f"{root}/image_info_unlabeled2017.json")
    block = read_object(info, FormatError)
    if not isinstance(block, dict):
        raise FormatError(f"{info} is not an object with 'images'")
    candidates, paths = Candidates(), {}
    for number, row in enumerate(_objects(block.get("images"), info)):
        name = text_of(row, "id", f"{info.name} image {number}")
        paths[name] = media.picture(f"images/{text_of(row, 'file_name', f'{info.name} image {number}')}")
        candidates.add(Entry(name, Words(), {"image": paths[name]}))
    queries: list[Entry] = []
    relevant: list[dict[int, float]] = []
    asked = data.file(f"{root}/val.json")
    for number, row in enumerate(_objects(read_object(asked, FormatError), asked)):
        place = f"{asked.name} entry {number}"
        reference = text_of(row, "reference_img_id", place)
        right = [str(one) for one in row.get("gt_img_ids") or []]
        if not right or text_of(row, "target_img_id", place) != right[0]:
            raise FormatError(f"{place}: 'target_img_id' is not the first of 'gt_img_ids'")
        if unknown := [one for one in (reference, *right) if one not in paths]:
            raise FormatError(f"{place}: there is no picture {unknown[0]}")
        words = _asked(task, text_of(row, "relative_caption", place))
        queries.append(Entry(text_of(row, "id", place), words, {"image": paths[reference]}))
        relevant.append({int(candidates.place(one) or 0): 1.0 for one in right})
    return Problem(task, queries, candidates.entries, relevant)


def _clips(task: Task, data: BenchmarkData) -> Problem:
    """Rows with ``video_id`` and ``caption``, one or many; clips by name, as frames or whole."""
    media = data.media(task)
    media.clips = media.root
    candidates = Candidates()
    queries: list[Entry] = []
    relevant: list[dict[int, float]] = []
    for place, row in data.rows(task):
        name = PurePosixPath(text_of(row, "video_id", place)).name
        shown = {"video": media.video(name, CLIP_FRAMES)}
        at = candidates.add(Entry(name, Words(), shown))
        captions = list_of(row, "sentence" if "sentence" in row else "caption", place)
        for caption in captions if task.form == "msvd" else captions[:1]:
            queries.append(Entry(f"{len(queries)}", _asked(task, caption)))
            relevant.append({at: 1.0})
    return Problem(task, queries, candidates.entries, relevant)


def _asked(task: Task, text: str) -> Words:
    return Words(text, str(task.options["instruction"]))


def _shown(picture: str) -> Entry:
    return Entry(picture, Words(), {"image": picture})


def _said(text: str) -> Entry:
    return Entry(text, Words(text))


def _texts(value: Any, path: Path) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        raise FormatError(f"{path} is no list of texts")
    return value


def _objects(value: Any, path: Path) -> Iterable[dict[str, Any]]:
    if not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
        raise FormatError(f"{path}: not a list of objects")
    return value
