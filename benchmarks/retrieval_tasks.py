"""Retrieval tasks of ``evaluation.py``: pinned by a seed, as a problem of ours and as a task of mteb.

Captions are of 8 to 512 tokens and pictures of 64 to 768 pixels a side, both log-uniform as in ``encode.py``:
benchmarks of retrieval have tags (Fashion200K) as well as paragraphs (ShareGPT4V, Urban-1K). A reference picture of a
composed query is asked about twice, as in CIRR and FashionIQ, and stands in the corpus, too.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import mteb
import numpy as np
from datasets import Dataset, Features, Value
from datasets import Image as ImageFeature
from encode_items import make_image, make_text
from mteb.abstasks.retrieval import AbsTaskRetrieval
from mteb.abstasks.task_metadata import TaskMetadata

from umekit.evaluation.benchmarks.definition import load_benchmark
from umekit.evaluation.benchmarks.problem import Candidates, Entry, Problem
from umekit.evaluation.benchmarks.wording import Words
from umekit.processing.processor import UmeProcessor

COLOURS = ("red", "green", "blue", "yellow", "white", "black")
ASKED_ABOUT = 2  # queries that show one reference picture


def captions(folder: Path, number: int, processor: UmeProcessor) -> Problem:
    """Captions, short and long, each of which looks for its picture."""
    rng = np.random.default_rng(0)
    queries = [Entry(f"{index}", Words(make_text(rng, processor)[0])) for index in range(number)]
    return _problem(queries, _corpus(folder, number, rng))


def tags(folder: Path, number: int, _: UmeProcessor) -> Problem:
    """A few words each, all nearly equally long: nothing is padded and nothing shared, so there is least to gain."""
    rng = np.random.default_rng(1)
    words = [" ".join(rng.choice(COLOURS, int(rng.integers(2, 12)))) for _ in range(number)]
    queries = [Entry(f"{index}", Words(f"{text} number {index}")) for index, text in enumerate(words)]
    return _problem(queries, _corpus(folder, number, rng))


def composed(folder: Path, number: int, processor: UmeProcessor) -> Problem:
    """A picture of the corpus and how the wanted one differs from it."""
    rng = np.random.default_rng(2)
    corpus = _corpus(folder, number, rng)
    queries = [
        Entry(f"{index}", Words(make_text(rng, processor)[0]), corpus.entries[index // ASKED_ABOUT].media)
        for index in range(number)
    ]
    return _problem(queries, corpus)


TASKS: dict[str, Callable[[Path, int, UmeProcessor], Problem]] = {
    "captions": captions,
    "composed": composed,
    "tags": tags,
}


def _corpus(folder: Path, number: int, rng: np.random.Generator) -> Candidates:
    folder.mkdir()
    candidates = Candidates()
    for index in range(number):
        item, _ = make_image(folder / f"{index}.jpg", rng)
        candidates.add(Entry(f"{index}", Words(), item))
    return candidates


def _problem(queries: list[Entry], corpus: Candidates) -> Problem:
    task = load_benchmark("zero-shot").chosen(["ShareGPT4V_t2i"])[0]
    return Problem(task, queries, corpus.entries, [{index: 1.0} for index in range(len(queries))])


def mteb_task(problem: Problem) -> Any:
    """The same task as one of mteb."""
    shown = bool(problem.queries[0].media)

    class Same(AbsTaskRetrieval):  # type: ignore[misc]
        metadata = TaskMetadata(
            name="SameRetrieval",
            description="The same queries look for the same pictures.",
            dataset={"path": "nobody/nothing", "revision": "1"},
            type="Any2AnyRetrieval",
            category="it2i" if shown else "t2i",
            modalities=["text", "image"],
            eval_splits=["test"],
            eval_langs=["eng-Latn"],
            main_score="ndcg_at_10",
        )

        def load_data(self, *_: Any, **__: Any) -> None:
            right = {query.name: {query.name: 1} for query in problem.queries}
            sides = {"corpus": _rows(problem.candidates), "queries": _rows(problem.queries)}
            split: Any = {**sides, "relevant_docs": right, "top_ranked": None}
            self.dataset = {"default": {"test": split}}
            self.data_loaded = True

    return Same()


def _rows(entries: list[Entry]) -> Dataset:
    columns: dict[str, list[Any]] = {"id": [entry.name for entry in entries]}
    features: dict[str, Any] = {"id": Value("string")}
    if entries[0].media:
        columns["image"] = [entry.media["image"] for entry in entries]
        features["image"] = ImageFeature()
    if entries[0].words.text:
        columns["text"] = [entry.words.text for entry in entries]
        features["text"] = Value("string")
    return Dataset.from_dict(columns, features=Features(features))


def score_of(result: Any) -> float:
    """mteb's main score of the one task that was run."""
    assert isinstance(result, mteb.results.ModelResult)
    return float(result.task_results[0].get_score())
