"""Which thoughts are worth teaching, and when is it worth thinking? MMEmb-R1, re-derived and tried in DigitWorld.

    python benchmarks/adaptive.py
    python benchmarks/adaptive.py --report-only

Checkpoints lie in ``--runs``; the result of every arm and seed is one file of ``--results`` as soon as it is there, so
that a stopped table goes on where it was, on another day or machine. A seed is a process of one thread.
"""

from __future__ import annotations

import sys
from pathlib import Path

from adaptive_table import report
from adaptive_table.records import ARMS, START
from adaptive_table.running import Table, run_seed
from findings_table import arms
from findings_table.commands import UME_TINY, folders, run_seeds, table_parser

NAME = "adaptive"


def main() -> int:
    parser = table_parser(
        __doc__, NAME, ARMS, quick="a quarter of the steps, rows and queries; the evaluator whole"
    )
    parser.add_argument("--start", type=Path, default=UME_TINY, help="what all arms begin from")
    args = parser.parse_args()
    runs, results = folders(args, NAME)
    if not args.report_only:
        run_seeds(run_seed, Table(runs, results, {START: args.start}, quick=args.quick), args)
    reader = Table(runs, results, quick=args.quick)
    return arms.write_report(reader, NAME, report.table, report.markdown, report.draw)


if __name__ == "__main__":
    sys.exit(main())
