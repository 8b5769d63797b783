"""M-BEIR (UniIR): queries by line, a pool of candidates by ``did``, instructions in four paraphrases.

The official loaders draw prompt and positive with ``random.choice`` from the process-wide state; here the choice is a
function of (seed, qid). UniIR ``src/data/mbeir_dataset.py``, ``src/data/preprocessing/utils.py``.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from ...encoding.inputs.json_records import FormatError
from ...encoding.inputs.mbeir import DATASETS, TASKS, format_string, read_instructions
from ...encoding.inputs.media_root import MediaRoot, media_root
from ..hashing import text_hash
from .records import FormatRows, Records, open_records

CHOICES = ("first", "random")


def read_mbeir(
    queries: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    pool: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    instructions: str | os.PathLike[str] | None = None,
    *,
    media: str | os.PathLike[str] | MediaRoot | None = None,
    prompt: str = "random",
    positive: str = "random",
    negatives: int = 0,
    seed: int = 0,
) -> FormatRows:
    """Rows of M-BEIR's training files.

    A query's text and its instruction are, joined by a blank, what the official loader makes of them with
    ``format_string``. The positive's ``did`` is the ``positive_id``, all of ``pos_cand_list`` are ``positive_ids`` (so
    that mining takes none of them for a negative), the ``qid`` is the ``query_id``; ``dataset`` is ``mscoco_task0`` and
    the like.

    Args:
        queries: ``query/train/mbeir_*_train.jsonl``, or the union.
        pool: ``cand_pool/...jsonl`` with all candidates that they name; 16 bytes of memory each.
        instructions: ``instructions/query_instructions.tsv``; None leaves queries without.
        media: the folder of M-BEIR, to which image paths are relative.
        prompt: ``first`` paraphrase, or ``random`` by (seed, qid).
        positive: ``first`` of ``pos_cand_list``, or ``random`` by (seed, qid) (U-MARVEL, section 2.4).
        negatives: at most so many of ``neg_cand_list``, from the start; one that is in ``pos_cand_list`` is left out.
        seed: of both choices.

    Raises:
        FormatError: a file that is not as said, a ``did`` twice in the pool; and (from ``rows[i]``) a candidate
            that is not in the pool, or no instruction for a query's modalities. Names file and row.
    """
    for name, choice in (("prompt", prompt), ("positive", positive)):
        if choice not in CHOICES:
            raise ValueError(f"{name} is {choice!r}; use one of {', '.join(CHOICES)}")
    records = open_records(queries)
    if media is None:
        raise ValueError("media: give the folder of M-BEIR, to which its image paths are relative")
    root = media_root(media, records.root)
    prompts = None if instructions is None else read_instructions(instructions)
    candidates = _Pool(open_records(pool))
    return FormatRows(
        records,
        root,
        partial(_row, candidates, prompts, prompt == "random", positive == "random", negatives, seed),
    )


class _Pool:
    """Candidates by ``did``: hashes and record numbers, sorted."""

    def __init__(self, records: Records) -> None:
        self.records = records
        hashes = np.empty(len(records), dtype=np.int64)
        for number in range(len(records)):
            did = records[number].get("did")
            if not isinstance(did, str):
                raise FormatError(f"{records.place(number)}: no 'did'")
            hashes[number] = text_hash(did)
        self.order = np.argsort(hashes, kind="stable")
        self.hashes = hashes[self.order]
        twice = np.flatnonzero(self.hashes[1:] == self.hashes[:-1])
        if len(twice):
            first, second = (int(self.order[twice[0] + step]) for step in (0, 1))
            raise FormatError(
                f"{records.place(second)}: did {records[second]['did']!r} stands at {records.place(first)} already"
            )

    def __getitem__(self, did: str) -> Mapping[str, Any]:
        place = int(np.searchsorted(self.hashes, text_hash(did)))
        if place < len(self.hashes):
            record = self.records[int(self.order[place])]
            if record["did"] == did:
                return record
        raise ValueError(f"candidate {did!r} is not in the pool")


def _row(
    pool: _Pool,
    prompts: Mapping[tuple[str, str, str], list[str]] | None,
    any_prompt: bool,
    any_positive: bool,
    negatives: int,
    seed: int,
    media: MediaRoot,
    record: Mapping[str, Any],
    _number: int,
) -> dict[str, Any]:
    qid, dids = str(record["qid"]), record.get("pos_cand_list") or []
    if not dids:
        raise ValueError(f"query {qid} has no pos_cand_list")
    did = dids[_draw(seed, "positive", qid, len(dids)) if any_positive else 0]
    candidate = pool[did]
    number, modality = qid.split(":")[0], record.get("query_modality")
    item: dict[str, Any] = {}
    if record.get("query_img_path"):
        item["image"] = media.find(record["query_img_path"])
    text = format_string(record.get("query_txt"))
    if prompts is not None:
        key = (number, str(modality), str(candidate.get("modality")))
        if key not in prompts:
            raise ValueError(f"query {qid}: no instruction for data set {key[0]}, {key[1]} -> {key[2]}")
        choice = prompts[key][_draw(seed, "prompt", qid, len(prompts[key])) if any_prompt else 0]
        text = format_string(f"{choice} {record.get('query_txt') or ''}")[len(choice) :].strip()
        item["instruction"] = choice
    if text:
        item["text"] = text
    wrong = [one for one in record.get("neg_cand_list") or [] if one not in dids]
    task = TASKS.get((str(modality), str(candidate.get("modality"))))
    row: dict[str, Any] = {
        "query": item,
        "positive": _candidate(candidate, media),
        "negatives": [_candidate(pool[one], media) for one in wrong[:negatives]],
        "positive_id": did,
        "positive_ids": list(dids),
        "query_id": qid,
    }
    if task is not None and number.isdigit() and int(number) < len(DATASETS):
        row["dataset"] = f"{DATASETS[int(number)]}_task{task}"
    return row


def _candidate(record: Mapping[str, Any], media: MediaRoot) -> dict[str, Any]:
    item: dict[str, Any] = {}
    if record.get("img_path"):
        item["image"] = media.find(record["img_path"])
    if text := format_string(record.get("txt")):
        item["text"] = text
    if not item:
        raise ValueError(f"candidate {record['did']!r} has neither text nor image")
    return item


def _draw(seed: int, what: str, qid: str, count: int) -> int:
    return text_hash(f"{seed} {what} {qid}") % count
