"""Which thoughts are worth teaching, and when is it worth thinking? MMEmb-R1, re-derived and tried in DigitWorld.

    mkdir -p runs/untaught runs/start
    git archive 52099b7 examples/ume-tiny | tar -x -C runs/untaught     # ume-tiny before it had ever thought
    git archive 26d7fab examples/ume-tiny | tar -x -C runs/start        # as it was when this table was begun
    python benchmarks/adaptive.py --start runs/start/examples/ume-tiny --untaught runs/untaught/examples/ume-tiny
    python benchmarks/adaptive.py --report-only

Checkpoints lie in ``--runs``; the result of every arm and seed is one file of ``--results`` as soon as it is there, so
that a stopped table goes on where it was, on another day or machine. A seed is a process of one thread.
"""

from __future__ import annotations

import sys
from pathlib import Path

from adaptive_table import report
from adaptive_table.records import ARMS, START, UNTAUGHT
from adaptive_table.running import Table, run_seed
from findings_table import arms
from findings_table.commands import UME_TINY, folders, run_seeds, table_parser

NAME = "adaptive"


def main() -> int:
    parser = table_parser(
        __doc__, NAME, ARMS, quick="a quarter of the steps, rows and queries; the evaluator whole"
    )
    parser.add_argument(
        "--start", type=Path, default=UME_TINY, help="what the evaluator and the joint training begin from"
    )
    parser.add_argument(
        "--untaught",
        type=Path,
        help="what the arms of selection begin from: ume-tiny before it had ever thought, see above",
    )
    args = parser.parse_args()
    runs, results = folders(args, NAME)
    if not args.report_only:
        from_untaught = [one.name for one in arms.chain(args.arms, ARMS) if one.start == UNTAUGHT]
        if from_untaught and args.untaught is None:
            parser.error(
                f"{', '.join(from_untaught)} begin at --untaught FOLDER; see the first lines of this file"
            )
        roots = {START: args.start, **({UNTAUGHT: args.untaught} if args.untaught else {})}
        run_seeds(run_seed, Table(runs, results, roots, quick=args.quick), args)
    reader = Table(runs, results, quick=args.quick)
    return arms.write_report(reader, NAME, report.table, report.markdown, report.draw)


if __name__ == "__main__":
    sys.exit(main())
