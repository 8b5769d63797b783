"""Teach ume-tiny to answer whether a candidate is what a query asks for: a LoRA of at most 2 MB beside its weights.

    python examples/train_ume_tiny_reranker.py --out runs/ume-tiny-reranker
    python examples/publish_ume_tiny_reranker.py runs/ume-tiny-reranker      # it becomes what comes with ume-tiny

Rows are those of DigitWorld's retrieval tasks; wrong candidates are what the embedder ranks first, as these are what a
reranker will see. The adapter names its base by a relative path, so that both folders can be moved together. It is
scored on unseen handwriting at the end: how well P(yes) orders pairs, and what it adds to the recall of the embedder.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset
from transformers import PrinterCallback

import umekit
from umekit.encoding.calibration import calibration
from umekit.encoding.encoder import Encoder
from umekit.encoding.index.two_stage import fuse
from umekit.encoding.packaged import packaged_model
from umekit.encoding.presets.u_marvel_reranker import U_MARVEL_RERANKER_SHORT
from umekit.encoding.reranker import Reranker
from umekit.evaluation.digit_world import DigitWorld
from umekit.evaluation.digit_world.glyphs import Split
from umekit.evaluation.digit_world.pools import Pool
from umekit.evaluation.metrics import ranks, similarity
from umekit.examples.train_ume_tiny import speed_up
from umekit.modeling.adapters import CONFIG_FILE, WEIGHTS_FILE
from umekit.trainers.lora import add_lora
from umekit.trainers.reranker import RerankerTrainer, RerankerTrainingArguments

# How often a task fills a batch: those whose recall leaves most to a second look, more often.
WEIGHTS = {
    "edit_scene": 3,
    "retrieve_clip": 2,
    "retrieve_clip_caption": 2,
    "retrieve_moment": 2,
    "retrieve_page": 2,
    "retrieve_scene": 2,
    "retrieve_caption": 2,
    "same_page": 1,
    "same_scene": 1,
    "same_clip": 1,
    "paraphrase": 1,
}
ORDER = tuple(task for turn in range(3) for task, weight in WEIGHTS.items() if weight > turn)
POOL, DEPTH = 400, 10  # candidates of a pool, and of them those that are scored again
WRONG = 3  # wrong candidates of a row
EASY = 0.25  # of the batches, the first ones, have any wrong candidates: what differs everywhere is told apart first


@dataclass(frozen=True)
class _Mined:
    """A pool, all of whose candidates are asked for; ``order`` is that in which the queries are taken."""

    pool: Pool
    order: NDArray[np.int64]
    encoder: Encoder

    @cached_property
    def hardest(self) -> NDArray[np.int64]:
        """Wrong candidates of each query, those that the embedder ranks first: ``[queries, DEPTH]``."""
        scores = _scores(self.encoder, self.pool)
        scores[np.arange(len(scores)), self.pool.positives] = -np.inf
        return np.argsort(-scores, axis=1, kind="stable")[:, :DEPTH]


class MinedRows(Dataset):  # type: ignore[type-arg]
    """Rows of hard pools, whose wrong candidates are drawn from what an embedder ranks first.

    Row ``i`` belongs to batch ``i // batch``, of one task; it is a function of the arguments and ``i`` alone, and rows
    are made fastest in their order. Tasks take turns, and each goes through its pools one after the other.

    Args:
        encoder: ranks the candidates.
        steps, batch: batches, and rows of one.
        wrong: negatives of a row.
        easy: the share of the batches, the first ones, that have any.
        size: candidates of a pool; the larger, the harder are those that are ranked first.

    Raises:
        ValueError: a pool that is no whole number of batches, or has too few wrong candidates.
    """

    def __init__(
        self,
        encoder: Encoder,
        steps: int,
        batch: int,
        *,
        seed: int = 0,
        tasks: Sequence[str] = ORDER,
        wrong: int = WRONG,
        easy: float = EASY,
        size: int = POOL,
    ) -> None:
        if size % batch:
            raise ValueError(f"a batch of {batch} rows does not divide a pool of {size}")
        if size <= DEPTH:
            raise ValueError(f"a pool of {size} has no {DEPTH} wrong candidates")
        self.encoder, self.steps, self.batch, self.seed, self.size = encoder, steps, batch, seed, size
        self.wrong, self.easy = wrong, easy
        self.tasks, self.world = tuple(tasks), DigitWorld("train", seed)
        self._mined: dict[str, tuple[int, _Mined]] = {}

    def __len__(self) -> int:
        return self.steps * self.batch

    def __getitem__(self, index: int) -> dict[str, Any]:
        number, place = divmod(index, self.batch)
        turn, kind = divmod(number, len(self.tasks))
        task = self.tasks[kind]
        # a task that stands several times in a turn goes on where its last batch was
        before = turn * self.tasks.count(task) + self.tasks[:kind].count(task)
        which, first = divmod(before * self.batch, self.size)
        mined = self._pool(task, which)
        query = int(mined.order[first + place])
        draw = np.random.default_rng([self.seed, index])
        if number < self.easy * self.steps:
            return mined.pool.with_negatives(query, 0, self.wrong, draw)
        wrong = mined.hardest[query][draw.permutation(DEPTH)[: self.wrong]]
        return mined.pool.row(query, wrong.tolist())

    def _pool(self, task: str, which: int) -> _Mined:
        known = self._mined.get(task)
        if known is None or known[0] != which:
            pool = self.world.pool(task, self.size, self.size, "hard", index=which)
            order = np.random.default_rng([self.seed, which]).permutation(self.size)
            known = self._mined[task] = which, _Mined(pool, order, self.encoder)
        return known[1]


def _scores(encoder: Encoder, pool: Pool) -> NDArray[np.float32]:
    """Cosines of a pool's queries and candidates."""
    asked = encoder.encode(pool.queries, role="query", show_progress=False)
    return similarity(asked, encoder.encode(pool.candidates, role="document", show_progress=False))


def train(start: Path, args: argparse.Namespace, rows: Any) -> tuple[Any, Any]:
    """Model and processor of a reranker, its adapter trained on ``rows``."""
    opened = umekit.load(start, device="cpu", attn_implementation="sdpa")
    model, processor = U_MARVEL_RERANKER_SHORT.put_on(opened.model, opened.processor)
    if args.bf16:
        speed_up(model)
    torch.manual_seed(args.seed)
    add_lora(model, rank=args.rank, alpha=2 * args.rank, dropout=0.0, parts=("language", "merger"))
    trainer = RerankerTrainer(
        model,
        RerankerTrainingArguments(
            output_dir=str(args.out) + ".trainer",
            per_device_train_batch_size=args.batch,
            max_steps=args.steps,
            learning_rate=args.learning_rate,
            lr_scheduler_type="cosine",
            warmup_steps=max(1, min(50, args.steps // 10)),
            adam_beta2=0.98,
            max_grad_norm=1.0,
            pointwise_weight=1.0,
            listwise_weight=1.0,
            train_sampling_strategy="sequential",
            bf16=args.bf16,
            use_cpu=True,
            logging_steps=20,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            seed=args.seed,
        ),
        processing_class=processor,
        train_dataset=rows,
    )
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(_Log())
    trainer.train()
    model.backbone.set_attn_implementation("sdpa")
    return model.eval(), processor


class _Log(PrinterCallback):
    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        shown = {
            k: round(float(v), 4)
            for k, v in (logs or {}).items()
            if k in ("loss", "accuracy", "train_runtime")
        }
        print(json.dumps({"step": state.global_step, **shown}), flush=True)


def save(model: Any, processor: Any, start: Path, folder: Path) -> None:
    """The adapter in bfloat16, with all that opens it; its base by a path relative to the folder."""
    for name, weight in model.backbone.named_parameters():
        if "lora_" in name:
            weight.data = weight.data.to(torch.bfloat16)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    content = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
    content["base_model_name_or_path"] = Path(os.path.relpath(start.resolve(), folder.resolve())).as_posix()
    (folder / CONFIG_FILE).write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def measure(
    encoder: Any, reranker: Reranker, task: str, queries: int, split: Split = "test"
) -> dict[str, Any]:
    """On one hard pool of unseen handwriting: recall alone, the best candidates scored again, and both fused."""
    pool = DigitWorld(split).pool(task, queries, POOL, "hard")
    scores = _scores(encoder, pool)
    best = np.argsort(-scores, axis=1, kind="stable")[:, :DEPTH]
    own = np.array(pool.positives)
    found = reranker.rerank_many(
        pool.queries, [[pool.candidates[one] for one in row] for row in best], show_progress=False
    )
    yes = np.array(found)
    recall = np.take_along_axis(scores, best, axis=1)
    relevant = best == own[:, None]

    def first(values: Any) -> float:
        order = np.lexsort((relevant, -values), axis=1)[:, 0]  # a tie counts against the model
        return round(float(relevant[np.arange(len(own)), order].mean()), 4)

    report = calibration(yes.ravel(), relevant.ravel())
    alphas = np.linspace(0, 1, 21)
    fused = {round(float(alpha), 2): first(fuse(recall, yes, float(alpha))) for alpha in alphas}
    return {
        "task": task,
        "queries": len(own),
        "recall@1": round(float((ranks(scores, own) == 1).mean()), 4),
        f"recall@{DEPTH}": round(float((ranks(scores, own) <= DEPTH).mean()), 4),
        "reranked@1": first(yes),
        "fused@1 (alpha 0.5)": fused[0.5],
        "best alpha": max(fused, key=lambda alpha: (fused[alpha], -abs(alpha - 0.5))),
        "best fused@1": max(fused.values()),
        "auc": round(report.auc, 4),
        "brier": round(report.brier, 4),
        "calibration_error": round(report.error, 4),
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("runs/ume-tiny-reranker"))
    parser.add_argument("--start", type=Path, help="the embedder (default: ume-tiny)")
    parser.add_argument("--steps", type=int, default=1200)
    parser.add_argument("--batch", type=int, default=16, help="rows of a step, of four pairs each")
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--rank", type=int, default=32)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--queries", type=int, default=100, help="of a task, to measure with; 0: none")
    parser.add_argument(
        "--tasks", nargs="*", default=["edit_scene", "retrieve_clip", "retrieve_moment", "same_page"]
    )
    parser.add_argument(
        "--bf16", action="store_true", help="faster where the CPU has it, many times slower elsewhere"
    )
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    start = args.start or packaged_model()
    encoder = umekit.load(start, device="cpu")
    model, processor = train(start, args, MinedRows(encoder, args.steps, args.batch, seed=args.seed))
    save(model, processor, start, args.out)
    size = (args.out / WEIGHTS_FILE).stat().st_size
    print(f"saved {args.out}: {size:,} bytes of weights", flush=True)
    if args.queries:
        reranker = umekit.load(args.out, device="cpu")
        for task in args.tasks:
            print(json.dumps(measure(encoder, reranker, task, args.queries)), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
