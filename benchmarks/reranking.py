"""Does a reranker find what recall alone misses, and can the embedder learn it? Tried on DigitWorld's hard pools.

    python benchmarks/reranking.py --seeds 0 1 2
    python benchmarks/reranking.py --stage2 examples/ume-tiny --runs runs/tiny --results runs/tiny/arms
    python benchmarks/reranking.py --report-only

Checkpoints lie in ``--runs``; the result of every arm and seed is one file of ``--results`` as soon as it is there, so
that a stopped table goes on where it was, on another day or machine. A seed is a process of one thread.
"""

from __future__ import annotations

import argparse
import sys
from functools import partial
from pathlib import Path

from findings_table import arms
from findings_table.schedule import processes
from reranking_table import report
from reranking_table.records import ARMS, TINY
from reranking_table.running import Table, run_seed

RESULTS = Path(__file__).parent / "results" / "reranking"
START = Path(__file__).parents[1] / "examples" / TINY


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--arms", nargs="+", choices=tuple(ARMS), default=list(ARMS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--start", type=Path, default=START, help="what stage 2 begins from")
    parser.add_argument("--stage2", type=Path, help="an embedder in place of stage 2's training")
    parser.add_argument("--runs", type=Path, default=Path("runs/reranking"), help="folder of checkpoints")
    parser.add_argument(
        "--results", type=Path, help=f"folder of results (default: {RESULTS}; of a quick table: in --runs)"
    )
    parser.add_argument("--jobs", type=int, default=2, help="seeds that run at the same time")
    parser.add_argument("--bf16", action="store_true", help="train in bfloat16, where the CPU has it")
    parser.add_argument("--quick", action="store_true", help="a quarter of the steps, a fifth of the queries")
    parser.add_argument("--report-only", action="store_true")
    args = parser.parse_args()
    results = args.results or (args.runs / "quick" if args.quick else RESULTS)
    runs = args.runs / "quick-runs" if args.quick else args.runs
    table = Table(runs, results, args.start, args.stage2, args.bf16, quick=args.quick)
    if not args.report_only:
        with processes(args.jobs) as pool:
            list(pool.map(partial(run_seed, table, args.arms), args.seeds))
    return arms.write_report(table, "reranking", report.table, report.markdown, report.draw)


if __name__ == "__main__":
    sys.exit(main())
