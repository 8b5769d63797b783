"""A benchmark run against ``umekit encode`` of the same items, and against mteb's loop on the same retrieval task.

    python benchmarks/evaluation.py --out benchmarks/results/evaluation.json

Texts look for pictures, with ume-tiny. Arms take turns in one process: what a run of ``umekit evaluate`` encodes (keys,
plan, shards), ``encode_shards`` of the same items alone, the whole run with ranking, and ``mteb.evaluate`` with mteb's
own wrapper around the same folder in sentence-transformers. All read the same files of pictures.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import mteb
import numpy as np
from datasets import Dataset, Features, Value
from datasets import Image as ImageFeature
from measuring import machine, rounds
from mteb.abstasks.retrieval import AbsTaskRetrieval
from mteb.abstasks.task_metadata import TaskMetadata
from mteb.models import SentenceTransformerEncoderWrapper
from PIL import Image

import umekit
from umekit.encoding.loading import packaged_model
from umekit.encoding.shards.run import encode_shards
from umekit.evaluation.benchmarks.definition import load_benchmark
from umekit.evaluation.benchmarks.problem import Candidates, Entry, Problem
from umekit.evaluation.benchmarks.scoring import score_problem
from umekit.evaluation.benchmarks.vectors import ItemSource, VectorStore, item_key
from umekit.evaluation.benchmarks.wording import Words

TARGETS = {"share_of_encode": 0.95, "times_mteb": 1.3}
SIDES = (28, 56, 112, 224, 336)  # of pictures, which on the net are of any size
COLOURS = ("red", "green", "blue", "yellow", "white", "black")


def make(folder: Path, number: int) -> Problem:
    """A retrieval task: ``number`` texts, each of which looks for one of as many pictures."""
    rng = np.random.default_rng(0)
    candidates = Candidates()
    queries = []
    for index in range(number):
        width, height = (int(rng.choice(SIDES)) for _ in range(2))
        path = folder / f"{index}.png"
        Image.fromarray(rng.integers(0, 255, (height, width, 3), dtype=np.uint8)).save(path)
        candidates.add(Entry(path.name, Words(), {"image": str(path)}))
        words = " ".join(rng.choice(COLOURS, int(rng.integers(2, 12))))
        queries.append(Entry(f"{index}", Words(f"{words} number {index}")))
    task = load_benchmark("zero-shot").chosen(["ShareGPT4V_t2i"])[0]
    return Problem(task, queries, candidates.entries, [{index: 1.0} for index in range(number)])


class Folders:
    """A new folder for each call, below one."""

    def __init__(self, root: Path) -> None:
        self.names: Iterator[Path] = (root / str(number) for number in count())

    def __call__(self) -> Path:
        return next(self.names)


def arms(problem: Problem, folder: Path) -> dict[str, Any]:
    """What takes turns."""
    encoder = umekit.load()
    sides = {
        "query": [entry.item("separate") for entry in problem.queries],
        "document": [entry.item("separate") for entry in problem.candidates],
    }
    fresh = Folders(folder)

    def benchmark() -> tuple[VectorStore, dict[str, list[str]]]:
        store = VectorStore(encoder, fresh(), show_progress=False)
        keys = {role: store.encode("task", role, items) for role, items in sides.items()}
        return store, keys

    def encode() -> None:
        for role, items in sides.items():
            source = ItemSource({item_key(item, role): item for item in items})
            encode_shards(encoder, source, fresh(), 4096, role=role, show_progress=False)  # type: ignore[arg-type]

    def whole() -> None:
        store, keys = benchmark()
        store.open()
        score_problem(problem, store.vectors(keys["query"]), store.vectors(keys["document"]))

    task, wrapper = mteb_task(problem), mteb_model()

    def peer() -> None:
        mteb.evaluate(wrapper, [task], cache=None, show_progress_bar=False)

    return {"encode": encode, "benchmark_encode": benchmark, "benchmark": whole, "mteb": peer}


def mteb_model() -> Any:
    """ume-tiny as mteb opens a folder, told that it takes pictures."""
    model = SentenceTransformerEncoderWrapper(str(packaged_model()), trust_remote_code=True, device="cpu")
    model.mteb_model_meta = model.mteb_model_meta.model_copy(update={"modalities": ["text", "image"]})
    return model


def mteb_task(problem: Problem) -> Any:
    """The same task as one of mteb."""
    ids = [str(index) for index in range(len(problem.queries))]

    class Same(AbsTaskRetrieval):  # type: ignore[misc]
        metadata = TaskMetadata(
            name="SameRetrieval",
            description="Texts look for pictures.",
            dataset={"path": "nobody/nothing", "revision": "1"},
            type="Any2AnyRetrieval",
            category="t2i",
            modalities=["text", "image"],
            eval_splits=["test"],
            eval_langs=["eng-Latn"],
            main_score="ndcg_at_10",
        )

        def load_data(self, *_: Any, **__: Any) -> None:
            images = [entry.media["image"] for entry in problem.candidates]
            features = Features({"id": Value("string"), "image": ImageFeature()})
            corpus = Dataset.from_dict({"id": ids, "image": images}, features=features)
            queries = Dataset.from_dict({"id": ids, "text": [entry.words.text for entry in problem.queries]})
            relevant = {one: {one: 1} for one in ids}
            split: Any = {"corpus": corpus, "queries": queries, "relevant_docs": relevant, "top_ranked": None}
            self.dataset = {"default": {"test": split}}
            self.data_loaded = True

    return Same()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--items", type=int, default=200, help="texts, and as many pictures")
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        problem = make(folder, args.items)
        every = arms(problem, folder / "runs")
        (folder / "runs").mkdir()
        for arm in every.values():
            arm()
        times = rounds(every, args.repeats)
    best = {name: min(found) for name, found in times.items()}
    found = {
        "share_of_encode": round(best["encode"] / best["benchmark_encode"], 3),
        "times_mteb": round(best["mteb"] / best["benchmark"], 3),
    }
    result = {
        "machine": machine(),
        "items": 2 * args.items,
        "seconds": {name: round(value, 4) for name, value in best.items()},
        "all_seconds": {name: [round(one, 4) for one in every] for name, every in times.items()},
        "found": found,
        "targets": TARGETS,
        "met": {name: found[name] >= target for name, target in TARGETS.items()},
    }
    print(json.dumps(result, indent=1))
    if args.out:
        args.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
