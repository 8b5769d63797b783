"""A benchmark run against ``umekit encode`` of the same items, and against mteb's loop on the same retrieval task.

    python benchmarks/evaluation.py --out benchmarks/results/evaluation.json

The tasks of ``retrieval_tasks.py``, with ume-tiny. Arms take turns in one process: what a run of ``umekit evaluate``
encodes (keys, plan, shards), ``encode_shards`` of the same items alone, the whole run with ranking, and
``mteb.evaluate`` with mteb's own wrapper around the same folder in sentence-transformers. All read the same files, and
what both say of a task is compared. A ratio is the median over rounds of the ratio within a round: the machine may be
busy, but it is about as busy for both. ``cpu`` is the same of the processor's time of all threads, which other work on
the machine hardly moves, but in which work that is done ahead, in another thread, gains nothing. A task is in
the file as soon as it is measured, and the same command goes on with the next.
"""

from __future__ import annotations

import argparse
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from itertools import count
from pathlib import Path
from statistics import median
from typing import Any

import mteb
from measuring import machine, measure_parts, stock_ume_tiny
from mteb.models import SentenceTransformerEncoderWrapper
from retrieval_tasks import TASKS, mteb_task, score_of

import umekit
from umekit.encoding.shards.run import encode_shards
from umekit.evaluation.benchmarks.problem import Problem
from umekit.evaluation.benchmarks.scoring import score_problem
from umekit.evaluation.benchmarks.vectors import ItemSource, VectorStore, item_key
from umekit.evaluation.ranked import per_query
from umekit.evaluation.ranking import rank

TARGETS = {"share_of_encode": 0.95, "times_mteb": 1.3}
Arms = dict[str, Callable[[], Any]]


class Folders:
    """A new folder for each call, below one."""

    def __init__(self, root: Path) -> None:
        self.names: Iterator[Path] = (root / str(number) for number in count())

    def __call__(self) -> Path:
        return next(self.names)


def arms(problem: Problem, folder: Path, encoder: Any, wrapper: Any) -> Arms:
    """What takes turns."""
    sides = {
        "query": [entry.item("separate") for entry in problem.queries],
        "document": [entry.item("separate") for entry in problem.candidates],
    }
    fresh, task = Folders(folder), mteb_task(problem)

    def benchmark() -> tuple[VectorStore, dict[str, list[str]]]:
        store = VectorStore(encoder, fresh(), show_progress=False)
        keys = {role: store.encode("task", role, items) for role, items in sides.items()}
        return store, keys

    def encode() -> None:
        for role, items in sides.items():
            source = ItemSource({item_key(item, role): item for item in items})
            encode_shards(encoder, source, fresh(), 4096, role=role, show_progress=False)  # type: ignore[arg-type]

    def whole() -> float:
        store, keys = benchmark()
        store.open()
        queries, documents = (store.vectors(keys[role]) for role in sides)
        score_problem(problem, queries, documents)
        ranks = rank(queries, documents, problem.relevant)
        return float(per_query("ndcg_linear@10", *ranks.of("official")).mean())

    def peer() -> float:
        return score_of(mteb.evaluate(wrapper, [task], cache=None, show_progress_bar=False))

    return {"encode": encode, "benchmark_encode": benchmark, "benchmark": whole, "mteb": peer}


def mteb_model() -> Any:
    """ume-tiny as mteb opens a folder, told that it takes pictures."""
    with tempfile.TemporaryDirectory() as folder:
        stock = str(stock_ume_tiny(Path(folder)))
        model = SentenceTransformerEncoderWrapper(stock, trust_remote_code=True, device="cpu")
    model.mteb_model_meta = model.mteb_model_meta.model_copy(update={"modalities": ["text", "image"]})
    return model


def measure(every: Arms, repeats: int) -> dict[str, Any]:
    """One task: what both loops score, the ratios, and the seconds that these are of."""
    scores = {name: round(every[name](), 5) for name in ("benchmark", "mteb")}
    every["encode"]()
    clocks: dict[str, Callable[[], float]] = {"wall": time.perf_counter, "cpu": time.process_time}
    seconds: dict[str, dict[str, list[float]]] = {clock: {name: [] for name in every} for clock in clocks}
    for _ in range(repeats):
        for name, arm in every.items():
            began = {clock: now() for clock, now in clocks.items()}
            arm()
            for clock, now in clocks.items():
                seconds[clock][name].append(round(now() - began[clock], 3))

    def ratio(clock: str, above: str, below: str) -> float:
        times = seconds[clock]
        return round(median(a / b for a, b in zip(times[above], times[below], strict=True)), 3)

    return {
        "ndcg@10": scores,
        "share_of_encode": ratio("wall", "encode", "benchmark_encode"),
        "times_mteb": ratio("wall", "mteb", "benchmark"),
        "share_of_encode_cpu": ratio("cpu", "encode", "benchmark_encode"),
        "times_mteb_cpu": ratio("cpu", "mteb", "benchmark"),
        "seconds": seconds,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--items", type=int, default=200, help="queries, and as many pictures")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--tasks", nargs="+", choices=tuple(TASKS), default=list(TASKS))
    args = parser.parse_args()
    warnings.simplefilter("ignore")  # ties, which are no matter here
    encoder, wrapper = umekit.load(), mteb_model()
    head = {"machine": machine(), "items": 2 * args.items, "repeats": args.repeats, "targets": TARGETS}

    def job(task: str, root: Path) -> dict[str, Any]:
        problem = TASKS[task](root / task, args.items, encoder.processor)
        (root / f"runs-{task}").mkdir()
        found = measure(arms(problem, root / f"runs-{task}", encoder, wrapper), args.repeats)
        return {**found, "met": {name: found[name] >= target for name, target in TARGETS.items()}}

    with tempfile.TemporaryDirectory() as name:
        measure_parts(args.out, head, "tasks", {task: partial(job, task, Path(name)) for task in args.tasks})


if __name__ == "__main__":
    main()
