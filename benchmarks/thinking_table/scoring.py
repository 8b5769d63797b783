"""A checkpoint is asked walks and easy questions, at a glance and after a thought; every answer is kept.

Values are hits at 1 of every query, in the order of the pool, so that arms can be compared query by query.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from findings_table.store import pack
from numpy.typing import NDArray

import umekit
from umekit.encoding.encoder import Encoder
from umekit.evaluation.digit_world import TASKS, DigitWorld, Row
from umekit.evaluation.metrics import ranks, similarity

WALKS = 72 * 9 * 3  # every answer at every number of hops three times: 1,296 walks of three hops or more
EASY = ("qa_what", "classify_digit", "classify_colour")
EASY_QUERIES = 700  # of each
SAMPLES = 8
CONTROLLED = 72 * 9  # walks under the controls
SAMPLED = 72 * 9 // 2  # walks that are sampled
MAX_TOKENS = 96
Values = NDArray[np.uint8]
Thought = tuple[str, str]  # and the answer


def rows_of(task: str, count: int) -> list[Row]:
    """Queries of a pool of the test handwriting."""
    return DigitWorld("test").pool(task, count).rows


def hits(queries: NDArray[np.float32], candidates: NDArray[np.float32], rows: list[Row]) -> Values:
    """Whether each row's label is the nearest; ties count against the model."""
    labels = TASKS[rows[0]["task"]].labels
    right = [labels.index(row["positive_id"]) for row in rows]
    return (ranks(similarity(queries, candidates), right) == 1).astype(np.uint8)


class Asked:
    """A checkpoint with the labels' vectors of both modes."""

    def __init__(self, checkpoint: Path, thinks: bool) -> None:
        self.encoder: Encoder = umekit.load(checkpoint, role="generative", device="cpu", dtype=torch.float32)
        self.modes = ("discriminative", "generative") if thinks else ("discriminative",)

    def encode(self, items: list[Any], mode: str, **options: Any) -> Any:
        if mode == "generative":
            options.setdefault("max_new_tokens", None if "thoughts" in options else MAX_TOKENS)
        return self.encoder.encode(items, mode=mode, show_progress=False, **options)

    def labels(self, task: str, mode: str) -> NDArray[np.float32]:
        """float32 [labels, d]."""
        found: NDArray[np.float32] = self.encode([{"text": one} for one in TASKS[task].labels], mode)
        return found

    def values(self, rows: list[Row], mode: str, **options: Any) -> tuple[Values, Any]:
        """Hits at 1, and the details of the encoding."""
        found = self.encode([row["query"] for row in rows], mode, return_details=True, **options)
        return hits(found.embeddings, self.labels(rows[0]["task"], mode), rows), found


def written(row: Row) -> str:
    """What a careful teacher would have written."""
    return f"<think>{row['query_thought']}</think><answer>{row['answer']}<gen_emb>"


def score(checkpoint: Path, thinks: bool, walks: int = WALKS, easy: int = EASY_QUERIES) -> dict[str, Any]:
    """Everything that the table asks of an arm: ``values`` by condition, packed, and means.

    easy: queries of each easy task; 0 for none.
    """
    asked = Asked(checkpoint, thinks)
    rows = rows_of("walk", walks)
    found: dict[str, Any] = {
        "queries": len(rows),
        "hops": pack(np.array([row["steps"] for row in rows], dtype=np.uint8)),
        "values": {},
    }
    for mode in asked.modes:
        values, details = asked.values(rows, mode)
        found["values"][mode] = pack(values)
        if mode == "generative":
            found["thoughts"] = thought_report(rows, details)
        if easy:
            found.setdefault("easy", {})[mode] = {
                task: pack(asked.values(rows_of(task, easy), mode)[0]) for task in EASY
            }
    if thinks:
        few = rows[:CONTROLLED]
        found["given"] = {name: pack(values) for name, values in given_thoughts(asked, few).items()}
        drawn = sampled(asked, rows[:SAMPLED])
        found["any_of_8"] = round(float(drawn.any(axis=1).mean()), 4)
        found["mean_of_8"] = round(float(drawn.mean()), 4)
    else:
        found["blind"] = {name: pack(values) for name, values in blind(asked, rows).items()}
    return found


def thought_report(rows: list[Row], details: Any) -> dict[str, Any]:
    """How thoughts compare to the careful teacher's."""
    own = [text.split("<gen_emb>")[0] for text in details.thoughts]
    exact = np.array([written(row) == f"{text}<gen_emb>" for row, text in zip(rows, own, strict=True)])
    answers = [text.split("<answer>")[-1].strip() for text in own]
    right = np.array([answer == row["answer"] for row, answer in zip(rows, answers, strict=True)])
    cells = np.array([text.split("<answer>")[0].count(" ") + 1 for text in own]) // 3
    hops = np.array([row["steps"] for row in rows])
    wrong: Counter[str] = Counter()
    for row, text in zip(rows, own, strict=True):
        kind = first_difference(row["query_thought"], text)
        if kind:
            wrong[kind] += 1
    return {
        "exact": round(float(exact.mean()), 4),
        "right": round(float(right.mean()), 4),
        "exact_by_hops": {int(h): round(float(exact[hops == h].mean()), 3) for h in np.unique(hops)},
        "hasty": round(float((cells[hops > 0] <= 1).mean()), 4),
        "first_fault": dict(wrong),
        "tokens": round(float(np.mean(details.thought_tokens)), 2),
    }


def first_difference(wanted: str, text: str) -> str | None:
    """The kind of word at which a thought leaves the careful one: ``position``, ``colour``, ``digit``, ``length``."""
    words = text.split("</think>")[0].removeprefix("<think>").split()
    for place, (own, right) in enumerate(zip(words, wanted.split(), strict=False)):
        if own != right:
            return ("position", "colour", "digit")[place % 3]
    return None if len(words) == len(wanted.split()) else "length"


def given_thoughts(asked: Asked, rows: list[Row]) -> dict[str, Values]:
    """Hits with thoughts that the model has not written: the right one, another walk's, dots, and none."""
    right = [written(row) for row in rows]
    dots = [f"<think>{'. ' * len(row['query_thought'].split())}</think><answer>.<gen_emb>" for row in rows]
    empty = ["<think></think><answer><gen_emb>"] * len(rows)
    thoughts = {"gold": right, "another": right[1:] + right[:1], "filler": dots, "empty": empty}
    return {name: asked.values(rows, "generative", thoughts=texts)[0] for name, texts in thoughts.items()}


def sampled(asked: Asked, rows: list[Row]) -> Values:
    """Hits of eight thoughts each, drawn at temperature 1: uint8 [rows, 8]."""
    vectors = asked.encode(
        [row["query"] for row in rows], "generative", num_samples=SAMPLES, reduce=None, seed=0
    )
    labels = asked.labels(rows[0]["task"], "generative")
    return np.stack([hits(vectors[:, sample], labels, rows) for sample in range(SAMPLES)], axis=1)


def blind(asked: Asked, rows: list[Row]) -> dict[str, Values]:
    """Hits of the question without its scene, and of the scene without its question."""
    found = {}
    for name, part in (("question only", "text"), ("image only", "image")):
        items = [{key: row["query"][key] for key in (part, "instruction")} for row in rows[:CONTROLLED]]
        vectors = asked.encode(items, "discriminative")
        found[name] = hits(vectors, asked.labels("walk", "discriminative"), rows[:CONTROLLED])
    return found
