"""Does a reranker find what recall alone misses, and can the embedder learn it? Tried on DigitWorld's hard pools.

    python benchmarks/reranking.py --seeds 0 1 2
    python benchmarks/reranking.py --stage2 examples/ume-tiny --runs runs/tiny --results runs/tiny/arms
    python benchmarks/reranking.py --report-only

Checkpoints lie in ``--runs``; the result of every arm and seed is one file of ``--results`` as soon as it is there, so
that a stopped table goes on where it was, on another day or machine. A seed is a process of one thread.
"""

from __future__ import annotations

import sys
from pathlib import Path

from findings_table import arms
from findings_table.commands import UME_TINY, folders, run_seeds, table_parser
from reranking_table import report
from reranking_table.records import ARMS
from reranking_table.running import Table, run_seed

NAME = "reranking"


def main() -> int:
    parser = table_parser(__doc__, NAME, ARMS, quick="a quarter of the steps, a fifth of the queries")
    parser.add_argument("--start", type=Path, default=UME_TINY, help="what stage 2 begins from")
    parser.add_argument("--stage2", type=Path, help="an embedder in place of stage 2's training")
    parser.add_argument("--bf16", action="store_true", help="train in bfloat16, where the CPU has it")
    args = parser.parse_args()
    table = Table(*folders(args, NAME), args.start, args.stage2, args.bf16, quick=args.quick)
    if not args.report_only:
        run_seeds(run_seed, table, args)
    return arms.write_report(table, NAME, report.table, report.markdown, report.draw)


if __name__ == "__main__":
    sys.exit(main())
