"""Does thinking before embedding pay where one pass fails, and does RLVR mend a bad teacher? Tried in DigitWorld.

    mkdir -p runs/untaught
    git archive 52099b7 examples/ume-tiny | tar -x -C runs/untaught     # ume-tiny before it had ever thought
    python benchmarks/thinking.py --start runs/untaught/examples/ume-tiny
    python benchmarks/thinking.py --report-only

Checkpoints lie in ``--runs``; the result of every arm and seed is one file of ``--results`` as soon as it is there, so
that a stopped table goes on where it was, on another day or machine. A seed is a process of one thread.
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

from findings_table import arms
from findings_table.commands import UME_TINY, folders, run_seeds, table_parser
from thinking_table import report
from thinking_table.records import ARMS, TINY
from thinking_table.running import Table, run_seed

NAME = "thinking"


def main() -> int:
    parser = table_parser(__doc__, NAME, ARMS, quick="a quarter of the steps, a fifth of the queries")
    parser.add_argument(
        "--start",
        type=Path,
        default=UME_TINY,
        help="what all arms begin from; the committed results, see above",
    )
    args = parser.parse_args()
    runs, results = folders(args, NAME)
    if not args.report_only:
        run_seeds(run_seed, Table(runs, results, {TINY: args.start}, quick=args.quick), args)
    reader = Table(runs, results, quick=args.quick)
    draw = partial(report.draw, reward=report.rewards(reader.found()))
    return arms.write_report(reader, NAME, report.table, report.markdown, draw)


if __name__ == "__main__":
    sys.exit(main())
