"""M-BEIR: 16 tasks over ten data sets, each in its own pool or in the union of all.

UniIR ``src/common/mbeir_retriever.py``, ``src/data/mbeir_dataset.py``. Notable: the official loaders draw one of four
instructions at random also when they evaluate; here it is the first, or one that is named.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ...encoding.inputs.json_records import FormatError
from ...encoding.inputs.mbeir import format_string, read_instructions
from ...encoding.inputs.records import open_records
from .data import BenchmarkData, Rows, list_of, text_of
from .definition import Benchmark, Task
from .media import Media
from .problem import Candidates, Entry, Problem, ProblemError
from .wording import Words

IMAGES = "mbeir_images/"  # the folder of media, which rows name, too
OWN_DATASET_ONLY = ("oven", "infoseek")  # whose positives of other data sets do not count


def read_task(benchmark: Benchmark, task: Task, data: BenchmarkData, pool: str, prompt: str) -> Problem:
    """A task in its own pool (``local``) or in the union (``global``).

    Args:
        prompt: ``first``, or the number of a paraphrase from 1.
    """
    options = {**benchmark.options, **task.options}
    media = data.media(task)
    prompts = read_instructions(data.file(options["instructions"]))
    candidates, modalities = Candidates(), []
    name = options["pool_file"] if pool == "local" else options["global_pool"]
    for place, row in _file(data, name):
        did = text_of(row, "did", place)
        if candidates.place(did) is not None:
            raise FormatError(f"{place}: did {did!r} is there twice")
        candidates.add(_candidate(row, did, media, place))
        modalities.append(text_of(row, "modality", place))
    qrels = _qrels(data, options["qrels"])
    wanted = str(options["wanted"])
    queries: list[Entry] = []
    relevant: list[dict[int, float]] = []
    for place, row in _file(data, task.rows):
        qid = text_of(row, "qid", place)
        right = qrels.get(qid) or list_of(row, "pos_cand_list", place)
        if task.name.partition("_")[0] in OWN_DATASET_ONLY:
            right = [did for did in right if did.partition(":")[0] == qid.partition(":")[0]]
        places = {did: candidates.place(did) for did in right}
        if missing := [did for did, at in places.items() if at is None]:
            raise FormatError(f"{place}: {missing[0]!r} is relevant and not in the pool {name}")
        if not places:
            raise ProblemError(f"{place}: query {qid} has no relevant candidate")
        queries.append(_query(row, qid, wanted, prompts, prompt, media, place))
        relevant.append({int(at): 1.0 for at in places.values() if at is not None})
    files = (options["instructions"], name, options["qrels"])
    own = task if pool == "local" else replace(task, candidates=None)  # the number is that of its own pool
    return Problem(own, queries, candidates.entries, relevant, None, wanted, modalities, files=files)


def _query(
    row: Mapping[str, Any],
    qid: str,
    wanted: str,
    prompts: Mapping[tuple[str, str, str], list[str]],
    prompt: str,
    media: Media,
    place: str,
) -> Entry:
    key = (qid.partition(":")[0], text_of(row, "query_modality", place), wanted)
    if key not in prompts:
        raise FormatError(f"{place}: no instruction for data set {key[0]}, {key[1]} -> {key[2]}")
    number = 0 if prompt == "first" else int(prompt) - 1
    if not 0 <= number < len(prompts[key]):
        raise ProblemError(f"{place}: there are {len(prompts[key])} instructions, and prompt is {prompt}")
    instruction, text = prompts[key][number], text_of(row, "query_txt", place, "")
    joined = format_string(f"{instruction} {text}")
    return Entry(
        qid,
        Words(joined[len(instruction) :].strip(), instruction, joined),
        _image(row, "query_img_path", media),
    )


def _candidate(row: Mapping[str, Any], did: str, media: Media, place: str) -> Entry:
    text = format_string(text_of(row, "txt", place, ""))
    shown = _image(row, "img_path", media)
    if not text and not shown:
        raise FormatError(f"{place}: candidate {did!r} has neither text nor image")
    return Entry(did, Words(text, joined=text), shown)


def _image(row: Mapping[str, Any], name: str, media: Media) -> dict[str, Any]:
    path = row.get(name)
    return {"image": media.picture(str(path).removeprefix(IMAGES))} if path else {}


def _file(data: BenchmarkData, name: str) -> Rows:
    path = data.file(name)
    return Rows(open_records(path), path.name)


def _qrels(data: BenchmarkData, name: str) -> dict[str, list[str]]:
    """``qid 0 did rel task_id``: what is relevant."""
    found: dict[str, list[str]] = {}
    path = data.file(name)
    with path.open(encoding="utf-8") as handle:
        for number, line in enumerate(handle, start=1):
            columns = line.split()
            if not columns:
                continue
            if len(columns) != 5 or not columns[3].isdigit():
                raise FormatError(f"{path.name}:{number}: not 'qid 0 did rel task_id': {line.strip()[:80]!r}")
            if int(columns[3]) > 0:
                found.setdefault(columns[0], []).append(columns[2])
    return found
