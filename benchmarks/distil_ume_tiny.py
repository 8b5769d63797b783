"""ume-tiny with what its reranker knows put into it: the *distilled* row of modes.py.

    python benchmarks/distil_ume_tiny.py --out runs/ume-tiny-distilled
    python benchmarks/modes.py --commands --distilled runs/ume-tiny-distilled

Of every task that the reranker learned, training rows whose candidates ume-tiny recalls and the cascade scores, with
the alpha of the task; a LoRA on ume-tiny learns these scores. A run that was killed goes on where rows are scored.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path

import torch
from reranking_table.records import DISTILLED
from reranking_table.scoring import scored_rows
from reranking_table.training import train_embedder

import umekit
from umekit.encoding.packaged import packaged_model
from umekit.evaluation.digit_world import DigitWorld
from umekit.examples.train_ume_tiny_reranker import POOL, WEIGHTS

SEED = 3000  # of the world: what ume-tiny, its reranker and the tables have read has others


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/ume-tiny-distilled"))
    parser.add_argument("--rows", type=int, default=POOL, help=f"of a task, at most {POOL}")
    parser.add_argument("--steps", type=int, default=DISTILLED.steps)
    parser.add_argument("--learning-rate", type=float, default=DISTILLED.rates[0])
    args = parser.parse_args()
    torch.set_num_threads(1)
    cascade = umekit.Cascade.load(device="cpu", dtype=torch.float32)
    world = DigitWorld("train", SEED)
    pools = (world.pool(task, args.rows, POOL, "hard") for task in WEIGHTS)
    scored = scored_rows(
        cascade.encoder, cascade.reranker, pools, cascade.fusion.alpha_of, args.out.with_suffix(".scored")
    )
    arm = replace(DISTILLED, steps=args.steps)
    trained = train_embedder(arm, 0, packaged_model(), args.learning_rate, bf16=False, scored=scored)
    trained.trainer.save_model(str(args.out))
    print(json.dumps({"saved": str(args.out), "rows": len(scored), "losses": trained.losses[-3:]}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
