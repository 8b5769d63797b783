"""Pairs a second in the training of a reranker: RerankerTrainer beside sentence-transformers' CrossEncoderTrainer.

    python benchmarks/train_reranker.py --out benchmarks/results/train-reranker.json

Both train the same exported folder on the same pairs, all weights, in float32 with AdamW, in one process: preparing the
items, the step and the optimiser all count. Arms take turns; what counts is the median of the ratios within a turn. A
batch of ours is the same pairs by row; theirs are handed over one by one, as their trainer takes them. ``apart`` is
ours with ``share_beginnings=False``: every pair by itself, as theirs; where nothing is shared, ours is that already. A
workload is in the file as soon as it is measured, and the same command goes on with the next. Losses are those of
either by default (the answer's token; binary cross-entropy). Before the first step both must score all pairs alike.
Random weights, see ``benchmarks/rerank.py``.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from measuring import machine, measure_parts, rounds
from rerank import SIZES, picture, save_backbone, words
from sentence_transformers import CrossEncoder
from sentence_transformers.cross_encoder import CrossEncoderTrainer, CrossEncoderTrainingArguments

import umekit
from umekit.trainers import RerankerTrainer, RerankerTrainingArguments
from umekit.trainers.indexed_rows import IndexedRows

SAME = 1e-4  # of scores before training
# Times the pairs a second of CrossEncoderTrainer: where rows share a beginning, and where every pair is read by itself.
TARGETS = {"shared": 1.3, "apart": 0.97}
Rows = list[dict[str, Any]]
Step = Callable[[], float]


@dataclass(frozen=True)
class Workload:
    """Rows of a positive and negatives. shares: whether their beginnings are worth reading once."""

    rows: Rows
    shares: bool


def rows_of(count: int, pairs: int, query: Callable[[int], Any], candidate: Callable[[int], Any]) -> Rows:
    """``count`` rows of so many pairs, from a seed each."""
    found = []
    for row in range(count):
        candidates = [candidate(100 * row + place) for place in range(pairs)]
        found.append({"query": query(row), "positive": candidates[0], "negatives": candidates[1:]})
    return found


def workloads(rows: int, side: int) -> dict[str, Workload]:
    """By name; ``rows`` rows of eight pairs, or twice as many of two."""

    def asked(seed: int) -> Any:
        return {"image": picture(side, seed), "text": words(6, seed)}

    return {
        "texts behind a picture": Workload(rows_of(rows, 8, asked, lambda seed: words(16, seed)), True),
        "texts": Workload(rows_of(rows, 8, lambda seed: words(32, seed), lambda seed: words(32, seed)), True),
        "pictures": Workload(
            rows_of(rows, 8, lambda seed: words(32, seed), lambda seed: {"image": picture(side // 2, seed)}),
            True,
        ),
        "long texts, two a query": Workload(
            rows_of(2 * rows, 2, lambda seed: words(6, seed), lambda seed: words(256, seed)), False
        ),
        "long pictures, two a query": Workload(
            rows_of(
                2 * rows, 2, lambda seed: words(6, seed), lambda seed: {"image": picture(2 * side, seed)}
            ),
            False,
        ),
    }


def our_trainer(folder: Path, share: bool) -> RerankerTrainer:
    """A trainer whose steps are called by hand, with its optimiser made."""
    reranker = umekit.load(folder, device="cpu", dtype=torch.float32)
    args = RerankerTrainingArguments(
        output_dir=tempfile.mkdtemp(),
        share_beginnings=share,
        max_steps=1000,
        use_cpu=True,
        report_to="none",
    )
    trainer = RerankerTrainer(
        reranker.model, args, processing_class=reranker.processor, train_dataset=[{"query": "a"}]
    )
    trainer.create_optimizer_and_scheduler(1000)
    return trainer


def their_trainer(folder: Path) -> CrossEncoderTrainer:
    """The same of sentence-transformers."""
    model = CrossEncoder(str(folder), trust_remote_code=True, device="cpu")
    model.to(torch.float32)
    args = CrossEncoderTrainingArguments(
        output_dir=tempfile.mkdtemp(), max_steps=1000, use_cpu=True, report_to="none"
    )
    first = Dataset.from_dict({"query": ["a"], "document": ["b"], "label": [1.0]})
    trainer = CrossEncoderTrainer(model=model, args=args, train_dataset=first)
    trainer.current_gradient_accumulation_steps = 1  # which its loop over batches sets
    trainer.create_optimizer_and_scheduler(1000)
    return trainer


def step_of(trainer: Any, features: Any) -> Step:
    """One whole step: collate, forward, backward, optimiser."""

    def step() -> float:
        inputs = trainer.data_collator([features[place] for place in range(len(features))])
        loss = trainer.training_step(trainer.model, inputs)
        trainer.optimizer.step()
        trainer.optimizer.zero_grad()
        return float(loss)

    return step


def pairs_of(rows: Rows) -> list[dict[str, Any]]:
    """What CrossEncoderTrainer takes."""
    return [
        {"query": row["query"], "document": candidate, "label": float(place == 0)}
        for row in rows
        for place, candidate in enumerate([row["positive"], *row["negatives"]])
    ]


def measure(folder: Path, workload: Workload, repeats: int) -> dict[str, Any]:
    """Every arm on one workload."""
    ours, theirs = our_trainer(folder, True), their_trainer(folder)
    pairs = pairs_of(workload.rows)
    scores = umekit.load(folder, device="cpu", dtype=torch.float32).rerank_many(
        [row["query"] for row in workload.rows],
        [[row["positive"], *row["negatives"]] for row in workload.rows],
        show_progress=False,
    )
    wanted = theirs.model.predict(
        [(pair["query"], pair["document"]) for pair in pairs], show_progress_bar=False
    )
    indexed = IndexedRows(workload.rows)
    batch = ours.data_collator([indexed[place] for place in range(len(indexed))])["batch"]
    shares = bool(ours._shares(batch))
    arms: dict[str, Step] = {"ours": step_of(ours, indexed), "cross_encoder": step_of(theirs, pairs)}
    if shares:
        arms["apart"] = step_of(our_trainer(folder, False), indexed)
    for arm in arms.values():
        arm()
    times = rounds(arms, repeats)
    faster = {
        name: round(float(np.median(np.array(times["cross_encoder"]) / np.array(times[name]))), 3)
        for name in times
        if name != "cross_encoder"
    }
    bars = {name: TARGETS["shared" if shares and name == "ours" else "apart"] for name in faster}
    return {
        "rows": len(workload.rows),
        "pairs": len(pairs),
        "tokens": sum(batch.lengths),
        "tokens_of_a_pair": [min(batch.lengths), max(batch.lengths)],
        "shares": shares,
        "pairs_a_second": {
            name: round(len(pairs) / float(np.median(found)), 2) for name, found in times.items()
        },
        "seconds": {name: [round(value, 3) for value in found] for name, found in times.items()},
        "times_the_pairs_of_cross_encoder": faster,
        "targets": bars,
        "largest_difference_of_scores": float(np.abs(np.concatenate(scores) - wanted).max()),
        "met": shares == workload.shares and all(faster[name] >= bar for name, bar in bars.items()),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a small model and few rows: does it run?")
    parser.add_argument(
        "--size", choices=SIZES, default="half-wide", help="share of the 2B checkpoint's widths"
    )
    parser.add_argument("--rows", type=int, default=4, help="of a batch, of eight pairs each")
    parser.add_argument("--repeats", type=int, default=5, help="of every arm, taking turns")
    parser.add_argument("--only", nargs="+", metavar="WORKLOAD", help="these workloads")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, metavar="FILE.json", help="where to write the result")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    size = "quick" if args.quick else args.size
    head: dict[str, Any] = {
        "benchmark": "train-reranker",
        "command": "python " + " ".join(sys.argv),
        "machine": machine(),
        "quick": args.quick,
        "repeats": 1 if args.quick else args.repeats,
        "model": {
            "family": "qwen3_vl, random weights, float32, 2 text and 3 vision layers",
            "share_of_2b_widths": SIZES[size],
        },
        "targets": TARGETS,
    }
    with tempfile.TemporaryDirectory() as scratch:
        source = save_backbone(Path(scratch) / "backbone", SIZES[size])
        folder = umekit.export(source, Path(scratch) / "reranker", preset="qwen3-vl-reranker", golden=False)
        rows, side = (2, 64) if args.quick else (args.rows, 256)
        jobs = {
            name: partial(measure, folder, workload, head["repeats"])
            for name, workload in workloads(rows, side).items()
            if not args.only or name in args.only
        }
        found = measure_parts(args.out, head, "workloads", jobs)["workloads"].values()
    good = all(one["largest_difference_of_scores"] <= SAME for one in found)
    return 0 if good and (args.quick or all(one["met"] for one in found)) else 1


if __name__ == "__main__":
    sys.exit(main())
